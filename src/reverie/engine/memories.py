"""What a buffer remembers beside its steps: its random state, its samplers, and notes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from reverie.file import (
    Remembered,
    ReplayFile,
    SamplerStates,
    generator_state,
    recall,
    remember,
    remember_rest,
)
from reverie.index import EpisodeIndex, TableRows
from reverie.samplers import Sampler


class Memories:
    """Knows what the replay file has to keep beside steps and episodes, and what of it is new.

    Args:
        rng: the buffer's generator.
        index: in whose rows samplers keep their weights.

    Attributes:
        notes: JSON values by name, for a class around the buffer; they come back after a resume.
    """

    def __init__(self, rng: np.random.Generator, index: EpisodeIndex) -> None:
        self.rng = rng
        self.notes: dict[str, Any] = {}
        self._index = index
        self._samplers = SamplerStates()
        self._used: Sampler | None = None  # by a draw or an update that is not through
        self._uses = 0  # draws and updates so far
        self._flushed: tuple[int, int, int] | None = None  # what `_now` was at the last flush
        # Whether random numbers were drawn, and notes taken, that the file does not know of.
        self._drawn = self._noted = False

    def note(self, **values: Any) -> None:
        """Take notes, which are in the file with the next step."""
        self.notes = {**self.notes, **values}
        self._noted = True

    @contextmanager
    def drawing_with(self, rng: np.random.Generator) -> Iterator[None]:
        """Draw with another generator inside."""
        own, self.rng = self.rng, rng
        try:
            yield
        finally:
            self.rng = own

    # --- samplers that change --------------------------------------------------------------------------

    def drawing(self, sampler: Sampler | None = None) -> None:
        """Random numbers are about to be drawn, by a sampler if one is given."""
        self._drawn = True
        if sampler is not None:
            self.using(sampler)
            self._samplers.meet(sampler)

    def using(self, sampler: Sampler) -> None:
        """A sampler is about to change; `used` says that it has."""
        sampler.mark()
        self._uses += 1
        self._used = sampler

    def used(self) -> None:
        """The sampler that is in use has changed as a whole."""
        self._samplers.keep()
        self._used = None

    def settle(self) -> None:
        """Put a sampler back to what it was before an interrupt came into its change."""
        if self._used is not None:
            self._used.rewind()
            self._samplers.rewind()
            self._used = None

    # --- the file --------------------------------------------------------------------------------------

    def recall(self, file: ReplayFile) -> TableRows | None:
        """Take back what a file keeps; return the rows of the index if they are known.

        States of samplers wait for their samplers from now on.
        """
        self.notes, rows = recall(file, self._samplers)
        return rows

    def differ(self) -> None:
        """Take note that the generator may have another seed than the file knows."""
        self._drawn = True

    def news(self) -> dict[str, Any]:
        """Return what the next write into the file has to bring with it."""
        news: dict[str, Any] = {"notes": self.notes} if self._noted else {}
        if self._drawn:
            news["rng"] = generator_state(self.rng)
        return news

    def told(self) -> None:
        """Take note that the file knows the news."""
        self._drawn = self._noted = False

    def all(self) -> Remembered:
        """Return everything that has to be remembered."""
        return remember(self.rng, self._samplers, self._index, self.notes)

    def unflushed(self) -> Remembered | tuple[dict[str, Any], None]:
        """Return everything, but no arrays if neither samplers nor episodes changed since the last flush."""
        if self._now() == self._flushed:
            return remember_rest(self.rng, self._index, self.notes), None
        return self.all()

    def flushed(self) -> None:
        """Take note that the file has everything."""
        self._flushed = self._now()
        self.told()

    def _now(self) -> tuple[int, int, int]:
        return self._index.next_order, int(self._index.dropped.sum()), self._uses

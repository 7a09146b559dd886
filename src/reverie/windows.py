"""Boundary rules: from an anchor and a length to a window, in integers, before any array is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reverie.episodes import EpisodeIndex, Ints
from reverie.errors import NotEnoughData


@dataclass(slots=True)
class Windows:
    """The addresses of B windows of L steps; all arrays are (B,) int64.

    Attributes:
        length: L.
        stream: the stream of each window.
        row: the episode row.
        start: the id at position 0; before `first` there is padding, so it may be negative.
        first, stop: the real steps are `first <= id < stop`.
        whole: no window holds padding (then first == start and stop == start + L).
    """

    length: int
    stream: Ints
    row: Ints
    start: Ints
    first: Ints
    stop: Ints
    whole: bool


class Boundary(Protocol):
    """What a boundary rule has to say; `reverie.windows.BOUNDARIES` lists those there are."""

    def anchor_stop(self, index: EpisodeIndex, rows: Ints, length: int) -> Ints:
        """Return, for each episode, one past its last valid anchor; all live steps before are valid."""

    def count(self, index: EpisodeIndex, length: int) -> int:
        """Return how many valid anchors there are in all live episodes."""

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        """Return (row, anchor id) of the anchors with these ranks among `count`."""

    def windows(self, index: EpisodeIndex, rows: Ints, anchors: Ints, length: int,
                rng: np.random.Generator) -> Windows:  # fmt: skip
        """Return the window of each anchor."""


class Inside:
    """Never leave the episode: the anchor is the first of `length` settled steps."""

    def anchor_stop(self, index: EpisodeIndex, rows: Ints, length: int) -> Ints:
        return index.settled.take(rows) - (length - 1)

    def count(self, index: EpisodeIndex, length: int) -> int:
        return index.count_windows(length)

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        return index.window_at_rank(length, rank)

    def windows(self, index: EpisodeIndex, rows: Ints, anchors: Ints, length: int,
                rng: np.random.Generator) -> Windows:  # fmt: skip
        return Windows(length, index.stream.take(rows), rows, anchors, anchors, anchors + length, whole=True)


BOUNDARIES: dict[str, Boundary] = {"inside": Inside()}


class Anchors:
    """The valid anchors of one boundary rule and length, as a sampler sees them: ids, never bytes."""

    __slots__ = ("_boundary", "index", "length")

    def __init__(self, index: EpisodeIndex, boundary: Boundary, length: int) -> None:
        self.index = index
        self.length = length
        self._boundary = boundary

    def count(self) -> int:
        """Return how many there are."""
        return self._boundary.count(self.index, self.length)

    def require(self) -> int:
        """Return how many there are; raise NotEnoughData when there is none."""
        count = self.count()
        if count == 0:
            raise self.not_enough()
        return count

    def not_enough(self) -> NotEnoughData:
        """Return the error that says how much there is and how much is needed."""
        index = self.index
        return NotEnoughData(
            f"wanted a window of {self.length} steps inside one episode, got {index.live_steps()} live steps "
            f"whose longest episode has {index.longest()} with a known successor; "
            f"add more steps, or ask for a shorter length"
        )

    def windows(self, rows: Ints, ids: Ints, rng: np.random.Generator) -> Windows:
        """Return the window of each anchor; `rng` is for rules that place the anchor at random."""
        return self._boundary.windows(self.index, rows, ids, self.length, rng)

    def at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode row, id) for ranks in `0 <= rank < count()`; the order is arbitrary."""
        return self._boundary.at_rank(self.index, self.length, rank)

    def bounds(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return (first, stop) ids of the anchors in each episode; none where stop <= first."""
        return self.index.live_start(rows), self._boundary.anchor_stop(self.index, rows, self.length)

    def accept(self, rows: Ints, ids: Ints) -> npt.NDArray[np.bool_]:
        """Return which of these live steps are valid anchors."""
        return ids < self._boundary.anchor_stop(self.index, rows, self.length)

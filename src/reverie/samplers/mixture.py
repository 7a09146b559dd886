"""A sampler that draws from several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any

import numpy as np

from reverie.checks import number
from reverie.errors import BadSetting
from reverie.index import Anchors, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import Sampler, State, check_sampler, join
from reverie.samplers.kept import kept, unfit
from reverie.samplers.where import Condition


class Mixture(Sampler):
    """Each window from one of several samplers, chosen at random by weight.

    Args:
        parts: (sampler, weight) pairs; weights are positive and need not sum to 1.
        where: draws from some episodes only, as `Sampler` says. A part with a condition of its own obeys both.

    Raises:
        BadSetting: no part, something that is no sampler, or a weight that is not positive.
    """

    def __init__(self, parts: Sequence[tuple[Sampler, float]], *, where: Condition | None = None) -> None:
        super().__init__(where=where)
        if (
            not isinstance(parts, Sequence)
            or not parts
            or not all(isinstance(part, Sequence) and len(part) == 2 for part in parts)
        ):
            raise BadSetting(
                f"Mixture: wanted (sampler, positive weight) pairs, got {parts!r}; give at least one"
            )
        self.samplers = tuple(check_sampler("Mixture", sampler) for sampler, _ in parts)
        weights = np.array([number("Mixture: weight", weight, 1e-12, 1e12) for _, weight in parts])
        self.weights = weights / weights.sum()

    @property
    def parts(self) -> list[tuple[Sampler, float]]:
        """The samplers, and the share of each."""
        return list(zip(self.samplers, self.weights.tolist(), strict=True))

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors."""
        anchors = self.narrow(anchors)
        which = self.choose(rng, count)
        parts = []
        for part, sampler in enumerate(self.samplers):
            positions = np.flatnonzero(which == part)
            if len(positions):
                parts.append((sampler.draw(anchors, rng, len(positions)), positions))
        return join(parts, anchors, rng, count)

    def choose(self, rng: np.random.Generator, count: int) -> Ints:
        """Return the number of a part for each of `count` windows, by weight."""
        ends = np.cumsum(self.weights)
        which: Ints = np.searchsorted(ends, rng.random(count), side="right")
        return np.minimum(which, len(self.samplers) - 1)

    def imitate(self, original: Any) -> None:
        """Let the parts take over settings."""
        for sampler, other in zip(self.samplers, original.samplers, strict=True):
            sampler.imitate(other)

    def common(self) -> Any:
        """Return what each part has in common with its like."""
        return [sampler.common() for sampler in self.samplers]

    def agree(self, commons: Sequence[Any]) -> None:
        """Let the parts agree, each with its like."""
        for place, sampler in enumerate(self.samplers):
            sampler.agree([common[place] for common in commons])

    def for_part(self, streams: int, of: int) -> Mixture:
        """Return one for a part of a union."""
        part = copy(self)
        part.samplers = tuple(sampler.for_part(streams, of) for sampler in self.samplers)
        return part

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Any) -> None:
        """Pass priorities on to every part: they belong to the steps, whoever drew them."""
        for sampler in self.samplers:
            sampler.update(index, stream, ids, priorities)

    def window_priorities(self, td_errors: Any, mask: Any) -> Any:
        """Return what the first part that keeps priorities makes of TD errors."""
        for sampler in self.samplers:
            with suppress(BadSetting):  # it keeps none, or holds only samplers that keep none
                return sampler.window_priorities(td_errors, mask)
        return super().window_priorities(td_errors, mask)

    def mark(self) -> None:
        """Take note of what all parts remember, for `rewind`."""
        for sampler in self.samplers:
            sampler.mark()

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        for sampler in self.samplers:
            sampler.rewind()

    def save(self) -> State:
        """Return the states of all parts."""
        return {"parts": [sampler.save() for sampler in self.samplers]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting: it is no such state.
        """
        parts = kept(state, "parts")["parts"]
        if not isinstance(parts, list) or len(parts) != len(self.samplers):
            raise unfit("parts", f"a list of {len(self.samplers)}", str(type(parts).__name__))
        for sampler, part in zip(self.samplers, parts, strict=True):
            sampler.load(part)

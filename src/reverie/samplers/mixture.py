"""All samplers by name; the one of newer steps, and the mixture of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import number, positive
from reverie.errors import BadSetting
from reverie.index import NEVER, Anchors, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import (
    EpisodeUniform,
    Proposal,
    Sampler,
    State,
    Uniform,
    by_episode,
    check_sampler,
    try_then_count,
)
from reverie.samplers.kept import kept, unfit
from reverie.samplers.prioritized import Prioritized, VisitBalanced
from reverie.samplers.queues import Fresh, Shuffled, join

__all__ = [
    "EpisodeUniform",
    "Fresh",
    "Mixture",
    "Prioritized",
    "Recent",
    "Sampler",
    "Shuffled",
    "Uniform",
    "VisitBalanced",
]


class Recent(Sampler):
    """Newer steps more often.

    Args:
        newest: anchors among the newest `newest` steps of the buffer alike, `newest // streams` of each
            stream; the others never.
        half_life: probability halves with every `half_life` steps of age in the anchor's stream.

    Raises:
        BadSetting: neither or both are given, or one is not positive.
    """

    def __init__(self, newest: int | None = None, *, half_life: float | None = None) -> None:
        if (newest is None) == (half_life is None):
            raise BadSetting(
                f"Recent: wanted newest or half_life, got {newest!r} and {half_life!r}; give one"
            )
        self.newest = None if newest is None else positive("newest", newest)
        self.half_life = None if half_life is None else number("half_life", half_life, 1e-3, 1e18)

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors."""
        index = anchors.index
        live = index.head - index.tail
        if self.newest is not None:
            live = np.minimum(live, max(self.newest // index.streams, 1))
        ends = np.cumsum(self._mass(live))

        def propose(wanted: int) -> Proposal:
            stream = np.zeros(wanted, np.int64)
            if index.streams > 1:
                stream = np.searchsorted(ends, rng.random(wanted) * ends[-1], side="right")
                stream = np.minimum(stream, index.streams - 1)
            ids = index.head[stream] - 1 - self._age(rng.random(wanted), live[stream])
            rows = index.episodes_at(stream, ids)
            return rows, ids, anchors.accept(rows, ids)

        def clip(rows: Ints, first: Ints) -> Ints:
            return np.maximum(first, (index.head - live)[index.stream[rows]])

        def weigh(rows: Ints, first: Ints, stop: Ints) -> npt.NDArray[np.float64]:
            first = np.minimum(clip(rows, first), stop)
            newest_age = index.head[index.stream[rows]] - stop
            # Only ratios matter: told from the newest anchor there is, ages of many half-lives do not vanish.
            return self._mass(stop - first) * self._decay(newest_age - newest_age.min(initial=NEVER))

        def pick(rows: Ints, first: Ints, stop: Ints) -> Ints:
            return stop - 1 - self._age(rng.random(len(rows)), stop - clip(rows, first))

        return Drawn(
            *try_then_count(count, propose, lambda missing: by_episode(anchors, rng, missing, weigh, pick))
        )

    def _decay(self, age: Ints) -> npt.NDArray[np.float64]:
        return np.ones(len(age)) if self.half_life is None else np.exp2(-age / self.half_life)

    def _mass(self, steps: Ints) -> npt.NDArray[np.float64]:
        """Return the summed weight of `steps` steps, the newest of which has weight 1."""
        if self.half_life is None:
            return steps.astype(np.float64)
        rate = np.log(2) / self.half_life
        mass: npt.NDArray[np.float64] = np.expm1(-steps * rate) / np.expm1(-rate)
        return mass

    def _age(self, u: npt.NDArray[np.float64], steps: Ints) -> Ints:
        """Return ages in `0 <= age < steps` for uniform numbers `u`, by the inverse of the distribution."""
        if self.half_life is None:
            age = u * steps
        else:
            age = -np.log1p(u * np.expm1(-steps * (np.log(2) / self.half_life))) * (
                self.half_life / np.log(2)
            )
        return np.minimum(age.astype(np.int64), steps - 1)


class Mixture(Sampler):
    """Each row from one of several samplers, chosen at random by weight.

    Args:
        parts: (sampler, weight) pairs; weights are positive and need not sum to 1.

    Raises:
        BadSetting: no part, something that is no sampler, or a weight that is not positive.
    """

    def __init__(self, parts: Sequence[tuple[Sampler, float]]) -> None:
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

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors."""
        which = np.minimum(
            np.searchsorted(np.cumsum(self.weights), rng.random(count), side="right"), len(self.samplers) - 1
        )
        parts = []
        for part, sampler in enumerate(self.samplers):
            places = np.flatnonzero(which == part)
            if len(places):
                parts.append((sampler.draw(anchors, rng, len(places)), places))
        return join(parts, anchors, rng, count)

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Any) -> bool:
        """Pass priorities on to every part that keeps some: they belong to the steps, whoever drew them."""
        taken = [sampler.update(index, stream, ids, priorities) for sampler in self.samplers]  # all of them
        return any(taken)

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

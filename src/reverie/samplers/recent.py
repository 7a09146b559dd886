"""A sampler that draws newer steps more often."""

from __future__ import annotations

from copy import copy
from functools import partial

import numpy as np
import numpy.typing as npt

from reverie.checks import number, positive
from reverie.errors import BadSetting
from reverie.index import NEVER, Anchors, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import (
    Proposal,
    Sampler,
    by_episode,
    interval_mass,
    only_good,
    try_then_count,
)
from reverie.samplers.where import Condition


class Recent(Sampler):
    """Newer steps more often.

    Args:
        newest: anchors among the newest `newest` steps of the buffer alike, `newest // streams` of each
            stream; the others never.
        half_life: probability halves with every `half_life` steps of age in the anchor's stream.
        where: draws from some episodes only, as `Sampler` says; steps of all episodes count as newer ones.

    Raises:
        BadSetting: neither or both are given, or one is not positive.
    """

    def __init__(
        self,
        newest: int | None = None,
        *,
        half_life: float | None = None,
        where: Condition | None = None,
    ) -> None:
        super().__init__(where=where)
        if (newest is None) == (half_life is None):
            raise BadSetting(
                f"Recent: wanted newest or half_life, got {newest!r} and {half_life!r}; give one"
            )
        self.newest = None if newest is None else positive("newest", newest)
        self.half_life = None if half_life is None else number("half_life", half_life, 1e-3, 1e18)

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors."""
        anchors = self.narrow(anchors)
        return Drawn(
            *try_then_count(
                count,
                lambda wanted: self._propose(anchors, rng, wanted),
                lambda missing: self._enumerate(anchors, rng, missing),
            )
        )

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return the weight of all steps in reach, or of the anchors among them; the newest of a stream has 1."""
        if exact:
            return interval_mass(anchors, partial(self._weigh, anchors.index))
        return float(self._mass(self._reach(anchors.index)).sum())

    def offer(self, anchors: Anchors, rng: np.random.Generator, count: int, exact: bool) -> Drawn:
        """Return what comes of `count` tries."""
        if exact:
            return Drawn(*self._enumerate(anchors, rng, count))
        return only_good(self._propose(anchors, rng, count))

    def for_part(self, streams: int, of: int) -> Recent:
        """Return one for a part of a union, whose share of the newest steps is that of its streams."""
        if self.newest is None:
            return self
        part = copy(self)
        part.newest = max(self.newest // of, 1) * streams
        return part

    def _reach(self, index: EpisodeIndex) -> Ints:
        """Return how many of each stream's steps can be drawn."""
        live = index.head - index.tail
        return live if self.newest is None else np.minimum(live, max(self.newest // index.streams, 1))

    def _propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Proposal:
        index = anchors.index
        live = self._reach(index)
        ends = np.cumsum(self._mass(live))
        stream = np.zeros(count, np.int64)
        if index.streams > 1:
            stream = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
            stream = np.minimum(stream, index.streams - 1)
        ids = index.head[stream] - 1 - self._age(rng.random(count), live[stream])
        episodes = index.episodes_at(stream, ids)
        return episodes, ids, anchors.accept(episodes, ids)

    def _enumerate(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        index = anchors.index

        def weigh(episodes: Ints, first: Ints, stop: Ints) -> npt.NDArray[np.float64]:
            # Only ratios matter: told from the newest anchor there is, ages of many half-lives do not vanish.
            newest_age = index.head[index.stream[episodes]] - stop
            return self._weigh(index, episodes, first, stop, newest_age.min(initial=NEVER))

        def pick(episodes: Ints, first: Ints, stop: Ints) -> Ints:
            reach: Ints = stop - self._clip(index, episodes, first)
            return stop - 1 - self._age(rng.random(len(episodes)), reach)

        return by_episode(anchors, rng, count, weigh, pick, ("Recent", self.newest, self.half_life))

    def _clip(self, index: EpisodeIndex, episodes: Ints, first: Ints) -> Ints:
        clipped: Ints = np.maximum(first, (index.head - self._reach(index))[index.stream[episodes]])
        return clipped

    def _weigh(
        self, index: EpisodeIndex, episodes: Ints, first: Ints, stop: Ints, age: int = 0
    ) -> npt.NDArray[np.float64]:
        """Return the weight of the anchors of each episode, where a step of this age has the weight 1."""
        first = np.minimum(self._clip(index, episodes, first), stop)
        newest_age = index.head[index.stream[episodes]] - stop
        return self._mass(stop - first) * self._decay(newest_age - age)

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

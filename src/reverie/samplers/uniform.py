"""Samplers that draw every step, or every episode, alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.index import Anchors, Drawn, EpisodeIndex, Ints, choice_of_kept
from reverie.samplers.base import (
    Follows,
    Proposal,
    Sampler,
    by_episode,
    go_on,
    tries,
    try_then_count,
    uniform_between,
)
from reverie.samplers.sumtree import SumTree
from reverie.samplers.where import Condition
from reverie.values import shown


def uniform_steps(index: EpisodeIndex, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
    """Return (episode, id) of `count` live steps, each step being equally likely. Some step must be live."""
    stream, ids = uniform_ids(index, rng, count)
    return index.episodes_at(stream, ids), ids


def uniform_ids(index: EpisodeIndex, rng: np.random.Generator, count: int) -> tuple[Ints | int, Ints]:
    """Return stream and id of the same."""
    if index.streams == 1:
        return 0, rng.integers(index.tail.item(0), index.head.item(0), count)
    return index.id_at_rank(rng.integers(0, index.live_steps(), count))


class Uniform(Sampler):
    """Every valid anchor alike.

    Args:
        where: draws from some episodes only, as `Sampler` says.
    """

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors, each valid one being equally likely."""
        anchors = self.narrow(anchors)

        stream, ids = uniform_ids(anchors.index, rng, tries(count))
        found = anchors.first_valid(stream, ids, count)
        if found is not None:
            return Drawn(*found)

        def proposal(stream: Ints | int, ids: Ints) -> Proposal:
            episodes = anchors.index.episodes_at(stream, ids)
            return episodes, ids, anchors.accept(episodes, ids)

        def propose(wanted: int) -> Proposal:
            return proposal(*uniform_ids(anchors.index, rng, wanted))

        def enumerate_rest(missing: int) -> tuple[Ints, Ints]:
            return anchors.at_rank(rng.integers(0, anchors.require(), missing))

        return Drawn(*go_on(count, proposal(stream, ids), propose, enumerate_rest))

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return how many anchors there are."""
        return float(anchors.count())


class EpisodeUniform(Sampler):
    """Episodes alike, and the anchor uniform inside: IRIS's choice.

    Episodes without a valid anchor are left out. Short episodes are drawn from as often as long ones, so a
    step of a short episode is seen more often than one of a long episode.

    Args:
        weights: probabilities of chronological parts of the live episodes, oldest part first, as DIAMOND
            draws with (0.1, 0.1, 0.1, 0.7): with E episodes and n weights each part has E // n episodes, and
            the last one also the remainder. With fewer episodes than weights an episode is drawn in proportion
            to its live steps, as DIAMOND does. None: all alike.
        where: draws from some episodes only, as `Sampler` says; the parts are those of all live episodes.

    Raises:
        BadSetting: weights that are negative, not finite, or do not sum to 1.
    """

    def __init__(self, weights: Sequence[float] | None = None, *, where: Condition | None = None) -> None:
        super().__init__(where=where)
        try:
            self.weights = None if weights is None else tuple(float(weight) for weight in weights)
            good = self.weights is None or (min(self.weights) >= 0 and abs(sum(self.weights) - 1) < 1e-9)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise BadSetting(
                f"weights: wanted non-negative numbers that sum to 1, got {shown(weights)}; "
                f"write for example (0.1, 0.1, 0.1, 0.7)"
            )
        self._live = LiveEpisodes()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors."""
        anchors = self.narrow(anchors)

        def propose(wanted: int) -> Proposal:
            episodes = self._draw_episodes(anchors.index, rng, wanted)
            first, stop = anchors.bounds(episodes)
            some = stop > first
            return episodes, uniform_between(rng, first, np.maximum(stop, first + 1)), some

        def weigh(episodes: Ints, first: Ints, stop: Ints) -> npt.NDArray[np.float64]:
            return self._weights_of(anchors.index, episodes)

        def enumerate_rest(missing: int) -> tuple[Ints, Ints]:
            return by_episode(
                anchors,
                rng,
                missing,
                weigh,
                lambda _, first, stop: uniform_between(rng, first, stop),
                ("EpisodeUniform", self.weights),
            )

        if self.weights is not None and choice_of_kept(anchors.index) is not None:
            return Drawn(*enumerate_rest(count))  # the parts are those of the episodes that are left
        return Drawn(*try_then_count(count, propose, enumerate_rest))

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return how many episodes have an anchor.

        Raises:
            BadSetting: it has weights for parts by age.
        """
        if self.weights is not None:
            raise BadSetting(
                "sampler: wanted EpisodeUniform() for a union, got one with weights: the ages of episodes of several "
                "buffers cannot be compared; leave the weights out, or give the union weights"
            )
        return float(anchors.count_episodes())

    def rewind(self) -> None:
        """Forget what was counted: it is counted again when next needed."""
        self._live = LiveEpisodes()

    def _draw_episodes(self, index: EpisodeIndex, rng: np.random.Generator, count: int) -> Ints:
        live = int((index.begun - index.dropped).sum())
        if self.weights is None:
            return index.uniform_episodes(rng, count)
        if live < len(self.weights):
            # The episode of a uniform step: in proportion to its steps.
            return uniform_steps(index, rng, count)[0]
        self._live.follow(index)
        part = np.searchsorted(np.cumsum(self.weights), rng.random(count) * sum(self.weights), side="right")
        part = np.minimum(part, len(self.weights) - 1)
        starts = np.arange(len(self.weights) + 1) * (live // len(self.weights))
        starts[-1] = live
        return self._live.at_rank(uniform_between(rng, starts[part], starts[part + 1]))

    def _weights_of(self, index: EpisodeIndex, episodes: Ints) -> npt.NDArray[np.float64]:
        """Return the probability of each of these episodes among all live ones."""
        if self.weights is None:
            return np.ones(len(episodes))
        live = index.live_episodes()
        kept = choice_of_kept(index)
        if kept is not None:
            live = live[kept.chosen.take(live)]
        if len(live) < len(self.weights):
            return (index.stop[episodes] - index.live_start(episodes)).astype(np.float64)
        size = len(live) // len(self.weights)
        rank = np.searchsorted(index.order[live], index.order[episodes])
        part = np.minimum(rank // size, len(self.weights) - 1)
        sizes = np.full(len(self.weights), size)
        sizes[-1] = len(live) - size * (len(self.weights) - 1)
        probabilities: npt.NDArray[np.float64] = np.array(self.weights)[part] / sizes[part]
        return probabilities


class LiveEpisodes(Follows):
    """The live episodes in the order they began, with the k-th at hand: follows an index draw by draw."""

    __slots__ = ("_base", "_begun", "_dropped", "_episode", "_index", "_orders", "_tree")

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._begun = self._dropped = np.zeros(0, np.int64)  # of the index, at the last call

    def follow(self, index: EpisodeIndex) -> None:
        """Take in the episodes that began and let go of those that were dropped since the last call."""
        if self._index is not index or (index.begun < self._begun).any():
            self._rebuild(index)
            return
        changed = np.flatnonzero((index.begun != self._begun) | (index.dropped != self._dropped))
        for stream in changed.tolist():
            self._let_go(stream, index.dropped.item(stream) - self._dropped.item(stream))
            if not self._take_in(index, stream):
                self._rebuild(index)
                return
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()

    def _let_go(self, stream: int, count: int) -> None:
        """Forget the oldest `count` episodes of a stream, as far as they were ever taken in."""
        gone = self._orders[stream][:count]
        del self._orders[stream][:count]
        if gone:
            self._tree.set(np.array(gone) - self._base, 0.0)

    def _take_in(self, index: EpisodeIndex, stream: int) -> bool:
        """Take in the episodes of a stream that began; return False if the tree has no place left for one."""
        begun, dropped = self._begun.item(stream), index.dropped.item(stream)
        for ordinal in range(max(begun, dropped), index.begun.item(stream)):
            episode = index.episode_of(stream, ordinal)
            order = index.order.item(episode)
            if order - self._base >= self._tree.size:
                return False
            self._orders[stream].append(order)
            self._episode[order - self._base] = episode
            self._tree.set(np.array([order - self._base]), 1.0)
        return True

    def _rebuild(self, index: EpisodeIndex) -> None:
        episodes = index.live_episodes()
        orders = index.order[episodes]
        self._index = index
        self._base = int(orders[0])
        span = int(orders[-1]) - self._base + 1
        self._tree = SumTree(max(1024, 2 * span))
        self._episode = np.zeros(self._tree.size, np.int64)  # order - base -> episode
        self._episode[orders - self._base] = episodes
        self._tree.set(orders - self._base, 1.0)
        # Of the live episodes of each stream, oldest first.
        self._orders: list[list[int]] = [[] for _ in range(index.streams)]
        for episode, order in zip(episodes.tolist(), orders.tolist(), strict=True):
            self._orders[index.stream.item(episode)].append(order)
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()

    def at_rank(self, rank: Ints) -> Ints:
        """Return the live episodes with these ranks, 0 being the oldest."""
        return self._episode[self._tree.find(rank.astype(np.float64) + 0.5)]

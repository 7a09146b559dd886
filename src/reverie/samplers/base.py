"""What a sampler is, the samplers without memory, and the two ways to reach an exact distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.index import Anchors, Bools, Drawn, EpisodeIndex, Ints
from reverie.samplers.sumtree import SumTree
from reverie.values import shown

# Below this share of accepted draws, going through the episodes is cheaper than trying again.
LEAST_ACCEPTED = 1 / 8

State = dict[str, Any]
Proposal = tuple[Ints, Ints, Bools]  # rows and ids of live steps, and which of them are valid anchors


class Sampler(ABC):
    """Chooses anchors. It knows ids, episodes and priorities, and no bytes.

    A sampler of your own needs one method, `draw`. If it remembers something between draws, `save` and
    `load` make it part of what a buffer keeps. It serves one buffer; whatever it wants to know of new or
    evicted steps it reads from `anchors.index` when it draws.
    """

    @abstractmethod
    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors.

        Args:
            anchors: the valid ones now: `accept`, `bounds`, `count`, `at_rank`, and the index behind them.
            rng: the only source of randomness allowed.
            count: how many to draw, at least 1.

        Raises:
            NotEnoughData: there is none; `raise anchors.not_enough()`.
        """

    def update(
        self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: npt.NDArray[np.float64]
    ) -> bool:
        """Take new priorities of anchors that are still live; return False if this sampler keeps none."""
        return False

    def window_priorities(self, td_errors: npt.NDArray[np.floating], mask: Bools) -> npt.NDArray[np.float64]:
        """Return one priority for each window from its steps' TD errors (B, L); only where priorities are kept."""
        raise BadSetting(
            f"update_priorities: wanted a batch drawn by Prioritized, got one drawn by {type(self).__name__}; "
            f"pass sampler=Prioritized(...) to sample"
        )

    def mark(self) -> None:  # noqa: B027  # most samplers remember nothing
        """Take note of what there is to remember: `rewind` goes back there, if what comes next is interrupted.

        A sampler that remembers something between draws should have both. Neither may cost more than a draw.
        """

    def rewind(self) -> None:  # noqa: B027  # likewise
        """Go back to the last `mark`, from wherever an interrupt left this sampler. Twice is fine."""

    def save(self) -> State:
        """Return what has to be remembered: arrays, numbers, strings, and lists and dicts of such."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting, KeyError, TypeError, ValueError: it is no such state.
        """
        if state:
            raise BadSetting(
                f"{type(self).__name__}: wanted nothing to load, got a state; a sampler that saves something must "
                f"also load it"
            )

    def __getstate__(self) -> tuple[dict[str, Any], State]:
        """Return what a pickle or a copy takes along: what `save` returns, and not the buffer that is served."""
        known = {name: None if isinstance(it, EpisodeIndex) else it for name, it in vars(self).items()}
        return known, self.save()

    def __copy__(self) -> Self:
        return deepcopy(self)  # two samplers never share a memory

    def __setstate__(self, state: tuple[dict[str, Any], State]) -> None:
        vars(self).update(state[0])
        if state[1]:
            self.load(state[1])


class Follows:
    """What a sampler knows of one buffer's index. A copy or a pickle of it knows nothing yet."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return type(self), ()


def check_sampler(name: str, value: object) -> Sampler:
    """Return `value` if it is a Sampler; raise BadSetting otherwise."""
    if not isinstance(value, Sampler):
        raise BadSetting(
            f"{name}: wanted a Sampler, got {shown(value)}; pass an object such as reverie.Uniform()"
        )
    return value


def try_then_count(
    count: int, propose: Callable[[int], Proposal], enumerate_rest: Callable[[int], tuple[Ints, Ints]]
) -> tuple[Ints, Ints]:
    """Return `count` anchors: proposals that are valid, and the rest by enumeration where few are.

    Exact if `propose` and `enumerate_rest` agree on the distribution over valid anchors: how many
    proposals were accepted says nothing about which.
    """
    rows, ids, good = propose(count + (count >> 3) + 4)
    kept = good.nonzero()[0]
    accepted = len(kept)
    if accepted == len(ids):
        return rows[:count], ids[:count]
    share = accepted / len(ids)
    kept = kept[:count]
    rows, ids = rows[kept], ids[kept]
    if accepted < count and share >= LEAST_ACCEPTED:
        missing = count - accepted
        more_rows, more_ids, good = propose(int(missing / share * 1.5) + 8)
        rows = np.concatenate([rows, more_rows[good][:missing]])
        ids = np.concatenate([ids, more_ids[good][:missing]])
    if len(ids) < count:
        more_rows, more_ids = enumerate_rest(count - len(ids))
        rows, ids = np.concatenate([rows, more_rows]), np.concatenate([ids, more_ids])
    return rows, ids


def by_episode(
    anchors: Anchors,
    rng: np.random.Generator,
    count: int,
    weigh: Callable[[Ints, Ints, Ints], npt.NDArray[np.float64]],
    pick: Callable[[Ints, Ints, Ints], Ints],
) -> tuple[Ints, Ints]:
    """Return `count` anchors by going through all live episodes: exact, and as slow as there are episodes.

    Args:
        anchors: the valid ones now.
        rng: the source of randomness.
        count: how many to draw.
        weigh: from rows, first and stop of the anchors of some episodes to the weight of each episode.
        pick: from the same, for episodes already chosen, to one id each.

    Raises:
        NotEnoughData: no episode has an anchor with any weight.
    """
    rows = anchors.index.live_episodes()
    first, stop = anchors.bounds(rows)
    some = stop > first
    rows, first, stop = rows[some], first[some], stop[some]
    ends = np.cumsum(weigh(rows, first, stop)) if len(rows) else np.zeros(1)
    if not ends[-1] > 0:
        raise anchors.not_enough()
    chosen = np.minimum(np.searchsorted(ends, rng.random(count) * ends[-1], side="right"), len(rows) - 1)
    return rows[chosen], pick(rows[chosen], first[chosen], stop[chosen])


def uniform_steps(index: EpisodeIndex, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
    """Return (row, id) of `count` live steps, each step being equally likely. Some step must be live."""
    if index.streams == 1:
        ids: Ints = rng.integers(index.tail.item(0), index.head.item(0), count)
        return index.episodes_at(0, ids), ids
    return index.step_at_rank(rng.integers(0, index.live_steps(), count))


class Uniform(Sampler):
    """Every valid anchor alike."""

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors, each valid one being equally likely."""

        def propose(wanted: int) -> Proposal:
            rows, ids = uniform_steps(anchors.index, rng, wanted)
            return rows, ids, anchors.accept(rows, ids)

        def enumerate_rest(missing: int) -> tuple[Ints, Ints]:
            return anchors.at_rank(rng.integers(0, anchors.require(), missing))

        return Drawn(*try_then_count(count, propose, enumerate_rest))


class EpisodeUniform(Sampler):
    """Episodes alike, and the anchor uniform inside: IRIS's choice.

    Episodes without a valid anchor are left out. Short episodes are drawn from as often as long ones, so a
    step of a short episode is seen more often than one of a long episode.

    Args:
        weights: probabilities of chronological parts of the live episodes, oldest part first, as DIAMOND
            draws with (0.1, 0.1, 0.1, 0.7): with E episodes and n weights each part has E // n episodes, and
            the last one also the remainder. With fewer episodes than weights an episode is drawn in proportion
            to its live steps, as DIAMOND does. None: all alike.

    Raises:
        BadSetting: weights that are negative, not finite, or do not sum to 1.
    """

    def __init__(self, weights: Sequence[float] | None = None) -> None:
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

        def propose(wanted: int) -> Proposal:
            rows = self._rows(anchors.index, rng, wanted)
            first, stop = anchors.bounds(rows)
            some = stop > first
            return rows, uniform_between(rng, first, np.maximum(stop, first + 1)), some

        def weigh(rows: Ints, first: Ints, stop: Ints) -> npt.NDArray[np.float64]:
            return self._weights_of(anchors.index, rows)

        def enumerate_rest(missing: int) -> tuple[Ints, Ints]:
            return by_episode(
                anchors, rng, missing, weigh, lambda _, first, stop: uniform_between(rng, first, stop)
            )

        return Drawn(*try_then_count(count, propose, enumerate_rest))

    def rewind(self) -> None:
        """Forget what was counted: it is counted again when next needed."""
        self._live = LiveEpisodes()

    def _rows(self, index: EpisodeIndex, rng: np.random.Generator, count: int) -> Ints:
        episodes = int((index.begun - index.dropped).sum())
        if self.weights is None:
            return index.uniform_episodes(rng, count)
        if episodes < len(self.weights):
            # The episode of a uniform step: in proportion to its steps.
            return uniform_steps(index, rng, count)[0]
        self._live.sync(index)
        part = np.searchsorted(np.cumsum(self.weights), rng.random(count) * sum(self.weights), side="right")
        part = np.minimum(part, len(self.weights) - 1)
        starts = np.arange(len(self.weights) + 1) * (episodes // len(self.weights))
        starts[-1] = episodes
        return self._live.at_rank(uniform_between(rng, starts[part], starts[part + 1]))

    def _weights_of(self, index: EpisodeIndex, rows: Ints) -> npt.NDArray[np.float64]:
        """Return the probability of each of these episodes among all live ones."""
        live = index.live_episodes()
        if self.weights is None:
            return np.ones(len(rows))
        if len(live) < len(self.weights):
            return (index.stop[rows] - index.live_start(rows)).astype(np.float64)
        size = len(live) // len(self.weights)
        rank = np.searchsorted(index.order[live], index.order[rows])
        part = np.minimum(rank // size, len(self.weights) - 1)
        sizes = np.full(len(self.weights), size)
        sizes[-1] = len(live) - size * (len(self.weights) - 1)
        probabilities: npt.NDArray[np.float64] = np.array(self.weights)[part] / sizes[part]
        return probabilities


class LiveEpisodes(Follows):
    """The live episodes in the order they began, with the k-th at hand: follows an index draw by draw."""

    __slots__ = ("_base", "_begun", "_dropped", "_index", "_orders", "_row", "_tree")

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._begun = self._dropped = np.zeros(0, np.int64)  # of the index, at the last call

    def sync(self, index: EpisodeIndex) -> None:
        """Take in the episodes that began and let go of those that were dropped since the last call."""
        if self._index is not index or (index.begun < self._begun).any():
            self._rebuild(index)
            return
        changed = np.flatnonzero((index.begun != self._begun) | (index.dropped != self._dropped)).tolist()
        for stream in changed:
            orders = self._orders[stream]
            gone = index.dropped.item(stream) - self._dropped.item(stream)
            # An episode that began and was dropped between two calls was never taken in.
            known = orders[:gone]
            del orders[:gone]
            if known:
                self._tree.set(np.array(known) - self._base, 0.0)
            for ordinal in range(
                max(self._begun.item(stream), index.dropped.item(stream)), index.begun.item(stream)
            ):
                row = index.episode_of(stream, ordinal)
                order = index.order.item(row)
                if order - self._base >= self._tree.size:
                    self._rebuild(index)
                    return
                orders.append(order)
                self._row[order - self._base] = row
                self._tree.set(np.array([order - self._base]), 1.0)
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()

    def _rebuild(self, index: EpisodeIndex) -> None:
        rows = index.live_episodes()
        orders = index.order[rows]
        self._index = index
        self._base = int(orders[0])
        span = int(orders[-1]) - self._base + 1
        self._tree = SumTree(max(1024, 2 * span))
        self._row = np.zeros(self._tree.size, np.int64)  # order - base -> row
        self._row[orders - self._base] = rows
        self._tree.set(orders - self._base, 1.0)
        # Of the live episodes, oldest first.
        self._orders: list[list[int]] = [[] for _ in range(index.streams)]
        for row, order in zip(rows.tolist(), orders.tolist(), strict=True):
            self._orders[index.stream.item(row)].append(order)
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()

    def at_rank(self, rank: Ints) -> Ints:
        """Return the rows of the live episodes with these ranks, 0 being the oldest."""
        return self._row[self._tree.find(rank.astype(np.float64) + 0.5)]


def serve(known: EpisodeIndex | None, index: EpisodeIndex) -> EpisodeIndex:
    """Return `index` if a sampler that serves `known` may draw from it; raise BadSetting otherwise."""
    if known is not None and known is not index:
        raise BadSetting(
            "sampler: wanted one that serves this buffer only, got one of another; make a new one"
        )
    return index


def uniform_between(rng: np.random.Generator, first: Ints, stop: Ints) -> Ints:
    """Return one uniform integer in `first <= value < stop` for each pair."""
    drawn: Ints = rng.integers(first, stop)
    return drawn

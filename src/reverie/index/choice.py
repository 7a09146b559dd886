"""Which episodes may have anchors, where not all of them may."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import IndexArrays
from reverie.index.runs import Bools, Ints

_serials = count(1)
NO_LIMIT = np.iinfo(np.int64).max


class Candidates(NamedTuple):
    """The episodes that have a valid anchor, oldest first, and where their anchors lie.

    Attributes:
        episodes, first, stop: (E,) int64; the anchors of each are `first <= id < stop`.
        ends: (E,) int64; running sums of how many anchors there are.
        shares: running sums of weights of the episodes, by who made them, as long as nothing changes.
    """

    episodes: Ints
    first: Ints
    stop: Ints
    ends: Ints
    shares: dict[Hashable, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, episodes: Ints, first: Ints, stop: Ints) -> Self:
        """Return those of these episodes that have an anchor."""
        some = stop > first
        episodes, first, stop = episodes[some], first[some], stop[some]
        return cls(episodes, first, stop, np.cumsum(stop - first), {})

    @property
    def total(self) -> int:
        """How many anchors there are."""
        return self.ends.item(-1) if len(self.ends) else 0

    def at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode, id) of the anchors with these ranks."""
        which = np.searchsorted(self.ends, rank, side="right")
        return self.episodes[which], self.stop[which] - (self.ends[which] - rank)


class Choice:
    """The episodes that may have anchors, by their entry in the table.

    It is for one set of live episodes: when an episode begins or goes, another one is made.

    Attributes:
        chosen: (entries,) bool; entries that hold no live episode may say anything.
        limits: (entries,) int64; a window of rows that begins in the episode ends before this row of its stream,
            where rows are counted as `Cross` counts them. None: no such limit.
        serial: a number that no other choice has.
    """

    __slots__ = ("_lists", "_moment", "chosen", "limits", "serial")

    def __init__(self, chosen: Bools, limits: Ints | None = None) -> None:
        self.chosen, self.limits = chosen, limits
        self.serial = next(_serials)
        self._moment: Hashable = None
        self._lists: dict[tuple[str, int], Candidates] = {}

    def __and__(self, other: Choice) -> Choice:
        """Return the choice of what both choose."""
        if self.limits is None or other.limits is None:
            limits = self.limits if other.limits is None else other.limits
        else:
            limits = np.minimum(self.limits, other.limits)
        return Choice(self.chosen & other.chosen, limits)

    def is_limited(self, episode: int) -> bool:
        """Whether a window of rows that begins in this episode has to end before the end of the stream."""
        return self.limits is not None and self.limits.item(episode) != NO_LIMIT

    def candidates(
        self, index: IndexArrays, kind: tuple[str, int], bounds: Callable[[Ints], tuple[Ints, Ints]]
    ) -> Candidates:
        """Return what there is to draw from, found once as long as nothing changes.

        Args:
            index: the integers of the buffer.
            kind: boundary and length.
            bounds: tells where the anchors of episodes lie.
        """
        moment = index.moment()
        if moment != self._moment:
            self._moment, self._lists = moment, {}
        found = self._lists.get(kind)
        if found is None:
            episodes = index.live_episodes()
            episodes = episodes[self.chosen.take(episodes)]
            found = self._lists[kind] = Candidates.of(episodes, *bounds(episodes))
        return found


def choice_of_kept(index: IndexArrays) -> Choice | None:
    """Return the choice of all episodes that were not discarded; None where none was."""
    if not index.gone:
        return None
    moment = index.begun.tobytes(), index.dropped.tobytes(), index.turns
    if index.kept is None or index.kept[0] != moment:
        index.kept = moment, _find_kept(index)
    kept: Choice | None = index.kept[1]
    return kept


def discarded(index: IndexArrays, episodes: Ints) -> Bools:
    """Return which of these live episodes were discarded."""
    return np.isin(index.order[episodes], list(index.gone))


def kept_steps(index: IndexArrays) -> int:
    """Return how many live steps there are in episodes that were not discarded."""
    kept = choice_of_kept(index)
    if kept is None:
        return index.live_steps()
    episodes = index.live_episodes()
    episodes = episodes[kept.chosen.take(episodes)]
    return int((index.stop[episodes] - index.live_start(episodes)).sum())


def _find_kept(index: IndexArrays) -> Choice | None:
    chosen = np.ones(len(index.start), np.bool_)
    limits = np.full(len(index.start), NO_LIMIT)
    for stream, (dropped, begun) in enumerate(zip(index.dropped.tolist(), index.begun.tolist(), strict=True)):
        ordinals = np.arange(dropped, begun)
        episodes = index.episodes_of(np.full(len(ordinals), stream), ordinals)
        gone = np.flatnonzero(discarded(index, episodes))
        # An episode ends before the next discarded one of its stream: there its windows of rows have to end.
        ends = np.append(index.start[episodes[gone]] + ordinals[gone], NO_LIMIT)
        limits[episodes] = ends[np.searchsorted(gone, np.arange(len(ordinals)), side="right")]
        chosen[episodes[gone]] = False
    return None if chosen.all() else Choice(chosen, limits)

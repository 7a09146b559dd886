"""Steps that one stream takes at once, in integers: which episodes they bring, and what they let go."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import RUNNING
from reverie.index.episodes import EpisodeIndex
from reverie.index.runs import Ints


class Part(NamedTuple):
    """What a stretch brings of one episode."""

    ordinal: int  # of the episode, among those of its stream
    order: int  # among those of all streams
    start: int  # id of its first step, which may lie before the stretch
    first: int  # id of its first step in the stretch
    stop: int  # one past its last one there
    ended: int  # how it ended with that step, or RUNNING
    before: float  # the sum of its rewards up to `first`

    @property
    def begins(self) -> bool:
        """Whether the episode begins in the stretch."""
        return self.start == self.first


class Stretch:
    """Consecutive steps that are about to be stored in one stream. It changes nothing.

    Attributes:
        stream: which; first: the id of the first step; stop: one past that of the last one.
        parts: what there is of each episode, oldest first, at least one.
        sews: whether the first step cuts an episode that another run of the program left running.
    """

    def __init__(self, index: EpisodeIndex, stream: int, ended: Ints) -> None:
        row = index.open_episode.item(stream)
        self._index = index
        self.stream, self.first = stream, index.head.item(stream)
        self.stop = self.first + len(ended)
        self.sews = row >= 0 and stream in index.seams
        self._goes_on = row >= 0 and not self.sews  # whether the first step goes on with an episode
        self.parts = self._parts(row, ended)
        self._tail, self._dropped = index.tail.item(stream), index.dropped.item(stream)
        self._old = (
            index.begun.item(stream) - self._dropped - self._goes_on
        )  # ended episodes that are live now

    @cached_property
    def _stops(self) -> list[int]:
        """One past the last id of each episode that may go, oldest first: a step lets go of one at the most."""
        count = min(self._old, self.stop - self.first + 2)
        ordinals = np.arange(self._dropped, self._dropped + count)
        stops: list[int] = self._index.stop[self._index.episodes_of(np.array(self.stream), ordinals)].tolist()
        if self._old == count:
            stops += [part.stop for part in self.parts if part.ended]
        return stops

    def _parts(self, row: int, ended: Ints) -> list[Part]:
        index = self._index
        parts: list[Part] = []
        stops: list[int] = (ended.nonzero()[0] + 1).tolist()
        if not stops or stops[-1] != len(ended):
            stops.append(len(ended))
        ordinal, order, first = index.begun.item(self.stream), index.next_order, self.first
        for stop in stops:
            kind = ended.item(stop - 1)
            if self._goes_on and not parts:
                known = ordinal - 1, index.order.item(row), index.start.item(row)
                parts.append(Part(*known, first, self.first + stop, kind, index.total.item(row)))
            else:
                parts.append(Part(ordinal, order, first, first, self.first + stop, kind, 0.0))
                ordinal, order = ordinal + 1, order + 1
            first = self.first + stop
        return parts

    def tail_at(self, head: int) -> int:
        """Return the stream's oldest live id once its head is there."""
        return max(self._tail, head - self._index.capacity)

    def dropped_at(self, head: int) -> int:
        """Return the ordinal of the oldest episode that is live once the head is there."""
        gone = bisect_right(self._stops, self.tail_at(head))
        if self.sews and head <= self.first + 1:  # room is made for the first step before it makes its cut
            gone = min(gone, self._old - 1)
        return self._dropped + gone

    def begun_at(self, head: int) -> int:
        """Return how many episodes of the stream have begun once the head is there."""
        begun = self._index.begun.item(self.stream)
        return begun + sum(part.begins and part.first < head for part in self.parts)

    def runs_at(self, head: int) -> bool:
        """Whether the newest episode of the stream runs once the head is there."""
        for part in reversed(self.parts):
            if part.first < head:
                return not part.ended or part.stop > head
        return self._goes_on or self.sews

    def sealed(self, first: int) -> list[tuple[int, int]]:
        """Return where the runs begin and stop that are sealed, if the first of them begins at the id `first`."""
        runs = self._index.runs
        found: list[tuple[int, int]] = []
        while True:
            stop = first + runs.steps(runs.of_id(self.stream, first)[0])
            if stop >= self.stop:
                return found
            found.append((first, stop))
            first = stop

    def growth(self) -> int:
        """Return how often the table of episodes has to double before all episodes of the stretch have begun."""
        index, doubled = self._index, 0
        size, free, gone = len(index.start), len(index.free), self._dropped
        if free >= len(self.parts):
            return 0
        for part in self.parts:
            if part.begins:
                dropped = self.dropped_at(part.first + 1)
                free, gone = free + dropped - gone - 1, dropped
                if free < 0:
                    free, size, doubled = free + size, 2 * size, doubled + 1
        return doubled

    @property
    def needed(self) -> int:
        """How many more rows of the table the stream may come to take: no more than it has steps, and one."""
        live = self._index.begun.item(self.stream) - self._dropped
        return max(0, min(len(self.parts), self._index.capacity + 1 - live))

    def most_live(self) -> int:
        """Return how many episodes of the stream are live at once at the most, or a little more."""
        begun = self._index.begun.item(self.stream)
        return min(begun - self._dropped + len(self.parts), self._index.capacity + 1)

    def lacks_room(self) -> bool:
        """Whether `reserve` has to be called before the steps are stored."""
        return self.growth() > 0 or self._index.by_ordinal.shape[1] <= self.most_live()

    def reserve(self) -> None:
        """Make room for the episodes of the stretch; if interrupted, `mend` has to follow.

        Rows are taken from the end of `free`. So the new ones are put before those that are there already, and each
        episode has the row that it would have if the steps came one by one.
        """
        index = self._index
        for _ in range(self.growth()):
            episodes = len(index.start)
            index.allocate(2 * episodes)
            index.free[:0] = range(2 * episodes - 1, episodes - 1, -1)
        while index.by_ordinal.shape[1] <= self.most_live():
            index.widen()


def total_at(part: Part, head: int, rewards: npt.NDArray[np.float32]) -> float:
    """Return the return of a part's episode once the head is there; `rewards` begin with the part's first step.

    They are added up one after the other, as single steps are.
    """
    some = rewards[: min(part.stop, head) - part.first]
    return float(np.add.accumulate(np.concatenate([[part.before], some])).item(-1))


def ended_at(part: Part, head: int) -> int:
    """Return how a part's episode has ended once the head is there."""
    return part.ended if part.stop <= head else RUNNING


def stretches_of(index: EpisodeIndex, streams: Ints, ended: Ints) -> list[Stretch]:
    """Return a stretch for each of several streams, whose steps are stored row by row.

    Args:
        index: of the buffer.
        streams: all different; ended: (steps, streams) how each step ends its episode.
    """
    found = [Stretch(index, stream, ended[:, lane]) for lane, stream in enumerate(streams.tolist())]
    begun = [
        (part.first - stretch.first, lane, place)
        for lane, stretch in enumerate(found)
        for place, part in enumerate(stretch.parts)
        if part.begins
    ]
    for order, (_, lane, place) in enumerate(sorted(begun), index.next_order):
        found[lane].parts[place] = found[lane].parts[place]._replace(order=order)
    return found


def reserve_rows(index: EpisodeIndex, stretches: list[Stretch]) -> None:
    """Make room for the episodes of stretches that are stored row by row; if interrupted, `mend` has to follow."""
    while len(index.free) < sum(stretch.needed for stretch in stretches):
        episodes = len(index.start)
        index.allocate(2 * episodes)
        index.free[:0] = range(2 * episodes - 1, episodes - 1, -1)
    while any(index.by_ordinal.shape[1] <= stretch.most_live() for stretch in stretches):
        index.widen()

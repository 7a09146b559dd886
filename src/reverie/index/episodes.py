"""How steps, ends and evictions change the integers of a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import COLUMNS, CUT, NEVER, NO_EPISODE, NO_FINAL, RUNNING, IndexArrays
from reverie.index.lengths import LengthTable
from reverie.index.runs import Ints

NO_SEAMS: frozenset[int] = frozenset()


class EpisodeIndex(IndexArrays):
    """The integers of a buffer, and how they change.

    Adding a step is two calls, between which its bytes are written: `make_room`, which can be repeated, and
    `commit`. Ctrl-C may come between any two lines of them: `mend` then makes the index what it was before
    `commit`, and both can be called again.

    Attributes:
        seams: streams whose next step begins a new episode even if one runs: they were recorded up to here in
            another run of the program, and the environment was reset since.
        found: what the last change found, for `mend`; None: nothing to undo.
    """

    def __init__(self, streams: int, capacity: int) -> None:
        super().__init__(streams, capacity)
        self.seams: set[int] = set()
        self.found: tuple[Any, ...] | None = None

    def make_room(self, stream: int) -> tuple[int, list[int]]:
        """Return the slot for the stream's next step, and the final slots that became free."""
        head, tail = self._heads[stream], self._tails[stream]
        freed: list[int] = []
        if head - tail == self.capacity:
            self._tails[stream] = tail + 1
            if tail + 1 >= self._front_stops[stream]:
                freed = self._drop_fronts([stream])
        return stream * self.capacity + head % self.capacity, freed

    def make_room_span(self, stream: int, count: int) -> tuple[int, list[int]]:
        """Return the first of `count` slots for the stream's next steps, and the final slots that became free.

        They must lie behind each other: `count` may reach no further than the end of the stream's slots.
        """
        head = self._heads[stream]
        self._tails[stream] = tail = max(self._tails[stream], head + count - self.capacity)
        freed = self._drop_fronts([stream]) if tail >= self._front_stops[stream] else []
        return stream * self.capacity + head % self.capacity, freed

    def evict(self, stream: int, tail: int) -> list[int]:
        """Let the steps of `stream` before the id `tail` go; return the final slots that became free."""
        self.tail[stream] = max(tail, self.tail.item(stream))
        return self._drop_fronts([stream])

    def make_room_many(self, streams: Ints) -> tuple[Ints, list[int]]:
        """Return the slots for the next step of each of `streams` (distinct), and the final slots freed."""
        heads = self.head[streams]
        freed: list[int] = []
        full = heads - self.tail[streams] == self.capacity
        if np.count_nonzero(full):
            full_streams = streams[full]
            self.tail[full_streams] += 1
            freed = self._drop_fronts(
                full_streams[self.tail[full_streams] >= self.front_stop[full_streams]].tolist()
            )
        return streams * self.capacity + heads % self.capacity, freed

    def begins(self, stream: int) -> bool:
        """Whether the next step of a stream begins an episode."""
        return self._open[stream] < 0 or stream in self.seams

    def go_on(self, stream: int, reward: float) -> int:
        """Make a step live that goes on with the running episode; return its slot, whose bytes are to be written now.

        It is what `make_room` and `commit` do for most steps, in one call. If no episode runs, or one has to be
        dropped first, nothing changes, and -1 is returned.
        """
        head, tail, episode = self._heads[stream], self._tails[stream], self._open[stream]
        if episode < 0 or self.seams:
            return -1
        if head - tail == self.capacity:
            if tail + 1 >= self._front_stops[stream]:
                return -1
            self._tails[stream] = tail + 1
        total = self._totals[episode]
        self.found = stream, head, self._begun[stream], episode, total, self.next_order, NO_SEAMS
        slot = stream * self.capacity + head % self.capacity
        self._episode_at[slot] = episode
        self._totals[episode] = total + reward
        self._settled[episode] = head
        self._stops[episode] = self._heads[stream] = head + 1
        return slot

    def lacks_room(self, streams: Sequence[int]) -> bool:
        """Whether `reserve` has to be called before each of these streams takes a step that begins an episode."""
        width, episodes = self.by_ordinal.shape[1], len(self.free) - len(streams)
        if episodes >= 0 and width > self.capacity:
            return False
        for stream in streams:
            tail = self._tails[stream] + (self._heads[stream] - self._tails[stream] == self.capacity)
            drops = tail >= self._front_stops[stream]  # its oldest episode goes to make room for the step
            episodes += drops
            if self._begun[stream] - self.dropped.item(stream) - drops >= width:
                return True
        return episodes < 0

    def reserve(self, streams: Sequence[int]) -> None:
        """Make room for an episode to begin in each of these streams; if interrupted, `mend` has to follow."""
        while self.lacks_room(streams):
            episodes = len(self.start)
            if len(self.free) < len(streams):
                self.allocate(2 * episodes)
                self.free.extend(range(2 * episodes - 1, episodes - 1, -1))
            else:
                self.widen()

    def commit(self, stream: int, slot: int, reward: float, ended: int, final_slot: int) -> None:
        """Make the written step live. Where it begins an episode there must be room: see `lacks_room`."""
        episode, head, begun = self._open[stream], self._heads[stream], self._begun[stream]
        total = 0.0 if episode < 0 else self._totals[episode]
        seams = self.seams & {stream} if self.seams else self.seams
        self.found = stream, head, begun, episode, total, self.next_order, seams
        if seams:
            episode, total = self._sew(stream), 0.0
        if episode < 0:
            episode = self._begin(stream, head)
        self._episode_at[slot] = episode
        self._totals[episode] = total + reward
        self._settled[episode] = head
        self._stops[episode] = self._heads[stream] = head + 1
        if ended:
            self._end(stream, episode, ended, final_slot)

    def commit_span(self, stream: int, slot: int, rewards: npt.NDArray[np.float32]) -> None:
        """Make written steps live that go on with the running episode of a stream, and do not end it."""
        episode, head, begun = self._open[stream], self._heads[stream], self._begun[stream]
        total, stop = self._totals[episode], head + len(rewards)
        self.found = stream, head, begun, episode, total, self.next_order, set()
        self.episode_of_slot[slot : slot + len(rewards)] = episode
        # One after the other, as single steps are added up.
        self._totals[episode] = np.add.accumulate(np.concatenate([[total], rewards])).item(-1)
        self._settled[episode] = stop - 1
        self._stops[episode] = self._heads[stream] = stop

    def commit_many(
        self,
        streams: Ints,
        slots: Ints,
        rewards: npt.NDArray[np.float32],
        ended: Ints,
        final_slots: Ints | None,
    ) -> None:
        """Make the written step of each of `streams` live; `final_slots` those of final observations, if any."""
        episodes, heads = self.open_episode[streams], self.head[streams]
        totals, fresh = self.total[episodes], episodes < 0
        seams = self.seams & set(streams.tolist()) if self.seams else self.seams
        self.found = streams, heads, self.begun[streams], episodes, totals, self.next_order, seams
        if seams:
            for stream in seams:
                self._sew(stream)
            fresh = self.open_episode[streams] < 0
        if np.count_nonzero(fresh):
            totals = np.where(fresh, 0.0, totals)
            for stream in streams[fresh].tolist():
                self._begin(stream, self.head.item(stream))
            episodes = self.open_episode[streams]
        self.episode_of_slot[slots] = episodes
        self.total[episodes] = totals + rewards
        self.settled[episodes] = heads
        self.stop[episodes] = self.head[streams] = heads + 1
        if np.count_nonzero(ended):
            for lane in ended.nonzero()[0].tolist():
                final_slot = NO_FINAL if final_slots is None else final_slots.item(lane)
                self._end(streams.item(lane), episodes.item(lane), ended.item(lane), final_slot)

    def cut(self, stream: int, final_slot: int = NO_FINAL) -> None:
        """End the running episode of `stream`, if there is one, for a reason unknown."""
        episode = self.open_episode.item(stream)
        if episode >= 0:
            head, begun, total = self.head.item(stream), self.begun.item(stream), self.total.item(episode)
            self.found = stream, head, begun, episode, total, self.next_order, self.seams & {stream}
            self._sew(stream, final_slot)

    def _sew(self, stream: int, final_slot: int = NO_FINAL) -> int:
        """Cut the running episode of a stream, if there is one; return NO_EPISODE."""
        episode = self.open_episode.item(stream)
        if episode >= 0:
            self._end(stream, episode, CUT, final_slot)
        self.seams.discard(stream)
        return NO_EPISODE

    def _begin(self, stream: int, head: int) -> int:
        episode = self.free.pop()
        self.start[episode] = self.stop[episode] = self.settled[episode] = head
        self.ended[episode] = RUNNING
        self.final_slot[episode] = NO_FINAL
        self.stream[episode] = stream
        self.order[episode] = self.next_order
        self.next_order += 1
        self.total[episode] = 0.0
        ordinal = self.begun.item(stream)
        self.ordinal[episode] = ordinal
        self.by_ordinal[stream, ordinal % self.by_ordinal.shape[1]] = episode
        self.begun[stream] = ordinal + 1
        self.open_episode[stream] = episode
        if ordinal == self.dropped.item(stream):
            self.front_episode[stream] = episode
        return episode

    def _end(self, stream: int, episode: int, ended: int, final_slot: int) -> None:
        self.settled[episode] = self.stop[episode]
        self.ended[episode] = ended
        self.final_slot[episode] = final_slot
        self.open_episode[stream] = NO_EPISODE
        if self.front_episode.item(stream) == episode:
            self.front_stop[stream] = self.stop[episode]
        else:
            self.lengths.add(self.stop.item(episode) - self.start.item(episode), episode)

    def _drop_fronts(self, streams: list[int]) -> list[int]:
        """Forget the episodes that lie wholly before the tail; return the final slots they held."""
        freed: list[int] = []
        for stream in streams:
            self._drop_front(stream, freed)
        return freed

    def _drop_front(self, stream: int, freed: list[int]) -> None:
        tail = self.tail.item(stream)
        while self.front_stop.item(stream) <= tail:
            episode = self.front_episode.item(stream)
            if self.final_slot.item(episode) != NO_FINAL:
                freed.append(self.final_slot.item(episode))
            if self.labels:
                self.labels.pop(self.order.item(episode), None)
                self.gone.discard(self.order.item(episode))
            self.free.append(episode)
            self.dropped[stream] += 1
            self.front_stop[stream] = NEVER
            self.front_episode[stream] = NO_EPISODE
            if self.dropped.item(stream) < self.begun.item(stream):
                front = self.episode_of(stream, self.dropped.item(stream))
                self.front_episode[stream] = front
                if self.ended.item(front):
                    self.front_stop[stream] = self.stop[front]
                    self.lengths.remove(self.stop.item(front) - self.start.item(front), front)

    def mend(self) -> None:
        """Undo the last `commit` or `cut`, and set what follows from the rest anew. Twice is fine."""
        if self.found is not None:
            *columns, self.next_order, seams = self.found
            self.seams |= seams
            stream: Any
            for stream, head, begun, episode, total in zip(
                *(np.atleast_1d(one).tolist() for one in columns), strict=True
            ):
                self.head[stream], self.begun[stream], self.open_episode[stream] = head, begun, episode
                if episode >= 0:
                    self.stop[episode], self.settled[episode] = head, head - 1
                    self.ended[episode], self.final_slot[episode], self.total[episode] = (
                        RUNNING,
                        NO_FINAL,
                        total,
                    )
        self.derive()
        self.found = None

    def derive(self) -> None:
        """Set everything that follows from heads, tails and the episodes' own entries."""
        # After an interrupt the columns may be of two lengths.
        self.allocate(max(len(getattr(self, name)) for name in COLUMNS))
        self.lengths = LengthTable()
        live = {episode for stream in range(self.streams) for episode in self._derive_stream(stream)}
        orders = {self.order.item(episode) for episode in live} if self.labels else set()
        self.relabel({order: label for order, label in self.labels.items() if order in orders})
        self.free = [episode for episode in range(len(self.start) - 1, -1, -1) if episode not in live]

    def _derive_stream(self, stream: int) -> list[int]:
        """Set what follows for one stream; return its live episodes."""
        tail, begun, first = self.tail.item(stream), self.begun.item(stream), self.dropped.item(stream)
        episodes = [self.episode_of(stream, ordinal) for ordinal in range(first, begun)]
        gone = 0
        while (
            gone < len(episodes)
            and self.ended.item(episodes[gone])
            and self.stop.item(episodes[gone]) <= tail
        ):
            gone += 1
        self.dropped[stream] = first + gone
        self.front_episode[stream], self.front_stop[stream] = NO_EPISODE, NEVER
        for position, episode in enumerate(episodes[gone:]):
            ended, stop = self.ended.item(episode), self.stop.item(episode)
            if position == 0:
                self.front_episode[stream], self.front_stop[stream] = episode, stop if ended else NEVER
            elif ended:
                self.lengths.add(stop - self.start.item(episode), episode)
        return episodes[gone:]

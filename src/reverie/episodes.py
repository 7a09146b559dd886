"""Which step belongs to which episode, what is live, and how many windows there are: integers only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

RUNNING, TERMINATED, TRUNCATED, CUT = 0, 1, 2, 4  # how an episode ended; the first two may come together
NO_ROW = -1
NO_FINAL = -1

ENDED_NAMES = {RUNNING: "running", TERMINATED: "terminated", TRUNCATED: "truncated",
               TERMINATED | TRUNCATED: "terminated", CUT: "cut"}  # fmt: skip

EPISODE_DTYPE = np.dtype([
    ("stream", np.int64), ("start", np.int64), ("stop", np.int64), ("length", np.int64),
    ("live", np.int64), ("return", np.float64), ("ended", "U10"),
])  # fmt: skip


class EpisodeIndex:
    """The integers of a buffer: heads, tails and episodes of every stream.

    An episode is a *row* of a table; rows are reused, ids never. Adding a step is three calls, so that the
    bytes can be written between the second and the third and a reader never sees a half-written step:
    `make_room`, then the store writes, then `commit`.

    Attributes:
        capacity: steps each stream keeps.
        head, tail: (streams,) next id to be written; oldest live id.
        row_of_slot: (streams * capacity,) slot -> row of the episode that the step there belongs to.
        start, stop, settled, ended, final, stream, order, total: the table, one entry per row. `stop` of a
            running episode is its stream's head; `settled` is one past the last id whose successor is
            known: stop - 1 while it runs, then stop; `final` is the place of the final observation or
            NO_FINAL; `order` counts episodes as they began; `total` is the return.
        open_row, front_row: (streams,) the running episode, the oldest live episode, or NO_ROW.
    """

    def __init__(self, streams: int, capacity: int) -> None:
        self.streams = streams
        self.capacity = capacity
        self.head = np.zeros(streams, np.int64)
        self.tail = np.zeros(streams, np.int64)
        self.row_of_slot = np.zeros(streams * capacity, np.int32)
        self.open_row = np.full(streams, NO_ROW, np.int64)
        self.front_row = np.full(streams, NO_ROW, np.int64)
        self._front_stop = np.full(
            streams, np.iinfo(np.int64).max
        )  # where the front episode ended, if it has
        self._queues: list[deque[int]] = [deque() for _ in range(streams)]  # rows of a stream, oldest first
        self._lengths = LengthTable()
        self._free_rows: list[int] = []
        self._begun = 0  # episodes ever begun
        self._allocate(max(64, streams))

    def _allocate(self, rows: int) -> None:
        old = len(getattr(self, "start", ()))
        for name in ("start", "stop", "settled", "final", "stream", "order"):
            column = np.zeros(rows, np.int64)
            if old:
                column[:old] = getattr(self, name)
            setattr(self, name, column)
        ended, total = np.zeros(rows, np.int8), np.zeros(rows, np.float64)
        if old:
            ended[:old], total[:old] = self.ended, self.total
        self.ended, self.total = ended, total
        self._free_rows.extend(range(rows - 1, old - 1, -1))

    start: Ints
    stop: Ints
    settled: Ints
    final: Ints
    stream: Ints
    order: Ints
    ended: npt.NDArray[np.int8]
    total: npt.NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which do not depend on what is stored but for the episode table."""
        table = sum(getattr(self, name).nbytes for name in
                    ("start", "stop", "settled", "final", "stream", "order", "ended", "total"))  # fmt: skip
        return int(self.row_of_slot.nbytes + table + 5 * self.head.nbytes)

    def live_steps(self) -> int:
        """Return how many steps are live, over all streams."""
        return int((self.head - self.tail).sum())

    # --- writing ---------------------------------------------------------------------------------------

    def make_room(self, stream: int) -> tuple[int, list[int]]:
        """Return the slot for the stream's next step, and the final places that became free."""
        head = self.head.item(stream)
        freed: list[int] = []
        if head - self.tail.item(stream) == self.capacity:
            freed = self._evict(stream)
        return stream * self.capacity + head % self.capacity, freed

    def make_room_many(self, streams: Ints) -> tuple[Ints, list[int]]:
        """Return the slots for the next step of each of `streams` (distinct), and the final places freed."""
        heads = self.head[streams]
        freed: list[int] = []
        full = heads - self.tail[streams] == self.capacity
        if np.count_nonzero(full):
            full_streams = streams[full]
            self.tail[full_streams] += 1
            for stream in full_streams[self.tail[full_streams] >= self._front_stop[full_streams]].tolist():
                freed += self._drop_fronts(stream)
        return streams * self.capacity + heads % self.capacity, freed

    def commit(self, stream: int, slot: int, reward: float, ended: int, final: int) -> None:
        """Make the written step live."""
        row = self.open_row.item(stream)
        head = self.head.item(stream)
        if row < 0:
            row = self._begin(stream, head)
        self.row_of_slot[slot] = row
        self.total[row] += reward
        self.settled[row] = head
        self.stop[row] = self.head[stream] = head + 1
        if ended:
            self._end(stream, row, ended, final)

    def commit_many(self, streams: Ints, slots: Ints, rewards: npt.NDArray[np.float32], ended: Ints,
                    finals: Ints) -> None:  # fmt: skip
        """Make the written step of each of `streams` live."""
        rows = self.open_row[streams]
        if rows.min() < 0:
            for stream in streams[rows < 0].tolist():
                self._begin(stream, self.head.item(stream))
            rows = self.open_row[streams]
        heads = self.head[streams]
        self.row_of_slot[slots] = rows
        self.total[rows] += rewards
        self.settled[rows] = heads
        heads += 1
        self.stop[rows] = heads
        self.head[streams] = heads
        if np.count_nonzero(ended):
            for lane in np.flatnonzero(ended).tolist():
                self._end(int(streams[lane]), int(rows[lane]), int(ended[lane]), int(finals[lane]))

    def cut(self, stream: int, final: int = NO_FINAL) -> bool:
        """End the running episode of `stream` for a reason unknown; return whether there was one."""
        row = self.open_row.item(stream)
        if row < 0:
            return False
        self._end(stream, row, CUT, final)
        return True

    def restore(self, stream: int, head: int, tail: int, episodes: Iterable[tuple[int, int, int, int, float]],
                ) -> None:  # fmt: skip
        """Replace all that is known of one stream.

        Args:
            stream: the stream; what was known of it is forgotten, its final places included.
            head: the next id to be written; tail: the oldest live id.
            episodes: (start, stop, ended, final, total) of each episode that has a live step, oldest
                first and without gaps; only the last one may be RUNNING.
        """
        for row in self._queues[stream]:
            if row not in (self.front_row[stream], self.open_row[stream]):
                self._lengths.remove(self.stop.item(row) - self.start.item(row), row)
            self._free_rows.append(row)
        self._queues[stream].clear()
        self.front_row[stream] = self.open_row[stream] = NO_ROW
        self._front_stop[stream] = np.iinfo(np.int64).max
        self.head[stream], self.tail[stream] = head, tail
        for start, stop, ended, final, total in episodes:
            row = self._begin(stream, start)
            self.stop[row], self.settled[row] = stop, stop - 1
            self.total[row] = total
            ids = np.arange(max(start, tail), stop)
            self.row_of_slot[stream * self.capacity + ids % self.capacity] = row
            if ended:
                self._end(stream, row, ended, final)

    def _begin(self, stream: int, head: int) -> int:
        if not self._free_rows:
            self._allocate(2 * len(self.start))
        row = self._free_rows.pop()
        self.start[row] = self.stop[row] = self.settled[row] = head
        self.ended[row] = RUNNING
        self.final[row] = NO_FINAL
        self.stream[row] = stream
        self.order[row] = self._begun
        self.total[row] = 0.0
        self._begun += 1
        queue = self._queues[stream]
        queue.append(row)
        self.open_row[stream] = row
        if len(queue) == 1:
            self.front_row[stream] = row
        return row

    def _end(self, stream: int, row: int, ended: int, final: int) -> None:
        self.settled[row] = self.stop[row]
        self.ended[row] = ended
        self.final[row] = final
        self.open_row[stream] = NO_ROW
        if self._queues[stream][0] == row:
            self._front_stop[stream] = self.stop[row]
        else:
            self._lengths.add(self.stop.item(row) - self.start.item(row), row)

    def _evict(self, stream: int) -> list[int]:
        tail = self.tail.item(stream) + 1
        self.tail[stream] = tail
        return self._drop_fronts(stream) if tail >= self._front_stop.item(stream) else []

    def _drop_fronts(self, stream: int) -> list[int]:
        """Forget the episodes that lie wholly before the tail; return the final places they held."""
        freed = []
        queue = self._queues[stream]
        tail = self.tail.item(stream)
        while queue and self.ended.item(queue[0]) and self.stop.item(queue[0]) <= tail:
            row = queue.popleft()
            if self.final.item(row) != NO_FINAL:
                freed.append(self.final.item(row))
            self._free_rows.append(row)
            self._front_stop[stream] = np.iinfo(np.int64).max
            self.front_row[stream] = NO_ROW
            if queue:
                front = queue[0]
                self.front_row[stream] = front
                if self.ended.item(front):
                    self._front_stop[stream] = self.stop[front]
                    self._lengths.remove(self.stop.item(front) - self.start.item(front), front)
        return freed

    # --- reading ---------------------------------------------------------------------------------------

    def rows_at(self, stream: Ints | int, ids: Ints) -> Ints:
        """Return the episode row of each live step."""
        slots = ids % self.capacity
        if self.streams > 1:
            slots += stream * self.capacity
        return self.row_of_slot.take(slots).astype(np.int64)

    def live_start(self, rows: Ints) -> Ints:
        """Return the first live id of each episode."""
        return np.maximum(self.start[rows], self.tail[self.stream[rows]])

    def live_rows(self) -> Ints:
        """Return the rows of all live episodes, in the order in which they began."""
        rows = np.fromiter((row for queue in self._queues for row in queue), np.int64)
        return rows[np.argsort(self.order[rows], kind="stable")]

    def special_rows(self) -> Ints:
        """Return the rows that the length table leaves out: each stream's oldest and its running one."""
        if self.streams == 1:
            front, opened = self.front_row.item(0), self.open_row.item(0)
            return np.array([row for row in {front, opened} if row >= 0], np.int64)
        rows = np.concatenate([self.front_row, self.open_row[self.open_row != self.front_row]])
        return rows[rows >= 0]

    def count_windows(self, length: int) -> int:
        """Return how many windows of `length` settled steps lie inside one episode."""
        special = self.special_rows()
        fits = self.settled[special] - self.live_start(special) - (length - 1)
        return int(fits[fits > 0].sum()) + self._lengths.count_windows(length)

    def longest(self) -> int:
        """Return the settled steps of the longest live episode; 0 when there is none."""
        special = self.special_rows()
        lengths = self.settled[special] - self.live_start(special)
        return max(int(lengths.max(initial=0)), self._lengths.longest())

    def window_at_rank(self, length: int, rank: Ints) -> tuple[Ints, Ints]:
        """Return (row, start id) of the windows with these ranks among `count_windows(length)`.

        The order is arbitrary but fixed until the next change: a uniform rank gives a uniform window.
        """
        special = self.special_rows()
        fits = np.maximum(self.settled[special] - self.live_start(special) - (length - 1), 0)
        ends = np.cumsum(fits)
        in_special = int(ends[-1]) if len(ends) else 0
        row, offset = np.empty_like(rank), np.empty_like(rank)
        here = rank < in_special
        if here.any():
            which = np.searchsorted(ends, rank[here], side="right")
            row[here] = special[which]
            offset[here] = rank[here] - (ends[which] - fits[which])
        if not here.all():
            row[~here], offset[~here] = self._lengths.window_at_rank(length, rank[~here] - in_special)
        return row, self.live_start(row) + offset

    def table(self) -> npt.NDArray[np.void]:
        """Return the live episodes as a structured array of EPISODE_DTYPE, in the order they began."""
        rows = self.live_rows()
        table = np.zeros(len(rows), EPISODE_DTYPE)
        table["stream"], table["start"], table["stop"] = self.stream[rows], self.start[rows], self.stop[rows]
        table["length"] = self.stop[rows] - self.start[rows]
        table["live"] = self.stop[rows] - self.live_start(rows)
        table["return"] = self.total[rows]
        table["ended"] = [ENDED_NAMES[ended] for ended in self.ended[rows].tolist()]
        return table


class LengthTable:
    """Whole ended episodes by their length.

    D episodes of different lengths hold at least D * (D + 1) / 2 steps, so there are at most about
    sqrt(2 * capacity) distinct lengths: what is done per distinct length stays cheap at any size.
    """

    __slots__ = ("_counts", "_place", "_rows", "_sorted", "_stale")

    def __init__(self) -> None:
        self._rows: dict[int, list[int]] = {}  # length -> rows of the episodes of that length
        self._place: dict[int, int] = {}  # row -> its place in that list
        self._sorted = np.zeros(0, np.int64)  # distinct lengths, ascending
        self._counts = np.zeros(0, np.int64)
        self._stale = False

    def add(self, length: int, row: int) -> None:
        rows = self._rows.setdefault(length, [])
        self._place[row] = len(rows)
        rows.append(row)
        self._stale = True

    def remove(self, length: int, row: int) -> None:
        rows = self._rows[length]
        place, last = self._place.pop(row), rows.pop()
        if last != row:
            rows[place] = last
            self._place[last] = place
        if not rows:
            del self._rows[length]
        self._stale = True

    def _refresh(self) -> None:
        if self._stale:
            self._sorted = np.array(sorted(self._rows), np.int64)
            self._counts = np.array([len(self._rows[length]) for length in self._sorted.tolist()], np.int64)
            self._stale = False

    def longest(self) -> int:
        self._refresh()
        return int(self._sorted[-1]) if len(self._sorted) else 0

    def count_windows(self, length: int) -> int:
        self._refresh()
        first = np.searchsorted(self._sorted, length)
        return int((self._counts[first:] * (self._sorted[first:] - (length - 1))).sum())

    def window_at_rank(self, length: int, rank: Ints) -> tuple[Ints, Ints]:
        """Return (row, offset into the episode) of the windows with these ranks."""
        self._refresh()
        first = int(np.searchsorted(self._sorted, length))
        fits = self._sorted[first:] - (length - 1)
        ends = np.cumsum(self._counts[first:] * fits)
        which = np.searchsorted(ends, rank, side="right")
        within = rank - (ends[which] - self._counts[first:][which] * fits[which])
        member, offset = np.divmod(within, fits[which])
        lengths = self._sorted[first:][which]
        pairs = zip(lengths.tolist(), member.tolist(), strict=True)
        rows = [self._rows[episode_length][place] for episode_length, place in pairs]
        return np.array(rows, np.int64), offset

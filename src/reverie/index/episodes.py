"""Which step belongs to which episode, what is live, and how many windows there are: integers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index.lengths import LengthTable
from reverie.index.runs import Runs

Ints = npt.NDArray[np.int64]

RUNNING, TERMINATED, TRUNCATED, CUT = 0, 1, 2, 4  # how an episode ended; the first two may come together
ENDS = range(CUT + 1)  # terminated and truncated at once included
NO_ROW = -1
NO_FINAL = -1
NEVER = np.iinfo(np.int64).max

# The columns of the episode table: integers but for these.
COUNTS = ("start", "stop", "settled", "final", "stream", "ordinal", "order")
TABLE = {"ended": np.int8, "total": np.float64}


class EpisodeIndex:
    """The integers of a buffer: heads, tails and episodes of every stream.

    An episode is a *row* of a table; rows are reused, ids never. Adding a step is two calls, between which its
    bytes are written: `make_room`, which can be repeated, and `commit`. Ctrl-C may come between any two lines of
    them: `mending.mend` then makes the index what it was before `commit`, and both can be called again.

    Attributes:
        capacity: steps each stream keeps.
        runs: how the streams are cut into runs.
        head, tail: (streams,) next id to be written; oldest live id.
        row_of_slot: (streams * capacity,) slot -> row of the episode that the step there belongs to.
        start, stop, settled, ended, final, stream, ordinal, order, total: the table, one entry per row.
            `stop` of a running episode is its stream's head; `settled` is one past the last id whose
            successor is known: stop - 1 while it runs, then stop; `final` is the place of the final
            observation or NO_FINAL; `ordinal` counts the episodes of its stream as they began, `order`
            those of all streams; `total` is the return.
        open_row, front_row: (streams,) the running episode, the oldest live episode, or NO_ROW.
        next_order: the `order` of the episode that begins next.
        seams: streams whose next step begins a new episode even if one runs: they were recorded up to here in
            another run of the program, and the environment was reset since.
        begun, dropped: (streams,) episodes ever begun, and of these how many are live no more: the live
            ones of a stream have the ordinals `dropped <= ordinal < begun`.
    """

    def __init__(self, streams: int, capacity: int) -> None:
        self.streams = streams
        self.capacity = capacity
        self.runs = Runs(streams, capacity)
        self.head = np.zeros(streams, np.int64)
        self.tail = np.zeros(streams, np.int64)
        self.row_of_slot = np.zeros(streams * capacity, np.int32)
        self.open_row = np.full(streams, NO_ROW, np.int64)
        self.front_row = np.full(streams, NO_ROW, np.int64)
        self._front_stop = np.full(streams, NEVER)  # where the front episode ended, if it has
        self.begun = np.zeros(streams, np.int64)
        self.dropped = np.zeros(streams, np.int64)
        # The same memory, one number at a time: a step reads and writes a dozen, and NumPy takes twice as long.
        self._heads, self._tails, self._begun = self.head.data, self.tail.data, self.begun.data
        self._open, self._front_stops = self.open_row.data, self._front_stop.data
        self._row_at = self.row_of_slot.data
        self._row_of = np.full((streams, 8), NO_ROW, np.int64)  # stream, ordinal % width -> row
        self._lengths = LengthTable()
        self._free_rows: list[int] = []
        self.next_order = 0
        self.seams: set[int] = set()
        self.found: tuple[Any, ...] | None = None  # what the last change found, for `mending.mend` to undo it
        self._allocate(max(64, streams))
        self._free_rows = list(range(len(self.start) - 1, -1, -1))

    def _allocate(self, rows: int) -> None:
        """Give every column of the table `rows` entries. All are made before one is put in place."""
        grown = {}
        for name in (*COUNTS, "ended", "total"):
            old = getattr(self, name, np.zeros(0, TABLE.get(name, np.int64)))
            if len(old) < rows:
                grown[name] = np.concatenate([old, np.zeros(rows - len(old), old.dtype)])
        for name, column in grown.items():
            setattr(self, name, column)
        self._totals, self._settled, self._stops = self.total.data, self.settled.data, self.stop.data

    start: Ints
    stop: Ints
    settled: Ints
    final: Ints
    stream: Ints
    ordinal: Ints
    order: Ints
    ended: npt.NDArray[np.int8]
    total: npt.NDArray[np.float64]
    _totals: memoryview[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which do not depend on what is stored but for the episode table."""
        table = sum(getattr(self, name).nbytes for name in (*COUNTS, "ended", "total"))
        return int(self.row_of_slot.nbytes + table + 5 * self.head.nbytes)

    def live_steps(self) -> int:
        """Return how many steps are live, over all streams."""
        return int((self.head - self.tail).sum())

    def is_empty(self) -> bool:
        """Return whether no step is live."""
        return self._heads[0] == self._tails[0] and self.live_steps() == 0

    # --- writing ---------------------------------------------------------------------------------------

    def make_room(self, stream: int) -> tuple[int, list[int]]:
        """Return the slot for the stream's next step, and the final places that became free."""
        head, tail = self._heads[stream], self._tails[stream]
        freed: list[int] = []
        if head - tail == self.capacity:
            self._tails[stream] = tail + 1
            if tail + 1 >= self._front_stops[stream]:
                freed = self._drop_fronts([stream])
        return stream * self.capacity + head % self.capacity, freed

    def evict(self, stream: int, tail: int) -> list[int]:
        """Let the steps of `stream` before the id `tail` go; return the final places that became free."""
        self.tail[stream] = max(tail, self.tail.item(stream))
        return self._drop_fronts([stream])

    def make_room_many(self, streams: Ints) -> tuple[Ints, list[int]]:
        """Return the slots for the next step of each of `streams` (distinct), and the final places freed."""
        heads = self.head[streams]
        freed: list[int] = []
        full = heads - self.tail[streams] == self.capacity
        if np.count_nonzero(full):
            full_streams = streams[full]
            self.tail[full_streams] += 1
            freed = self._drop_fronts(
                full_streams[self.tail[full_streams] >= self._front_stop[full_streams]].tolist()
            )
        return streams * self.capacity + heads % self.capacity, freed

    def begins(self, stream: int) -> bool:
        """Whether the next step of a stream begins an episode."""
        return self._open[stream] < 0 or stream in self.seams

    def lacks_room(self, streams: Sequence[int]) -> bool:
        """Whether `reserve` has to be called before each of these streams takes a step that begins an episode."""
        width, rows = self._row_of.shape[1], len(self._free_rows) - len(streams)
        if rows >= 0 and width > self.capacity:
            return False
        for stream in streams:
            tail = self._tails[stream] + (self._heads[stream] - self._tails[stream] == self.capacity)
            drops = tail >= self._front_stops[stream]  # its oldest episode goes to make room for the step
            rows += drops
            if self._begun[stream] - self.dropped.item(stream) - drops >= width:
                return True
        return rows < 0

    def reserve(self, streams: Sequence[int]) -> None:
        """Make room for an episode to begin in each of these streams; if interrupted, `mending.mend` has to follow."""
        while self.lacks_room(streams):
            rows = len(self.start)
            if len(self._free_rows) < len(streams):
                self._allocate(2 * rows)
                self._free_rows.extend(range(2 * rows - 1, rows - 1, -1))
            else:
                self._widen()

    def commit(self, stream: int, slot: int, reward: float, ended: int, final: int) -> None:
        """Make the written step live. Where it begins an episode there must be room: see `lacks_room`."""
        row, head, begun = self._open[stream], self._heads[stream], self._begun[stream]
        total = 0.0 if row < 0 else self._totals[row]
        seams = self.seams & {stream} if self.seams else self.seams
        self.found = stream, head, begun, row, total, self.next_order, seams
        if seams:
            row, total = self._sew(stream), 0.0
        if row < 0:
            row = self._begin(stream, head)
        self._row_at[slot] = row
        self._totals[row] = total + reward
        self._settled[row] = head
        self._stops[row] = self._heads[stream] = head + 1
        if ended:
            self._end(stream, row, ended, final)

    def commit_many(
        self, streams: Ints, slots: Ints, rewards: npt.NDArray[np.float32], ended: Ints, finals: Ints | None
    ) -> None:
        """Make the written step of each of `streams` live; `finals` are the places of final observations, if any."""
        rows, heads = self.open_row[streams], self.head[streams]
        totals, fresh = self.total[rows], rows < 0
        seams = self.seams & set(streams.tolist()) if self.seams else self.seams
        self.found = streams, heads, self.begun[streams], rows, totals, self.next_order, seams
        if seams:
            for stream in seams:
                self._sew(stream)
            fresh = self.open_row[streams] < 0
        if np.count_nonzero(fresh):
            totals = np.where(fresh, 0.0, totals)
            for stream in streams[fresh].tolist():
                self._begin(stream, self.head.item(stream))
            rows = self.open_row[streams]
        self.row_of_slot[slots] = rows
        self.total[rows] = totals + rewards
        self.settled[rows] = heads
        self.stop[rows] = self.head[streams] = heads + 1
        if np.count_nonzero(ended):
            for lane in ended.nonzero()[0].tolist():
                place = NO_FINAL if finals is None else finals.item(lane)
                self._end(streams.item(lane), rows.item(lane), ended.item(lane), place)

    def cut(self, stream: int, final: int = NO_FINAL) -> None:
        """End the running episode of `stream`, if there is one, for a reason unknown."""
        row = self.open_row.item(stream)
        if row >= 0:
            head, begun, total = self.head.item(stream), self.begun.item(stream), self.total.item(row)
            self.found = stream, head, begun, row, total, self.next_order, self.seams & {stream}
            self._sew(stream, final)

    def _sew(self, stream: int, final: int = NO_FINAL) -> int:
        """Cut the running episode of a stream, if there is one; return NO_ROW."""
        row = self.open_row.item(stream)
        if row >= 0:
            self._end(stream, row, CUT, final)
        self.seams.discard(stream)
        return NO_ROW

    def live_finals(self) -> Ints:
        """Return the places of the final observations of all live episodes."""
        places: Ints = self.final[self.live_rows()]
        found: Ints = places[places != NO_FINAL]
        return found

    def _begin(self, stream: int, head: int) -> int:
        row = self._free_rows.pop()
        self.start[row] = self.stop[row] = self.settled[row] = head
        self.ended[row] = RUNNING
        self.final[row] = NO_FINAL
        self.stream[row] = stream
        self.order[row] = self.next_order
        self.next_order += 1
        self.total[row] = 0.0
        ordinal = self.begun.item(stream)
        self.ordinal[row] = ordinal
        self._row_of[stream, ordinal % self._row_of.shape[1]] = row
        self.begun[stream] = ordinal + 1
        self.open_row[stream] = row
        if ordinal == self.dropped.item(stream):
            self.front_row[stream] = row
        return row

    def _widen(self) -> None:
        """Make room for twice as many live episodes in each stream."""
        width = self._row_of.shape[1]
        wider = np.full((self.streams, 2 * width), NO_ROW, np.int64)
        for stream in range(self.streams):
            ordinals = np.arange(self.dropped[stream], self.begun[stream])
            wider[stream, ordinals % (2 * width)] = self._row_of[stream, ordinals % width]
        self._row_of = wider

    def rows_of(self, stream: Ints, ordinal: Ints) -> Ints:
        """Return the rows of live episodes; for an ordinal that is none, some row."""
        rows: Ints = self._row_of[stream, ordinal % self._row_of.shape[1]]
        return rows

    def is_live(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Return which rows hold an episode that has not been dropped."""
        return self.ordinal[rows] >= self.dropped[self.stream[rows]]

    def row_of(self, stream: int, ordinal: int) -> int:
        """Return the row of a live episode."""
        return self._row_of.item(stream, ordinal % self._row_of.shape[1])

    def _end(self, stream: int, row: int, ended: int, final: int) -> None:
        self.settled[row] = self.stop[row]
        self.ended[row] = ended
        self.final[row] = final
        self.open_row[stream] = NO_ROW
        if self.front_row.item(stream) == row:
            self._front_stop[stream] = self.stop[row]
        else:
            self._lengths.add(self.stop.item(row) - self.start.item(row), row)

    def _drop_fronts(self, streams: list[int]) -> list[int]:
        """Forget the episodes that lie wholly before the tail; return the final places they held."""
        freed: list[int] = []
        for stream in streams:
            self._drop_front(stream, freed)
        return freed

    def _drop_front(self, stream: int, freed: list[int]) -> None:
        tail = self.tail.item(stream)
        while self._front_stop.item(stream) <= tail:
            row = self.front_row.item(stream)
            if self.final.item(row) != NO_FINAL:
                freed.append(self.final.item(row))
            self._free_rows.append(row)
            self.dropped[stream] += 1
            self._front_stop[stream] = NEVER
            self.front_row[stream] = NO_ROW
            if self.dropped.item(stream) < self.begun.item(stream):
                front = self.row_of(stream, self.dropped.item(stream))
                self.front_row[stream] = front
                if self.ended.item(front):
                    self._front_stop[stream] = self.stop[front]
                    self._lengths.remove(self.stop.item(front) - self.start.item(front), front)

    # --- reading ---------------------------------------------------------------------------------------

    def rows_at(self, stream: Ints | int, ids: Ints) -> Ints:
        """Return the episode row of each live step."""
        slots = ids % self.capacity
        if self.streams > 1:
            slots += stream * self.capacity
        return self.row_of_slot[slots].astype(np.int64)

    def are_live(self, stream: Ints, ids: Ints) -> npt.NDArray[np.bool_]:
        """Return which ids are live."""
        live: npt.NDArray[np.bool_] = (ids >= self.tail[stream]) & (ids < self.head[stream])
        return live

    def slots(self, stream: Ints, ids: Ints) -> Ints:
        """Return where the steps with these ids lie."""
        return stream * self.capacity + ids % self.capacity

    def streams_of(self, rows: Ints) -> Ints:
        """Return the stream of each episode."""
        return np.zeros(len(rows), np.int64) if self.streams == 1 else self.stream.take(rows)

    def live_start(self, rows: Ints) -> Ints:
        """Return the first live id of each episode."""
        return np.maximum(self.start[rows], self.tail[self.stream[rows]])

    def live_rows(self) -> Ints:
        """Return the rows of all live episodes, in the order in which they began."""
        width = self._row_of.shape[1]
        rows = np.concatenate(
            [
                self._row_of[stream, np.arange(dropped, begun) % width]
                for stream, (dropped, begun) in enumerate(zip(self.dropped, self.begun, strict=True))
            ]
        )
        return rows[np.argsort(self.order[rows], kind="stable")]

    def uniform_rows(self, rng: np.random.Generator, count: int) -> Ints:
        """Return the rows of `count` live episodes, each being equally likely. Some episode must be live."""
        ends = np.cumsum(self.begun - self.dropped)
        rank: Ints = rng.integers(0, int(ends[-1]), count)
        stream = np.searchsorted(ends, rank, side="right") if self.streams > 1 else np.zeros(count, np.int64)
        return self.rows_of(stream, rank + (self.begun - ends)[stream])

    def step_at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (row, id) of the live steps with these ranks: streams in order, oldest first."""
        ends = np.cumsum(self.head - self.tail)
        stream = np.searchsorted(ends, rank, side="right")
        ids = rank + (self.head - ends)[stream]
        return self.rows_at(stream, ids), ids

    def special_rows(self) -> Ints:
        """Return the rows that the length table leaves out: each stream's oldest and its running one."""
        if self.streams == 1:
            front, opened = self.front_row.item(0), self.open_row.item(0)
            return np.array([row for row in dict.fromkeys((front, opened)) if row >= 0], np.int64)
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
            row[~here], offset[~here] = self._lengths.window_at_rank(
                length, rank[~here] - in_special, self.order
            )
        return row, self.live_start(row) + offset

"""RAM residency: plain arrays in ring order, and the final observations beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import TooLarge
from reverie.index import Runs
from reverie.spec import Column
from reverie.store.codec import pack, unpack
from reverie.store.memory import reserve

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


# Rows of at least so many bytes are copied by one call for each window: the call costs little beside the copy.
SLICE_ROW = 4096
# Rows of more bytes are copied one by one. Spans, which copy twice, are no faster there.
SPAN_ROW = 192
KEPT_SPANS = 64  # arrays of spans that are kept for the next batch


class Ring:
    """The columns of every stream, `capacity` rows each, one behind the other.

    A slot is a row of these arrays: `stream * capacity + id % capacity`. The ring knows slots only.

    Args:
        columns: name and field of every column.
        runs: how the streams are cut.
    """

    __slots__ = ("_runs", "_spans", "columns")
    reads_file = False  # whether sealed runs are read from the replay file

    def __init__(self, columns: Iterable[Column], runs: Runs) -> None:
        self._runs = runs
        self._spans: dict[tuple[str, int], Array] = {}  # column, rows -> all spans of so many rows
        # zeros, not empty: the kernel hands out zero pages lazily, so nothing is committed before it is used.
        self.columns: dict[str, Array] = {
            column.name: np.zeros((runs.streams * runs.capacity, *column.field.shape), column.field.dtype)
            for column in columns
        }

    @staticmethod
    def step_bytes(columns: Iterable[Column]) -> int:
        """Return what one step takes, known beforehand."""
        return sum(column.field.nbytes for column in columns)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, whether committed yet or not."""
        return sum(array.nbytes for array in self.columns.values())

    def write(self, slot: int | slice | Ints, values: Mapping[str, Any]) -> None:
        """Store one step, or one step for each of several slots, or of a span of them."""
        columns = self.columns
        for name, value in values.items():
            columns[name][slot] = value

    def write_stretch(
        self, stream: int, first: int, values: Mapping[str, Any], sealed: Mapping[int, Any]
    ) -> None:
        """Store consecutive steps of a stream from the id `first` on, as `PackedRing` does. Twice is fine."""
        count = len(next(iter(values.values()), ()))
        for slots, steps in self._runs.pieces(stream, first, first + count):
            for name, rows in values.items():
                self.columns[name][slots] = rows[steps]

    def rewrite(self, slots: Ints, values: Mapping[str, Any]) -> None:
        """Store new values for steps that lie there already."""
        self.write(slots, values)

    def gather(self, name: str, slots: Ints, out: Array) -> None:
        """Copy the rows at `slots` into `out`, whose leading axes are those of `slots`."""
        # take moves each row with one memcpy; mode="clip" lets it write into `out` directly, where the
        # default would buffer all of it to be able to undo. Slots are always in range.
        self.columns[name].take(slots, 0, out, "clip")

    def gather_spans(self, name: str, first: Ints, out: Array) -> None:
        """Copy spans of consecutive rows, from the slots `first` on, into `out`: (spans, rows, …), contiguous."""
        column, rows = self.columns[name], out.shape[1]
        if column.strides[0] >= SLICE_ROW:
            for place, slot in enumerate(first.tolist()):
                out[place] = column[slot : slot + rows]
            return
        if column.strides[0] > SPAN_ROW:
            self.gather(name, first[:, None] + np.arange(rows), out)
            return
        spans = self._spans.get((name, rows))
        if spans is None:
            if len(self._spans) >= KEPT_SPANS:
                self._spans.clear()
            # Every span as one value: they overlap, so each begins one row behind the one before.
            span = np.dtype((np.void, rows * column.strides[0]))
            spans = np.ndarray(len(column) - rows + 1, span, column, 0, column.strides[:1])
            self._spans[name, rows] = spans
        # One memcpy a span and one of all of them, where take would have one for each row.
        np.ndarray(len(first), spans.dtype, out)[...] = spans[first]

    def peek(self, name: str, slot: int) -> Array:
        """Return the newest value of a column of some stream, which lies at `slot`."""
        value: Array = self.columns[name][slot]
        return value

    def pack_run(self, number: int, rows: int) -> dict[str, bytes]:
        """Return the first `rows` rows of a run, packed, by column."""
        first = self._runs.slots(number).start
        return {name: pack(array[first : first + rows]) for name, array in self.columns.items()}

    def load_run(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Take a whole run as `pack_run` gave it.

        Raises:
            ValueError: these are not such bytes, or not as many rows as the run has.
        """
        slots = self._runs.slots(number)
        for name, array in self.columns.items():
            rows = array[slots]
            rows[...] = unpack(packed[name], rows.shape, array.dtype)


class Finals:
    """Final observations, one per ended episode that gave one, in slots that are used again.

    How many there will be is not known in advance: memory is taken as they come, and never for more than one a step.

    Args:
        columns: the observation's columns.
        limit: most slots: one for each step, and one more in each stream, since room is made before its oldest goes.
    """

    __slots__ = ("__weakref__", "_free", "_limit", "_row_bytes", "_slots", "columns")

    def __init__(self, columns: Sequence[Column], limit: int) -> None:
        # The kernel commits a page of zeros when it is first written, and slots are used from the first one on.
        self.columns: dict[str, Array] = {
            column.name: np.zeros((limit, *column.field.shape), column.field.dtype) for column in columns
        }
        self._row_bytes = sum(column.field.nbytes for column in columns)
        self._limit = limit
        self._slots = 0  # of these, how many may be used by now
        self._free: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in use, and of as many more as there may soon be."""
        return self._slots * self._row_bytes

    def _claim(self, slots: int) -> None:
        reserve(self, slots * self._row_bytes, f"final observations of {slots:,} episodes", held=self.nbytes)

    def put(self, values: Mapping[str, Any]) -> int:
        """Store one final observation and return its slot."""
        if not self._free:
            self.reserve(1)
        slot = self._free[-1]
        for name, array in self.columns.items():
            array[slot] = values[name]
        self._free.pop()
        return slot

    def load(self, number: int | None, packed: Mapping[str, bytes]) -> int:
        """Take a final observation as `packed` gave it, and return its slot.

        Args:
            number: of the episode whose row in the file has it; None if no such row has it yet.
            packed: the packed columns.
        """
        return self.put(
            {name: unpack(packed[name], array.shape[1:], array.dtype) for name, array in self.columns.items()}
        )

    def packed(self, slot: int) -> dict[str, bytes]:
        """Return the final observation at `slot`, packed, by column."""
        return {name: pack(array[slot]) for name, array in self.columns.items()}

    def gather(self, name: str, slots: Ints) -> Array:
        """Return the final observations at `slots`, one row each."""
        return self.columns[name][slots]

    def release(self, slots: Iterable[int]) -> None:
        """Let these slots be used again."""
        self._free.extend(slots)

    def retain(self, slots: Ints) -> None:
        """Let all slots but these be used again, whatever an interrupt left."""
        kept = set(slots.tolist())
        self._free = [slot for slot in range(self._slots - 1, -1, -1) if slot not in kept]

    def lacks_room(self, count: int) -> bool:
        """Whether `reserve` has to be called before so many are put."""
        return len(self._free) < count

    def reserve_most(self, count: int) -> None:
        """Make room for so many more, or for all there can be, if that is less; if interrupted, `retain` has to follow.

        Raises:
            TooLarge: there is no memory for them.
        """
        self.reserve(min(count, self._limit - self._slots + len(self._free)))

    def reserve(self, count: int) -> None:
        """Make room for so many more; if interrupted, `retain` has to follow.

        Raises:
            TooLarge: there is no memory for them.
        """
        while len(self._free) < count:
            old = self._slots
            least = min(old + count - len(self._free), self._limit)
            new = max(least, min(max(2 * old, 8), self._limit))
            try:
                self._claim(new)
            except TooLarge:
                self._claim(new := least)
            self._slots = new
            self._free.extend(range(new - 1, old - 1, -1))

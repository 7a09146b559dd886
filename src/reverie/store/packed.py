"""Packed residency: columns in compressed runs of steps, immutable once sealed, in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from reverie.index import RUN, Runs
from reverie.spec import Column
from reverie.store.codec import Helpers, pack, unpack, unreadable
from reverie.store.plain import Ring

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

# A run of fewer bytes gains nothing in memory: what Python needs to keep track of it is as large.
LEAST_RUN_BYTES = 4096


def is_wide(column: Column) -> bool:
    """Whether a column is worth packing in memory."""
    return RUN * column.field.nbytes >= LEAST_RUN_BYTES


class Segment(NamedTuple):
    """Consecutive rows of one run that go to consecutive places of a batch."""

    place: int
    row: int
    rows: int


class Chunks(Protocol):
    """Where sealed runs are kept, by number."""

    nbytes: int
    in_file: bool

    def packs(self, column: Column) -> bool:
        """Whether a column is kept here; the others lie plain in memory."""

    def put(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep the columns of a run in place of the run that had the number before."""

    def change(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep new columns of a run that is kept, or is in the file with them already."""

    def get(self, name: str, numbers: Sequence[int]) -> list[bytes]:
        """Return one column of these runs."""

    def drop(self, number: int) -> None:
        """Forget a run."""

    def size(self, number: int) -> int:
        """Return how many bytes of memory a run takes."""

    def recount(self) -> None:
        """Count the bytes anew: an interrupt may have come between a change and its count."""


class MemoryChunks:
    """Chunks in memory: of wide columns only.

    Args:
        runs: how the streams are cut.
    """

    __slots__ = ("_runs", "nbytes")
    in_file = False

    def __init__(self, runs: Runs) -> None:
        self._runs: list[Mapping[str, bytes] | None] = [None] * runs.count
        self.nbytes = 8 * runs.count

    def packs(self, column: Column) -> bool:
        """Whether a column is wide enough."""
        return is_wide(column)

    def put(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep the columns of a run in place of the run that had the number before."""
        before = self.size(number)
        self._runs[number] = packed  # at no time there is none
        self.nbytes += self.size(number) - before

    def change(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep new columns of a run."""
        self.put(number, packed)

    def get(self, name: str, numbers: Sequence[int]) -> list[bytes]:
        """Return one column of these runs."""
        return [self._run(number)[name] for number in numbers]

    def drop(self, number: int) -> None:
        """Forget a run."""
        if self._runs[number] is not None:
            self.nbytes -= self.size(number)
            self._runs[number] = None

    def size(self, number: int) -> int:
        """Return how many bytes of memory a run takes."""
        return sum(map(len, (self._runs[number] or {}).values()))

    def recount(self) -> None:
        """Count the bytes anew."""
        self.nbytes = 8 * len(self._runs) + sum(map(self.size, range(len(self._runs))))

    def _run(self, number: int) -> Mapping[str, bytes]:
        run = self._runs[number]
        assert run is not None, "only sealed runs are asked for"
        return run


class PackedRing:
    """The columns of every stream, those worth it in packed runs. Has the face of `Ring`.

    The run being written lies unpacked beside the sealed ones, until the next one begins. Up to then, the slots
    behind its last row still belong to the run that was there before.

    Args:
        columns: name and field of every column.
        runs: how the streams are cut.
        chunks: where sealed runs are kept; None keeps them in memory.
    """

    def __init__(self, columns: Iterable[Column], runs: Runs, chunks: Chunks | None = None) -> None:
        columns = tuple(columns)
        self._runs = runs
        self._chunks: Chunks = MemoryChunks(runs) if chunks is None else chunks
        packs = self._chunks.packs
        self._wide = {column.name: column.field for column in columns if packs(column)}
        self._narrow = Ring((column for column in columns if not packs(column)), runs)
        self._open = {
            name: np.empty((runs.streams, RUN, *field.shape), field.dtype)
            for name, field in self._wide.items()
        }
        self._open_run = np.full(runs.streams, -1, np.int64)  # stream -> number of the run being written
        self._filled = np.zeros(runs.streams, np.int64)  # stream -> rows of it that are written
        self.reads_file = self._chunks.in_file
        self._helpers = Helpers()

    @staticmethod
    def step_bytes(columns: Iterable[Column]) -> int:
        """Return what one step takes beside its packed columns, which are known only once packed."""
        return Ring.step_bytes(column for column in columns if not is_wide(column))

    @property
    def nbytes(self) -> int:
        """Bytes held now: packed runs, runs being written, and narrow columns at full capacity."""
        return self._narrow.nbytes + sum(array.nbytes for array in self._open.values()) + self._chunks.nbytes

    def write(self, slot: int | Ints, values: Mapping[str, Any]) -> None:
        """Store one step, or one step for each of several streams, in the order of each stream's slots."""
        self._narrow.write(slot, {name: value for name, value in values.items() if name not in self._wide})
        if isinstance(slot, int):
            self._write_one(slot, values)
            return
        number, row = self._runs.of_slots(slot)
        stream = number // self._runs.each
        # A ring of one run begins the same run again.
        whole = (row == 0) & (self._filled[stream] == self._runs.steps_of(number))
        for lane in (whole | (self._open_run[stream] != number)).nonzero()[0].tolist():
            self.seal(int(stream[lane]))
        for name in self._wide:
            if name in values:
                self._open[name][stream, row] = values[name]
        self._open_run[stream] = number
        self._filled[stream] = row + 1

    def _write_one(self, slot: int, values: Mapping[str, Any]) -> None:
        """Do what `write` does for several, in plain integers: several times faster for one."""
        stream, within = divmod(slot, self._runs.capacity)
        number, row = self._runs.of_id(stream, within)
        if self._open_run.item(stream) != number or (
            row == 0 and self._filled.item(stream) == self._runs.steps(number)
        ):
            self.seal(stream)
            self._open_run[stream] = number
        for name in self._wide:
            if name in values:
                self._open[name][stream, row] = values[name]
        self._filled[stream] = row + 1

    def write_stretch(
        self, stream: int, first: int, values: Mapping[str, Any], sealed: Mapping[int, Mapping[str, bytes]]
    ) -> None:
        """Store consecutive steps of a stream from the id `first` on. Twice is fine.

        Args:
            stream: which; first: the id.
            values: (steps, …) by column, at least one step.
            sealed: the runs that are whole before the last of these steps, by number, and that it does not replace;
                the packed columns of each. The run being written is among them if it is whole.
        """
        narrow = {name: rows for name, rows in values.items() if name not in self._wide}
        self._narrow.write_stretch(stream, first, narrow, {})
        for number, packed in sealed.items():
            self._chunks.put(number, {name: packed[name] for name in self._wide})
        last = first + len(values["reward"]) - 1
        number, row = self._runs.of_id(stream, last)
        begin = max(first, last - row)
        for name, rows in self._open.items():
            rows[stream, row - (last - begin) : row + 1] = values[name][begin - first :]
        self._open_run[stream], self._filled[stream] = number, row + 1

    def first_unsealed(self, stream: int, head: int) -> int:
        """Return the first id of the run being written, which goes up to `head`; or `head` if there is none."""
        return self._runs.first_of(head - 1) if self._open_run.item(stream) >= 0 else head

    @property
    def packed_columns(self) -> list[str]:
        """The columns that lie in packed runs."""
        return list(self._wide)

    def seal(self, stream: int) -> None:
        """Pack the run being written, if there is one: it is whole."""
        number = self._open_run.item(stream)
        if number >= 0:
            rows = self._filled.item(stream)
            self._chunks.put(number, {name: pack(self._open[name][stream, :rows]) for name in self._wide})
            self._open_run[stream] = -1
        self._filled[stream] = 0  # or a repeated `write` would take the next run for a whole one

    def rewrite(self, slots: Ints, values: Mapping[str, Any]) -> None:
        """Store new values for steps that lie there already."""
        self._narrow.write(slots, {name: value for name, value in values.items() if name not in self._wide})
        number, row = self._runs.of_slots(slots)
        stream = number // self._runs.each
        unpacked = (number == self._open_run[stream]) & (row < self._filled[stream])
        wide = {name: value for name, value in values.items() if name in self._wide}
        for name, value in wide.items():
            self._open[name][stream[unpacked], row[unpacked]] = value[unpacked]
        for sealed in np.unique(number[~unpacked]).tolist() if wide else ():
            here = ~unpacked & (number == sealed)
            packed = {name: self._chunks.get(name, [sealed])[0] for name in self._wide}
            for name, value in wide.items():
                rows = self._unpack(name, sealed, packed[name]).copy()
                rows[row[here]] = value[here]
                packed[name] = pack(rows)
            self._chunks.change(sealed, packed)

    def gather(self, name: str, slots: Ints, out: Array) -> None:
        """Copy the rows at `slots` into `out`, whose leading axes are those of `slots`."""
        if name not in self._wide:
            self._narrow.gather(name, slots, out)
            return
        flat = slots.reshape(-1)
        places = out.reshape(len(flat), *self._wide[name].shape)
        number, row = self._runs.of_slots(flat)
        stream = number // self._runs.each
        unpacked = (number == self._open_run[stream]) & (row < self._filled[stream])
        # Windows are contiguous: most of a run's rows go to one place each, as one copy.
        key = np.where(unpacked, -1 - stream, number)
        breaks = ((key[1:] != key[:-1]) | (row[1:] != row[:-1] + 1)).nonzero()[0] + 1
        begins = np.concatenate([[0], breaks])
        counts = np.diff(np.append(begins, len(flat)))
        wanted: dict[int, list[Segment]] = {}
        for place, count in zip(begins.tolist(), counts.tolist(), strict=True):
            wanted.setdefault(key.item(place), []).append(Segment(place, row.item(place), count))
        sealed = [run for run in wanted if run >= 0]
        packed = dict(zip(sealed, self._chunks.get(name, sealed), strict=True))

        def copy(runs: Sequence[int]) -> None:
            for run in runs:
                rows = self._open[name][-1 - run] if run < 0 else self._unpack(name, run, packed[run])
                for place, first, count in wanted[run]:
                    places[place : place + count] = rows[first : first + count]

        self._helpers.share(copy, list(wanted))

    def peek(self, name: str, slot: int) -> Array:
        """Return the newest value of a column of some stream, which lies at `slot`."""
        if name not in self._wide:
            return self._narrow.peek(name, slot)
        stream, within = divmod(slot, self._runs.capacity)
        value: Array = self._open[name][stream, within % RUN]
        return value

    def pack_run(self, number: int, rows: int) -> dict[str, bytes]:
        """Return a sealed run of `rows` rows, packed, by column."""
        packed = {name: self._chunks.get(name, [number])[0] for name in self._wide}
        return packed | self._narrow.pack_run(number, rows)

    def load_run(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Take a whole run as `pack_run` gave it.

        Raises:
            ValueError: narrow columns are not such bytes, or not as many rows as the run has.
        """
        self._narrow.load_run(number, packed)
        if self._wide:
            self._chunks.put(number, {name: packed[name] for name in self._wide})

    def drop_run(self, number: int) -> None:
        """Let go of a sealed run of which no step is live any more."""
        self._chunks.drop(number)

    def run_nbytes(self, number: int) -> int:
        """Return how many bytes `drop_run` frees."""
        return self._chunks.size(number)

    def recount(self) -> None:
        """Count the bytes of sealed runs anew, after an interrupt."""
        self._chunks.recount()

    def forget_open(self) -> None:
        """Forget the runs being written, which are about to be written again."""
        self._open_run[:] = -1

    def _unpack(self, name: str, number: int, packed: bytes) -> Array:
        """Return one column of a sealed run; what a file told of it is looked at here for the first time."""
        field = self._wide[name]
        try:
            return unpack(packed, (self._runs.steps(number), *field.shape), field.dtype)
        except ValueError as error:
            raise unreadable(f"column {name!r} of run {number}", error) from error

"""Packed residency: wide columns in compressed runs of steps, immutable once sealed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.codec import Codec
from reverie.ring import Finals, Ring
from reverie.spec import Column

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

# Steps in a run. Longer runs pack better, MsPacman's frames 21 times in runs of 16, 29 in runs of 32; shorter ones
# make a window unpack less that it does not need. Measured by `make bench`.
RUN = 32
# A run of fewer bytes gains nothing: what Python needs to keep track of it is as large.
LEAST_RUN_BYTES = 4096


def is_wide(column: Column) -> bool:
    """Whether a column is worth packing."""
    return RUN * column.field.nbytes >= LEAST_RUN_BYTES


class Segment(NamedTuple):
    """Consecutive rows of one run that go to consecutive places of a batch."""

    place: int
    row: int
    rows: int


class PackedRing:
    """The columns of every stream, those that are wide in compressed runs. Has the face of `Ring`.

    A run covers the slots `run * RUN <= slot < (run + 1) * RUN` of its stream, the last run of a stream maybe
    fewer. The run being written lies unpacked beside the packed ones. Until it is sealed, the slots behind its
    last row still belong to the run that was there before.

    Args:
        columns: name and field of every column.
        streams: how many streams there are.
        capacity: slots of each.
    """

    def __init__(self, columns: Iterable[Column], streams: int, capacity: int) -> None:
        columns = tuple(columns)
        self._wide = {column.name: column.field for column in columns if is_wide(column)}
        self._narrow = Ring((column for column in columns if not is_wide(column)), streams, capacity)
        self._capacity = capacity
        self._runs = -(-capacity // RUN)  # of each stream
        self._open = {
            name: np.empty((streams, RUN, *field.shape), field.dtype) for name, field in self._wide.items()
        }
        self._open_run = np.full(streams, -1, np.int64)  # stream -> the run being written
        self._filled = np.zeros(streams, np.int64)  # stream -> rows of it that are written
        self._packed: dict[str, list[bytes | None]] = {
            name: [None] * (streams * self._runs) for name in self._wide
        }
        self._packed_bytes = 0
        self._codec = Codec()
        self._helpers = Helpers()

    @staticmethod
    def row_bytes(columns: Iterable[Column]) -> int:
        """Return what one step takes beside its packed columns, which are known only once packed."""
        return Ring.row_bytes(column for column in columns if not is_wide(column))

    @property
    def nbytes(self) -> int:
        """Bytes held now: packed runs, runs being written, and narrow columns at full capacity."""
        references = sum(8 * len(runs) for runs in self._packed.values())
        return (
            self._narrow.nbytes
            + sum(array.nbytes for array in self._open.values())
            + self._packed_bytes
            + references
        )

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed runs alone."""
        return self._packed_bytes

    def write(self, slot: int | Ints, values: Mapping[str, Any]) -> None:
        """Store one step, or one step for each of several streams, in the order of each stream's slots."""
        self._narrow.write(slot, {name: value for name, value in values.items() if name not in self._wide})
        slots = np.atleast_1d(slot)
        stream, within = np.divmod(slots, self._capacity)
        run, row = np.divmod(within, RUN)
        for name in self._wide:
            if name in values:
                self._open[name][stream, row] = values[name]
        self._open_run[stream] = run
        self._filled[stream] = row + 1
        full = (row + 1 == RUN) | (within + 1 == self._capacity)
        for lane in full.nonzero()[0].tolist():
            self._seal(int(stream[lane]), int(run[lane]), int(row[lane]) + 1)

    def _seal(self, stream: int, run: int, rows: int) -> None:
        for name in self._wide:
            packed = self._codec.pack(self._open[name][stream, :rows])
            old = self._packed[name][stream * self._runs + run]
            self._packed[name][stream * self._runs + run] = packed
            self._packed_bytes += len(packed) - (0 if old is None else len(old))
        self._filled[stream] = 0
        self._open_run[stream] = -1

    def rewrite(self, slots: Ints, values: Mapping[str, Any]) -> None:
        """Store new values for steps that lie there already."""
        self._narrow.write(slots, {name: value for name, value in values.items() if name not in self._wide})
        stream, within = np.divmod(slots, self._capacity)
        run, row = np.divmod(within, RUN)
        unpacked = (run == self._open_run[stream]) & (row < self._filled[stream])
        for name, value in values.items():
            if name not in self._wide:
                continue
            self._open[name][stream[unpacked], row[unpacked]] = value[unpacked]
            number = stream * self._runs + run
            for packed_run in np.unique(number[~unpacked]).tolist():
                here = ~unpacked & (number == packed_run)
                rows = self._unpack(self._codec, name, packed_run).copy()
                rows[row[here]] = value[here]
                packed = self._codec.pack(rows)
                old = self._packed[name][packed_run]
                assert old is not None
                self._packed_bytes += len(packed) - len(old)
                self._packed[name][packed_run] = packed

    def gather(self, name: str, slots: Ints, out: Array) -> None:
        """Copy the rows at `slots` into `out`, whose leading axes are those of `slots`."""
        if name not in self._wide:
            self._narrow.gather(name, slots, out)
            return
        flat = slots.reshape(-1)
        places = out.reshape(len(flat), *self._wide[name].shape)
        stream, within = np.divmod(flat, self._capacity)
        run, row = np.divmod(within, RUN)
        unpacked = (run == self._open_run[stream]) & (row < self._filled[stream])
        # Windows are contiguous: most of a run's rows go to one place each, as one copy.
        key = np.where(unpacked, -1 - stream, stream * self._runs + run)
        breaks = ((key[1:] != key[:-1]) | (row[1:] != row[:-1] + 1)).nonzero()[0] + 1
        begins = np.concatenate([[0], breaks])
        counts = np.diff(np.append(begins, len(flat)))
        wanted: dict[int, list[Segment]] = {}
        for place, count in zip(begins.tolist(), counts.tolist(), strict=True):
            wanted.setdefault(key.item(place), []).append(Segment(place, row.item(place), count))

        def copy(codec: Codec, runs: Sequence[int]) -> None:
            for number in runs:
                rows = self._open[name][-1 - number] if number < 0 else self._unpack(codec, name, number)
                for place, first, count in wanted[number]:
                    places[place : place + count] = rows[first : first + count]

        self._helpers.share(copy, list(wanted))

    def _unpack(self, codec: Codec, name: str, number: int) -> Array:
        packed = self._packed[name][number]
        assert packed is not None, "only written slots are asked for"
        field = self._wide[name]
        return codec.unpack(packed, (-1, *field.shape), field.dtype)


class PackedFinals:
    """Final observations, each packed by itself. Has the face of `Finals`."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._fields = {column.name: column.field for column in columns}
        self._codec = Codec()
        self._packed: list[dict[str, bytes] | None] = []
        self._free: list[int] = []
        self.nbytes = 0

    def put(self, values: Mapping[str, Any]) -> int:
        """Store one final observation and return its place."""
        packed = {
            name: self._codec.pack(np.ascontiguousarray(np.asarray(values[name]), field.dtype))
            for name, field in self._fields.items()
        }
        self.nbytes += sum(map(len, packed.values()))
        if self._free:
            place = self._free.pop()
            self._packed[place] = packed
            return place
        self._packed.append(packed)
        return len(self._packed) - 1

    def release(self, places: Iterable[int]) -> None:
        """Let these places be used again."""
        for place in places:
            packed = self._packed[place]
            assert packed is not None
            self.nbytes -= sum(map(len, packed.values()))
            self._packed[place] = None
            self._free.append(place)

    def gather(self, name: str, places: Ints) -> Array:
        """Return the final observations at `places`, one row each."""
        field = self._fields[name]
        rows = np.empty((len(places), *field.shape), field.dtype)
        for row, place in enumerate(places.tolist()):
            packed = self._packed[place]
            assert packed is not None
            rows[row] = self._codec.unpack(packed[name], field.shape, field.dtype)
        return rows


class Helpers:
    """Shares work on many runs between the cores there are; zstd and large copies let go of the interpreter."""

    LEAST_RUNS = 8  # below, waking a thread costs more than it saves

    def __init__(self) -> None:
        self._cores = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()

    def _codec(self) -> Codec:
        codec: Codec | None = getattr(self._local, "codec", None)
        if codec is None:
            codec = self._local.codec = Codec()
        return codec

    def share(self, work: Callable[[Codec, Sequence[int]], None], runs: list[int]) -> None:
        """Call `work(codec, some of the runs)` so that all runs are worked on once; raise what it raises."""
        if self._cores == 1 or len(runs) < self.LEAST_RUNS:
            work(self._codec(), runs)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._cores - 1, thread_name_prefix="reverie-unpack")
        parts = [runs[part :: self._cores] for part in range(self._cores)]
        others = [self._pool.submit(self._work, work, part) for part in parts[1:]]
        work(self._codec(), parts[0])
        for other in others:
            other.result()

    def _work(self, work: Callable[[Codec, Sequence[int]], None], runs: Sequence[int]) -> None:
        work(self._codec(), runs)


Store = Ring | PackedRing
FinalStore = Finals | PackedFinals

# residency -> how steps and final observations are kept
RESIDENCIES: dict[str, tuple[type[Ring] | type[PackedRing], type[Finals] | type[PackedFinals]]] = {
    "ram": (Ring, Finals),
    "packed": (PackedRing, PackedFinals),
}

"""The values of one stream's steps, read from its file for another that is written anew."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.file.records import Blobs, RunRecord
from reverie.file.recovery import StreamRecords
from reverie.file.tables import Tables
from reverie.spec import Field
from reverie.store import pack, unpack, unpack_step

Array = npt.NDArray[Any]


class StreamSteps:
    """The values of one stream's live steps, from wherever they lie in its file; zeros for those that are gone.

    Args:
        file, fields, stream: what there is. tail: the steps before it are gone.
        gone: first and stop of what was discarded, oldest first; of these steps the rewards stay.
    """

    def __init__(
        self,
        file: Tables,
        fields: Mapping[str, Field],
        stream: StreamRecords,
        tail: int,
        gone: Sequence[tuple[int, int]],
    ) -> None:
        self._file, self._fields, self._gone = file, fields, gone
        self._stream, self._tail = stream, tail
        # Runs are looked for by where they begin, and what is gone by where it stops: there may be many of both.
        self._firsts = [run.first for run in stream.runs]
        self._stops = [stop for _, stop in gone]
        self._last: tuple[int, dict[str, Array]] | None = None  # the run that was unpacked last
        self._newest: dict[str, Array] = {}  # of those that no sealed run holds
        if stream.newest:
            values = list(self._unpacked_newest())
            self._newest = {name: np.stack([value[name] for value in values]) for name in fields}

    def run(self, run: RunRecord) -> Blobs:
        """Return the columns of a run, packed; as they are where the file has a run of the same steps."""
        for own in self._runs_between(run.first, run.stop):
            as_it_is = (own.first, own.steps) == (run.first, run.steps) and run.first >= self._tail
            if as_it_is and not self._gone_between(run.first, run.stop):
                return self._file.run(own.number)[1]
        return {name: pack(rows) for name, rows in self._between(run.first, run.stop).items()}

    def each(self, first: int, stop: int) -> Iterator[dict[str, Array]]:
        """Yield the values of one step after the other."""
        rows = self._between(first, stop)
        for place in range(stop - first):
            yield {name: values[place] for name, values in rows.items()}

    def _between(self, first: int, stop: int) -> dict[str, Array]:
        """Return the values of the steps `first <= id < stop`."""
        found = {
            name: np.zeros((stop - first, *field.shape), field.dtype)  # time ...
            for name, field in self._fields.items()
        }
        for begin, end, part in self._parts(first, stop):
            low, high = max(begin, first, self._tail), min(end, stop)
            for name, rows in found.items():
                if low < high:
                    rows[low - first : high - first] = part[name][low - begin : high - begin]
        for begin, end in self._gone_between(first, stop):
            for name, rows in found.items():
                if name != "reward":
                    rows[max(begin - first, 0) : end - first] = 0
        return found

    def _gone_between(self, first: int, stop: int) -> Sequence[tuple[int, int]]:
        """Return what is gone of the steps `first <= id < stop`, and maybe some around them."""
        oldest = bisect_right(self._stops, first)
        return self._gone[oldest : bisect_left(self._gone, (stop, stop), oldest)]

    def _runs_between(self, first: int, stop: int) -> Sequence[RunRecord]:
        """Return the sealed runs that have some of the steps `first <= id < stop`."""
        oldest = max(bisect_right(self._firsts, first) - 1, 0)
        runs = self._stream.runs[oldest : bisect_left(self._firsts, stop, oldest)]
        return [run for run in runs if first < run.stop]

    def _parts(self, first: int, stop: int) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Yield first, stop and values of the runs and newest steps that have some of these steps."""
        for run in self._runs_between(first, stop):
            yield run.first, run.stop, self._unpacked(run)
        if self._newest and self._stream.sealed < stop:
            yield self._stream.sealed, self._stream.head, self._newest

    def _unpacked(self, run: RunRecord) -> dict[str, Array]:
        if self._last is None or self._last[0] != run.number:
            _, packed = self._file.run(run.number)
            with self._file.db.reading():
                values = {
                    name: unpack(packed[name], (run.steps, *field.shape), field.dtype)
                    for name, field in self._fields.items()
                }
            self._last = run.number, values
        return self._last[1]

    def _unpacked_newest(self) -> Iterator[dict[str, Array]]:
        before: dict[str, Array] = {}
        for step in self._stream.newest:
            with self._file.db.reading():
                before = {
                    name: unpack_step(step.values[name], before.get(name), field.shape, field.dtype)
                    for name, field in self._fields.items()
                }
            yield before

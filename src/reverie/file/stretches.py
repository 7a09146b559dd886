"""A stretch of steps as records of a replay file: in one transaction what as many single steps would leave there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.file.contents import packed_final
from reverie.file.records import Blobs, EpisodeRecord, RunRecord, StepRecord
from reverie.file.stores import Store
from reverie.file.writer import Writer, put_labelled
from reverie.index import RUN, RUNNING, EpisodeIndex, Part, Stretch, ended_at, total_at
from reverie.store import PackedRing, pack, pack_step

Array = npt.NDArray[Any]
Values = Mapping[str, Array]  # (steps, …) by column
Shown = Callable[
    [int], Mapping[str, Any] | None
]  # from an id to the final observation after that step, if there is one


class StretchRuns:
    """The runs that a stretch seals, packed one after the other.

    Args:
        index, store: the buffer's memory, which has the steps before the stretch.
        stretch: which steps; values: theirs, every column.
        first: id of the first step that no sealed run has.

    Attributes:
        sealed: where each of them begins and stops; those that a later one replaces are left out.
        is_packed: whether all of them were packed.
    """

    def __init__(
        self, index: EpisodeIndex, store: Store, stretch: Stretch, values: Values, first: int
    ) -> None:
        self._index, self._store, self._stretch, self._values = index, store, stretch, values
        self.sealed = stretch.sealed(first)[-index.runs.each :]
        self.is_packed = False
        self._kept: dict[int, Blobs] = {}  # number -> what memory has to hold of the run

    def number(self, first: int) -> int:
        """Return the number of the run that begins with this id."""
        return self._index.runs.of_id(self._stretch.stream, first)[0]

    def pack(self, names: list[str]) -> Iterator[tuple[RunRecord, Blobs]]:
        """Yield each run with these columns."""
        for first, stop in self.sealed:
            packed = {name: pack(self._rows(name, first, stop)) for name in names}
            number = self.number(first)
            if isinstance(self._store, PackedRing):
                if self._store.reads_file:
                    self._kept.clear()  # the file has the others
                self._kept[number] = packed
            yield RunRecord(number, self._stretch.stream, first, stop - first), packed
        self.is_packed = True

    @property
    def kept(self) -> Mapping[int, Blobs]:
        """What a packed store has to be given, once all have been packed."""
        return self._kept

    def _rows(self, name: str, first: int, stop: int) -> Array:
        """Return the rows of a run, of which memory may hold the first ones."""
        begin, values = self._stretch.first, self._values[name]
        if first >= begin:
            return np.ascontiguousarray(values[first - begin : stop - begin])
        rows = np.empty((stop - first, *values.shape[1:]), values.dtype)
        slots = self._index.slots(np.array(self._stretch.stream), np.arange(first, begin))
        self._store.gather(name, slots, rows[: begin - first])
        rows[begin - first :] = values[: stop - begin]
        return rows


class StretchFiler:
    """Puts a stretch that is about to be stored into the file; see `write_stretches`.

    Args:
        writer: of the buffer's file.
        index, store: its memory.
        stretch: which steps.
        values: theirs, every column; nobody changes them.
        shown: the final observations.

    Attributes:
        runs: what the stretch seals.
        is_filed: whether anything of it goes into the file now; if not, memory alone holds it until its run is sealed.
        complete: first and stop of the ordinals whose episodes the file knows to their ends, once it is written.
    """

    def __init__(
        self,
        writer: Writer,
        index: EpisodeIndex,
        store: Store,
        stretch: Stretch,
        values: Values,
        shown: Shown,
    ) -> None:
        self._writer, self._index, self._store = writer, index, store
        self._stretch, self._values, self._shown = stretch, values, shown
        self.runs = StretchRuns(index, store, stretch, values, writer.marks.sealed.item(stretch.stream))
        # The head at which the last run is sealed.
        self._last = self.runs.sealed[-1][1] if self.runs.sealed else None
        self.is_filed = writer.each_step or self._last is not None
        self.complete: tuple[int, int] | None = None

    def put(self) -> None:
        """Put it, inside of a transaction."""
        writer, stream = self._writer, self._stretch.stream
        for run, packed in self.runs.pack(list(writer.file.columns)):
            writer.file.put_run(run, packed)
        if writer.each_step and self._stretch.sews:
            writer.put_episodes(stream, cut=(None,))
        if self._last is not None:
            self._put_episodes(self._last)
        if writer.each_step:
            self._put_newest()

    def has(self) -> bool:
        """Whether the file has what `put` was about to put, if anything."""
        writer, stream = self._writer, self._stretch.stream
        if not writer.is_here():  # where it has gone, memory decides
            return self.runs.is_packed
        if writer.each_step:
            return writer.marks.filed.item(stream) >= self._stretch.stop
        return self._last is None or writer.marks.sealed.item(stream) >= self._last

    def take_note(self) -> None:
        """Take note of what the file has now."""
        marks, stretch, stream = self._writer.marks, self._stretch, self._stretch.stream
        if self._last is not None:
            stop = stretch.begun_at(self._last) - stretch.runs_at(self._last)
            complete = marks.first_to_put(stream), stop
            marks.sealed[stream] = self._last
            marks.filed[stream] = max(marks.filed.item(stream), self._last)
            marks.kept[stream], marks.dropped[stream] = stop, stretch.dropped_at(self._last)
            self.complete = complete
        if self._writer.each_step:
            marks.filed[stream] = stretch.stop

    # --- episodes --------------------------------------------------------------------------------------

    def _put_episodes(self, head: int) -> None:
        """Put what the file does not know of the episodes, as they are when the stream's head is there."""
        writer, stretch, file = self._writer, self._stretch, self._writer.file
        dropped = stretch.dropped_at(head)
        if dropped > writer.marks.dropped.item(stretch.stream):
            file.drop_episodes(stretch.stream, dropped)
        first = max(writer.marks.first_to_put(stretch.stream), dropped)
        # A single step would not have ended the old episode in the file before the first step of the new one is there.
        sewn = stretch.sews and (head > stretch.first or writer.each_step)
        parts = {part.ordinal: part for part in stretch.parts if part.first < head}
        for episode in writer.contents.episodes(stretch.stream, first, (None,) if sewn else None):
            part = parts.pop(episode.ordinal, None)
            put_labelled(file, self._index, episode if part is None else self._at(part, head))
        for part in parts.values():
            if part.ordinal >= first:
                file.put_episode(self._at(part, head))

    def _at(self, part: Part, head: int) -> EpisodeRecord:
        """Return the record of a part's episode when the stream's head is there."""
        stop, ended = min(part.stop, head), ended_at(part, head)
        begin = part.first - self._stretch.first
        total = total_at(part, head, self._values["reward"][begin:])
        final = packed_final(self._shown(stop - 1)) if ended else None
        numbers = part.order, self._stretch.stream, part.ordinal, part.start, stop
        return EpisodeRecord(*numbers, ended, total, final)

    # --- newest steps ----------------------------------------------------------------------------------

    def _put_newest(self) -> None:
        """Put the episodes that begin after the last sealed run, and the steps whose records no later one replaces."""
        file, stretch = self._writer.file, self._stretch
        begin = stretch.first if self._last is None else self._last
        for part in stretch.parts:
            if part.begins and part.first >= begin:
                at = part.first
                numbers = part.order, stretch.stream, part.ordinal, at, at
                file.put_episode(EpisodeRecord(*numbers, RUNNING, 0.0, None))
        ends = {part.stop - 1: part.ended for part in stretch.parts}
        for step in range(max(stretch.first, stretch.stop - RUN), stretch.stop):
            ended = ends.get(step, RUNNING)
            packed = {name: self._pack_step(name, step) for name in file.columns}
            final = packed_final(self._shown(step)) if ended else None
            file.put_step(StepRecord(stretch.stream, step, ended, packed, final))

    def _pack_step(self, name: str, step: int) -> bytes:
        """Return the value of a step, as a change of the one before unless it begins a run."""
        rows, place = self._values[name], step - self._stretch.first
        if self._index.runs.first_of(step) == step:
            return pack_step(rows[place], None)
        if place:
            return pack_step(rows[place], rows[place - 1])
        slot = self._stretch.stream * self._index.capacity + (step - 1) % self._index.capacity
        return pack_step(rows[place], self._store.peek(name, slot))


def write_stretches(writer: Writer, filers: Sequence[StretchFiler], note: Mapping[str, Any]) -> None:
    """Write stretches of different streams, and with them the named values of `note`: one transaction."""
    with writer.file.db.writing():
        for filer in filers:
            filer.put()
        writer.put_notes(note)
    for filer in filers:
        filer.take_note()

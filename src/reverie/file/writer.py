"""Keeps a replay file in step with a buffer's memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reverie.file.contents import Contents, Told, packed_final
from reverie.file.floors import floors_of, put_filler, put_floors
from reverie.file.labels import label_text
from reverie.file.marks import Marks
from reverie.file.reader import Reader
from reverie.file.records import Blobs, EpisodeRecord
from reverie.file.sealed import Span, put_runs, spans_of
from reverie.file.state import PackedArrays, Remembered
from reverie.file.stores import FinalStore, Store
from reverie.file.tables import Tables
from reverie.index import NEVER, NO_EPISODE, NO_FINAL, EpisodeIndex, Eviction, Ints
from reverie.spec import Column
from reverie.store import PackedFinals, PackedRing, pack, unpack


class Writer:
    """Writes into the file what happens in memory, each time before it happens there.

    A run of steps is sealed, which is to say packed and put into the file as one record, when the stream's next
    run begins. Until then its steps are records of their own (durability "step") or in memory alone ("chunk").

    Args:
        file: the replay file, open for writing.
        columns: name and field of every stored column.
        index, store, finals: the buffer's memory.
        durability: "step" or "chunk".
    """

    def __init__(
        self,
        file: Tables,
        columns: Sequence[Column],
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        durability: str,
    ) -> None:
        self.file = file
        self._fields = {column.name: column.field for column in columns}
        self._index, self._store, self._finals = index, store, finals
        self.contents = Contents(columns, file.columns, index, store, finals)
        self.each_step = durability == "step"
        self.marks = Marks(index, file.meta("rewrites", 0))

    @property
    def rewrites(self) -> int:
        """How often steps were rewritten in the file."""
        return self.marks.rewrites

    def go_on_from(self, reader: Reader) -> None:
        """Take note of what the file held when memory was made from it."""
        self.marks.sealed[:], self.marks.kept[:] = reader.sealed, reader.kept
        self.marks.filed[:] = self._index.head

    def begin(self) -> None:
        """Say in the file that a process writes to it, until `flush` says that it was closed."""
        with self.file.db.writing():
            self.put_notes({"clean": False})
            if self.file.meta("copy_of"):  # from here on it goes its own way
                self.put_notes({"identity": uuid.uuid4().hex, "copy_of": ""})

    # --- what happens ----------------------------------------------------------------------------------

    def is_single(self, stream: int) -> bool:
        """Whether the next step of a stream is all that it brings: no run is to be sealed, and no episode begins."""
        return self.each_step and not (self.marks.begins_run(stream) or self._index.begins(stream))

    def step(
        self, stream: int, values: Mapping[str, Any], ended: int, final: Mapping[str, Any] | None
    ) -> None:
        """Write a step that is about to be stored, and for which `is_single` holds; a transaction of its own."""
        self.file.db.check()
        self.file.put_step(self.contents.step(stream, values, ended, packed_final(final)))
        self.marks.filed[stream] = self._index.head.item(stream) + 1

    def steps(
        self,
        streams: Sequence[int],
        rows: Sequence[Told],
        note: Mapping[str, Any],
        make_room: Callable[[], list[Eviction]] | None,
        evictions: list[Eviction],
    ) -> bool:
        """Write a step for each of several streams that is about to be stored, all or none.

        Args:
            streams: all different; rows: values, end and final observation of each one's step.
            note: named values that are to be set with it.
            make_room: drops runs from the file and returns them; they are put into `evictions`.

        Returns:
            Whether anything was written, the note included.
        """
        if len(streams) == 1 and not (note or make_room) and self.is_single(streams[0]):
            self.step(streams[0], *rows[0])
            return True
        full = [stream for stream in streams if self.marks.begins_run(stream)]
        if not (full or make_room or self.each_step):
            return False  # memory alone holds the step until its run is sealed
        with self.file.db.writing():
            if make_room is not None:
                evictions += make_room()
            for stream in full:
                self._put_run(stream)
                self.put_episodes(stream)
            if self.each_step:
                self._put_steps(streams, rows)
            self.put_notes(note)
        for stream in full:
            self._note_sealed(stream)
        if self.each_step:
            for stream in streams:
                self.marks.filed[stream] = self._index.head.item(stream) + 1
        return True

    def _put_steps(self, streams: Sequence[int], rows: Sequence[Told]) -> None:
        """Put steps that are about to be stored, and the episodes that begin with them."""
        begun = [stream for stream in streams if self._index.begins(stream)]
        for order, stream in enumerate(begun, self._index.next_order):
            self._put_beginning(stream, order)
        for stream, (values, ended, final) in zip(streams, rows, strict=True):
            self.file.put_step(self.contents.step(stream, values, ended, packed_final(final)))

    def has_steps(
        self, streams: Sequence[int], heads: Sequence[int], evictions: Sequence[Eviction] | None
    ) -> bool:
        """Whether the file has what `steps` was about to write when the streams' heads were these.

        Where memory alone would have held the steps, this asks for the rest: the runs that had to be sealed and
        dropped first.
        """
        if not self.is_here():
            return True
        if self.each_step:
            return all(
                self.marks.filed.item(stream) > head for stream, head in zip(streams, heads, strict=True)
            )
        sealed = not any(self.marks.begins_run(stream) for stream in streams)
        return sealed and (
            evictions is None
            or (len(evictions) > 0 and not any(self.file.has_run(eviction.run) for eviction in evictions))
        )

    def cut(self, stream: int, final: Mapping[str, Any] | None, note: Mapping[str, Any]) -> None:
        """Write that the running episode of a stream is about to be cut."""
        packed = packed_final(final)
        with self.file.db.writing():
            self.put_episodes(stream, cut=(packed,))
            self.put_notes(note)

    def has(self, asked: Callable[[], bool]) -> bool:
        """Whether the file has what `asked` asks it for; where it has gone, memory decides."""
        return not self.is_here() or asked()

    def rewrite(self, slots: Ints, values: Mapping[str, Any], ticket: int) -> None:
        """Write new values of steps that are about to be rewritten in memory; `ticket` is one more than `rewrites`."""
        index, runs = self._index, self._index.runs
        number, row = runs.of_slots(slots)
        stream = number // runs.each
        tail = index.tail[stream]
        ids = tail + (slots - stream * index.capacity - tail) % index.capacity
        sealed = ids < self.marks.sealed[stream]
        with self.file.db.writing():
            for run in np.unique(number[sealed]).tolist():
                here = sealed & (number == run)
                self._rewrite_run(run, row[here], {name: value[here] for name, value in values.items()})
            for one in np.unique(stream[~sealed]).tolist():
                if self.marks.filed[one] > self.marks.sealed[one]:
                    here = ~sealed & (stream == one)
                    which = ids[here] - self.marks.sealed[one]
                    self._put_open(one, {name: (which, value[here]) for name, value in values.items()})
                    self.put_episodes(one)  # steps that were in memory alone have brought theirs
            self.put_notes({"rewrites": ticket})
        self.marks.rewrites = ticket

    def _rewrite_run(self, number: int, rows: Ints, values: Mapping[str, Any]) -> None:
        """Put a sealed run again, with other values in some of its rows."""
        run, packed = self.file.run(number)
        changed = dict(packed)
        for name, value in values.items():
            field = self._fields[name]
            column = unpack(packed[name], (run.steps, *field.shape), field.dtype).copy()
            column[rows] = value
            changed[name] = pack(column)
        self.file.put_run(run, changed)

    def _put_open(self, stream: int, news: Mapping[str, tuple[Ints, Any]] | None = None) -> None:
        """Put the steps of the run that is not sealed yet, unless the file has them; see `Contents.steps`."""
        if news is not None or self.marks.filed.item(stream) != self._index.head.item(stream):
            for step in self.contents.steps(stream, self.marks.sealed.item(stream), news):
                self.file.put_step(step)

    def has_rewritten(self, ticket: int) -> bool:
        """Whether the file has what `rewrite` was about to write with this ticket."""
        return not self.is_here() or self.rewrites >= ticket

    def resume(self) -> None:
        """Ask the file what it has: an interrupt may have come between a transaction and the notes taken of it.

        Raises:
            FileError: it cannot be read now.
        """
        self.marks.forget()
        if self.is_here():
            self.marks.ask(self.file)
        else:  # what memory holds is all there is, and may be saved elsewhere
            self.marks.filed[:] = NEVER

    def is_here(self) -> bool:
        """Whether the file is still there; no transaction is open afterwards."""
        self.file.db.roll_back()
        return not self.file.db.is_astray

    # --- bringing all of it to the disk ----------------------------------------------------------------

    def flush(self, named: Mapping[str, Any], arrays: PackedArrays | None, clean: bool = False) -> None:
        """Write all that memory holds and the file does not, and make it survive a loss of power.

        Args:
            named, arrays: what else has to be remembered; None where the arrays are as at the last flush.
            clean: whether the buffer is closed with it, so that `open` does not take the writer for killed.
        """
        with self.file.db.syncing():
            self.put_rest({**named, "clean": clean}, arrays)
        self.all_put()

    def all_put(self) -> None:
        """Take note that the file has all that memory holds."""
        self.marks.put_all()

    def put_rest(self, named: Mapping[str, Any], arrays: PackedArrays | None) -> None:
        """Put the steps and episodes that the file does not have, and what else has to be remembered."""
        for stream in self.marks.changed():
            self._put_open(stream)
            self.put_episodes(stream)
        # So that there is always something to sync.
        self.put_notes({**named, "synced": self.file.meta("synced") + 1})
        if arrays is not None:
            self.file.put_arrays(arrays)

    def put_all(self, memories: Remembered) -> None:
        """Put all that memory holds, inside of a transaction, into a file that may hold anything.

        Runs that are there already, byte for byte, are not written again.
        """
        index, runs, file = self._index, self._index.runs, self.file
        have = {run.number: (run, crcs) for run, crcs in file.runs()}
        spans: list[Span] = []
        for stream in range(index.streams):
            tail, head = index.tail.item(stream), index.head.item(stream)
            # The newest run counts as being written, even if it is whole: it is sealed when the next one begins.
            newest = runs.first_of(head - 1) if head > tail else head
            first = min(runs.first_of(tail), newest)
            if tail < head and first == newest > 0:
                have.pop(put_filler(file, self._fields, runs, stream, newest), None)
            spans += spans_of(runs, stream, first, newest)
            file.drop_steps(stream)
            self.marks.sealed[stream] = self.marks.filed[stream] = newest
        put_runs(file, self.contents, spans, have, not self._store.reads_file)
        for number in have:
            file.drop_run(number)
        file.drop_other_episodes(set())
        self.marks.kept[:] = 0
        self.marks.put[:] = -1
        self.put_rest(*memories)
        put_floors(file, floors_of(index))

    # --- records ---------------------------------------------------------------------------------------

    def _put_run(self, stream: int) -> None:
        """Seal the run that the stream's newest steps fill."""
        if isinstance(self._store, PackedRing):
            self._store.seal(stream)
        first, head = self.marks.sealed.item(stream), self._index.head.item(stream)
        self.file.put_run(*self.contents.run(stream, first, head - first))

    def _note_sealed(self, stream: int) -> None:
        """Take note that the run of `_put_run` is in the file, and the ends of all episodes but the running one."""
        index, finals = self._index, self._finals
        first, stop = (
            self.marks.first_to_put(stream),
            index.begun.item(stream) - (index.open_episode.item(stream) != NO_EPISODE),
        )
        if isinstance(finals, PackedFinals):
            for ordinal in range(first, stop):
                episode = index.episode_of(stream, ordinal)
                if index.final_slot.item(episode) != NO_FINAL:
                    finals.filed(index.final_slot.item(episode), index.order.item(episode))
        self.marks.seal(stream, stop)

    def put_episodes(self, stream: int, cut: tuple[Blobs | None] | None = None) -> None:
        """Put what the file does not know of the stream's episodes; `cut` is how the running one will end."""
        for episode in self.contents.episodes(stream, self.marks.first_to_put(stream), cut):
            put_labelled(self.file, self._index, episode)
        dropped = self._index.dropped.item(stream)
        if dropped > self.marks.dropped.item(stream):
            self.file.drop_episodes(stream, dropped)

    def _put_beginning(self, stream: int, order: int) -> None:
        """Put an episode that is about to begin, as which of all."""
        if self._index.open_episode.item(stream) != NO_EPISODE:  # left running by another run of the program
            self.put_episodes(stream, cut=(None,))
        self.file.put_episode(self.contents.beginning(stream, order))

    def put_notes(self, note: Mapping[str, Any]) -> None:
        """Set named values."""
        for name, value in note.items():
            self.file.put_meta(name, value)


def put_labelled(file: Tables, index: EpisodeIndex, episode: EpisodeRecord) -> None:
    """Put an episode, and its metadata."""
    file.put_episode(episode)
    if episode.number in index.labels:
        file.put_label(episode.number, label_text(index.labels[episode.number]))

"""Keeps a replay file in step with a buffer's memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reverie.file.reader import Reader
from reverie.file.state import PackedArrays, Remembered
from reverie.file.stores import FinalStore, Store
from reverie.file.tables import Blobs, EpisodeRow, ReplayFile, Run, StepRow
from reverie.index import CUT, NEVER, NO_EPISODE, NO_FINAL, RUNNING, EpisodeIndex, Eviction, Ints
from reverie.spec import Column
from reverie.store import LEAST_STEP_BYTES, PLAIN, pack, pack_step, unpack

# What the file is told of a step: its values by column, how it ended, its final observation.
Told = tuple[Mapping[str, Any], int, Mapping[str, Any] | None]


class Writer:
    """Writes into the file what happens in memory, each time before it happens there.

    A run of steps is sealed, which is to say packed and put into the file as one row, when the stream's next
    run begins. Until then its steps are rows of their own (durability "step") or in memory alone ("chunk").

    Args:
        file: the replay file, open for writing.
        columns: name and field of every stored column.
        index, store, finals: the buffer's memory.
        durability: "step" or "chunk".
    """

    def __init__(
        self,
        file: ReplayFile,
        columns: Sequence[Column],
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        durability: str,
    ) -> None:
        self.file = file
        self._fields = {column.name: column.field for column in columns}
        # What a row of a step needs: its columns, and whether changes from the step before are told.
        self._leaves = [(name, self._fields[name].nbytes >= LEAST_STEP_BYTES) for name in file.columns]
        self._index = index
        self._store = store
        self._finals = finals
        self.each_step = durability == "step"
        self._runs = index.runs
        self.sealed = index.head.copy()  # stream -> the first id of the run that is not sealed yet
        self.filed = index.head.copy()  # stream -> one past the last id that the file has
        self.kept = index.begun.copy()  # stream -> the first episode that the file may not know to its end
        # Stream -> the first episode that the file may have.
        self._dropped = np.zeros(index.streams, np.int64)
        # stream -> head, episodes begun, running episode as they were when all of them was put into the file
        self._put = np.full((3, index.streams), -1)
        self.rewrites = file.meta("rewrites", 0)  # how often steps were rewritten

    def go_on_from(self, reader: Reader) -> None:
        """Take note of what the file held when memory was made from it."""
        self.sealed[:], self.kept[:] = reader.sealed, reader.kept
        self.filed[:] = self._index.head

    def begin(self) -> None:
        """Say in the file that a process writes to it, until `flush` says that it was closed."""
        with self.file.db.writing():
            self._put_notes({"clean": False})
            if self.file.meta("copy_of"):  # from here on it goes its own way
                self._put_notes({"identity": uuid.uuid4().hex, "copy_of": ""})

    # --- what happens ----------------------------------------------------------------------------------

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
        index, steps = self._index, list(zip(streams, rows, strict=True))
        full = [stream for stream in streams if self._begins_run(stream)]
        begun = [stream for stream in streams if index.begins(stream)]
        if self.each_step and len(steps) == 1 and not (full or begun or note or make_room):
            self.file.db.check()
            self.file.put_step(self._row(*steps[0]))  # a transaction of its own
        elif full or make_room or self.each_step:
            with self.file.db.writing():
                if make_room is not None:
                    evictions += make_room()
                for stream in full:
                    self._put_run(stream)
                    self._put_episodes(stream)
                if self.each_step:
                    for place, stream in enumerate(begun):
                        self._put_beginning(stream, index.next_order + place)
                    for stream, row in steps:
                        self.file.put_step(self._row(stream, row))
                self._put_notes(note)
            for stream in full:
                self._sealed(stream)
        else:
            return False  # memory alone holds the step until its run is sealed
        if self.each_step:
            for stream in streams:
                self.filed[stream] = index.head.item(stream) + 1
        return True

    def has_steps(
        self, streams: Sequence[int], heads: Sequence[int], evictions: Sequence[Eviction] | None
    ) -> bool:
        """Whether the file has what `steps` was about to write when the streams' heads were these.

        Where memory alone would have held the steps, this asks for the rest: the runs that had to be sealed and
        dropped first.
        """
        if not self._is_here():
            return True
        if self.each_step:
            return all(self.filed.item(stream) > head for stream, head in zip(streams, heads, strict=True))
        sealed = not any(self._begins_run(stream) for stream in streams)
        return sealed and (
            evictions is None
            or (len(evictions) > 0 and not any(self.file.has_run(eviction.run) for eviction in evictions))
        )

    def cut(self, stream: int, final: Mapping[str, Any] | None, note: Mapping[str, Any]) -> None:
        """Write that the running episode of a stream is about to be cut."""
        packed = None if final is None else self._pack_final(final)
        with self.file.db.writing():
            self._put_episodes(stream, cut=(packed,))
            self._put_notes(note)

    def has_cut(self, number: int) -> bool:
        """Whether the file knows that an episode has ended."""
        return not self._is_here() or self.file.has_ended(number)

    def rewrite(self, slots: Ints, values: Mapping[str, Any], ticket: int) -> None:
        """Write new values of steps that are about to be rewritten in memory; `ticket` is one more than `rewrites`."""
        index, runs = self._index, self._runs
        number, row = runs.of_slots(slots)
        stream = number // runs.each
        tail = index.tail[stream]
        ids = tail + (slots - stream * index.capacity - tail) % index.capacity
        sealed = ids < self.sealed[stream]
        with self.file.db.writing():
            for run in np.unique(number[sealed]).tolist():
                here = sealed & (number == run)
                found, packed = self.file.run(run)
                changed = dict(packed)
                for name, value in values.items():
                    field = self._fields[name]
                    rows = unpack(packed[name], (found.steps, *field.shape), field.dtype).copy()
                    rows[row[here]] = value[here]
                    changed[name] = pack(rows)
                self.file.put_run(found, changed)
            for one in np.unique(stream[~sealed]).tolist():
                if self.filed[one] > self.sealed[one]:
                    here = ~sealed & (stream == one)
                    news = {
                        name: (ids[here] - self.sealed[one], value[here]) for name, value in values.items()
                    }
                    self._put_open(one, news)
                    self._put_episodes(one)  # steps that were in memory alone have brought theirs
            self._put_notes({"rewrites": ticket})
        self.rewrites = ticket

    def has_rewritten(self, ticket: int) -> bool:
        """Whether the file has what `rewrite` was about to write with this ticket."""
        return not self._is_here() or self.rewrites >= ticket

    def resume(self) -> None:
        """Ask the file what it has: an interrupt may have come between a transaction and the notes taken of it.

        Raises:
            FileError: it cannot be read now.
        """
        index = self._index
        self.kept[:] = index.dropped  # it may know more
        self._dropped[:] = 0
        self._put[:] = -1
        if not self._is_here():  # what memory holds is all there is, and may be saved elsewhere
            self.filed[:] = NEVER
            return
        sealed, newest = self.file.stops()
        for stream, stop in sealed.items():
            self.sealed[stream] = stop
        self.filed[:] = self.sealed
        for stream, stop in newest.items():
            self.filed[stream] = max(self.filed.item(stream), stop)
        self.rewrites = self.file.meta("rewrites", 0)

    def _is_here(self) -> bool:
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
        index = self._index
        self.filed[:] = index.head
        self._put[:] = index.head, index.begun, index.open_episode

    def put_rest(self, named: Mapping[str, Any], arrays: PackedArrays | None) -> None:
        """Put the steps and episodes that the file does not have, and what else has to be remembered."""
        index = self._index
        now = np.stack([index.head, index.begun, index.open_episode])
        for stream in np.flatnonzero((now != self._put).any(axis=0)).tolist():
            self._put_open(stream)
            self._put_episodes(stream)
        # So that there is always something to sync.
        self._put_notes({**named, "synced": self.file.meta("synced") + 1})
        if arrays is not None:
            self.file.put_arrays(arrays)

    def put_all(self, memories: Remembered) -> None:
        """Put all that memory holds, inside of a transaction, into a file that may hold anything.

        Runs that are there already, byte for byte, are not written again.
        """
        index, runs, file = self._index, self._runs, self.file
        have = {run.number: (run, crcs) for run, crcs in file.runs()}
        for stream in range(index.streams):
            tail, head = index.tail.item(stream), index.head.item(stream)
            # The newest run counts as being written, even if it is whole: it is sealed when the next one begins.
            newest = head - 1 - runs.of_id(stream, head - 1)[1] if head > tail else head
            first = min(tail - runs.of_id(stream, tail)[1], newest)
            if newest == tail == head - index.capacity > 0:
                # A ring of one run: the one before it, gone by now, says where it begins.
                first -= index.capacity
            while first < newest:
                number, _ = runs.of_id(stream, first)
                run = Run(number, stream, first, runs.steps(number))
                packed = self._store.pack_run(number, run.steps)
                if have.pop(number, None) != (run, file.checksums_of(run, packed)):
                    file.put_run(run, packed)
                first += run.steps
            file.drop_steps(stream)
            self.sealed[stream] = self.filed[stream] = newest
        for number in have:
            file.drop_run(number)
        file.drop_other_episodes(set())
        self.kept[:] = 0
        self._put[:] = -1
        self.put_rest(*memories)

    # --- rows ------------------------------------------------------------------------------------------

    def _begins_run(self, stream: int) -> bool:
        """Whether the stream's next step is the first of a run, and the one before is yet to be sealed."""
        head = self._index.head.item(stream)
        return head > self.sealed.item(stream) and self._runs.of_id(stream, head)[1] == 0

    def _put_run(self, stream: int) -> None:
        first, head = self.sealed.item(stream), self._index.head.item(stream)
        number, _ = self._runs.of_id(stream, first)
        self._store.seal(stream)
        packed = self._store.pack_run(number, head - first)
        self.file.put_run(Run(number, stream, first, head - first), packed)

    def _sealed(self, stream: int) -> None:
        """Take note that the run of `_put_run` is in the file."""
        index = self._index
        self.sealed[stream] = index.head[stream]
        self.filed[stream] = max(self.filed[stream], self.sealed[stream])
        kept = index.begun.item(stream) - (index.open_episode.item(stream) != NO_EPISODE)
        for ordinal in range(max(self.kept.item(stream), index.dropped.item(stream)), kept):
            row = index.episode_of(stream, ordinal)
            if index.final_slot.item(row) != NO_FINAL:
                self._finals.filed(index.final_slot.item(row), index.order.item(row))
        self.kept[stream], self._dropped[stream] = kept, index.dropped[stream]

    def _put_episodes(self, stream: int, cut: tuple[Blobs | None] | None = None) -> None:
        """Put what the file does not know of the stream's episodes; `cut` is how the running one will end."""
        index = self._index
        first = max(self.kept.item(stream), index.dropped.item(stream))
        for ordinal in range(first, index.begun.item(stream)):
            row = index.episode_of(stream, ordinal)
            ended, place = index.ended.item(row), index.final_slot.item(row)
            final = None if place == NO_FINAL else self._finals.packed(place)
            if cut is not None and row == index.open_episode.item(stream):
                ended, final = CUT, cut[0]
            self.file.put_episode(
                EpisodeRow(
                    index.order.item(row),
                    stream,
                    ordinal,
                    index.start.item(row),
                    index.stop.item(row),
                    ended,
                    index.total.item(row),
                    final,
                )
            )
        if index.dropped.item(stream) > self._dropped.item(stream):
            self.file.drop_episodes(stream, index.dropped.item(stream))

    def _put_beginning(self, stream: int, order: int) -> None:
        """Put an episode that is about to begin: where, and as which of all. Its steps tell the rest."""
        begun, head = self._index.begun.item(stream), self._index.head.item(stream)
        if self._index.open_episode.item(stream) != NO_EPISODE:  # left running by another run of the program
            self._put_episodes(stream, cut=(None,))
        self.file.put_episode(EpisodeRow(order, stream, begun, head, head, RUNNING, 0.0, None))

    def _put_notes(self, note: Mapping[str, Any]) -> None:
        for name, value in note.items():
            self.file.put_meta(name, value)

    def _put_open(self, stream: int, news: Mapping[str, tuple[Ints, Any]] | None = None) -> None:
        """Put the steps of the run that is not sealed yet, as rows; with `news`, (rows, values) of columns."""
        index = self._index
        first, head = self.sealed.item(stream), index.head.item(stream)
        ids = np.arange(first, head)
        if not len(ids) or (news is None and self.filed[stream] == head):
            return
        slots = stream * index.capacity + ids % index.capacity
        values = {}
        for name, field in self._fields.items():
            values[name] = np.empty((len(ids), *field.shape), field.dtype)
            self._store.gather(name, slots, values[name])
            if news is not None and name in news:
                rows, value = news[name]
                values[name][rows] = value
        episode = index.episode_of_slot[slots]
        last = index.stop[episode] == ids + 1
        for place, step in enumerate(ids.tolist()):
            row = episode.item(place)
            ended, final = (
                (index.ended.item(row), index.final_slot.item(row)) if last[place] else (RUNNING, NO_FINAL)
            )
            packed = {
                name: pack_step(rows[place], rows[place - 1] if place else None)
                for name, rows in values.items()
            }
            kept = None if final == NO_FINAL else self._finals.packed(final)
            self.file.put_step(StepRow(stream, step, ended, packed, kept))

    def _row(self, stream: int, told: Told) -> StepRow:
        """Return the row of a step that is about to be stored."""
        values, ended, final = told
        index = self._index
        head = index.head.item(stream)
        # The step before has a row in the file, too, unless this one begins a run.
        before = -1
        if self._runs.of_id(stream, head)[1]:
            before = stream * index.capacity + (head - 1) % index.capacity
        packed = {}
        for name, wide in self._leaves:
            value = values[name]
            if wide:
                old = None if before < 0 else self._store.peek(name, before)
                packed[name] = pack_step(value, old)
            else:
                packed[name] = PLAIN + value.tobytes()
        return StepRow(stream, head, ended, packed, None if final is None else self._pack_final(final))

    def _pack_final(self, final: Mapping[str, Any]) -> dict[str, bytes]:
        return {name: pack(value) for name, value in final.items()}

"""What a buffer's memory holds, as the records of a replay file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reverie.file.records import Blobs, EpisodeRecord, RunRecord, StepRecord
from reverie.file.stores import FinalStore, Store
from reverie.index import CUT, NO_FINAL, RUNNING, EpisodeIndex, Ints
from reverie.spec import Column
from reverie.store import LEAST_STEP_BYTES, PLAIN, pack, pack_step

# What the file is told of a step: its values by column, how it ended, its final observation.
Told = tuple[Mapping[str, Any], int, Mapping[str, Any] | None]


class Contents:
    """Makes records of what memory holds, and of what is about to be stored there.

    Args:
        columns: name and field of every stored column.
        names: of the columns in the order of the file's tables.
        index, store, finals: the buffer's memory.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        names: Sequence[str],
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
    ) -> None:
        self._fields = {column.name: column.field for column in columns}
        # What the record of a step needs: its columns, and whether changes from the step before are told.
        self._leaves = [(name, self._fields[name].nbytes >= LEAST_STEP_BYTES) for name in names]
        self._index, self._store, self._finals = index, store, finals

    def step(self, stream: int, values: Mapping[str, Any], ended: int, final: Blobs | None) -> StepRecord:
        """Return the record of a step that is about to be stored."""
        index = self._index
        head = index.head.item(stream)
        # The step before has a record in the file, too, unless this one begins a run.
        before = -1
        if index.runs.first_of(head) != head:
            before = stream * index.capacity + (head - 1) % index.capacity
        packed = {}
        for name, wide in self._leaves:
            value = values[name]
            if wide:
                old = None if before < 0 else self._store.peek(name, before)
                packed[name] = pack_step(value, old)
            else:
                packed[name] = PLAIN + value.tobytes()
        return StepRecord(stream, head, ended, packed, final)

    def steps(
        self, stream: int, first: int, news: Mapping[str, tuple[Ints, Any]] | None = None
    ) -> Iterator[StepRecord]:
        """Yield the records of a stream's steps from the id `first` on, which begins a run.

        Args:
            stream: its number; first: an id.
            news: by column, which of these steps are about to have other values, and the values.
        """
        index = self._index
        ids = np.arange(first, index.head.item(stream))
        if not len(ids):
            return
        slots = stream * index.capacity + ids % index.capacity
        values = {}
        for name, field in self._fields.items():
            values[name] = np.empty((len(ids), *field.shape), field.dtype)
            self._store.gather(name, slots, values[name])
            if news is not None and name in news:
                which, value = news[name]
                values[name][which] = value
        episodes = index.episode_of_slot[slots]
        last = index.stop[episodes] == ids + 1
        for place, step in enumerate(ids.tolist()):
            episode = episodes.item(place)
            ended = index.ended.item(episode) if last[place] else RUNNING
            packed = {
                name: pack_step(rows[place], rows[place - 1] if place else None)
                for name, rows in values.items()
            }
            yield StepRecord(stream, step, ended, packed, self._final(episode) if last[place] else None)

    def run(self, stream: int, first: int, steps: int) -> tuple[RunRecord, Blobs]:
        """Return the record of a sealed run, which begins with the id `first`."""
        number, _ = self._index.runs.of_id(stream, first)
        return RunRecord(number, stream, first, steps), self._store.pack_run(number, steps)

    def episodes(
        self, stream: int, first: int, cut: tuple[Blobs | None] | None = None
    ) -> Iterator[EpisodeRecord]:
        """Yield the records of a stream's episodes from the ordinal `first` on.

        With `cut`, the running one is about to be cut, and to have the final observation in it.
        """
        index = self._index
        for ordinal in range(first, index.begun.item(stream)):
            episode = index.episode_of(stream, ordinal)
            ended, final = index.ended.item(episode), self._final(episode)
            if cut is not None and episode == index.open_episode.item(stream):
                ended, final = CUT, cut[0]
            yield EpisodeRecord(
                index.order.item(episode),
                stream,
                ordinal,
                index.start.item(episode),
                index.stop.item(episode),
                ended,
                index.total.item(episode),
                final,
            )

    def beginning(self, stream: int, order: int) -> EpisodeRecord:
        """Return the record of an episode that is about to begin, as which of all. Its steps tell the rest."""
        begun, head = self._index.begun.item(stream), self._index.head.item(stream)
        return EpisodeRecord(order, stream, begun, head, head, RUNNING, 0.0, None)

    def _final(self, episode: int) -> Blobs | None:
        """Return the final observation of an episode, packed."""
        final_slot = self._index.final_slot.item(episode)
        return None if final_slot == NO_FINAL else self._finals.packed(final_slot)


def packed_final(final: Mapping[str, Any] | None) -> Blobs | None:
    """Return a final observation that is about to be stored, packed."""
    return None if final is None else {name: pack(value) for name, value in final.items()}

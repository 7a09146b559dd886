"""Many steps of a stream at once: decided together, one transaction of the file, and published by spans."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from reverie.engine.changes import Changes
from reverie.engine.memories import Memories
from reverie.engine.steps import Lanes, Steps
from reverie.file import FinalStore, Store, StretchFiler, StretchRuns
from reverie.index import NO_FINAL, EpisodeIndex, Stretch
from reverie.store import Finals, PackedFinals, PackedRing


class Extender:
    """Stores steps of one stream, all or none, as `changes.add` would one by one. The caller holds the lock.

    Args:
        changes, memories: of the buffer; index, store, finals: its memory.
    """

    def __init__(
        self,
        changes: Changes,
        memories: Memories,
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
    ) -> None:
        self._changes, self._memories = changes, memories
        self._index, self._store, self._finals = index, store, finals

    def extend(self, stream: int, steps: Steps) -> None:
        """Store steps. A buffer that is held to a number of bytes takes them one by one."""
        changes = self._changes
        changes.settle()
        if changes.check is not None:
            changes.check()
        if changes.budget is not None or len(steps.rows) == 1:
            for place in range(len(steps.rows)):
                changes.add(stream, steps.one(place))
        elif len(steps.rows):
            self._store_all(stream, steps)

    def _store_all(self, stream: int, steps: Steps) -> None:
        changes, writer = self._changes, self._changes.writer
        steps = self._owned(steps)
        stretch = Stretch(self._index, stream, steps.lanes.ended)
        self._reserve(stretch, steps)
        values = steps.lanes.values
        if writer is None:
            changes.carry_out(
                partial(self._publish, stretch, steps, self._packed(stretch, steps), None), None, None
            )
            return
        filer = StretchFiler(
            writer, self._index, self._store, stretch, values, lambda step: steps.shown(step - stretch.first)
        )
        publish = partial(self._publish, stretch, steps, filer.runs.kept, filer)
        if not filer.is_filed:
            changes.carry_out(publish, None, None)
            return
        changes.carry_out(publish, filer.has, partial(filer.write, self._memories.news()))
        self._memories.told()

    def _owned(self, steps: Steps) -> Steps:
        """Return the steps with arrays that nobody can change between file and memory.

        Without a file these are the rewards alone: what is stored is what is added up.
        """
        values, rewards, ended, _ = steps.lanes
        if self._changes.writer is None:
            values = {**values, "reward": rewards.copy()}
            return steps._replace(lanes=Lanes(values, values["reward"], ended, None))
        values = self._changes.owned(values)
        final = None if steps.final is None else self._changes.owned(steps.final)
        return Steps(Lanes(values, values["reward"], ended, None), final, steps.rows)

    def _packed(self, stretch: Stretch, steps: Steps) -> Mapping[int, Any]:
        """Return the runs that a packed store has to seal, where there is no file."""
        store = self._store
        if not isinstance(store, PackedRing):
            return {}
        first = store.first_unsealed(stretch.stream, stretch.first)
        runs = StretchRuns(self._index, store, stretch, steps.lanes.values, first)
        for _ in runs.pack(store.packed_columns):
            pass
        return runs.kept

    def _reserve(self, stretch: Stretch, steps: Steps) -> None:
        """See to it that publishing allocates no memory that could be refused."""
        if stretch.lacks_room():
            self._changes.make_room(stretch.reserve)
        if isinstance(self._finals, Finals) and steps.final is not None:
            ends = int(np.count_nonzero(steps.lanes.ended))
            if self._finals.lacks_room(ends):
                self._changes.make_room(partial(self._finals.reserve_most, ends))

    def _publish(
        self, stretch: Stretch, steps: Steps, sealed: Mapping[int, Any], filer: StretchFiler | None
    ) -> None:
        """Store what is decided; after an interrupt, `EpisodeIndex.mend` and this go on where it came."""
        index, stream = self._index, stretch.stream
        for part in stretch.parts:
            last = part.stop - (part.ended != 0)
            while (head := index.head.item(stream)) < part.stop:
                place, begins = head - stretch.first, part.begins and head == part.first
                index.found = None
                if begins or head == last:
                    self._publish_step(stream, steps, place)
                else:
                    count = min(last - head, index.capacity - head % index.capacity)
                    slot, freed = index.make_room_span(stream, count)
                    if freed:
                        self._finals.release(freed)
                    index.commit_span(stream, slot, steps.lanes.rewards[place : place + count])
        self._store.write_stretch(stream, stretch.first, steps.lanes.values, sealed)
        if filer is not None and filer.complete is not None and isinstance(self._finals, PackedFinals):
            self._hand_over(stream, *filer.complete)

    def _publish_step(self, stream: int, steps: Steps, place: int) -> None:
        """Store the integers of a step, and its final observation."""
        index, shown = self._index, steps.shown(place)
        slot, freed = index.make_room(stream)
        if freed:
            self._finals.release(freed)
        final_slot = NO_FINAL if shown is None else self._finals.put(shown)
        index.commit(stream, slot, steps.lanes.rewards.item(place), steps.lanes.ended.item(place), final_slot)

    def _hand_over(self, stream: int, first: int, stop: int) -> None:
        """Let the file alone hold the final observations that it has by now."""
        index, finals = self._index, self._finals
        assert isinstance(finals, PackedFinals)
        for ordinal in range(max(first, index.dropped.item(stream)), stop):
            row = index.episode_of(stream, ordinal)
            if index.final_slot.item(row) != NO_FINAL:
                finals.filed(index.final_slot.item(row), index.order.item(row))

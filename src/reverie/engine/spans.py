"""Many steps of a stream at once: decided together, one transaction of the file, and published by spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from reverie.engine.changes import Changes
from reverie.engine.memories import Memories
from reverie.engine.steps import Lanes, Steps
from reverie.file import FinalStore, Shown, Store, StretchFiler, StretchRuns, put_ended, write_stretches
from reverie.index import NO_FINAL, EpisodeIndex, Ints, Stretch, reserve_rows, stretches_of
from reverie.store import Finals, PackedFinals, PackedRing


class Filed(NamedTuple):
    """A stretch, and where it goes."""

    stretch: Stretch
    values: Mapping[str, Any]  # (steps, …) by column
    sealed: Mapping[int, Any]  # what a packed store has to be given of each run, by number
    filer: StretchFiler | None  # None without a file


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
        changes = self._changes
        steps = self._owned(steps)
        stretch = Stretch(self._index, stream, steps.lanes.ended)
        if stretch.lacks_room():
            changes.make_room(stretch.reserve)
        self.reserve_finals(0 if steps.final is None else int(np.count_nonzero(steps.lanes.ended)))
        filed = self.filed(stretch, steps.lanes.values, lambda step: steps.shown(step - stretch.first))
        self.carry_out([filed], partial(self._publish_integers, stretch, steps))

    def extend_lanes(self, streams: Ints, rows: list[Lanes]) -> None:
        """Store rows of lanes, one after the other. A buffer that is held to a number of bytes takes each by itself."""
        changes = self._changes
        changes.settle()
        if changes.check is not None:
            changes.check()
        if changes.budget is not None or len(rows) < 2:
            for lanes in rows:
                changes.add_lanes(streams, lanes)
            return
        rows = [
            lanes if lanes.final is None else lanes._replace(final=changes.owned(lanes.final))
            for lanes in rows
        ]
        values = {name: np.stack([lanes.values[name] for lanes in rows]) for name in rows[0].values}
        stretches = stretches_of(self._index, streams, np.stack([lanes.ended for lanes in rows]))
        changes.make_room(partial(reserve_rows, self._index, stretches))
        self.reserve_finals(sum(int(np.count_nonzero(row.ended)) for row in rows if row.final is not None))

        def shown(lane: int, first: int, step: int) -> Mapping[str, Any] | None:
            final = rows[step - first].final
            return None if final is None else {name: column[lane] for name, column in final.items()}

        filed = [
            self.filed(
                stretch,
                {name: column[:, lane] for name, column in values.items()},
                partial(shown, lane, stretch.first),
            )
            for lane, stretch in enumerate(stretches)
        ]
        self.carry_out(filed, partial(self._publish_rows, streams, rows, values["reward"], stretches[0]))

    def _publish_rows(self, streams: Ints, rows: list[Lanes], rewards: Any, stretch: Stretch) -> None:
        """Let the index go on from the heads that it has, row by row; `stretch` is that of the first lane."""
        index = self._index
        while (head := index.head.item(stretch.stream)) < stretch.stop:
            row = head - stretch.first
            index.found = None
            slots, freed = index.make_room_many(streams)
            if freed:
                self._finals.release(freed)
            final, ended = rows[row].final, rows[row].ended
            places = None if final is None else put_ended(self._finals, ended, final)
            index.commit_many(streams, slots, rewards[row], ended, places)

    def filed(self, stretch: Stretch, values: Mapping[str, Any], shown: Shown) -> Filed:
        """Return a stretch with what the file and a packed store need of it."""
        writer, store = self._changes.writer, self._store
        if writer is not None:
            filer = StretchFiler(writer, self._index, store, stretch, values, shown)
            return Filed(stretch, values, filer.runs.kept, filer)
        if not isinstance(store, PackedRing):
            return Filed(stretch, values, {}, None)
        first = store.first_unsealed(stretch.stream, stretch.first)
        runs = StretchRuns(self._index, store, stretch, values, first)
        for _ in runs.pack(store.packed_columns):
            pass
        return Filed(stretch, values, runs.kept, None)

    def carry_out(self, filed: list[Filed], integers: Callable[[], None]) -> None:
        """Write stretches of different streams, and publish them; `integers` publishes all but the bytes."""
        changes = self._changes
        publish = partial(self._publish, filed, integers)
        filers = [each.filer for each in filed if each.filer is not None and each.filer.is_filed]
        if changes.writer is None or not filers:
            changes.carry_out(publish, None, None)
            return
        write = partial(write_stretches, changes.writer, filers, self._memories.news())
        changes.carry_out(publish, lambda: all(filer.has() for filer in filers), write)
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

    def reserve_finals(self, count: int) -> None:
        """See to it that publishing so many final observations allocates no memory that could be refused."""
        if isinstance(self._finals, Finals) and self._finals.lacks_room(count):
            self._changes.make_room(partial(self._finals.reserve_most, count))

    def _publish(self, filed: list[Filed], integers: Callable[[], None]) -> None:
        """Store what is decided. After an interrupt it is called again, once `EpisodeIndex.mend` was."""
        integers()
        for stretch, values, sealed, filer in filed:
            self._store.write_stretch(stretch.stream, stretch.first, values, sealed)
            if filer is not None and filer.complete is not None and isinstance(self._finals, PackedFinals):
                self._hand_over(stretch.stream, *filer.complete)

    def _publish_integers(self, stretch: Stretch, steps: Steps) -> None:
        """Let the index go on from the head that it has, span by span."""
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

"""Every change of a buffer: decided, written to its file, published in memory; in this order, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt

from reverie.engine.budget import Budget
from reverie.engine.memories import Memories
from reverie.engine.steps import Lanes, Step
from reverie.errors import FileError
from reverie.file import FinalStore, ReplayFile, Settings, Store, Told, Writer, put_ended
from reverie.index import NO_FINAL, EpisodeIndex, Eviction, Ints
from reverie.store import Finals, PackedRing

Values = Mapping[str, Any]


# A change that is decided, and maybe not published whole: what publishes it, also a second time once the memory is
# mended, and its arguments; and what asks the file whether it has the change, or None if no file has to have it.
Pending = tuple[Callable[..., object], tuple[Any, ...], Callable[[], bool] | None]


def _nothing() -> None:
    """Publish what changes only how much room there is."""


class Changes:
    """Carries out the changes of one buffer. The caller holds its lock.

    What an interrupt leaves is settled before anything else happens: a change that the file has, or that needs no
    file, is published again as a whole; any other is dropped. So it has happened, or it has not.

    Args:
        settings: of the buffer.
        index, store, finals: the buffer's memory.
        file: its replay file, or None.
        memories: what is remembered beside the steps; the next write brings the file its news.

    Attributes:
        writer: writes to the buffer's file; None without one, and while nothing may be written to it.
        budget: holds the buffer to a number of bytes; None without such a limit.
        check: refuses a change before it is decided; None while the buffer is open and has no file and no budget.
    """

    def __init__(
        self,
        settings: Settings,
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        file: ReplayFile | None,
        memories: Memories,
    ) -> None:
        self._dtypes = {column.name: column.field.dtype for column in settings.stored}
        self._index, self._store, self._finals = index, store, finals
        self._memories = memories
        self._final_room = finals if isinstance(finals, Finals) else None
        self.writer: Writer | None = None
        self.budget = None if settings.max_bytes is None else Budget(settings, index, store, finals, file)
        self.check: Callable[[], None] | None = None
        self.pending: Pending | None = None

    def check_by(self, method: Callable[[], None]) -> None:
        """Have every change checked from here on by a method of an object that knows this one."""
        self.check = _loosely(method)

    # --- the changes -----------------------------------------------------------------------------------

    def add(self, stream: int, step: Step) -> None:
        """Store one step.

        It is the call that comes most often. What most steps need is done here, with few calls.
        """
        if self.pending is not None:
            self.settle()
        index, writer, happened = self._index, self.writer, None
        values, amount, ended, final = step
        if self.check is not None:
            self.check()
            if writer is not None:  # what goes into the file is what memory will hold
                values, final = self.owned(values), None if final is None else self.owned(final)
                happened = partial(writer.has_steps, (stream,), (index.head.item(stream),), None)
        if final is not None or index.begins(stream):
            self._make_room((stream,), final is not None)
        if self.check is not None and not self._is_alone(stream):
            publish = partial(self._publish_step, stream, values, amount, ended, final)
            self._write([stream], partial(list, [(values, ended, final)]), publish)
            return
        index.found = None
        self.pending = self._publish_step, (stream, values, amount, ended, final), happened
        if writer is not None:
            try:
                writer.step(stream, values, ended, final)
            except FileError as error:
                self._was_refused(error)
                raise
        self._publish_step(stream, values, amount, ended, final)
        self.pending = None

    def _is_alone(self, stream: int) -> bool:
        """Whether nothing else has to be written or dropped with the next step of a stream."""
        if self.budget is not None:
            return False
        return self.writer is None or (self.writer.is_single(stream) and not self._memories.news())

    def add_lanes(self, streams: Ints, lanes: Lanes) -> None:
        """Store one step for each of several streams, all or none."""
        if self.pending is not None:
            self.settle()
        values, rewards, ended, final = lanes
        if self.check is not None:
            self.check()
        if self.writer is not None:  # what goes into the file is what memory will hold
            values, final = self.owned(values), None if final is None else self.owned(final)
            rewards = values["reward"]
        else:  # what is stored is what is added up
            values["reward"] = rewards = rewards.copy()
        ends = 0 if final is None else int(np.count_nonzero(ended))
        index = self._index
        if ends or index.seams or np.count_nonzero(index.open_episode[streams] < 0):
            self._make_room(streams.tolist(), ends)
        args = streams, values, rewards, ended, final
        if self.check is None:
            index.found = None
            self.pending = self._publish_lanes, args, None
            self._publish_lanes(*args)
            self.pending = None
        else:
            self._write(
                streams.tolist(), partial(_rows_of, values, ended, final), partial(self._publish_lanes, *args)
            )

    def cut(self, stream: int, final: Values | None) -> None:
        """End the running episode of a stream, if there is one."""
        self.settle()
        row = self._index.open_episode.item(stream)
        if row < 0:
            return
        if final is not None:
            final = self.owned(final)
            self._make_room((), 1)
        publish = partial(self._publish_cut, stream, final)
        writer = self.writer
        if writer is None or not writer.each_step:
            # The file has no more of this episode than the last sealed run: the next one brings the end.
            self.carry_out(publish, None, None)
            return
        number = self._index.order.item(row)
        self.carry_out(
            publish,
            partial(writer.has, partial(writer.file.has_ended, number)),
            partial(writer.cut, stream, final, self._memories.news()),
        )
        self._memories.told()

    def rewrite(self, slots: Ints, values: Values) -> None:
        """Store new values, which nobody else holds, for steps that lie there already."""
        self.settle()
        if not len(slots):
            return
        writer = self.writer
        if writer is None:
            self.carry_out(partial(self._store.rewrite, slots, values), None, None)
            return
        ticket = writer.rewrites + 1
        self.carry_out(
            partial(self._store.rewrite, slots, values),
            partial(writer.has_rewritten, ticket),
            partial(writer.rewrite, slots, values, ticket),
        )

    def replace(self, publish: Callable[[], None]) -> None:
        """Replace all that memory holds, by what `publish` does to the index, and what the file holds.

        While the file cannot be written, nothing else can be done: the two would part company. So `publish` may
        be called again.
        """
        self.settle()
        self._index.found = None
        self.pending = self._publish_all, (publish,), None
        self._publish_all(publish)
        self.pending = None

    # --- how they are carried out ----------------------------------------------------------------------

    def settle(self) -> None:
        """Publish again, or drop, the change that an interrupt came into.

        Raises:
            FileError: whether the file has it cannot be read now.
        """
        if self.pending is None:
            return
        publish, args, happened = self.pending
        if publish != self._publish_all:  # which leaves nothing of what there was
            self._index.mend()
            self._finals.retain(self._index.live_final_slots())
        if isinstance(self._store, PackedRing):
            self._store.recount()
        if self.writer is not None:
            self.writer.resume()
        if happened is None or happened():
            publish(*args)
        self.pending = None

    def carry_out(
        self,
        publish: Callable[[], None],
        happened: Callable[[], bool] | None,
        write: Callable[[], Any] | None,
    ) -> None:
        """Write what is decided, and publish it; `happened` asks the file whether it has it."""
        self._index.found = None
        self.pending = publish, (), happened
        if write is not None:
            try:
                write()
            except FileError as error:
                self._was_refused(error)
                raise
        publish()
        self.pending = None

    def _was_refused(self, error: FileError) -> None:
        """Drop the pending change: nothing was written.

        But memory may be lacking for what follows a write that was done; then the file is asked later.
        """
        if not isinstance(error.__cause__, MemoryError):
            self.pending = None

    def _write(self, streams: list[int], rows: Callable[[], list[Any]], publish: Callable[[], None]) -> None:
        """Tell the file of a step for each of `streams`, hold the budget, and publish."""
        writer, budget = self.writer, self.budget
        beginning = 0 if budget is None else budget.beginning(streams)
        make_room = partial(budget.evictions, beginning) if budget is not None and beginning else None
        evictions: list[Eviction] = []
        heads = [self._index.head.item(stream) for stream in streams]

        def published() -> None:
            for eviction in evictions:
                self._publish_eviction(eviction)
            publish()

        if writer is None:
            if make_room is not None:
                evictions += make_room()
            self.carry_out(published, None, None)
            return

        def happened() -> bool:
            return writer.has_steps(streams, heads, None if make_room is None else evictions)

        def write() -> None:
            if writer.steps(streams, rows(), self._memories.news(), make_room, evictions):
                self._memories.told()

        self.carry_out(published, happened, write)

    def _make_room(self, streams: tuple[int, ...] | list[int], finals: int) -> None:
        """See to it that publishing allocates no memory that could be refused."""
        index = self._index
        begin = streams if len(streams) > 1 or not streams or index.begins(streams[0]) else ()
        if begin and index.lacks_room(begin):
            self.make_room(partial(index.reserve, begin))
        if finals and self._final_room is not None and self._final_room.lacks_room(finals):
            self.make_room(partial(self._final_room.reserve, finals))

    def make_room(self, reserve: Callable[[], None]) -> None:
        """Let `reserve` make room in the index or for final observations."""
        self._index.found = None
        self.pending = _nothing, (), None
        reserve()
        self.pending = None

    def owned(self, values: Values) -> dict[str, Any]:
        """Return copies, so that nobody can change them between file and memory."""
        return {name: np.array(value, self._dtypes[name], order="C") for name, value in values.items()}

    # --- what they are in memory -----------------------------------------------------------------------

    def _publish_step(
        self, stream: int, values: Values, amount: float, ended: int, final: Values | None
    ) -> None:
        index = self._index
        slot, freed = index.make_room(stream)
        if freed:
            self._finals.release(freed)
        place = NO_FINAL if final is None else self._finals.put(final)
        self._store.write(slot, values)
        index.commit(stream, slot, amount, ended, place)

    def _publish_lanes(
        self,
        streams: Ints,
        values: Values,
        rewards: npt.NDArray[np.float32],
        ended: Ints,
        final: Values | None,
    ) -> None:
        index = self._index
        slots, freed = index.make_room_many(streams)
        if freed:
            self._finals.release(freed)
        places = None if final is None else put_ended(self._finals, ended, final)
        self._store.write(slots, values)
        index.commit_many(streams, slots, rewards, ended, places)

    def _publish_cut(self, stream: int, final: Values | None) -> None:
        self._index.cut(stream, NO_FINAL if final is None else self._finals.put(final))

    def _publish_all(self, publish: Callable[[], None]) -> None:
        publish()
        self._finals.retain(self._index.live_final_slots())
        if self.writer is not None:
            with self.writer.file.db.writing():
                self.writer.put_all(self._memories.all())
            self.writer.all_put()

    def _publish_eviction(self, eviction: Eviction) -> None:
        self._finals.release(self._index.evict(eviction.stream, eviction.tail))
        assert isinstance(self._store, PackedRing)  # no other is held to a budget
        self._store.drop_run(eviction.run)


def _rows_of(values: Values, ended: Ints, final: Values | None) -> list[Told]:
    """Return values, end and final observation of each lane's step."""
    return [
        (
            {name: rows[lane] for name, rows in values.items()},
            kind,
            {name: rows[lane] for name, rows in final.items()} if final and kind else None,
        )
        for lane, kind in enumerate(ended.tolist())
    ]


def _loosely(method: Any) -> Callable[[], None]:
    """Return what calls a method and does not keep its object alive.

    If engine and changes knew each other, all memory would wait for the garbage collector once nobody has the buffer.
    """
    known, function = ref(method.__self__), method.__func__

    def call() -> None:
        if (found := known()) is not None:
            function(found)

    return call

"""The engine of a buffer: what there is in memory and in the file, and what is done with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, Origins, StepBatch
from reverie.engine.changes import Changes
from reverie.engine.copies import Copies
from reverie.engine.episodes import EpisodeReader
from reverie.engine.gate import Gate
from reverie.engine.gather import Chosen, Gatherer
from reverie.engine.layout import Layouts
from reverie.engine.memories import Memories
from reverie.engine.plans import Plans
from reverie.engine.selection import Fields, Wanted
from reverie.engine.spans import Extender
from reverie.episode import Episode
from reverie.errors import BufferClosed, FileError, ReplayError, WrongProcess
from reverie.file import (
    Closable,
    Follower,
    Reader,
    ReplayFile,
    Settings,
    Writer,
    close_at_exit,
    make_file,
    make_stores,
    removed_on_error,
    reserve_for,
)
from reverie.index import Anchors, Bools, EpisodeIndex, Ints, Windows, anchors_of
from reverie.process import Shared, own_stream
from reverie.samplers import Sampler, Uniform
from reverie.store import Blocks


class Engine(Shared):
    """Memory, file and samplers of one buffer, which threads take turns at.

    Its verbs take the lock, or the turn to read, themselves; a class around it holds `lock` or `turn` for more
    than one of them. Steps change through `changes` alone, whose caller holds the lock.

    Args:
        settings: of the buffer, checked.
        rng: its generator.
        file: its replay file, or None. `begin` or `resume` says what it has to do with memory.

    Attributes:
        index, store, finals: the memory: integers, steps, final observations.
        changes: adds, cuts, rewrites and replaces steps, in memory and in the file alike.
        extender: adds many steps at once.
        memories: what is remembered beside the steps: random state, samplers, notes.
        gatherer, layouts, plans, origins: what makes a batch of what is drawn.
        closed: whether the buffer was closed. gate: where adds and draws wait for its rate limit, if there is one.
    """

    _instead = "send what it holds, or the path of its file"

    def __init__(self, settings: Settings, rng: np.random.Generator, file: ReplayFile | None) -> None:
        self.settings, self.file = settings, file
        self.index = index = EpisodeIndex(settings.streams, settings.capacity // settings.streams)
        self.store, self.finals = make_stores(settings.residency, settings.stored, index.runs, file)
        self.memories = Memories(rng, index)
        self.changes = Changes(settings, index, self.store, self.finals, file, self.memories)
        self.extender = Extender(self.changes, self.memories, index, self.store, self.finals)
        self.columns = settings.spec.columns()
        self.gatherer = Gatherer(self.columns, index, self.store, self.finals)
        self._reader = EpisodeReader(settings.spec, index, self.gatherer, self.finals)
        self.layouts, self.origins, self._blocks = Layouts(settings.spec), Origins(), Blocks()
        self.plans, self._uniform = Plans(settings.spec, index, self.layouts), Uniform()
        self.closed, self.gate = False, cast(Gate | None, None)
        # Of a buffer of the process that this one was forked from; and whether that one writes to the file.
        self._is_copy = self._was_writer = False
        if file is not None or settings.max_bytes is not None:
            self.changes.check_by(self.check_writable)
        self.share()  # from here on there is a lock, and a turn to read
        self._copies = Copies(self.lock)

    def _forked(self, at_rest: bool) -> None:
        """In a forked child: draw random numbers of its own, and be told of every step, to refuse it."""
        self._is_copy = True
        self.changes.check_by(self.check_writable)
        self._was_writer = self._was_writer or self.changes.writer is not None
        self.changes.writer = None
        own_stream(self.memories.rng)
        super()._forked(at_rest)

    @property
    def path(self) -> Path | None:
        """Where the file is, if there is one."""
        return None if self.file is None else self.file.db.path

    @property
    def nbytes(self) -> int:
        """Bytes of memory that steps, the index and final observations take."""
        return self.store.nbytes + self.index.nbytes + self.finals.nbytes

    # --- the beginning ---------------------------------------------------------------------------------

    @classmethod
    def create(cls, owner: Closable, settings: Settings, rng: np.random.Generator, path: Path | None) -> Self:
        """Return the engine of an empty buffer, and make its file if there is a path.

        Memory stays reserved as long as `owner` lives, which is closed when the program ends.
        """
        reserve_for(owner, settings)
        file = None if path is None else make_file(path, settings, rng)
        with removed_on_error(file):
            engine = cls(settings, rng, file)
            if file is not None:
                close_at_exit(owner, file)
                engine.begin()
            return engine

    @classmethod
    def of_file(cls, owner: Closable, settings: Settings, rng: np.random.Generator, file: ReplayFile) -> Self:
        """Return the engine of a buffer that a file keeps; `resume` fills its memory. `owner` is as in `create`."""
        reserve_for(owner, settings)
        engine = cls(settings, rng, file)
        if file.db.mode != "r":
            close_at_exit(owner, file)
        return engine

    def begin(self, reader: Reader | None = None) -> None:
        """Begin to write to the file, which holds what memory holds: what `reader` loaded, or nothing.

        The episodes that ran when another process was killed at writing end here.
        """
        assert self.file is not None
        writer = self.writer_of(self.file)
        if reader is not None:
            writer.go_on_from(reader)
            self.memories.differ()
        self.changes.writer = writer
        clean = self.file.meta("clean")
        writer.begin()
        if not clean:
            for stream in self._running():
                self.changes.cut(stream, None)

    def resume(self, episodes: str) -> None:
        """Load what the file holds, and go on writing to it unless it is open for reading; see `reverie.open`."""
        assert self.file is not None
        places = self.memories.recall(self.file)
        reader = Reader(self.file, self.settings.stored, self.index, self.store, self.finals, places)
        if self.file.db.mode == "r":
            self.turn = Follower(self.file, reader, self.lock)
            with self.turn:
                return
        reader.load()
        self.begin(reader)
        if episodes == "new":
            self.index.seams.update(self._running())

    def _running(self) -> list[int]:
        """Return the streams whose newest episode has not ended."""
        running: list[int] = np.flatnonzero(self.index.open_episode >= 0).tolist()
        return running

    def writer_of(self, file: ReplayFile) -> Writer:
        """Return what writes what memory holds into a file."""
        settings = self.settings
        return Writer(file, settings.stored, self.index, self.store, self.finals, settings.durability)

    # --- who may ---------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Refuse anything after close; settle what an interrupt left."""
        if self.closed:
            raise BufferClosed("wanted an open buffer, got a closed one; make a new one, or close it later")
        if self._was_writer and self.store.reads_file:
            raise WrongProcess(
                f"{self.path}: wanted the process that writes to the file, got a fork of it, which cannot follow; "
                f"open it there with reverie.open(path, mode='r')"
            )
        self.settle()

    def check_own(self) -> None:
        """Refuse to change what is closed, or a fork's copy: nobody else would see it."""
        self.check_open()
        if self._is_copy:
            raise WrongProcess(
                "wanted a change in the process that made this buffer, got one in a fork, whose copy nobody else "
                "sees; send it to that process and make it there"
            )

    def check_writable(self) -> None:
        """Refuse to write after close, in a fork, and to a file that is open for reading."""
        self.check_own()
        if self.file is not None and self.changes.writer is None:
            raise FileError(
                f"{self.file.db.path}: wanted a buffer open for writing, got one open for reading; "
                f"open it with mode='r+'"
            )

    def settle(self) -> None:
        """Bring to an end what an interrupt left half done."""
        self.memories.settle()
        self.changes.settle()

    # --- drawing ---------------------------------------------------------------------------------------

    def reading(self) -> _Reading:
        """Return what takes the turn to read, and settles what an interrupt left; the buffer may be closed."""
        return _Reading(self)

    def draw(self, wanted: Wanted, out: Batch | None) -> Batch:
        """Return the windows that were asked for; see `ReplayBuffer.sample`."""
        with self.turn:
            self.check_open()
            _, anchors, layout = self.plans.plan(wanted, out)
            batch = layout.allocate(self._blocks) if out is None else out
            sampler = self._uniform if wanted.sampler is None else wanted.sampler
            chosen = self.choose(anchors, wanted.batch_size, wanted.burn_in, sampler)
            self.gatherer.fill(chosen, layout, batch)
            self.memories.used()
        return batch

    def choose(self, anchors: Anchors, count: int, burn_in: int, sampler: Sampler) -> Chosen:
        """Choose windows, in a turn to read; `memories.used` says that the batch has come of it."""
        memories = self.memories
        memories.drawing(sampler)
        drawn = sampler.draw(anchors, memories.rng, count)
        windows = anchors.windows(drawn, burn_in, memories.rng)
        return Chosen(windows, drawn.weight, self.origins.of(sampler))

    def draw_steps(self, batch_size: int, fields: Fields = None) -> StepBatch:
        """Return single steps; see `ReplayBuffer.sample_steps`."""
        with self.turn:
            self.check_open()
            anchors = anchors_of(self.index, "inside", 1)
            self.layouts.get(False, batch_size, 1)  # refuses what is too large
            self.memories.drawing()
            rng = self.memories.rng
            windows = anchors.windows(self._uniform.draw(anchors, rng, batch_size), 0, rng)
            assert isinstance(windows, Windows)
            return self.gatherer.steps(windows, self.settings.spec, fields)

    # --- reading episodes ------------------------------------------------------------------------------

    def episode_places(self) -> tuple[Ints, Ints]:
        """Return stream and ordinal of every live episode now, oldest first."""
        with self.turn:
            self.check_open()
            return self._reader.places()

    def episode_place(self, number: int) -> tuple[int, int]:
        """Return stream and ordinal of one of them, by its number."""
        with self.turn:
            self.check_open()
            return self._reader.place(number)

    def read_episode(self, stream: int, ordinal: int) -> Episode | None:
        """Return an episode by stream and ordinal, or None if it is not live any more."""
        with self.turn:
            self.check_open()
            return self._reader.read(stream, ordinal)

    @contextmanager
    def drawing_with(self, rng: np.random.Generator) -> Iterator[None]:
        """Draw with another generator inside; the buffer's own is as it was when the lock is free again."""
        with self.lock, self.memories.drawing_with(rng):
            yield

    # --- learning from a batch -------------------------------------------------------------------------

    def update(
        self, sampler: Sampler, streams: Ints, anchors: Ints, priorities: npt.NDArray[np.float64]
    ) -> None:
        """Give the live ones of these anchors, (B,) each, checked priorities."""
        with self.turn:
            self.check_own()
            live = self.index.are_live(streams, anchors)
            self.memories.using(sampler)
            if np.count_nonzero(live) < len(live):
                streams, anchors, priorities = streams[live], anchors[live], priorities[live]
            sampler.update(self.index, streams, anchors, priorities)
            self.memories.used()

    def rewrite(self, streams: Ints, mask: Bools, ids: Ints, values: dict[str, Any]) -> None:
        """Store checked values of extra fields for those steps of windows, (B, L), that are real and live."""
        streams = streams[:, None]
        with self.lock:
            self.check_writable()
            real = mask & (ids >= 0) & self.index.are_live(streams, ids)
            chosen = {name: np.asarray(value)[real] for name, value in values.items()}
            self.changes.rewrite(self.index.slots(streams, ids)[real], chosen)

    # --- bringing it to the disk -----------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power, in the file alone, without its log."""
        with self.lock:
            self.check_open()
            if self._was_writer:
                self.check_own()
            if self.changes.writer is not None:
                self._copies.wait()
                self.check_open()  # another thread may have closed it meanwhile
                self._flush(self.changes.writer, clean=False)

    def save_as(self, path: Path, capacity: int | None = None, streams: int | None = None) -> None:
        """Write a copy; others may go on as soon as all of it can be read from the file."""
        self._copies.save(self, path, capacity, streams)

    def close(self) -> None:
        """Flush and close the file. Closing twice is fine."""
        with self.lock:
            self.turn = self.lock  # nothing is read from the file any more
            if self.changes.writer is not None:
                self._copies.wait()
            self.closed = True  # from now on; what follows is done again if it was interrupted
            self.changes.check_by(self.check_writable)
            if self.file is None or self.file.closed:
                return
            try:
                self.settle()
                if self.changes.writer is not None:
                    self._flush(self.changes.writer, clean=True)
                    self.changes.writer = None
            except ReplayError as error:
                if not isinstance(error.__cause__, MemoryError):  # then closing again may succeed
                    self.file.close()
                raise
            self.file.close()

    def _flush(self, writer: Writer, clean: bool) -> None:
        named, arrays = self.memories.unflushed()
        writer.flush(named, arrays, clean)
        self.memories.flushed()


class _Reading:
    """A turn to read: entered it is the index. A generator would take as long as counting windows does."""

    __slots__ = ("_engine", "_turn")

    def __init__(self, engine: Engine) -> None:
        self._engine, self._turn = engine, engine.turn

    def __enter__(self) -> EpisodeIndex:
        self._turn.__enter__()
        try:
            self._engine.settle()
        except BaseException as error:
            self._turn.__exit__(type(error), error, error.__traceback__)
            raise
        return self._engine.index

    def __exit__(self, *error: Any) -> None:
        self._turn.__exit__(*error)

"""What ties a buffer to its replay file, if it has one: every change is told here before memory changes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from reverie.budget import Budget
from reverie.draws import Sampler
from reverie.episodes import EpisodeIndex, Ints
from reverie.errors import BufferClosed, FileError, WrongProcess
from reverie.file import ReplayFile
from reverie.journal import Journal
from reverie.loading import Loader
from reverie.process import own_stream, watch
from reverie.resuming import recall, remember
from reverie.saving import copy_file, copy_memory, snapshot
from reverie.settings import Settings
from reverie.states import Remembered, SamplerStates, generator_state
from reverie.stores import FinalStore, Store

Values = Mapping[str, Any]


class Keeper:
    """Keeps a buffer's file in step with its memory, and its memory within its budget of bytes.

    The caller holds the buffer's lock.

    Args:
        settings: of the buffer.
        rng: its generator.
        index, store, finals: its memory.
        file: its replay file, or None.

    Attributes:
        notes: JSON values by name, for a class around the buffer; they come back after a resume.
    """

    def __init__(self, settings: Settings, rng: np.random.Generator, index: EpisodeIndex, store: Store,
                 finals: FinalStore, file: ReplayFile | None) -> None:  # fmt: skip
        self._settings = settings
        self._rng = rng
        self._index, self._store, self._finals = index, store, finals
        self.file = file
        self.closed = False
        self.notes: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._samplers = SamplerStates()
        self._identity = uuid.uuid4().hex  # by which copies know whose they are
        # Whether random numbers were drawn, and notes taken, that the file does not know of.
        self._drawn = self._noted = False
        limit = settings.max_bytes
        self._budget = None if limit is None else Budget(
            limit, self._used_bytes, settings.raw_run_bytes, self._drop_run, index, store, finals
        )  # fmt: skip
        self._alone = file is None and limit is None  # nobody need be told of a step
        self._is_copy = False  # of a buffer of the process that this one was forked from
        self._was_writer = False  # and that process writes to the file
        watch(self)

    def _forked(self, at_rest: bool) -> None:
        """In a forked child: draw random numbers of its own, and be told of every step, to refuse it."""
        self._is_copy, self._alone = True, False
        self._was_writer = self._was_writer or self._journal is not None
        self._journal = None
        own_stream(self._rng)

    @property
    def path(self) -> Path | None:
        """Where the file is, if there is one."""
        return None if self.file is None else self.file.db.path

    # --- the beginning ---------------------------------------------------------------------------------

    def loader(self) -> Loader:
        """Return what brings the file into memory; samplers' states wait for their samplers from now on."""
        assert self.file is not None
        self.notes, rows = recall(self.file, self._samplers)
        return Loader(self.file, self._settings.stored, self._index, self._store, self._finals, rows)

    def write(self, loader: Loader | None = None) -> None:
        """Begin to write to the file, which holds what memory holds: what `loader` loaded, or nothing."""
        assert self.file is not None
        journal = self._journal_of(self.file)
        if loader is not None:
            journal.go_on_from(loader)
            self._drawn = True  # the generator may have another seed than the file knows
        self._journal = journal

    def was_killed(self) -> bool:
        """Whether the process that wrote to the file before was killed; from now on it is this one."""
        assert self._journal is not None
        clean = self._journal.file.meta("clean")
        self._journal.begin()
        return not clean

    def _journal_of(self, file: ReplayFile) -> Journal:
        settings = self._settings
        return Journal(file, settings.stored, self._index, self._store, self._finals, settings.durability)

    def _used_bytes(self) -> int:
        if self._settings.residency == "disk" and self.file is not None:
            return self.file.db.used_bytes
        return self._store.nbytes + self._index.nbytes + self._finals.nbytes

    def _drop_run(self, number: int) -> None:
        if self._journal is not None:
            self._journal.drop_run(number)

    # --- what happens ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Refuse anything after close."""
        if self.closed:
            raise BufferClosed("wanted an open buffer, got a closed one; make a new one, or close it later")
        if self._was_writer and self._store.reads_file:
            raise WrongProcess(
                f"{self.path}: wanted the process that writes to the file, got a fork of it, which cannot follow; "
                f"open it there with reverie.open(path, mode='r')"
            )

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
        if self.file is not None and self._journal is None:
            raise FileError(
                f"{self.file.db.path}: wanted a buffer open for writing, got one open for reading; "
                f"open it with mode='r+'"
            )

    def step(self, stream: int, values: Values, ended: int, final: Values | None) -> None:
        """A step is about to be stored; refuse it if it cannot be."""
        if self._alone:
            return
        self.check_writable()
        if self._budget is not None:
            self._budget.make_room([stream])
        if self._journal is not None:
            self._told(self._journal.step(stream, values, ended, final, self._news()))

    def lanes(self, streams: Ints, values: Values, ended: Ints, final: Values | None) -> None:
        """A step for each of several streams is about to be stored; refuse it if it cannot be."""
        if self._alone:
            return
        self.check_writable()
        if self._budget is not None:
            self._budget.make_room(streams.tolist())
        if self._journal is not None:
            self._told(self._journal.lanes(streams, values, ended, final, self._news()))

    def cut(self, stream: int, final: Values | None) -> None:
        """The running episode of a stream is about to be cut."""
        if self._journal is not None:
            self._told(self._journal.cut(stream, final, self._news()))

    def rewrite(self, slots: Ints, values: Values) -> None:
        """Steps that lie there already are about to get new values."""
        if self._journal is not None and len(slots):
            self._journal.rewrite(slots, values)

    def replaced(self) -> None:
        """All of memory was replaced."""
        if self._journal is not None:
            with self._journal.file.db.writing():
                self._journal.put_all(self._remember())

    def drawing(self, sampler: Sampler | None = None) -> None:
        """Random numbers are about to be drawn, by a sampler if one is given."""
        self._drawn = True
        if sampler is not None:
            self._samplers.meet(sampler)

    def note(self, **values: Any) -> None:
        """Take notes, which are in the file with the next step."""
        self.notes = {**self.notes, **values}
        self._noted = True

    def _news(self) -> dict[str, Any]:
        """Return what the next write into the file has to bring with it."""
        news: dict[str, Any] = {"notes": self.notes} if self._noted else {}
        if self._drawn:
            news["rng"] = generator_state(self._rng)
        return news

    def _told(self, written: bool) -> None:
        if written:
            self._drawn = self._noted = False

    # --- bringing it to the disk -----------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power."""
        if self._was_writer:
            self.check_own()
        if self._journal is not None:
            self._journal.flush(self._remember())
            self._told(True)

    def save_as(self, path: Path, turn: ExitStack) -> None:
        """Write a copy.

        Args:
            path: of the copy.
            turn: holds the buffer's lock; it is closed as soon as the buffer may change again.
        """
        if self.file is None:
            copy_memory(path, self._identity, self._settings, self._remember(), self._journal_of)
            return
        self.flush()
        with snapshot(self.file.db.path) as source:
            ends = [self._index.tail.tolist(), self._index.head.tolist()]
            turn.close()
            # A reader's memory may be of a moment before that of the snapshot.
            copy_file(source, path, [] if self._journal is None else ends)

    def close(self) -> None:
        """Flush and close the file. Closing twice is fine."""
        if self.closed:
            return
        self.closed, self._alone = True, False
        if self.file is not None:
            try:
                if self._journal is not None:
                    self._journal.flush(self._remember(), clean=True)
            finally:
                self.file.close()

    def _remember(self) -> Remembered:
        return remember(self._rng, self._samplers, self._index, self.notes)

"""What ties a buffer to its replay file, if it has one: every change is told here before memory changes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from reverie.engine.budget import Budget
from reverie.engine.changes import Changes
from reverie.errors import BufferClosed, FileError, FileTaken, ReplayError, WrongProcess
from reverie.file import (
    FinalStore,
    Reader,
    Remembered,
    ReplayFile,
    SamplerStates,
    Settings,
    Store,
    Writer,
    copy_file,
    copy_memory,
    generator_state,
    recall,
    remember,
    remember_rest,
    snapshot,
)
from reverie.index import EpisodeIndex
from reverie.process import own_stream, watch
from reverie.samplers import Sampler


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
        turns: over the buffer's lock.
    """

    def __init__(
        self,
        settings: Settings,
        rng: np.random.Generator,
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        file: ReplayFile | None,
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._index, self._store, self._finals = index, store, finals
        self.file = file
        self.closed = False
        self.notes: dict[str, Any] = {}
        self.turns = threading.Condition()
        self._journal: Writer | None = None
        self._samplers = SamplerStates()
        self._used: Sampler | None = None  # by a draw or an update that is not through
        self._uses = 0  # draws and updates so far
        self._flushed: tuple[int, int, int] | None = (
            None  # episodes begun and dropped, and uses, at the last flush
        )
        self._identity = uuid.uuid4().hex  # by which copies know whose they are
        # Whether random numbers were drawn, and notes taken, that the file does not know of.
        self._drawn = self._noted = False
        self.changes = Changes(settings.stored, index, store, finals)
        self.changes.news, self.changes.told = self._news, self._told
        limit = settings.max_bytes
        if limit is not None:
            self.changes.budget = Budget(
                limit,
                self._used_bytes,
                settings.raw_run_bytes,
                index,
                store,
                finals,
                file,
                settings.residency == "disk",
            )
        if file is not None or limit is not None:
            self.changes.check = self.check_writable
        self._copier: int | None = None  # the thread that copies the file now
        self._is_copy = False  # of a buffer of the process that this one was forked from
        self._was_writer = False  # and that process writes to the file
        watch(self)

    def _forked(self, at_rest: bool) -> None:
        """In a forked child: draw random numbers of its own, and be told of every step, to refuse it."""
        self._is_copy, self.changes.check = True, self.check_writable
        self._was_writer = self._was_writer or self._journal is not None
        self._journal = self.changes.journal = None
        own_stream(self._rng)

    @property
    def path(self) -> Path | None:
        """Where the file is, if there is one."""
        return None if self.file is None else self.file.db.path

    # --- the beginning ---------------------------------------------------------------------------------

    def loader(self) -> Reader:
        """Return what brings the file into memory; samplers' states wait for their samplers from now on."""
        assert self.file is not None
        self.notes, rows = recall(self.file, self._samplers)
        return Reader(self.file, self._settings.stored, self._index, self._store, self._finals, rows)

    def write(self, loader: Reader | None = None) -> None:
        """Begin to write to the file, which holds what memory holds: what `loader` loaded, or nothing."""
        assert self.file is not None
        journal = self._journal_of(self.file)
        if loader is not None:
            journal.go_on_from(loader)
            self._drawn = True  # the generator may have another seed than the file knows
        self._journal = self.changes.journal = journal

    def was_killed(self) -> bool:
        """Whether the process that wrote to the file before was killed; from now on it is this one."""
        assert self._journal is not None
        clean = self._journal.file.meta("clean")
        self._journal.begin()
        return not clean

    def _journal_of(self, file: ReplayFile) -> Writer:
        settings = self._settings
        return Writer(file, settings.stored, self._index, self._store, self._finals, settings.durability)

    def _used_bytes(self) -> int:
        if self._settings.residency == "disk" and self.file is not None:
            return self.file.db.used_bytes
        return self._store.nbytes + self._index.nbytes + self._finals.nbytes

    # --- what happens ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Refuse anything after close; settle what an interrupt left."""
        if self.closed:
            raise BufferClosed("wanted an open buffer, got a closed one; make a new one, or close it later")
        if self._was_writer and self._store.reads_file:
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
        if self.file is not None and self._journal is None:
            raise FileError(
                f"{self.file.db.path}: wanted a buffer open for writing, got one open for reading; "
                f"open it with mode='r+'"
            )

    def replace(self, publish: Callable[[], None]) -> None:
        """Replace all that memory holds, by what `publish` does to the index, and what the file holds.

        While the file cannot be written, nothing else can be done: the two would part company.
        """
        self.changes.replace(publish, self._remember)

    def drawing(self, sampler: Sampler | None = None) -> None:
        """Random numbers are about to be drawn, by a sampler if one is given."""
        self._drawn = True
        if sampler is not None:
            self.using(sampler)
            self._samplers.meet(sampler)

    def using(self, sampler: Sampler) -> None:
        """A sampler is about to change; `used` says that it has."""
        sampler.mark()
        self._uses += 1
        self._used = sampler

    def used(self) -> None:
        """The sampler that is in use has changed as a whole."""
        self._samplers.keep()
        self._used = None

    def settle(self) -> None:
        """Bring to an end what an interrupt left half done."""
        if self._used is not None:
            self._used.rewind()
            self._samplers.rewind()
            self._used = None
        self.changes.settle()

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

    def _told(self) -> None:
        self._drawn = self._noted = False

    # --- bringing it to the disk -----------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power, in the file alone, without its log."""
        if self._was_writer:
            self.check_own()
        if self._journal is not None:
            self._await_copy()
            self.check_open()  # another thread may have closed it meanwhile
            self._flush(clean=False)

    def save_as(self, path: Path, turn: ExitStack) -> None:
        """Write a copy.

        Args:
            path: of the copy.
            turn: holds the buffer's lock; it is closed as soon as the buffer may change again.
        """
        if self.file is None:
            copy_memory(path, self._identity, self._settings, self._remember(), self._journal_of)
            return
        try:
            self.flush()
            astray = self.file.db.is_astray
        except FileError:  # a full disk, say; memory holds everything
            astray = True
        if astray:
            copy_memory(path, self._identity_of_file(), self._settings, self._remember(), self._journal_of)
            return
        try:
            self._copy_file(self.file, path, turn)
        except FileTaken:
            raise
        except FileError:  # of the copy, or of a file that is damaged while what is in memory is not
            if self._journal is None or self._store.reads_file:
                raise
            with self.turns:
                self.check_open()  # others went on meanwhile
                copy_memory(
                    path, self._identity_of_file(), self._settings, self._remember(), self._journal_of
                )

    def _copy_file(self, file: ReplayFile, path: Path, turn: ExitStack) -> None:
        try:
            with snapshot(file.db.place) as source:
                ends = [self._index.tail.tolist(), self._index.head.tolist()]
                if self._journal is not None:
                    self._copier = threading.get_ident()
                turn.close()
                # A reader's memory may be of a moment before that of the snapshot.
                copy_file(source, path, [] if self._journal is None else ends)
        finally:
            with self.turns:
                self._copier = None
                self.turns.notify_all()

    def _identity_of_file(self) -> str:
        """Return the identity by which copies of the file know whose they are."""
        assert self.file is not None
        try:
            return str(self.file.meta("identity"))
        except FileError:  # it is damaged; what is in memory is not
            return self._identity

    def _await_copy(self) -> None:
        """Wait, and let others use the buffer, while another thread copies the file: it needs the log as it is."""
        while self._copier not in (None, threading.get_ident()):
            self.turns.wait()

    def close(self) -> None:
        """Flush and close the file. Closing twice is fine."""
        if self._journal is not None:
            self._await_copy()
        self.closed = True  # from now on; what follows is done again if it was interrupted
        self.changes.check = self.check_writable
        if self.file is None or self.file.closed:
            return
        try:
            self.settle()
            if self._journal is not None:
                self._flush(clean=True)
                self._journal = self.changes.journal = None
        except ReplayError as error:
            if not isinstance(error.__cause__, MemoryError):  # then closing again may succeed
                self.file.close()
            raise
        self.file.close()

    def _flush(self, clean: bool) -> None:
        """Flush; what samplers and episodes came to is told only if that has changed since the last flush."""
        assert self._journal is not None
        index = self._index
        now = index.next_order, int(index.dropped.sum()), self._uses
        named, arrays = (
            self._remember() if now != self._flushed else (remember_rest(self._rng, index, self.notes), None)
        )
        self._journal.flush(named, arrays, clean)
        self._flushed = now
        self._told()

    def _remember(self) -> Remembered:
        return remember(self._rng, self._samplers, self._index, self.notes)

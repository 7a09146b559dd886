"""Copies of a buffer as replay files, made while others go on using it."""

from __future__ import annotations

import threading
import uuid
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from reverie.engine.changes import Changes
from reverie.engine.memories import Memories
from reverie.errors import FileError, FileTaken
from reverie.file import (
    ReplayFile,
    Settings,
    Store,
    Writer,
    copy_file,
    copy_memory,
    resized,
    save_resized,
    snapshot,
)
from reverie.index import EpisodeIndex


class Source(Protocol):
    """What is copied: an engine. It stands here as a protocol, since the engine's module imports this one."""

    turn: Any
    file: ReplayFile | None
    settings: Settings
    index: EpisodeIndex
    store: Store
    changes: Changes
    memories: Memories

    def check_open(self) -> None:
        """Refuse to go on once the buffer is closed."""

    def flush(self) -> None:
        """Bring all there is to the file."""

    def writer_of(self, file: ReplayFile) -> Writer:
        """Return what writes this memory to a file."""


class Copies:
    """Makes the copies of one buffer, one thread at a time.

    Args:
        lock: of the engine.
    """

    def __init__(self, lock: Any) -> None:
        self._turns = threading.Condition(lock)
        self._identity = uuid.uuid4().hex  # by which copies know whose they are
        self._copier: int | None = None  # the thread that copies the file now

    def save(self, engine: Source, path: Path, capacity: int | None, streams: int | None) -> None:
        """Write a copy to `path`, of another size if one is given."""
        if capacity is None and streams is None:
            self._save(engine, path)
            return
        resized(engine.settings, capacity, streams)  # refuses what cannot be before anything is written
        save_resized(path, capacity, streams, partial(self._save, engine))

    def _save(self, engine: Source, path: Path) -> None:
        """Write a copy to `path`; others may go on as soon as all of it can be read from the file."""
        with ExitStack() as turn:
            turn.enter_context(engine.turn)
            engine.check_open()
            if engine.file is None or self._is_lost(engine, engine.file):
                self._copy_memory(engine, path)
                return
            try:
                self._copy_file(engine, engine.file, path, turn)
            except FileTaken:
                raise
            except FileError:  # of the copy, or of a file that is damaged while what is in memory is not
                if engine.changes.writer is None or engine.store.reads_file:
                    raise
                with self._turns:
                    engine.check_open()  # others went on meanwhile
                    self._copy_memory(engine, path)

    def wait(self) -> None:
        """Wait, and let others use the buffer, while another thread copies the file: it needs the log as it is."""
        while self._copier not in (None, threading.get_ident()):
            self._turns.wait()

    def _is_lost(self, engine: Source, file: ReplayFile) -> bool:
        """Whether the file cannot be brought up to date, or is not where it was; memory holds everything."""
        try:
            engine.flush()
            return file.db.is_astray
        except FileError:  # a full disk, say
            return True

    def _copy_memory(self, engine: Source, path: Path) -> None:
        identity = self._identity_of(engine.file)
        copy_memory(path, identity, engine.settings, engine.memories.all(), engine.writer_of)

    def _copy_file(self, engine: Source, file: ReplayFile, path: Path, turn: ExitStack) -> None:
        try:
            with snapshot(file.db.place) as source:
                ends = [engine.index.tail.tolist(), engine.index.head.tolist()]
                if engine.changes.writer is not None:
                    self._copier = threading.get_ident()
                turn.close()
                # A reader's memory may be of a moment before that of the snapshot.
                copy_file(source, path, [] if engine.changes.writer is None else ends)
        finally:
            with self._turns:
                self._copier = None
                self._turns.notify_all()

    def _identity_of(self, file: ReplayFile | None) -> str:
        """Return the identity by which copies know whose they are."""
        if file is None:
            return self._identity
        try:
            return str(file.meta("identity"))
        except FileError:  # it is damaged; what is in memory is not
            return self._identity

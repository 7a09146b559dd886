"""Reads along with a writer in another process: looks for news before every read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from reverie.file.reader import Reader
from reverie.file.tables import ReplayFile
from reverie.process import watch


class Follower:
    """A turn at reading a file that another process may be writing: enter it, read, leave.

    All that is read inside is of one moment: the moment of entering.

    Args:
        file: open for reading.
        reader: brings it into memory.
        lock: of the buffer.
    """

    def __init__(self, file: ReplayFile, reader: Reader, lock: AbstractContextManager[Any]) -> None:
        self._file = file
        self._reader = reader
        self._lock = lock
        self._depth = 0
        self._version = -1  # nothing was loaded yet
        watch(self)

    def _guard(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock

    def _forked(self, at_rest: bool) -> None:
        self._version = -1  # the numbers of another connection mean nothing

    def __enter__(self) -> None:
        self._lock.__enter__()
        try:
            if not self._depth:
                self._file.db.begin()
                version = self._file.db.version
                if version != self._version:
                    self._reader.load()
                    self._version = version
            self._depth += 1
        except BaseException:
            self._file.db.roll_back()
            self._lock.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._file.db.roll_back()
        self._lock.__exit__(None, None, None)

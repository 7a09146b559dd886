"""Reads along with a writer in another process: looks for news before every read."""

from __future__ import annotations

import threading
from types import TracebackType

from reverie.file import ReplayFile
from reverie.loading import Loader


class Follower:
    """A turn at reading a file that another process may be writing: enter it, read, leave.

    All that is read inside is of one moment: the moment of entering.

    Args:
        file: open for reading.
        loader: brings it into memory.
        lock: of the buffer.
    """

    def __init__(self, file: ReplayFile, loader: Loader, lock: threading.RLock) -> None:
        self._file = file
        self._loader = loader
        self._lock = lock
        self._depth = 0
        self._version = -1  # nothing was loaded yet

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if not self._depth:
                self._file.db.begin()
                version = self._file.db.version
                if version != self._version:
                    self._loader.load()
                    self._version = version
            self._depth += 1
        except BaseException:
            self._file.db.roll_back()
            self._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._depth -= 1
        if not self._depth:
            self._file.db.roll_back()
        self._lock.release()

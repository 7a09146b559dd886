"""One writer at a time: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from reverie.errors import FileError


class WriterLock:
    """Holds `path-lock` for the process that writes to `path`, and says in it which process that is.

    The operating system lets go of it when the process ends, however it ends. On systems without flock there
    is no lock.

    Raises:
        FileError: another buffer writes there; the message names its process.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-lock")
        self._handle: int | None = None
        self._pid = os.getpid()
        try:
            import fcntl
        except ImportError:  # pragma: no cover - Windows
            return
        while self._handle is None:
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise FileError(
                    f"{path}: wanted to write, got {error.strerror} for {self._path.name}; "
                    f"change the permissions of the folder, or open it with mode='r'"
                ) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(handle, 1000)
                os.close(handle)
                raise FileError(
                    f"{path}: wanted to be its only writer, got {_named(owner)} writing there; "
                    f"close that one first, or read along with mode='r'"
                ) from error
            # The one who had it may have removed its name just before: then this is nobody's lock.
            with contextlib.suppress(OSError):
                if os.fstat(handle).st_ino == os.stat(self._path).st_ino:
                    self._handle = handle
            if self._handle is None:
                os.close(handle)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def release(self) -> None:
        """Let others write. Twice is fine."""
        if self._handle is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._handle)
            self._handle = None


def _named(owner: bytes) -> str:
    try:
        found = json.loads(owner)
        return f"process {int(found['pid'])} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"

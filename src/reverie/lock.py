"""One writer at a time: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import weakref
from pathlib import Path

from reverie.errors import FileError
from reverie.printable import printable

MOST_OWNER = 1000  # bytes that are read of what a lock says about its owner


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
                owner = os.read(handle, MOST_OWNER)
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
        _held.add(self)
        with contextlib.suppress(
            OSError
        ):  # it holds on a full disk, too, where it has no room to say for whom
            os.ftruncate(self._handle, 0)
            os.write(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    @property
    def held(self) -> bool:
        """Whether it keeps others out: not on a system without flock."""
        return self._handle is not None

    def release(self) -> None:
        """Let others write. Twice is fine."""
        if self._handle is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._handle)
            self._handle = None

    def leave(self) -> None:
        """Let go of what a fork was born with: it would keep the file locked when its parent was killed."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _leave_all() -> None:
    for lock in list(_held):
        lock.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


def put_in_place(draft: Path, path: Path) -> WriterLock:
    """Give a finished file its name, and return the lock of its writer.

    Raises:
        FileExistsError: there is something of that name.
        FileError: a process still writes to a file that had it.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    lock = WriterLock(path)
    try:
        if not os.path.lexists(path):  # not meanwhile either
            remove_logs(path)
        os.link(draft, path)
    except BaseException:
        lock.release()
        raise
    return lock


def remove_logs(path: Path) -> None:
    """Remove the logs of a file that is no more: SQLite would take them for those of the next of its name."""
    for suffix in ("-wal", "-journal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()


def discard(path: Path) -> None:
    """Remove a file that nobody uses, if it is there, and its logs."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        remove_logs(path)


def discard_left(folder: Path, prefix: str) -> None:
    """Remove the drafts `prefix` + number whose writers were killed: those that nobody has locked."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.name[len(prefix) :].isdigit():
            with contextlib.suppress(FileError):  # somebody writes there
                lock = WriterLock(path)
                if lock.held:
                    discard(path)
                lock.release()


def writing_process(path: Path) -> str | None:
    """Return the name of the process that says it writes to `path`, if it is there still; or None.

    It only reads: to try the lock would be in a writer's way who comes at that moment. Of another computer's
    processes nothing is known but that they took the lock and did not let go of it.
    """
    owner = _owner(_read(Path(f"{path}-lock")))
    if owner is None:
        return None
    pid, host = owner
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)  # sends nothing, and fails if there is no such process
        except PermissionError:
            pass  # there is one, of another user
        except OSError:
            return None
    return f"process {pid} on {printable(host, 100)}"


def _read(path: Path) -> bytes:
    """Return how a file begins, or nothing if there is none. Another program's pipe is not waited for."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(handle, MOST_OWNER)
        finally:
            os.close(handle)
    return b""


def _owner(said: bytes) -> tuple[int, str] | None:
    """Return number and computer of the process that wrote this into a lock, if it is one."""
    try:
        found = json.loads(said)
        pid, host = found["pid"], found["host"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if type(pid) is not int or type(host) is not str or not 0 < pid < 2**31:
        return None
    return pid, host


def _named(said: bytes) -> str:
    owner = _owner(said)
    return "another process" if owner is None else f"process {owner[0]} on {printable(owner[1], 100)}"


def check_neighbours(path: Path) -> None:
    """Refuse a file beside which, under a name of SQLite's, lies what would be waited for without an end: a pipe."""
    for suffix in ("-journal", "-wal", "-shm", "-lock"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISREG(os.stat(f"{path}{suffix}").st_mode):
                raise FileError(
                    f"{path}: wanted a file or nothing under the name {path.name}{suffix}, got something else; "
                    f"remove it"
                )

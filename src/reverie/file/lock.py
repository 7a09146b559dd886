"""One writer at a time: a lock on the file itself, whatever its names, that no killed process leaves behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import stat
import struct
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

from reverie.errors import FileError
from reverie.file.place import borrow, discard, give_back, inode, inode_of, remove_logs, sync_folder
from reverie.process import watch

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # elsewhere it is a module

# Where the locked byte lies: beyond those that SQLite locks, and beyond the end of any file.
PLACE = 2**62
RECORD = "hhqqi"  # struct flock of Linux: type, whence, start, length, process
TAKEN = (errno.EAGAIN, errno.EACCES)
NOTE_BYTES = 1000


class WriterLock:
    """Keeps others from writing to the file at `place`; the file `place-lock` says which process holds it.

    It belongs to the file, not to a name: other names and links of the file are locked, too, and what becomes of
    `place-lock` changes nothing. The operating system lets go of it when the process ends, however it ends.

    On Linux it is a lock of the open file on one byte that SQLite does not use, so that it is in nobody's way,
    on a network's disk neither. Elsewhere `place-lock` is locked, for a lock on the file would keep SQLite out.
    On systems without flock there is no lock.

    Args:
        path: of the file, as the user knows it.
        place: where it lies; None means at `path`.
        draft: where it lies still, if it is to be put there with `put_in_place`.

    Raises:
        FileError: another buffer writes there; the message names its process. Or there are no locks here.
    """

    def __init__(self, path: Path, place: Path | None = None, draft: Path | None = None) -> None:
        place = path if place is None else place
        self._note = Path(f"{place}-lock")
        self._noted = False
        self._handle: int | None = None
        self._pid = os.getpid()
        if fcntl is None:  # pragma: no cover - Windows
            return
        locked = (place if draft is None else draft) if _of_open_files() else self._note
        watch(self._forked)
        for last in (False, True):
            try:
                if locked == self._note:
                    os.close(_open_note(self._note))
                taken = self._try(locked)
            except OSError as error:
                self._give_back()
                raise FileError(
                    f"{path}: wanted to write, got {error.strerror} for {locked.name}; "
                    f"change the permissions of the file and its folder, or open it with mode='r'"
                ) from error
            if taken is None:
                break
            if last or taken.errno not in TAKEN:
                raise self._refused(path, taken) from taken
            gc.collect()  # an interrupt may have left a buffer of this process that nobody can reach
            _release_orphans()
        if draft is None:
            self.note()

    def _try(self, locked: Path) -> OSError | None:
        """Take the lock; return why the system refuses it, if it does."""
        while True:
            self._handle = borrow(locked, write=True)
            _owners[self._handle] = weakref.ref(self)
            try:
                _take(self._handle)
            except OSError as error:
                self._give_back()
                return error
            # It may have been replaced just before: then this is nobody's lock.
            if inode_of(self._handle) == inode(locked):
                return None
            self._give_back()

    @property
    def held(self) -> bool:
        """Whether it keeps others out: not on a system without flock."""
        return self._handle is not None

    def note(self) -> None:
        """Say beside the file which process writes to it."""
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        # The lock holds without it, on a full disk or where something odd has its name.
        with suppress(OSError):
            handle = _open_note(self._note)
            self._noted = True
            try:
                os.ftruncate(handle, 0)
                os.write(handle, text)
            finally:
                os.close(handle)

    def release(self) -> None:
        """Let others write. Twice is fine."""
        if self._handle is not None and self._pid == os.getpid():
            self._remove_note()
            _let_go(self._handle)
            self._give_back()

    def _give_back(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            _owners.pop(handle, None)
            give_back(handle, write=True)

    def __del__(self) -> None:
        self.release()  # an interrupt came before somebody had it who would have released it

    def _forked(self, at_rest: bool) -> None:
        # A fork is born with the handle, and would keep the file locked when its parent was killed.
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _refused(self, path: Path, error: OSError) -> FileError:
        if error.errno in TAKEN:
            return FileError(
                f"{path}: wanted to be its only writer, got {_named(_read_note(self._note))} writing there; "
                f"close that one first, or read along with mode='r'"
            )
        return FileError(
            f"{path}: wanted to lock the file for its only writer, got a file system without locks "
            f"({error.strerror}); put the file on a local disk"
        )

    def _remove_note(self) -> None:
        if self._noted or not _of_open_files():
            with suppress(OSError):
                self._note.unlink()


_owners: dict[int, weakref.ref[WriterLock]] = {}  # handle of a file -> the lock that it is for


def _release_orphans() -> None:
    """Let go of what locks held that are no more: an interrupt may have come even into their release."""
    for handle, owner in list(_owners.items()):
        if owner() is None:
            _let_go(handle)
            del _owners[handle]
            give_back(handle, write=True)


def put_in_place(draft: Path, path: Path, place: Path) -> WriterLock:
    """Give a finished file its name, and return the lock of its writer.

    Args:
        draft: where it lies.
        path: the name that it gets, as the user knows it; place: the same, resolved.

    Raises:
        FileExistsError: there is something of that name.
    """
    lock = WriterLock(path, place, draft)
    try:
        os.link(draft, place)
        try:
            lock.note()
            remove_logs(place)  # of a file that had this name once; whoever was not the first is out by now
        except BaseException:
            os.unlink(place)
            raise
    except BaseException:
        lock.release()
        raise
    return lock


def replace_in_place(draft: Path, path: Path, place: Path) -> WriterLock:
    """Let a finished file take the place of another, and return the lock of its writer.

    At every instant there is the one or the other, whole. Whoever has the other one open notices that it has gone.

    Args:
        draft: where it lies, on the same disk.
        path: the name that it gets, as the user knows it; place: the same, resolved. The file there is closed, its log
            is empty, and the caller holds its lock.
    """
    lock = WriterLock(path, place, draft)
    try:
        found = os.stat(place)
        with suppress(OSError, AttributeError):  # who may do so keeps it whose it was; Windows has no owners
            os.chown(draft, found.st_uid, found.st_gid)
        os.chmod(draft, stat.S_IMODE(found.st_mode))
        remove_logs(place)
        os.replace(draft, place)
        remove_logs(place)  # a reader may have come between
        sync_folder(place.parent)
    except BaseException:
        lock.release()
        raise
    return lock


NEW = ".new-"  # and a number: a file that is made empty
LONG_S = 600.0  # nobody needs so long to make one


def discard_left(folder: Path, prefix: str) -> None:
    """Remove the drafts `prefix` + number whose writers were killed: those that nobody has locked.

    A draft of an empty file, `.new-` + number, is not locked, and is made in no time: an old one belongs to nobody.
    """
    for path in folder.iterdir():
        if not path.name.startswith(prefix):
            continue
        number, *of_empty = path.name[len(prefix) :].split(NEW)
        if of_empty or prefix.endswith(NEW):
            with suppress(FileNotFoundError):
                if "".join([number, *of_empty]).isdigit() and time.time() - path.stat().st_mtime > LONG_S:
                    discard(path)
        elif number.isdigit() and path.is_file():
            try:
                lock = WriterLock(path)
            except FileError:  # somebody writes there
                continue
            if lock.held:
                discard(path)
            lock.release()


def writing_process(path: Path) -> str | None:
    """Return the name of the process that writes to `path`, or None.

    It only looks: to try the lock would be in a writer's way who comes at that moment. Where locks cannot be
    looked at, it is the process that says so in `path-lock`, if that runs still; of another computer's
    processes nothing is known but that they took the lock and did not let go of it.
    """
    place = Path(os.path.realpath(path))
    note = _read_note(Path(f"{place}-lock"))
    try:
        if _of_open_files():
            handle = borrow(place, write=False)
            try:
                return _named(note) if _is_taken(handle) else None
            finally:
                give_back(handle, write=False)
    except OSError:
        pass
    try:
        found = json.loads(note)
        if found["host"] == socket.gethostname():
            os.kill(_process(found), 0)  # sends nothing, and fails if there is no such process
    except PermissionError:
        pass  # there is one, of another user
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return _named(note)


# --- the lock ----------------------------------------------------------------------------------------------


def _of_open_files() -> bool:
    """Whether there are locks that belong to an open file and do not meet those of SQLite."""
    return sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")


def _take(handle: int) -> None:
    if not _of_open_files():
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(RECORD, fcntl.F_WRLCK, 0, PLACE, 1, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Some systems that behave like Linux know flock alone; there it does not meet those of SQLite, either.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go(handle: int) -> None:
    if _of_open_files():
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(RECORD, fcntl.F_UNLCK, 0, PLACE, 1, 0))
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)


def _is_taken(handle: int) -> bool:
    """Whether another open file has the lock.

    Raises:
        OSError: nobody can tell.
    """
    record = struct.pack(RECORD, fcntl.F_WRLCK, 0, PLACE, 1, 0)
    found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, record)
    return bool(struct.unpack(RECORD, found[: len(record)])[0] != fcntl.F_UNLCK)


# --- the note ----------------------------------------------------------------------------------------------


def _open_note(path: Path) -> int:
    """Open a note for writing; a pipe, a link or a folder of its name is an OSError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "something that is no file")
    return handle


def _read_note(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return b""
    try:
        return os.read(handle, NOTE_BYTES)
    except OSError:
        return b""
    finally:
        os.close(handle)


def _process(found: dict[str, object]) -> int:
    number = found["pid"]
    if type(number) is not int or not 0 < number < 2**31:
        raise ValueError("no number of a process")
    return number


def _named(note: bytes) -> str:
    try:
        found = json.loads(note)
        host = found["host"]
        if type(host) is str and host.isascii() and host.isprintable():
            return f"process {_process(found)} on {host}"
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return "another process"

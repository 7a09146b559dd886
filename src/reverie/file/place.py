"""The place of a replay file: what its path leads to, the names beside it, and descriptors of what lies there."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reverie.errors import FileError, FileMissing, FileTaken, ReplayError

Inode = tuple[int, int]
# It is closed in another program, and a pipe is not waited for.
FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
LOGS = ("-wal", "-journal", "-shm")  # what SQLite puts beside a file
# The longest that is put behind the name of a file that is there, is being made, or is being copied to.
BESIDE, BESIDE_NEW, BESIDE_COPY = "-journal", ".new-4194304-journal", ".saving-4194304.new-4194304-journal"
PATH_BYTES = 504  # SQLite takes no longer path


@contextmanager
def path_errors(path: Path, wanted: str) -> Iterator[None]:
    """Raise as a FileError what the system says about a path; but that a name is taken stays what it is."""
    try:
        yield
    except (ReplayError, FileExistsError):
        raise
    except FileNotFoundError as error:
        raise FileMissing(f"{path}: wanted {wanted}, got no such place; check the path") from error
    except PermissionError as error:
        raise FileError(
            f"{path}: wanted {wanted}, got no permission; change the permissions of its folders"
        ) from error
    except ValueError as error:  # a zero byte in it
        raise FileError(f"{path}: wanted {wanted}, got a path that cannot be ({error}); check it") from error
    except OSError as error:
        raise FileError(
            f"{path}: wanted {wanted}, got {error.strerror or error}; choose another path"
        ) from error


def existing(path: Path) -> Path:
    """Return where a replay file lies, symbolic links resolved: SQLite puts its log there.

    Raises:
        FileMissing: there is none. FileError: it is no file, or cannot be reached.
    """
    with path_errors(path, "a replay file"):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileMissing(
                f"{path}: wanted a replay file, got no file; check the path, or make a buffer"
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{path}: wanted a replay file, got a folder or device; check the path")
        place = Path(os.path.realpath(path))
        _check_length(path, place, BESIDE)
        _check_logs(path, place)
    return place


def vacant(path: Path, beside: str = BESIDE_NEW) -> Path:
    """Return where a new replay file is to lie, with room for `beside` behind its name.

    Raises:
        FileTaken: there is something already. FileMissing: its folder is not there.
        FileError: it cannot lie there.
    """
    with path_errors(path, "a place for a new file"):
        folder = Path(os.path.realpath(path.parent))
        try:
            is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_folder = False
        if not is_folder:
            raise FileMissing(
                f"{path}: wanted a folder to put it in, got none; make {os.fspath(path.parent)!r}"
            )
        place = folder / path.name
        with suppress(FileNotFoundError):
            os.lstat(place)
            raise FileTaken(
                f"{path}: wanted a path that is free, got one that exists; "
                f"reverie.open resumes it, and nothing is ever overwritten"
            )
        _check_length(path, place, beside)
        _check_logs(path, place)
    return place


def is_there(path: Path) -> bool:
    """Whether there is something at a path.

    Raises:
        FileError: nobody can tell, since the path cannot be walked.
    """
    with path_errors(path, "a path to write to"):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def inode(place: str | Path) -> Inode | None:
    """Return which file lies at a place, whatever names it has; None if there is none."""
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def log_bytes(place: Path) -> int | None:
    """Return the size of the log beside a file, or None if there is none."""
    try:
        return os.stat(f"{place}-wal").st_size
    except OSError:
        return None


def remove_logs(place: Path) -> None:
    """Remove the logs of a file that is no more: SQLite would take them for those of the next of its name."""
    for suffix in LOGS:
        with suppress(FileNotFoundError):
            os.unlink(f"{place}{suffix}")


def discard(place: Path) -> None:
    """Remove a file that nobody uses, if it is there, and its logs."""
    with suppress(OSError):
        place.unlink(missing_ok=True)
        remove_logs(place)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_length(path: Path, place: Path, suffix: str) -> None:
    """Refuse a name behind which no room is left for `suffix`, and a path that is too long for SQLite."""
    try:
        most = os.pathconf(place.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        most = 255
    most -= len(suffix)
    got = len(os.fsencode(place.name))
    if got > most:
        raise FileError(
            f"{path}: wanted a name of at most {most} bytes, so that those of its log and drafts fit, too, "
            f"got {got}; choose a shorter one"
        )
    got = len(os.fsencode(place))
    if got + len(suffix) - len(BESIDE) > PATH_BYTES:
        raise FileError(
            f"{path}: wanted a path of at most {PATH_BYTES + len(BESIDE) - len(suffix)} bytes, "
            f"which SQLite can take, got {got}; choose a shorter one"
        )


def _check_logs(path: Path, place: Path) -> None:
    """Refuse a pipe or a folder in place of a log: SQLite would wait for it for ever, or stumble over it."""
    for suffix in LOGS:
        try:
            found = os.lstat(f"{place}{suffix}")
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise FileError(
                f"{path}: wanted a log beside it, got something that is no file at {place.name}{suffix}; "
                f"remove that"
            )


# --- descriptors ---------------------------------------------------------------------------------------------

# When a process closes any descriptor of a file, the system drops all POSIX locks that this process has on the file,
# those of SQLite included. So a descriptor waits here until the last connection to its file is closed.
_turn = threading.RLock()
_connections: Counter[Inode] = Counter()  # file -> connections of this process
# file -> descriptors that nobody uses, and whether they are open for writing, too
_waiting: defaultdict[Inode, list[tuple[int, bool]]] = defaultdict(list)


def connected(inode: Inode | None) -> None:
    """Take note of a connection to a file; None is one that was gone at once."""
    with _turn:
        if inode is not None:
            _connections[inode] += 1


def disconnected(inode: Inode | None, process: int) -> None:
    """Take note that a connection that a process made is closed, and close what waits for the last one."""
    if inode is None or process != os.getpid():  # a fork has its parent's connections, which do not count
        return
    with _turn:
        _connections[inode] -= 1
        if _connections[inode] <= 0:
            del _connections[inode]
            for handle, _ in _waiting.pop(inode, ()):
                _close(handle)


def borrow(place: str | os.PathLike[str], write: bool) -> int:
    """Return a descriptor of a file, for reading or for both, which is to be given back.

    Raises:
        OSError: it cannot be opened.
    """
    found = os.stat(place)
    with _turn:
        # Looked for before one is opened: what is opened beside a connection cannot be closed at once.
        waiting = _waiting.get((found.st_dev, found.st_ino), [])
        for one in waiting:
            if one[1] == write:
                waiting.remove(one)
                return one[0]
    return os.open(place, (os.O_RDWR if write else os.O_RDONLY) | FLAGS)


def give_back(handle: int, write: bool) -> None:
    """Close a descriptor, now or when no connection needs the locks on its file any more."""
    with _turn:
        try:
            inode = inode_of(handle)
        except OSError:  # nobody can tell what it is of
            _close(handle)
            return
        if _connections[inode] > 0:
            _waiting[inode].append((handle, write))
        else:
            _close(handle)


def inode_of(handle: int) -> Inode:
    """Return which file a descriptor is of."""
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def _close(handle: int) -> None:
    with suppress(OSError):
        os.close(handle)


def _forget_all() -> None:
    """In a fork: its parent's locks are not its own, and its parent's descriptors must not keep locks alive."""
    global _turn
    _turn = threading.RLock()
    for handles in _waiting.values():
        for handle, _ in handles:
            _close(handle)
    _waiting.clear()
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)

"""Descriptors of files that SQLite has open: none is closed while a connection needs its locks.

When a process closes any descriptor of a file, the system drops all POSIX locks that this process has on the
file, those of SQLite included. So a descriptor waits here until the last connection to its file is closed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from contextlib import suppress

Inode = tuple[int, int]
# It is closed in another program, and a pipe is not waited for.
FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

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

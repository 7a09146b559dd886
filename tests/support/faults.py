"""What may go wrong while a call runs: an exception at any line, a refusal or the end at any system call."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import opcode
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from cProfile import Profile
from pathlib import Path
from types import FrameType
from typing import Any

import reverie as rv
from support.recorder import Event, Recorder, Vfs, library

PACKAGE = os.path.dirname(rv.__file__) + os.sep
SQLITE_IOERR_FSYNC = 1034


# --- lines -------------------------------------------------------------------------------------------------


class Lines:
    """Acts before some line of reverie that calls come to, and maybe before a later one again.

    All files of the package count, and so does every line: of `finally` and `except`, too. Only where Python looks
    for no signal and needs no memory it waits for the next line: at the word `try`, and between the last line of
    a `with` block and the call of `__exit__`.

    Args:
        act: what it returns, if anything, is raised there.
        at: how many lines after the last time, for each time.

    Attributes:
        seen: how many lines there were.
        left: how many times are still to come.
    """

    def __init__(self, act: Callable[[], type[BaseException] | None], *at: int) -> None:
        self._act, self._at = act, list(at)
        self.seen, self.left = 0, len(at)

    def run(self, call: Callable[[], object]) -> None:
        """Run `call`, whose lines count on from those of the last one."""
        before = sys.gettrace(), sys.getprofile()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            if sys.getprofile() is not before[1]:
                if isinstance(before[1], Profile):  # one that is written in C sets itself
                    before[1].enable()
                else:
                    sys.setprofile(before[1])
            sys.settrace(before[0])

    def _enter(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.seen += 1
            if self._at:
                self._at[0] -= 1
                if self._at[0] <= 0 and not _is_deaf(frame):
                    del self._at[0]
                    self.left -= 1
                    wrong = self._act()
                    if wrong is not None:
                        if self._at:  # Python stops tracing where a tracer raises
                            sys.setprofile(self._trace_again)
                        raise wrong
        return self._line

    def _trace_again(self, frame: FrameType | None, event: str, _: object) -> None:
        """Go on tracing, from the first call or return of whatever handles the exception."""
        sys.setprofile(None)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                frame.f_trace = self._line
            frame = frame.f_back
        sys.settrace(self._enter)


_LOAD, _SWAP, _NOP, _CAUGHT = (opcode.opmap[name] for name in ("LOAD_CONST", "SWAP", "NOP", "PUSH_EXC_INFO"))


def _is_deaf(frame: FrameType) -> bool:
    """Whether nothing can be raised where a frame is: it enters a `try`, or is about to call `__exit__`."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] == _NOP:
        return True
    if code[at] == _CAUGHT:
        return opcode.opname[code[at + 2]] == "WITH_EXCEPT_START"
    if code[at] == _SWAP:
        at += 2
    places = [place for place in (at, at + 2, at + 4) if place + 1 < len(code)]
    nothing = [code[place] == _LOAD and frame.f_code.co_consts[code[place + 1]] is None for place in places]
    return len(nothing) == 3 and all(nothing)


# --- system calls ------------------------------------------------------------------------------------------

_int, _long, _pointer, _text = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
SQLITE_CALLS = {
    "open": (_int, _pointer, _int, _int), "access": (_int, _pointer, _int), "stat": (_int, _pointer, _pointer),
    "lstat": (_int, _pointer, _pointer), "fstat": (_int, _int, _pointer), "ftruncate": (_int, _int, _long),
    "fcntl": (_int, _int, _int, _pointer), "read": (_long, _int, _pointer, _long),
    "pread": (_long, _int, _pointer, _long, _long), "pread64": (_long, _int, _pointer, _long, _long),
    "write": (_long, _int, _pointer, _long), "pwrite": (_long, _int, _pointer, _long, _long),
    "pwrite64": (_long, _int, _pointer, _long, _long), "fallocate": (_int, _int, _long, _long),
    "unlink": (_int, _pointer), "openDirectory": (_int, _pointer, _pointer),
    "mmap": (_pointer, _pointer, _long, _int, _int, _int, _long),
}  # fmt: skip
OWN_CALLS = {os: ("open", "read", "pread", "write", "pwrite", "ftruncate", "truncate", "fsync", "fdatasync", "link", "symlink",
                  "unlink", "remove", "rename", "replace", "stat", "lstat", "fstat", "listdir", "scandir", "mkdir", "rmdir",
                  "access", "chmod"),
             fcntl: ("flock", "lockf", "fcntl")}  # fmt: skip

_LOCKS = {fcntl.F_SETLK, fcntl.F_SETLKW, getattr(fcntl, "F_OFD_SETLK", 37)}

_grow = {"write", "pwrite", "pwrite64", "fallocate", "ftruncate", "create", "link", "mkdir", "symlink"}
_change = _grow | {"unlink", "remove", "rename", "replace", "rmdir", "open to write", "truncate"}
# The error -> the calls that may come to it; None: every one but those that give a lock back, which no system refuses.
ERRORS: dict[str, tuple[int, set[str] | None]] = {
    "ENOSPC": (errno.ENOSPC, _grow), "EIO": (errno.EIO, None), "EROFS": (errno.EROFS, _change),
}  # fmt: skip


class SystemCalls:
    """Counts the system calls of SQLite and of reverie, and makes one of them fail or the last.

    Only calls that touch `folder`, or a file that is open, count. Connections have to be made inside of `watching`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self._at, self._seen, self._act, self._kinds = 0, 0, 0, None
        self._on = False
        self._made: list[tuple[str, ...]] = []  # what each call went by

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what connections that are made inside sync."""
        _syncs.see = self._synced
        with _syncs.recorder():
            yield

    def run(self, call: Callable[[], object], at: int, fault: str) -> None:
        """Run `call` with a fault, of ERRORS or "kill", at the system call `at` of those it may come to, from 1."""
        error, kinds = (-1, None) if fault == "kill" else ERRORS[fault]
        self._at, self._act, self._kinds, self._seen = at, error, kinds, 0
        with self._replaced():
            self._on = True
            try:
                call()
            finally:
                self._on = False

    def count(self, call: Callable[[], object]) -> dict[str, int]:
        """Run `call`; return at how many of its system calls each fault may come."""
        self._made = []
        self.run(call, 0, "kill")
        may = {
            fault: sum(
                "unlock" not in names and (kinds is None or not kinds.isdisjoint(names))
                for names in self._made
            )
            for fault, (_, kinds) in ERRORS.items()
        }
        return {**may, "kill": len(self._made)}

    @property
    def came(self) -> bool:
        """Whether the fault came."""
        return self._at <= self._seen

    def _fails(self, *names: str) -> int:
        """Take note of a call that goes by these names; return the error it has to come to, or 0."""
        if not self._on:
            return 0
        self._made.append(names)
        if self._kinds is not None and self._kinds.isdisjoint(names):
            return 0
        if self._act >= 0 and "unlock" in names:
            return 0
        self._seen += 1
        if self._seen != self._at:
            return 0
        if self._act < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._act

    def _synced(self, event: Event) -> int | None:
        return SQLITE_IOERR_FSYNC if event[0] == "sync" and self._fails("fsync") else None

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        kept = []  # SQLite calls them
        replaced = []
        for name, signature in SQLITE_CALLS.items():
            original = _get_call(_vfs, name.encode())
            if original:
                theirs = ctypes.CFUNCTYPE(*signature, use_errno=True)
                ours = theirs(self._instead(name, theirs(original), signature[0]))
                kept.append(ours)
                replaced.append((name, original))
                _set_call(_vfs, name.encode(), ctypes.cast(ours, _pointer))
        before = {
            (module, name): getattr(module, name) for module, names in OWN_CALLS.items() for name in names
        }
        for (module, name), function in before.items():
            setattr(module, name, self._own(name, function))
        try:
            yield
        finally:
            for (module, name), function in before.items():
                setattr(module, name, function)
            for name, original in replaced:
                _set_call(_vfs, name.encode(), original)

    def _instead(self, name: str, original: Any, result: Any) -> Callable[..., Any]:
        failed = 2**64 - 1 if result is _pointer else -1

        def instead(*args: Any) -> Any:
            unlocks = (
                name == "fcntl"
                and args[1] in _LOCKS
                and ctypes.c_short.from_address(args[2]).value == fcntl.F_UNLCK
            )
            error = self._fails(*["unlock"] * unlocks, *_names(name, args[1] if name == "open" else 0))
            if error:
                ctypes.set_errno(error)
                return failed
            return original(*args)

        return instead

    def _own(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def own(*args: Any, **kwargs: Any) -> Any:
            ours = args and (isinstance(args[0], int) or os.fspath(args[0]).startswith(self._folder))
            unlocks = name in ("flock", "lockf") and bool(args[1] & fcntl.LOCK_UN)
            error = ours and self._fails(
                *["unlock"] * unlocks, *_names(name, args[1] if name == "open" else 0)
            )
            if error and name == "access":
                return False
            if error:
                raise OSError(
                    error, os.strerror(error), *(arg for arg in args[:1] if not isinstance(arg, int))
                )
            return original(*args, **kwargs)

        return own


class _Syncs:
    """The one recorder of this process: a connection that was made through it needs it to the end."""

    def __init__(self) -> None:
        self.see: Callable[[Event], int | None] = lambda event: None
        self._recorder: Recorder | None = None

    def recorder(self) -> Recorder:
        if self._recorder is None:
            self._recorder = Recorder(lambda event: self.see(event))
        return self._recorder


_syncs = _Syncs()


def _names(name: str, flags: int) -> tuple[str, ...]:
    """Return what a call goes by; to open means several things."""
    if name != "open":
        return (name,)
    return (
        "open",
        *["create"] * bool(flags & os.O_CREAT),
        *["open to write"] * bool(flags & (os.O_WRONLY | os.O_RDWR)),
    )


def _reach() -> tuple[Any, Any, Any]:
    """Return SQLite's default VFS, and what sets and gets its system calls."""
    sqlite = library()
    if sqlite is None:
        return None, None, None
    sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
    vfs = sqlite.sqlite3_vfs_find(None)
    setter = ctypes.CFUNCTYPE(_int, ctypes.POINTER(Vfs), _text, _pointer)(vfs.contents.rest[12])
    getter = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(Vfs), _text)(vfs.contents.rest[13])
    return vfs, setter, getter


_vfs, _set_call, _get_call = _reach()

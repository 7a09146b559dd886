"""Sees all that SQLite writes in this process, through a shim between it and the system: no compiler needed."""

import _sqlite3
import ctypes
import os
import sqlite3
from collections.abc import Callable

SQLITE_FULL = 13


class Vfs(ctypes.Structure):
    """The head of sqlite3_vfs; the rest of it is copied as bytes."""

    _fields_ = [("version", ctypes.c_int), ("file_size", ctypes.c_int), ("max_path", ctypes.c_int),
                ("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("data", ctypes.c_void_p),
                ("open", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15)]  # fmt: skip


class Methods(ctypes.Structure):
    """sqlite3_io_methods."""

    _fields_ = [("version", ctypes.c_int), ("close", ctypes.c_void_p), ("read", ctypes.c_void_p),
                ("write", ctypes.c_void_p), ("truncate", ctypes.c_void_p), ("sync", ctypes.c_void_p),
                ("rest", ctypes.c_void_p * 13)]  # fmt: skip


# The name stays a pointer: SQLite keeps it, and finds more behind its end.
OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
)
WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

Event = tuple  # ("write", name, offset, bytes), ("truncate", name, size) or ("sync", name)


def library() -> ctypes.CDLL | None:
    """Return the SQLite that Python's sqlite3 uses; None where it cannot be reached."""
    candidates = []
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            candidates = [line.split()[-1] for line in maps if "libsqlite3" in line]
    for name in [*candidates, getattr(_sqlite3, "__file__", None)]:
        try:
            found = ctypes.CDLL(name)
            version = found.sqlite3_libversion
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_char_p
        if version().decode() == sqlite3.sqlite_version:
            return found
    return None


class Recorder:
    """Between `start` and `stop`, calls `see` with each write, truncation and sync of new connections.

    Args:
        see: takes an event; what it returns, if not 0, SQLite gets as the error of that call.
    """

    def __init__(self, see: Callable[[Event], int | None]) -> None:
        found = library()
        assert found is not None
        self._sqlite, self._see = found, see
        self._sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
        self._sqlite.sqlite3_vfs_register.argtypes = [ctypes.POINTER(Vfs), ctypes.c_int]
        self._sqlite.sqlite3_vfs_unregister.argtypes = [ctypes.POINTER(Vfs)]
        self._default = self._sqlite.sqlite3_vfs_find(None)
        self._vfs = Vfs()
        size = ctypes.sizeof(Vfs)
        ctypes.memmove(ctypes.byref(self._vfs), self._default, size)
        self._vfs.next, self._vfs.name = None, b"recorder"
        self._original_open = OPEN(self._default.contents.open)
        self._open = OPEN(self._opened)
        self._vfs.open = ctypes.cast(self._open, ctypes.c_void_p)
        self._names: dict[int, str] = {}  # address of an open file -> its name
        self._tables: dict[int, Methods] = {}  # address of a table of methods -> our copy
        self._kept: list[object] = []

    def __enter__(self) -> "Recorder":
        self._sqlite.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._sqlite.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
        self._sqlite.sqlite3_vfs_register(self._default, 1)

    def _opened(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        status = self._original_open(ctypes.cast(self._default, ctypes.c_void_p), name, file, flags, out)
        table = ctypes.c_void_p.from_address(file)
        if status == 0 and table.value and name:
            self._names[file] = os.fsdecode(ctypes.string_at(name))
            table.value = ctypes.addressof(self._copy(table.value))
        return status

    def _copy(self, address: int) -> Methods:
        if address not in self._tables:
            original = Methods.from_address(address)
            ours = Methods()
            ctypes.memmove(ctypes.byref(ours), address, ctypes.sizeof(Methods))
            write, truncate, sync = WRITE(original.write), TRUNCATE(original.truncate), SYNC(original.sync)

            def on_write(file: int, data: int, count: int, offset: int) -> int:
                event = ("write", self._names[file], offset, ctypes.string_at(data, count))
                return self._see(event) or write(file, data, count, offset)

            def on_truncate(file: int, size: int) -> int:
                return self._see(("truncate", self._names[file], size)) or truncate(file, size)

            def on_sync(file: int, flags: int) -> int:
                # Seen afterwards: what was not through yet may be lost.
                return sync(file, flags) or self._see(("sync", self._names[file])) or 0

            callbacks = WRITE(on_write), TRUNCATE(on_truncate), SYNC(on_sync)
            self._kept += [callbacks, write, truncate, sync]
            ours.write, ours.truncate, ours.sync = (ctypes.cast(one, ctypes.c_void_p) for one in callbacks)
            self._tables[address] = ours
        return self._tables[address]

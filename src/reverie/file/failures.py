"""What goes wrong with a replay file, told as one error: what was wanted, what came, and the remedy."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from reverie.errors import BufferClosed, FileError, ReplayError, printable

MOST_SAID = 400  # characters of what is quoted

# What sqlite3 raises; for a damaged file also what texts that are no UTF-8, and lengths beyond all bounds, come to.
FAILURES = (sqlite3.Error, OverflowError, MemoryError, UnicodeError)

# What code comes to that is given values it was not written for.
DOUBTS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)

_DAMAGED = "wanted a whole file, got a damaged one; restore it from a copy made by save_as"
_LOCKED = "wanted the file, got it locked by another program; close that, such as a sqlite3 shell"
_UNKNOWN = "wanted SQLite to do as it was told, got an error of it that is unknown here"

# SQLite's name of an error, or how it begins -> what was wanted and what came, and the remedy. The longest counts.
MEANINGS = {
    "SQLITE_FULL": "wanted room on the disk, got none; free some and try again, nothing was written",
    "SQLITE_READONLY": "wanted to write, got a file that may only be read; "
    "change its permissions, or open it with mode='r'",
    "SQLITE_READONLY_ROLLBACK": "wanted a file at rest, got one that a killed program was changing; "
    "open it once with mode='r+'",
    "SQLITE_READONLY_RECOVERY": "wanted to read its log, got no permission to make an index of it; "
    "change the permissions of the folder",
    "SQLITE_READONLY_CANTINIT": "wanted to read its log, got no permission to make an index of it; "
    "change the permissions of the folder",
    "SQLITE_READONLY_DIRECTORY": "wanted to write, got a folder that may only be read; "
    "change its permissions, or open it with mode='r'",
    "SQLITE_READONLY_DBMOVED": "wanted the file that was opened, got none or another in its place; "
    "keep what is in memory with save_as",
    "SQLITE_PERM": "wanted to write, got no permission; change the permissions of the file and its folder",
    "SQLITE_AUTH": "wanted to write, got no permission; change the permissions of the file and its folder",
    "SQLITE_NOTADB": "wanted a replay file, got something else or a damaged one; restore it from a copy",
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_ERROR": "wanted the tables of a replay file, got others or damaged ones; "
    "restore it from a copy made by save_as",
    "SQLITE_CONSTRAINT": _DAMAGED,
    "SQLITE_MISMATCH": _DAMAGED,
    "SQLITE_FORMAT": _DAMAGED,
    "SQLITE_NOTFOUND": _DAMAGED,
    "SQLITE_EMPTY": _DAMAGED,
    "SQLITE_RANGE": _DAMAGED,
    "SQLITE_SCHEMA": "wanted tables that stay as they are, got another program changing them; "
    "close that, such as a sqlite3 shell",
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_PROTOCOL": "wanted to lock the file, got locks that did not come; "
    "close other programs that have it open, or put it on a local disk",
    "SQLITE_CANTOPEN": "wanted to open the file and its log, got a refusal; "
    "check that the folder exists and may be written to",
    "SQLITE_IOERR": "wanted the disk to do as it was told, got a failure; check the disk and try again",
    "SQLITE_IOERR_NOMEM": "wanted memory to read or write the file, got none; close something",
    "SQLITE_IOERR_LOCK": "wanted to lock the file, got a file system without locks; put it on a local disk",
    "SQLITE_IOERR_RDLOCK": "wanted to lock the file, got a file system without locks; put it on a local disk",
    "SQLITE_IOERR_UNLOCK": "wanted to unlock the file, got a failure of the file system; put it on a local disk",
    "SQLITE_IOERR_CHECKRESERVEDLOCK": "wanted to lock the file, got a file system without locks; "
    "put it on a local disk",
    "SQLITE_IOERR_SHMMAP": "wanted an index of the log in shared memory, got none; put the file on a local disk",
    "SQLITE_IOERR_SHMLOCK": "wanted to lock the index of the log, got a file system without locks; "
    "put the file on a local disk",
    "SQLITE_IOERR_CORRUPTFS": "wanted a whole file system, got damage in it; repair it",
    "SQLITE_NOMEM": "wanted memory to read or write the file, got none; close something",
    "SQLITE_TOOBIG": "wanted a value that SQLite can hold, got one too large; seal smaller runs",
    "SQLITE_NOLFS": "wanted a file system for large files, got one for small ones; put the file on another disk",
    "SQLITE_INTERRUPT": "wanted an answer, got an interrupt; ask again",
    "SQLITE_ABORT": "wanted an answer, got a transaction that was rolled back meanwhile; ask again",
    "SQLITE_MISUSE": _UNKNOWN,
    "SQLITE_INTERNAL": _UNKNOWN,
}


def damaged(path: Path, what: str) -> FileError:
    """Return the error for content that cannot be."""
    return FileError(
        f"{path}: wanted a whole file, got a damaged one: {printable(what, MOST_SAID)}; "
        f"restore it from a copy made by save_as"
    )


def failure(path: Path, error: Exception, *, is_open: bool, reading: bool) -> ReplayError:
    """Return the error to raise for one of FAILURES.

    Args:
        path: of the file.
        error: what sqlite3 raised.
        is_open: whether the connection was still open.
        reading: whether it came of a query: then what is too large lies in the file.
    """
    if isinstance(error, MemoryError):
        return FileError(f"{path}: {MEANINGS['SQLITE_NOMEM']}")
    said = printable(error, MOST_SAID)
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(error, (OverflowError, UnicodeError)) or (reading and name == "SQLITE_TOOBIG"):
        return damaged(path, said)
    if name is None and isinstance(error, sqlite3.ProgrammingError) and not is_open:
        return BufferClosed("wanted an open buffer, got one that was closed meanwhile; close it later")
    known = max((prefix for prefix in MEANINGS if (name or "").startswith(prefix)), key=len, default=None)
    if known is None or MEANINGS[known] == _UNKNOWN:
        code = getattr(error, "sqlite_errorcode", type(error).__name__)
        return FileError(f"{path}: {_UNKNOWN} ({name or 'no name'}, {code}: {said}); report it")
    return FileError(f"{path}: {MEANINGS[known]} ({said})")

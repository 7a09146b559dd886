"""A connection to one SQLite database: transactions, waits for the disk, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reverie.confines import TooMuchWork, confine, limit_row, rationed
from reverie.errors import BufferClosed, FileError, TooLarge
from reverie.printable import printable

# Pages of 4 KiB in the write-ahead log before SQLite moves them into the file: fewer, larger waits for the disk.
CHECKPOINT_PAGES = 4000
BUSY_S = 10.0  # how long to wait for another program that holds the file locked

# What sqlite3 raises; for a damaged file also what texts that are no UTF-8, and lengths beyond all bounds, come to.
FAILURES = (sqlite3.Error, OverflowError, MemoryError, UnicodeError)

# What code comes to that is given values it was not written for.
DOUBTS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)

# SQLite's name of an error, or how it begins -> what was wanted and what came, and the remedy
MEANINGS = {
    "SQLITE_FULL": "wanted room on the disk, got none; free some and try again, nothing was written",
    "SQLITE_READONLY": "wanted to write, got a file that may only be read; "
    "change its permissions, or open it with mode='r'",
    "SQLITE_PERM": "wanted to write, got no permission; change the permissions of the file and its folder",
    "SQLITE_NOTADB": "wanted a replay file, got something else or a damaged one; restore it from a copy",
    "SQLITE_CORRUPT": "wanted a whole file, got a damaged one; restore it from a copy made by save_as",
    "SQLITE_BUSY": "wanted the file, got it locked by another program; close that, such as a sqlite3 shell",
    "SQLITE_LOCKED": "wanted the file, got it locked by another program; close that, such as a sqlite3 shell",
    "SQLITE_CANTOPEN": "wanted to open the file and its log, got a refusal; "
    "check that the folder exists and may be written to",
    "SQLITE_IOERR": "wanted the disk to do as it was told, got a failure; check the disk and try again",
    "SQLITE_NOMEM": "wanted memory to read the file, got none; close something",
}


class Database:
    """One connection, for all threads of one process, which take turns.

    Args:
        path: where the file lies.
        mode: "new" makes it, "r+" writes, "r" reads.

    Raises:
        FileError: it cannot be opened; so does every method on whatever goes wrong.
    """

    def __init__(self, path: Path, mode: str) -> None:
        if sys.byteorder != "little":  # values are written as they lie in memory
            raise FileError(f"{path}: wanted a little-endian machine, got a big-endian one; use another")
        self.path = path
        self.mode = mode
        self._name = os.fspath(path)
        self._closed = False
        self._pid = os.getpid()
        # A reader that may not write leaves SQLite's log and its index behind; one that may, and never does,
        # clears them away when it is the last to close.
        may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        access = {"r+": "rw", "r": "rw" if may_write else "ro", "new": "rwc"}[mode]
        # In a folder where nobody can write, SQLite could not make that index.
        still = mode == "r" and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
        uri = f"{path.absolute().as_uri()}?mode={access}{'&immutable=1' if still else ''}"
        try:
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._error(error) from error
        self._identity = self._stat()
        try:
            confine(self._connection)
            self.do("PRAGMA cell_size_check = ON")
            self.do(f"PRAGMA query_only = {int(mode == 'r')}")
            self.do("PRAGMA trusted_schema = OFF")
        except BaseException:
            self._connection.close()
            raise

    def keep_log(self) -> None:
        """Write through a log that outlives a killed process, and is synced when it moves into the file."""
        self.do("PRAGMA journal_mode = WAL")
        self.do("PRAGMA synchronous = NORMAL")
        self.do(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def close(self) -> None:
        """Move the log into the file and close. Closing twice is fine."""
        if self._pid == os.getpid():  # SQLite forbids a fork to touch its parent's connection
            with suppress(*FAILURES):
                if self.mode == "r+":
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._closed = True
            self._connection.close()

    # --- statements ------------------------------------------------------------------------------------

    def do(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run a statement."""
        self._check_process()
        try:
            self._connection.execute(sql, values)
        except FAILURES as error:
            raise self._error(error) from error

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        self._check_process()
        try:
            return self._connection.execute(sql, values).fetchall()
        except FAILURES as error:
            raise self._error(error) from error

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query one by one, if they are no more than the file can hold."""
        self._check_process()
        try:
            with rationed(self._connection, self._size()):
                yield from self._connection.execute(sql, values)
        except TooMuchWork as error:
            raise self.damaged(str(error)) from error
        except FAILURES as error:
            raise self._error(error) from error

    def one(self, sql: str) -> Any:
        """Return the only value of a query."""
        return self.rows(sql)[0][0]

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written inside is in the file afterwards, or none of it."""
        self.check()
        try:
            self.do("BEGIN IMMEDIATE")
            yield
            self.do("COMMIT")
        except BaseException:
            self.roll_back()
            raise

    def begin(self) -> None:
        """Read all that follows of one moment, whatever a writer does meanwhile, until `roll_back`."""
        self.do("BEGIN")
        self.rows("SELECT 1 FROM meta LIMIT 1")  # the moment is that of the first read

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """As `writing`, and afterwards all that was ever written survives a loss of power."""
        self.check()
        self.do("PRAGMA synchronous = FULL")  # this commit syncs the log, and with it all that came before
        try:
            with self.writing():
                yield
        finally:
            self.do("PRAGMA synchronous = NORMAL")

    def roll_back(self) -> None:
        """Leave a transaction without a trace, if there is one."""
        with suppress(*FAILURES):
            if self._pid == os.getpid() and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # --- what there is ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """A number that changes whenever another connection has written."""
        return int(self.one("PRAGMA data_version"))

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something; the rest is used again before the file grows."""
        pages = self.one("PRAGMA page_count") - self.one("PRAGMA freelist_count")
        return int(pages * self.one("PRAGMA page_size"))

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with its own structures."""
        return [text for (text,) in self.each("PRAGMA integrity_check") if text != "ok"]

    def check(self) -> None:
        """Refuse to write into what is no longer there, or through a connection that a fork copied."""
        self._check_process()
        if self._connection.in_transaction:  # an interrupt left it so
            self.roll_back()
        if self._stat() != self._identity:
            raise FileError(
                f"{self.path}: wanted the file that was opened, got none or another in its place; "
                f"keep what is in memory with save_as"
            )

    def _check_process(self) -> None:
        """SQLite forbids a fork to use its parent's connection: it would read and write what is not so."""
        if self._closed:
            raise BufferClosed(
                "wanted an open replay file, got a closed one; open it again, or close it later"
            )
        if self._pid != os.getpid():
            raise FileError(
                f"{self.path}: wanted the process that opened it, got a fork of it; "
                f"open it there with reverie.open(path, mode='r')"
            )

    def _size(self) -> int:
        """Bytes of the file and its log."""
        size = 0
        for name in (self._name, f"{self._name}-wal"):
            with suppress(OSError):
                size += os.stat(name).st_size
        return size

    def limit_row(self, nbytes: int) -> None:
        """Let no row be read or written that takes more than so many bytes, or than the longest named value."""
        limit_row(self._connection, nbytes)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What goes wrong inside comes of what the file holds: it becomes one FileError."""
        try:
            yield
        except TooLarge:
            raise
        except MemoryError as error:
            raise FileError(f"{self.path}: {MEANINGS['SQLITE_NOMEM']}") from error
        except DOUBTS as error:
            raise self.damaged(str(error) or type(error).__name__) from error

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def damaged(self, what: str) -> FileError:
        """Return the error for content that cannot be."""
        return FileError(
            f"{self.path}: wanted a whole file, got a damaged one: {printable(what, 400)}; "
            f"restore it from a copy made by save_as"
        )

    def _error(self, error: Exception) -> FileError:
        name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        for prefix, meaning in MEANINGS.items():
            if name.startswith(prefix):
                return FileError(f"{self.path}: {meaning} ({printable(error, 400)})")
        return self.damaged(str(error))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

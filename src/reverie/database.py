"""A connection to one SQLite database: transactions, waits for the disk, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reverie.errors import FileError, WrongProcess
from reverie.process import watch

# Pages of 4 KiB in the write-ahead log before SQLite moves them into the file: fewer, larger waits for the disk.
CHECKPOINT_PAGES = 4000
AT_ONCE = 64  # rows that are fetched at a time: many wide ones would fill the memory
BUSY_S = 10.0  # how long to wait for another program that holds the file locked

# What sqlite3 raises; for a damaged file also what texts that are no UTF-8, and lengths beyond all bounds, come to.
FAILURES = (sqlite3.Error, OverflowError, MemoryError, UnicodeError)

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
        WrongProcess: it cannot be opened after this process was forked; or a fork uses what its parent opened to write.
    """

    def __init__(self, path: Path, mode: str) -> None:
        if sys.byteorder != "little":  # values are written as they lie in memory
            raise FileError(f"{path}: wanted a little-endian machine, got a big-endian one; use another")
        self.path = path
        self.mode = mode
        self._name = os.fspath(path)
        self._working: Any = (
            threading.RLock()
        )  # held while SQLite is at work, which a fork must not interrupt
        self._connection: sqlite3.Connection | None = None
        self._inherited = False  # whether it was opened by a process of which this one is a fork
        self._closed = False
        self._identity = self._stat()
        watch(self, self._working)
        with self._working:
            self._connect()

    def _connect(self) -> None:
        """Open the file, for this process."""
        if self._identity in _unusable or None in _unusable:
            raise WrongProcess(
                f"{self.path}: wanted a file that no thread used at the moment of the fork, got one that was in use, "
                f"of which SQLite's notes are wrong here; start this process with 'spawn', or fork at another moment"
            )
        path, mode = self.path, self.mode
        # A reader that may not write leaves SQLite's log and its index behind; one that may, and never does,
        # clears them away when it is the last to close.
        may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        access = {"r+": "rw", "r": "rw" if may_write else "ro", "new": "rwc"}[mode]
        # In a folder where nobody can write, SQLite could not make that index.
        still = mode == "r" and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
        uri = f"{path.absolute().as_uri()}?mode={access}{'&immutable=1' if still else ''}"
        self._may_write = access != "ro" and not still
        try:
            self._connection = _connection(uri)
        except sqlite3.Error as error:
            raise self._error(error) from error
        if self._identity is None:  # it was not there yet
            self._identity = self._stat()
        try:
            self.do("PRAGMA cell_size_check = ON")
            self.do(f"PRAGMA query_only = {int(mode == 'r')}")
            self.do("PRAGMA trusted_schema = OFF")
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def keep_log(self) -> None:
        """Write through a log that outlives a killed process, and is synced when it moves into the file."""
        self.do("PRAGMA journal_mode = WAL")
        self.do("PRAGMA synchronous = NORMAL")
        self.do(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def close(self) -> None:
        """Move the log into the file and close. Closing twice is fine."""
        with self._working:
            self._closed = True
            if self._connection is not None:  # a fork may have none
                with suppress(*FAILURES):
                    if self.mode == "r+":
                        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.close()

    # --- forks -----------------------------------------------------------------------------------------

    def _guard(self, lock: Any) -> None:
        self._working = lock

    def _forked(self, at_rest: bool) -> None:
        """Let go of the parent's connection, so that SQLite forgets what it notes of the file.

        SQLite notes for each process which locks it has on a file, and a fork inherits the notes but not the locks:
        it would read, unprotected, a log that the parent has long since removed.
        """
        if self._closed or self._connection is None:
            return
        connection, self._connection, self._inherited = self._connection, None, True
        if not at_rest:
            # A thread that is not here has the lock, and perhaps one of SQLite's own.
            self._working = threading.RLock()
            _unusable.add(None)
        elif self._stat() != self._identity or (self.mode != "r" and connection.in_transaction):
            # To end a transaction would write into what is shared with the parent.
            _unusable.add(self._identity)
        else:
            try:
                _abandon(connection, self.path if self._may_write else None)
                return
            except FAILURES:
                _unusable.add(self._identity)
        _left.append(connection)  # to collect it would close it

    # --- statements ------------------------------------------------------------------------------------

    def do(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run a statement."""
        with self._working:
            try:
                self._here().execute(sql, values)
            except FAILURES as error:
                raise self._error(error) from error

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        with self._working:
            try:
                return self._here().execute(sql, values).fetchall()
            except FAILURES as error:
                raise self._error(error) from error

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query one by one."""
        try:
            with self._working:
                found = self._here().execute(sql, values)
            while True:
                with self._working:
                    some = found.fetchmany(AT_ONCE)
                if not some:
                    return
                yield from some
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
        self.one("SELECT count(*) FROM meta")  # the moment is that of the first read

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
        with suppress(*FAILURES), self._working:
            if self._connection is not None and self._connection.in_transaction:
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
        return [text for (text,) in self.rows("PRAGMA integrity_check") if text != "ok"]

    def check(self) -> None:
        """Refuse to write into what is no longer there, or through a connection that a fork copied."""
        if self._here().in_transaction:  # an interrupt left it so
            self.roll_back()
        if self._stat() != self._identity:
            raise FileError(
                f"{self.path}: wanted the file that was opened, got none or another in its place; "
                f"keep what is in memory with save_as"
            )

    def _here(self) -> sqlite3.Connection:
        """Return this process's connection: a fork may not use its parent's, and opens one of its own to read."""
        if self._connection is None:
            if self.mode != "r":
                raise WrongProcess(
                    f"{self.path}: wanted the process that opened it to write, got a fork of it; "
                    f"open it there with reverie.open(path, mode='r')"
                )
            if self._stat() != self._identity:
                raise FileError(
                    f"{self.path}: wanted the file that was open at the fork, got none or another in its place; "
                    f"open that with reverie.open"
                )
            self._connect()
        assert self._connection is not None
        return self._connection

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def damaged(self, what: str) -> FileError:
        """Return the error for content that cannot be."""
        return FileError(
            f"{self.path}: wanted a whole file, got a damaged one: {what}; restore it from a copy made by save_as"
        )

    def _error(self, error: Exception) -> FileError:
        name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        for prefix, meaning in MEANINGS.items():
            if name.startswith(prefix):
                return FileError(f"{self.path}: {meaning} ({error})")
        return self.damaged(str(error))


# What a fork must not open, by device and inode, since SQLite's notes of it are wrong here; None stands for every file.
_unusable: set[tuple[int, int] | None] = set()
_left: list[sqlite3.Connection] = []  # the parent's connections that a fork could not let go of


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _abandon(connection: sqlite3.Connection, path: Path | None) -> None:
    """Close a connection without a write to the file: the last one to close would move the log into it.

    Args:
        connection: in no transaction that writes.
        path: of the file; None where the connection may not write at all.
    """
    if path is None:
        connection.close()
        return
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        connection.close()
        return
    # One that may not write closes after it, and takes part from its first read on.
    last = _connection(f"{path.absolute().as_uri()}?mode=ro")
    last.execute("SELECT count(*) FROM sqlite_master").fetchall()
    connection.close()
    last.close()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

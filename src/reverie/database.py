"""A connection to one SQLite database: transactions, waits for the disk, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reverie.confines import Ration, TooMuchWork, confine, limit_row, rationed
from reverie.errors import FileError, ReplayError, TooLarge, WrongProcess
from reverie.failures import DOUBTS, FAILURES, damaged, failure
from reverie.handles import Inode, connected, disconnected
from reverie.lock import writing_process
from reverie.log import is_base, mark_on, new_base
from reverie.place import inode, log_bytes
from reverie.process import watch

# Pages in the log before it is emptied into the file: fewer, larger waits for the disk.
CHECKPOINT_PAGES = 4000
AT_ONCE = 64  # rows that are fetched at a time: many wide ones would fill the memory
BUSY_S = 10.0  # how long to wait for another program that holds the file locked


class Database:
    """One connection, for all threads of one process, which take turns.

    Args:
        path: of the file, as the user knows it.
        mode: "new" makes it, "r+" writes, "r" reads.
        place: where the file lies, symbolic links resolved.

    Raises:
        FileError: it cannot be opened; so does every method on whatever goes wrong.
        WrongProcess: it cannot be opened after this process was forked; or a fork uses what its parent opened to write.
    """

    def __init__(self, path: Path, mode: str, place: Path) -> None:
        if sys.byteorder != "little":  # values are written as they lie in memory
            raise FileError(f"{path}: wanted a little-endian machine, got a big-endian one; use another")
        self.path = path
        self.place = place
        self.mode = mode
        self._name = os.fspath(place)
        self._log = f"{place}-wal"
        self._is_open = True
        # Held while SQLite is at work, which a fork must not interrupt.
        self._working: Any = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = inode(self._name)
        self._log_inode: Inode | None = None
        self._unmarked = False  # whether the next transaction begins a log
        self._row_bytes = 0  # that a row has at most
        self._limit = self._most_bytes = 0  # of the log before it is emptied; 0: there is no log
        self.found_log = log_bytes(place)  # before SQLite makes one
        watch(self, self._working)
        with self._working:
            self._open()

    def _open(self) -> None:
        """Open the file, for this process."""
        if self._inode in _unusable or None in _unusable:
            raise WrongProcess(
                f"{self.path}: wanted a file that no thread used at the moment of the fork, got one that was in use, "
                f"of which SQLite's notes are wrong here; start this process with 'spawn', or fork at another moment"
            )
        # In a folder where nobody can write, SQLite could not make an index of the log.
        still = self.mode == "r" and not os.access(self.place.parent, os.W_OK) and self.found_log is None
        try:
            self._connection = self._connect({"r+": "rw", "r": "ro", "new": "rwc"}[self.mode], still)
        except sqlite3.Error as error:
            raise self._error(error) from error
        if self._inode is None:  # it was not there yet
            self._inode = inode(self._name)
        connected(self._inode)
        self._count = weakref.finalize(self, disconnected, self._inode, os.getpid())
        self._count.atexit = False
        try:
            limit_row(self._connection, self._row_bytes)
            self.do("PRAGMA cell_size_check = ON")
            self.do(f"PRAGMA query_only = {int(self.mode == 'r')}")
            self.do("PRAGMA trusted_schema = OFF")
        except BaseException:
            self._disconnect()
            raise

    def _connect(self, access: str, still: bool = False) -> sqlite3.Connection:
        uri = f"{self.place.as_uri()}?mode={access}{'&immutable=1' if still else ''}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        confine(connection)
        return connection

    def keep_log(self) -> None:
        """Write through a log that outlives a killed process, and is synced when it moves into the file."""
        if self.one("PRAGMA journal_mode = WAL") != "wal":
            raise FileError(
                f"{self.path}: wanted a log beside the file, got a system where SQLite cannot keep one; "
                f"put the file on a local disk"
            )
        self.do("PRAGMA synchronous = NORMAL")
        self.do("PRAGMA wal_autocheckpoint = 0")  # `check` does it: each log is to begin with a mark
        self._log_inode = inode(self._log)
        self._limit = self._most_bytes = CHECKPOINT_PAGES * int(self.one("PRAGMA page_size"))
        self._unmarked = True  # what a killed process left may have a mark, and may be no valid log at all

    def close(self) -> None:
        """Move the log into the file and close. Closing twice is fine."""
        with self._working:
            if not self._is_open:
                return
            if self._connection is None:  # a fork has none, and leaves what is there to its parent
                self._is_open = False
                return
            if self.mode == "r+":
                with suppress(*FAILURES):
                    self.roll_back()
                    self._connection.execute("PRAGMA busy_timeout = 0")
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._disconnect()
            self._clear_away()

    def _disconnect(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._count()
        self._is_open = False

    def _clear_away(self) -> None:
        """Remove an empty log and its index, which a reader may have made, if nobody uses them any more."""
        if self.mode != "r" or log_bytes(self.place) != 0 or inode(self._name) != self._inode:
            return
        # A writer whose process has read its own file has lost SQLite's locks; it has its own still.
        if writing_process(self.place) is not None:
            return
        if not (os.access(self._name, os.W_OK) and os.access(self.place.parent, os.W_OK)):
            return
        with suppress(*FAILURES):
            last = self._connect("rw")
            try:
                last.execute("PRAGMA schema_version").fetchall()
            finally:
                last.close()  # SQLite removes both if this is the last connection

    # --- forks -----------------------------------------------------------------------------------------

    def _guard(self, lock: Any) -> None:
        self._working = lock

    def _forked(self, at_rest: bool) -> None:
        """Let go of the parent's connection, so that SQLite forgets what it notes of the file.

        SQLite notes for each process which locks it has on a file, and a fork inherits the notes but not the locks:
        it would read, unprotected, a log that the parent has long since removed.
        """
        if not self._is_open or self._connection is None:
            return
        connection, self._connection = self._connection, None
        if not at_rest:
            # A thread that is not here has the lock, and perhaps one of SQLite's own.
            self._working = threading.RLock()
            _unusable.add(None)
        elif inode(self._name) != self._inode or (self.mode != "r" and connection.in_transaction):
            # To end a transaction would write into what is shared with the parent.
            _unusable.add(self._inode)
        else:
            with suppress(*FAILURES):
                self._abandon(connection)
                return
            _unusable.add(self._inode)
        _left.append(connection)  # to collect it would close it

    def _abandon(self, connection: sqlite3.Connection) -> None:
        """Close a connection without a write to the file: the last one to close would move the log into it."""
        last = None if self.mode == "r" else self._connect("ro")
        if last is not None:  # it may not write, and takes part from its first read on
            last.execute("SELECT count(*) FROM sqlite_master").fetchall()
        connection.close()
        if last is not None:
            last.close()

    def _here(self) -> sqlite3.Connection:
        """Return this process's connection: a fork may not use its parent's, and opens one of its own to read."""
        if self._connection is None:
            if self.mode != "r":
                raise WrongProcess(
                    f"{self.path}: wanted the process that opened it to write, got a fork of it; "
                    f"open it there with reverie.open(path, mode='r')"
                )
            if inode(self._name) != self._inode:
                raise FileError(
                    f"{self.path}: wanted the file that was open at the fork, got none or another in its place; "
                    f"open that with reverie.open"
                )
            self._open()
        assert self._connection is not None
        return self._connection

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
                raise self._error(error, reading=True) from error

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query one by one, if they are no more than the file can hold."""
        try:
            ration = Ration(self._size())
            with self._working, rationed(self._here(), ration):
                found = self._here().execute(sql, values)
            while True:
                with self._working, rationed(self._here(), ration):
                    some = found.fetchmany(AT_ONCE)
                if not some:
                    return
                yield from some
        except TooMuchWork as error:
            raise self.damaged(str(error)) from error
        except FAILURES as error:
            raise self._error(error, reading=True) from error

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
        file, log = inode(self._name), inode(self._log)
        if self._log_inode is None:  # SQLite has it open since that read
            self._log_inode = log
        if file not in (self._inode, None) or log not in (self._log_inode, None):
            raise FileError(
                f"{self.path}: wanted the file that was opened, got another in its place, or another log; "
                f"open it again"
            )

    def name_base(self) -> None:
        """Give the file a new number that the next log will name; inside of the last transaction before it."""
        self.do(f"PRAGMA schema_version = {new_base()}")

    @property
    def lacks_log(self) -> bool:
        """Whether no log was there when the file was opened, and none has moved into it since it was emptied."""
        return self.found_log is None and is_base(int(self.one("PRAGMA schema_version")))

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """As `writing`, and afterwards the file alone, without its log, holds all that was ever written.

        Raises:
            FileError: a reader keeps the log from being emptied. Then file and log together hold all of it, and
                it survives a loss of power.
        """
        self.check()
        self.do("PRAGMA synchronous = FULL")  # this commit syncs the log, and with it all that came before
        try:
            with self.writing():
                yield
                self.name_base()
            if not self._empty():
                raise FileError(
                    f"{self.path}: wanted to move its log into the file, got a reader that holds an older moment "
                    f"of it; let that one finish, and flush again"
                )
        finally:
            with suppress(FileError):  # a second interrupt may have left the transaction open
                self.do("PRAGMA synchronous = NORMAL")

    def _empty(self) -> bool:
        """Move the log into the file, and return whether it is empty now: a reader may be in the way."""
        self._unmarked = True
        if not self._most_bytes:
            return True
        busy, _, _ = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        self._most_bytes = self._limit
        return not busy

    def _shorten(self, size: int) -> None:
        """Empty a log that has become long, unless somebody is in the way; then when it has grown again."""
        with suppress(FileError):  # what cannot be moved stays in the log
            self.do("PRAGMA busy_timeout = 0")
            try:
                self.name_base()
                if self._empty():
                    return
            finally:
                self.do(f"PRAGMA busy_timeout = {int(1000 * BUSY_S)}")
        self._most_bytes = size + size // 8

    def _mark(self) -> None:
        """Begin a log: name in it the file that it is built on."""
        mark = mark_on(int(self.one("PRAGMA schema_version")))
        if mark is not None:
            self.do(f"PRAGMA schema_version = {mark}")
        self._unmarked = False

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
        return [text for (text,) in self.each("PRAGMA integrity_check") if text != "ok"]

    @property
    def is_astray(self) -> bool:
        """Whether the file or its log is not the one that was opened any more."""
        log = inode(self._log)
        follows = log is None and self.mode == "r"  # a reader has it open still, and nobody writes another
        return inode(self._name) != self._inode or not (follows or log == self._log_inode)

    def check(self) -> None:
        """Refuse to write into what is no longer there, or through a connection that a fork copied."""
        self._here()
        self.roll_back()  # of what an interrupt left
        if inode(self._name) != self._inode:
            raise FileError(
                f"{self.path}: wanted the file that was opened, got none or another in its place; "
                f"keep what is in memory with save_as"
            )
        if not self._most_bytes:
            return
        try:
            log = os.stat(self._log)
        except OSError:
            log = None
        if log is None or (log.st_dev, log.st_ino) != self._log_inode:
            raise FileError(
                f"{self.path}: wanted the log that was opened, got none or another at {self.place.name}-wal; "
                f"keep what is in memory with save_as"
            )
        if log.st_size > self._most_bytes:
            self._shorten(log.st_size)
        if self._unmarked:
            self._mark()

    def damaged(self, what: str) -> FileError:
        """Return the error for content that cannot be."""
        return damaged(self.path, what)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What goes wrong inside comes of what the file holds: it becomes one FileError."""
        try:
            yield
        except TooLarge:
            raise
        except MemoryError as error:
            raise self._error(error) from error
        except DOUBTS as error:
            raise self.damaged(str(error) or type(error).__name__) from error

    def limit_row(self, nbytes: int) -> None:
        """Let no row be read or written that takes more than so many bytes, or than the longest named value."""
        with self._working:
            limit_row(self._here(), nbytes)
            self._row_bytes = nbytes

    def _size(self) -> int:
        """Bytes of the file and its log."""
        size = 0
        for name in (self._name, self._log):
            with suppress(OSError):
                size += os.stat(name).st_size
        return size

    def _error(self, error: Exception, reading: bool = False) -> ReplayError:
        return failure(self.path, error, is_open=self._is_open, reading=reading)


# What a fork must not open, by device and inode, since SQLite's notes of it are wrong here; None stands for every file.
_unusable: set[Inode | None] = set()
_left: list[sqlite3.Connection] = []  # the parent's connections that a fork could not let go of

"""A connection to one SQLite database: statements, limits, forks, and what its errors mean."""

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

from reverie.errors import FileError, ReplayError, TooLarge, WrongProcess
from reverie.file.failures import DOUBTS, FAILURES, damaged, failure
from reverie.file.lock import writing_process
from reverie.file.place import Inode, connected, disconnected, inode, log_bytes
from reverie.process import watch
from reverie.values import MOST_JSON

AT_ONCE = 64  # rows that are fetched at a time: many wide ones would fill the memory
BUSY_S = 10.0  # how long to wait for another program that holds the file locked
# SQLite's limits for a connection: our own statements are short and plain, whatever the file holds.
LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 2,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
# SQLite takes a handful of steps for each value of a row, and a value takes a byte of the file or more.
STEPS_AT_LEAST, STEPS_OF_BYTE = 2_000_000, 64
STEPS_BETWEEN = 20_000


class Ration:
    """How much work one query may take: what goes through a whole database of `nbytes` can make.

    In a damaged tree of pages the same pages can follow each other without an end.
    """

    __slots__ = ("_left",)

    def __init__(self, nbytes: int) -> None:
        self._left = (STEPS_AT_LEAST + STEPS_OF_BYTE * nbytes) // STEPS_BETWEEN

    def take(self) -> bool:
        """Take the work of STEPS_BETWEEN steps; return whether more was taken than there was."""
        self._left -= 1
        return self.is_used_up

    @property
    def is_used_up(self) -> bool:
        """Whether more was taken than there was."""
        return self._left < 0


class Work:
    """The work of one connection, which SQLite tells of as it goes on, and stops if it is answered with True.

    Every query says what it may take before it runs: an interrupt may have left the ration of another one.

    Attributes:
        ration: of the query that runs; None lets it take what it needs.
    """

    __slots__ = ("ration",)

    def __init__(self) -> None:
        self.ration: Ration | None = None

    def take(self) -> bool:
        """Take the work of STEPS_BETWEEN steps; return whether the query is to stop."""
        return self.ration is not None and self.ration.take()


def confine(connection: sqlite3.Connection, work: Work) -> None:
    """Set limits that none of our own statements comes near to, and let `work` know what is done."""
    for kind, most in LIMITS.items():
        connection.setlimit(kind, min(most, connection.getlimit(kind)))
    limit_row(connection, 0)
    connection.set_progress_handler(work.take, STEPS_BETWEEN)


def limit_row(connection: sqlite3.Connection, nbytes: int) -> None:
    """Let no row, text or blob be read or written that takes more than `nbytes`, or than the longest named value."""
    # SQLite refuses to go beyond the limit that it was built with.
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(max(nbytes, MOST_JSON) + 10_000, 2**31 - 1))


class Connection:
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
        self._row_bytes = 0  # that a row has at most
        self._work = Work()
        self.found_log = log_bytes(place)  # before SQLite makes one
        watch(self._forked, self._working, self._guard)
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
        # sqlite3's connections refer to themselves: one that an interrupt kept from being closed would wait for the
        # garbage collector, and hold its moment of the file until then.
        weakref.finalize(self, self._connection.close).atexit = False
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
        confine(connection, self._work)
        return connection

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
        try:
            with self._working:
                self._work.ration = None
                self._here().execute(sql, values)
        except FAILURES as error:
            raise self._error(error) from error

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        try:
            with self._working:
                self._work.ration = None
                return self._here().execute(sql, values).fetchall()
        except FAILURES as error:
            raise self._error(error, reading=True) from error

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query one by one, if they are no more than the file can hold."""
        ration = Ration(self._size())
        try:
            with self._working:
                self._work.ration = ration
                found = self._here().execute(sql, values)
            while True:
                with self._working:
                    self._work.ration = ration
                    some = found.fetchmany(AT_ONCE)
                if not some:
                    return
                yield from some
        except FAILURES as error:
            if ration.is_used_up:
                raise self.damaged("its tables go on and on") from error
            raise self._error(error, reading=True) from error

    def one(self, sql: str) -> Any:
        """Return the only value of a query."""
        return self.rows(sql)[0][0]

    def roll_back(self) -> None:
        """Leave a transaction without a trace, if there is one."""
        with suppress(*FAILURES):  # noqa: SIM117  # in one line, an interrupt could come between the two
            with self._working:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    # --- limits and errors ---------------------------------------------------------------------------

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
        try:
            with self._working:
                limit_row(self._here(), nbytes)
                self._row_bytes = nbytes
        except FAILURES as error:
            raise self._error(error) from error

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

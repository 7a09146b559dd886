"""What SQLite may do and take on a connection to a file that nobody vouches for."""

from __future__ import annotations

import sqlite3

from reverie.values import MOST_JSON

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

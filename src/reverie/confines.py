"""What SQLite may do and take on a connection to a file that nobody vouches for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from reverie.limits import MOST_JSON

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


def confine(connection: sqlite3.Connection) -> None:
    """Set limits that none of our own statements comes near to."""
    for kind, most in LIMITS.items():
        connection.setlimit(kind, min(most, connection.getlimit(kind)))
    limit_row(connection, 0)


def limit_row(connection: sqlite3.Connection, nbytes: int) -> None:
    """Let no row, text or blob be read or written that takes more than `nbytes`, or than the longest named value."""
    # SQLite refuses to go beyond the limit that it was built with.
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(max(nbytes, MOST_JSON) + 10_000, 2**31 - 1))


class TooMuchWork(Exception):
    """A query went through more than the file can hold."""


@contextmanager
def rationed(connection: sqlite3.Connection, nbytes: int) -> Iterator[None]:
    """Stop what runs inside when it takes more work than a whole database of `nbytes` can make.

    In a damaged tree of pages the same pages can follow each other without an end.

    Raises:
        TooMuchWork: it was stopped.
    """
    left = (STEPS_AT_LEAST + STEPS_OF_BYTE * nbytes) // STEPS_BETWEEN

    def go_on() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(go_on, STEPS_BETWEEN)
    try:
        yield
    except sqlite3.OperationalError as error:
        if left < 0:
            raise TooMuchWork("its tables go on and on") from error
        raise
    finally:
        connection.set_progress_handler(None, 0)

"""A look over a replay file as it lies there: sums that unpack nothing, and rows that may be damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from reverie.errors import FileError
from reverie.file.rows import checksums
from reverie.file.schema import final_names, sql_names
from reverie.file.tables import ReplayFile

LACKS_LOG = "it was not closed, and its log is missing: what came after the last flush may be missing, too"

Row = tuple[Any, ...]


class Packed(NamedTuple):
    """What one column takes in the file, in bytes."""

    runs: int  # in sealed runs
    steps: int  # in rows of newest steps, those that a sealed run holds by now included
    finals: int  # in final observations


class Sums(NamedTuple):
    """How much of everything a replay file holds."""

    run_steps: int
    step_rows: int
    finals: int
    columns: dict[str, Packed]
    arrays_bytes: int


def sums(file: ReplayFile) -> Sums:
    """Return how much a file holds. SQLite knows the length of a blob without reading it, so this is fast."""
    names = dict(zip(file.columns, sql_names(file.columns), strict=True))
    ends = dict(zip(file.obs_columns, final_names(file.columns), strict=True))

    def one(sql: str) -> Row:
        return tuple(next(file.db.each(sql)))

    def lengths(table: str, columns: list[str]) -> Row:
        wanted = ", ".join(f"total(length({column}))" for column in columns)
        return tuple(int(value) for value in one(f"SELECT {wanted} FROM {table}"))

    runs = dict(zip(names, lengths("runs", list(names.values())), strict=True))
    steps = dict(zip(names, lengths("steps", list(names.values())), strict=True))
    finals = dict(zip(ends, lengths("episodes", list(ends.values())), strict=True))
    one_end = next(iter(ends.values()))  # a final observation has all of its columns, or there is none
    return Sums(
        int(one("SELECT total(steps) FROM runs")[0]),
        int(one("SELECT total(1) FROM steps")[0]),
        int(one(f"SELECT count({one_end}) FROM episodes")[0]),
        {name: Packed(runs[name], steps[name], finals.get(name, 0)) for name in names},
        int(one("SELECT total(length(data)) FROM arrays")[0]),
    )


def scan(file: ReplayFile, table: str) -> Iterator[tuple[int, Row | FileError]]:
    """Yield (row number, values) of all rows of a table, and what went wrong in place of those unreadable.

    Each row is asked for by itself, so that a damaged page hides no more than what lies on it.
    """
    numbers: list[int] = []
    stopped: FileError | None = None
    try:
        for (number,) in file.db.each(f"SELECT rowid FROM {table} ORDER BY rowid"):
            if numbers and number <= numbers[-1]:
                raise file.db.damaged(f"row {number} follows row {numbers[-1]}")
            numbers.append(number)
    except FileError as error:
        stopped = error
    for number in numbers:
        try:
            found = file.db.rows(f"SELECT * FROM {table} WHERE rowid = ?", (number,))
        except FileError as error:
            yield number, error
        else:
            yield number, found[0] if found else file.db.damaged("it cannot be found by its number")
    if stopped is not None:
        yield (numbers[-1] + 1 if numbers else 0), stopped


def broken(
    form: str, numbers: Sequence[Any], crcs: Any, blobs: Sequence[Any], values: int = 0
) -> set[int] | None:
    """Return which checksums of a row are wrong: 0 that of its numbers, then its blobs'. None: it is no such row.

    The first `values` of the blobs cannot be NULL.
    """
    if None in blobs[:values]:
        return None
    try:
        wanted = checksums(form, numbers, blobs)
        if len(wanted) != len(crcs):
            return None
        return {
            place for place in range(len(wanted) // 4) if wanted[4 * place :][:4] != crcs[4 * place :][:4]
        }
    except (struct.error, TypeError):
        return None


def told(place: str, bad: set[int] | None, names: Sequence[str]) -> Iterator[str]:
    """Yield what `broken` found, in words."""
    if bad is None:
        yield f"{place}: it holds values of another kind"
    elif 0 in bad:
        yield f"{place}: the checksum of its numbers is wrong"
    else:
        for spot in sorted(bad):
            yield f"{place}, column {names[spot - 1]!r}: its checksum is wrong"


def cause(error: FileError) -> str:
    """Return why a row cannot be read, without the path and the remedy."""
    return f"it cannot be read ({error.__cause__ or error})"

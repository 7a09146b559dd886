"""The tables of a replay file as SQL, their records, and the checksums of those. `docs/format.md` is the promise."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from reverie.index import RUN
from reverie.spec import is_obs_name

Blobs = Mapping[str, bytes]  # packed values by column

# How the numbers of a record are laid out for its checksum: little-endian int64, and a float64 for the return.
RUN_FORM, STEP_FORM, EPISODE_FORM = "<4q", "<4q", "<6qd"


class RunRecord(NamedTuple):
    """The numbers of a sealed run."""

    number: int
    stream: int
    first: int  # id of its first step
    steps: int

    @property
    def stop(self) -> int:
        """One past the id of its last step."""
        return self.first + self.steps


class StepRecord(NamedTuple):
    """A step of a run that is not sealed yet."""

    stream: int
    id: int
    ended: int
    values: Blobs
    final: Blobs | None

    @property
    def number(self) -> int:
        """The key of the record: it takes the place of a step that a sealed run holds by now."""
        return self.stream * RUN + self.id % RUN


class EpisodeRecord(NamedTuple):
    """An episode that has live steps."""

    number: int  # counts the episodes of all streams as they began
    stream: int
    ordinal: int  # counts those of its stream
    start: int
    stop: int
    ended: int
    total: float
    final: Blobs | None


def checksums(form: str, numbers: Sequence[float], blobs: Iterable[bytes | None]) -> bytes:
    """Return the checksums of a record as little-endian uint32: of its numbers, then of each of its blobs.

    They are CRC-32, as zlib has it. That of a blob continues that of the numbers, so that a blob in a wrong record is
    noticed. NULL has the complement of the numbers' own.
    """
    first = crc32(struct.pack(form, *numbers))
    crcs = [first]
    for blob in blobs:
        crcs.append(first ^ 0xFFFFFFFF if blob is None else crc32(blob, first))
    return struct.pack(f"<{len(crcs)}I", *crcs)


def wrong_checksums(
    form: str,
    numbers: Sequence[Any],
    crcs: Any,
    blobs: Sequence[Any] = (),
    required: int = 0,
    places: Sequence[int] | None = None,
) -> set[int] | None:
    """Return which checksums of a record are wrong: 0 for that of its numbers, 1 + n for that of its blob n.

    Args:
        form: of the numbers.
        numbers, crcs, blobs: what the file has; any of them may be of another kind than it should be.
        required: how many of the blobs cannot be NULL.
        places: where among the record's blobs these are; None means that these are all.

    Returns:
        None if it is no such record.
    """
    try:
        if None in blobs[:required]:
            return None
        wanted = checksums(form, numbers, blobs)
        if places is not None:
            crcs = b"".join([crcs[4 * at : 4 * at + 4] for at in (0, *(1 + place for place in places))])
        if wanted == crcs:
            return set()
        if len(wanted) != len(crcs):
            return None
        return {at for at in range(len(wanted) // 4) if wanted[4 * at :][:4] != crcs[4 * at :][:4]}
    except (struct.error, TypeError):
        return None


def text_checksum(name: str, value: str) -> int:
    """Return the CRC-32 of a named text."""
    return crc32(f"{name}\0{value}".encode())


def array_checksum(name: str, form: str, data: bytes) -> int:
    """Return the CRC-32 of a named array: that of its form as a named text, continued over its bytes."""
    return crc32(data, text_checksum(name, form))


# --- tables --------------------------------------------------------------------------------------------------

META = "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL)"
ARRAYS = (
    "CREATE TABLE arrays (name TEXT PRIMARY KEY, form TEXT NOT NULL, checksum INTEGER NOT NULL,"
    " data BLOB NOT NULL)"
)
EPISODES_OF_STREAM = "CREATE UNIQUE INDEX episodes_of_stream ON episodes (stream, ordinal)"
# type, name and table of every object; SQLite makes two by itself.
OBJECTS = [
    ("table", "meta", "meta"),
    ("index", "sqlite_autoindex_meta_1", "meta"),
    ("table", "arrays", "arrays"),
    ("index", "sqlite_autoindex_arrays_1", "arrays"),
    ("table", "runs", "runs"),
    ("table", "steps", "steps"),
    ("table", "episodes", "episodes"),
    ("index", "episodes_of_stream", "episodes"),
]
# Made when the first episode gets metadata: a file that has this table is one of format 2.
LABELS = "CREATE TABLE labels (number INTEGER PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL)"
MOST_COLUMNS = (
    1_995  # of steps and their final observations: SQLite has no more than 2,000 in a table, numbers included
)
TREE = re.compile(r"reward|(obs|action)(/\w+)*")


def schema_of(columns: Sequence[str]) -> list[str]:
    """Return the statements that make the tables.

    Args:
        columns: flat names of the stored columns.
    """
    values = ", ".join(f"{name} BLOB NOT NULL" for name in sql_names(columns))
    ends = ", ".join(f"{name} BLOB" for name in final_names(columns))
    return [
        META,
        ARRAYS,
        "CREATE TABLE runs (number INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first INTEGER NOT NULL,"
        f" steps INTEGER NOT NULL, checksums BLOB NOT NULL, {values})",
        "CREATE TABLE steps (number INTEGER PRIMARY KEY, stream INTEGER NOT NULL, id INTEGER NOT NULL,"
        f" ended INTEGER NOT NULL, checksums BLOB NOT NULL, {values}, {ends})",
        "CREATE TABLE episodes (number INTEGER PRIMARY KEY, stream INTEGER NOT NULL,"
        " ordinal INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,"
        f" ended INTEGER NOT NULL, total REAL NOT NULL, checksums BLOB NOT NULL, {ends})",
        EPISODES_OF_STREAM,
    ]


def final_names(columns: Sequence[str]) -> list[str]:
    """Return the SQL names of the columns that a final observation has, in the order of the observation's."""
    return sql_names([f"final_{name}" for name in columns if is_obs_name(name)])


def is_schema(found: Sequence[tuple[Any, ...]], statements: Sequence[str], labelled: bool) -> bool:
    """Whether these are all the objects of a replay file, in order, and the first ones were made by these statements.

    Args:
        found: (type, name, table, SQL) of each object of a database, in the order in which they were made.
        statements: some of `schema_of`, from the first.
        labelled: whether the last one has to be the table of metadata.
    """
    if labelled:
        *found, last = found or [()]
        if last != ("table", "labels", "labels", LABELS):
            return False
    made = [sql for *_, sql in found if sql is not None]
    return [row[:3] for row in found] == OBJECTS and made[: len(statements)] == list(statements)


def check_names(columns: Any, obs: Any) -> list[str]:
    """Return the names of the columns of a file if they are such, and `obs` those of its observation.

    Raises:
        ValueError: they are not.
    """
    for names in (columns, obs):
        if type(names) is not list or not 0 < len(names) <= MOST_COLUMNS:
            raise ValueError("the names of its columns are no list")
        for name in names:
            if type(name) is not str or not _is_name(name):
                raise ValueError(f"{str(name)[:40]!r} is no name of a column")
    if len(set(columns)) < len(columns) or len(columns) + len(obs) > MOST_COLUMNS:
        raise ValueError("it has too many columns, or two of one name")
    if "reward" not in columns or obs != [name for name in columns if is_obs_name(name)]:
        raise ValueError("the columns of its observations are others than those of its steps")
    checked: list[str] = columns
    return checked


def _is_name(name: str) -> bool:
    return TREE.fullmatch(name) is not None or (name.startswith("extras/") and name[7:].isidentifier())


def sql_names(names: Sequence[str]) -> list[str]:
    """Return SQL names for flat names: themselves, with a number where SQLite, blind to case, would mix them up."""
    seen: set[str] = set()
    counts: dict[str, int] = {}  # name in lower case -> the number that was given last
    quoted = []
    for name in names:
        unique = name
        while unique.lower() in seen:
            count = counts[name.lower()] = counts.get(name.lower(), 1) + 1
            unique = f"{name}~{count}"
        seen.add(unique.lower())
        quoted.append(f'"{unique}"')
    return quoted

"""The tables of a replay file, as SQL. `docs/format.md` is the promise kept here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reverie.spec import is_obs_name

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


def is_schema(found: Sequence[tuple[Any, ...]], statements: Sequence[str]) -> bool:
    """Whether these are all the objects of a replay file, in order, and the first ones were made by these statements.

    Args:
        found: (type, name, table, SQL) of each object of a database, in the order in which they were made.
        statements: some of `schema_of`, from the first.
    """
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

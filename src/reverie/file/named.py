"""The named values and arrays of a replay file: read, once they are what their names promise, and put."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reverie.errors import BadSetting
from reverie.file.records import array_checksum, text_checksum
from reverie.file.sqlite import Database
from reverie.values import MOST_ID, MOST_JSON, integer, parse_json

# What a named value has to be, at the least; an integer counts something.
KINDS = {"columns": list, "obs_columns": list, "identity": str, "copy_of": str, "clean": bool, "synced": int,
         "rewrites": int, "ends": list, "rng": dict, "samplers": list, "notes": dict}  # fmt: skip


def check_kind(name: str, value: Any) -> None:
    """Refuse a value that is not what its name promises.

    Raises:
        ValueError: it is not.
    """
    kind = KINDS.get(name)
    if kind is not None and type(value) is not kind:
        raise ValueError(f"meta {name!r}: wanted a JSON {kind.__name__}, got {str(value)[:80]}")
    if kind is int:
        try:
            integer(value, MOST_ID)
        except ValueError as error:
            raise ValueError(f"meta {name!r}: {error}") from error


def named_value(db: Database, name: str, default: Any) -> Any:
    """Return a named JSON value, or `default` unless that is None, if there is none."""
    for text, checksum in db.rows("SELECT value, checksum FROM meta WHERE name = ? LIMIT 1", (name,)):
        with db.reading():
            if type(text) is not str or text_checksum(name, text) != checksum:
                raise db.damaged(f"the checksum of meta {name!r} is wrong")
            value = parse_json(text)
            check_kind(name, value)
            return value
    if default is None:
        raise db.damaged(f"meta {name!r} is missing")
    return default


def put_named_value(db: Database, name: str, value: Any) -> None:
    """Set a named JSON value.

    Raises:
        BadSetting: it is too long to be read again.
    """
    text = json.dumps(value)
    if len(text) > MOST_JSON:
        raise BadSetting(
            f"meta {name!r}: wanted at most {MOST_JSON:,} characters of JSON, got {len(text):,}; "
            f"let what is long be arrays"
        )
    db.do("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, text, text_checksum(name, text)))


def named_arrays(db: Database) -> dict[str, tuple[str, bytes]]:
    """Return all named arrays: for each its dtype and shape as a text, and its packed bytes."""
    found: dict[str, tuple[str, bytes]] = {}
    for name, form, checksum, data in db.each("SELECT name, form, checksum, data FROM arrays"):
        if (type(name), type(form), type(data)) != (str, str, bytes) or name in found:
            raise db.damaged("an array has lost its name")
        if array_checksum(name, form, data) != checksum:
            raise db.damaged(f"the checksum of array {name!r} is wrong")
        found[name] = form, data
    return found


def put_named_arrays(db: Database, arrays: Mapping[str, tuple[str, bytes]]) -> None:
    """Replace all named arrays."""
    db.do("DELETE FROM arrays")
    for name, (form, data) in arrays.items():
        db.do("INSERT INTO arrays VALUES (?, ?, ?, ?)", (name, form, array_checksum(name, form, data), data))

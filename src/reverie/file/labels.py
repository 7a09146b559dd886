"""Metadata of episodes as the replay file has it: JSON, checked on the way in and on the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.errors import BadSetting
from reverie.file.records import LABELS, text_checksum
from reverie.file.sqlite import Database
from reverie.values import MOST_LABEL, parse_json


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def label_text(label: Mapping[str, Any]) -> str:
    """Return the metadata of an episode as JSON; scalars of NumPy, which environments give, count as Python's numbers.

    Raises:
        BadSetting: it cannot be JSON, or is too long.
    """
    try:
        plain = _plain(label)
        text = json.dumps(plain, allow_nan=False)
        if parse_json(text) != plain:
            raise ValueError("it would come back as something else: use lists and keys that are strings")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSetting(
            f"annotate: wanted values that JSON has, got others ({error}); pass strings, finite numbers, "
            f"booleans, None, and lists and dicts of such"
        ) from error
    if len(text) > MOST_LABEL:
        raise BadSetting(
            f"annotate: wanted at most {MOST_LABEL:,} characters of JSON for an episode, got {len(text):,}; "
            f"keep what is long elsewhere, and its name here"
        )
    return text


def checked_label(number: int, text: Any, checksum: Any) -> dict[str, Any]:
    """Return what a row of the table of metadata says.

    Raises:
        ValueError: its checksum is wrong, or it says nothing of the kind.
    """
    if type(text) is not str or text_checksum(str(number), text) != checksum:
        raise ValueError("its checksum is wrong")
    if len(text) > MOST_LABEL:
        raise ValueError(f"its JSON has {len(text):,} characters")
    value = parse_json(text)
    if type(value) is not dict:
        raise ValueError(f"wanted a JSON object, got {text[:40]}")
    return value


class LabelTable:
    """The table of metadata, which is there from the first of it on; it makes the file one of format 2 at least.

    Attributes:
        db: the connection.
    """

    db: Database

    @property
    def format(self) -> int:
        """The version of the format that the file is of now."""
        return int(self.db.one("PRAGMA user_version"))

    def has_labels(self) -> bool:
        """Whether the table is there."""
        return bool(self.db.rows("SELECT 1 FROM sqlite_master WHERE name = 'labels'"))

    def label(self, number: int) -> str | None:
        """Return the metadata of an episode as JSON, unchecked; None if it has none."""
        if not self.has_labels():
            return None
        found = self.db.rows("SELECT value FROM labels WHERE number = ?", (number,))
        return str(found[0][0]) if found else None

    def make_labels(self) -> None:
        """Make the table, inside of a transaction, if it is not there."""
        if not self.has_labels():
            self.db.add_table(LABELS)
            self.db.do("PRAGMA user_version = 2")

    def put_label(self, number: int, text: str) -> None:
        """Set the metadata of an episode."""
        self.make_labels()
        checksum = text_checksum(str(number), text)
        self.db.do("INSERT OR REPLACE INTO labels VALUES (?, ?, ?)", (number, text, checksum))

    def labels(self) -> dict[int, dict[str, Any]]:
        """Return the metadata of all episodes that have some, by number.

        Raises:
            FileError: one of them is damaged.
        """
        found: dict[int, dict[str, Any]] = {}
        for row in self.db.each("SELECT number, value, checksum FROM labels") if self.has_labels() else ():
            try:
                found[row[0]] = checked_label(*row)
            except ValueError as error:
                raise self.db.damaged(f"metadata of episode {row[0]}: {error}") from error
        return found

"""Small files beside those of the shards, which tell an actor that is started again what it knew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_note(path: Path, told: dict[str, Any]) -> None:
    """Put JSON in place of a note, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(told), encoding="ascii")
    os.replace(draft, path)


def read_note(path: Path) -> Any:
    """Return what a note tells.

    Raises:
        OSError, ValueError: there is none, or it is no JSON.
    """
    return json.loads(path.read_text(encoding="ascii"))

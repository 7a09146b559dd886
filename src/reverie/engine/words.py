"""A buffer in one line of words."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.index import EpisodeIndex
from reverie.spec import Column
from reverie.store import format_bytes


def describe(columns: Sequence[Column], index: EpisodeIndex, capacity: int, nbytes: int) -> str:
    """Return in one line how full a buffer is, how large, and what a step looks like."""
    streams = "1 stream" if index.streams == 1 else f"{index.streams} streams"
    fields = ", ".join(f"{column.name} {column.field.shape} {column.field.dtype}" for column in columns)
    return f"{index.live_steps():,} of {capacity:,} steps, {streams}, {format_bytes(nbytes)} of RAM: {fields}"

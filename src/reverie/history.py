"""The live episodes as users see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reverie.episodes import CUT, RUNNING, TERMINATED, TRUNCATED, EpisodeIndex
from reverie.memory import format_bytes
from reverie.spec import Column

ENDED_NAMES = {RUNNING: "running", TERMINATED: "terminated", TRUNCATED: "truncated",
               TERMINATED | TRUNCATED: "terminated", CUT: "cut"}  # fmt: skip

EPISODE_DTYPE = np.dtype([
    ("stream", np.int64), ("start", np.int64), ("stop", np.int64), ("length", np.int64),
    ("live", np.int64), ("return", np.float64), ("ended", "U10"),
])  # fmt: skip


def list_episodes(index: EpisodeIndex) -> npt.NDArray[np.void]:
    """Return the live episodes as a structured array of EPISODE_DTYPE, in the order they began."""
    rows = index.live_rows()
    table = np.zeros(len(rows), EPISODE_DTYPE)
    table["stream"], table["start"], table["stop"] = index.stream[rows], index.start[rows], index.stop[rows]
    table["length"] = index.stop[rows] - index.start[rows]
    table["live"] = index.stop[rows] - index.live_start(rows)
    table["return"] = index.total[rows]
    table["ended"] = [ENDED_NAMES[ended] for ended in index.ended[rows].tolist()]
    return table


def describe(columns: Sequence[Column], index: EpisodeIndex, capacity: int, nbytes: int) -> str:
    """Return in one line how full a buffer is, how large, and what a step looks like."""
    streams = "1 stream" if index.streams == 1 else f"{index.streams} streams"
    fields = ", ".join(f"{column.name} {column.field.shape} {column.field.dtype}" for column in columns)
    return (f"{index.live_steps():,} of {capacity:,} steps, {streams}, {format_bytes(nbytes)} of RAM: "
            f"{fields}")  # fmt: skip

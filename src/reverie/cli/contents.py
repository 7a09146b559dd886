"""What a replay file holds, as plain values: the JSON of `reverie inspect`, from which its tables are made, too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reverie.engine import NOTE, noted
from reverie.file import LACKS_LOG, View, viewing
from reverie.index import ENDED, NO_FINAL, discarded, ended_of, list_episodes

Facts = dict[str, Any]
"""Values that JSON has. A number that JSON has not (an infinite one, none at all) is None."""

MOST_SAMPLERS, MOST_TOLD = 50, 20  # that are listed; values of each


def contents(path: Path, episodes: int = 5) -> Facts:
    """Return what a replay file holds at one moment, even while a writer goes on.

    Nothing is unpacked but final observations and the steps of each stream's newest run.

    Args:
        path: of the file.
        episodes: how many of the newest episodes to list.

    Raises:
        FileError: it cannot be opened, or is damaged.
    """
    with viewing(path) as view, view.file.db.reading():
        index, settings = view.index, view.settings
        table = list_episodes(index)
        return {
            "file": str(path),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "format": view.file.format,
            **_state(view),
            "steps": {
                "live": int(index.live_steps()),
                "capacity": settings.capacity,
                "added": int(index.head.sum()),
            },
            "episodes": _counts(view, table),
            "ended": _averages(ended_of(table)),
            "residency": settings.residency,
            "durability": settings.durability,
            "max_bytes": view.file.meta("max_bytes", 0) or None,
            "bytes": {
                "file": path.stat().st_size,
                "used": int(view.file.db.used_bytes),
                "log": int(view.log_bytes),
            },
            **_columns(view),
            "streams": _streams(view),
            "newest_episodes": list(_newest(view, table, episodes)),
            **_samplers(view.samplers()),
            **_rate(view),
        }


def _state(view: View) -> Facts:
    """The state in a word and in a sentence."""
    if view.writer is not None:
        return {"state": "writing", "state_text": f"{view.writer} writes to it now"}
    if view.file.meta("clean"):
        told = "closed; an episode that runs ends when the next step is added"
        return {"state": "closed", "state_text": told}
    if view.file.lacks_log():
        return {"state": "log missing", "state_text": LACKS_LOG}
    told = "its writer ended without closing it; opening it again cuts the episodes that run"
    return {"state": "not closed", "state_text": told}


def _counts(view: View, table: npt.NDArray[Any]) -> Facts:
    kinds = Counter(table["ended"].tolist())
    return {
        "live": len(table),
        "ended": sum(kinds[kind] for kind in ENDED),
        **{kind: kinds[kind] for kind in (*ENDED, "cut", "running")},
        "discarded": len(view.index.live_episodes()) - len(table),
    }


def _averages(ended: npt.NDArray[Any]) -> Facts:
    """Returns and lengths of the episodes that ended."""
    return {
        name: {
            "mean": _finite(ended[name].mean()),
            "least": _finite(ended[name].min()),
            "most": _finite(ended[name].max()),
        }
        if len(ended)
        else None
        for name in ("return", "length")
    }


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _columns(view: View) -> Facts:
    """What a step takes of each column, and what the sealed runs do."""
    found = view.sums()
    return {
        "columns": [
            {
                "column": column.name,
                "shape": list(column.field.shape),
                "dtype": str(column.field.dtype),
                "step_bytes": column.field.nbytes,
                "sealed_bytes": found.run_steps * column.field.nbytes,
                "packed_bytes": found.columns[column.name].runs,
            }
            for column in view.settings.stored
        ],
        "beside": {
            "newest_steps": found.step_rows,
            "newest_steps_bytes": sum(column.steps for column in found.columns.values()),
            "final_observations": found.finals,
            "final_observations_bytes": sum(column.finals for column in found.columns.values()),
            "samplers_bytes": found.arrays_bytes,
        },
    }


def _streams(view: View) -> list[Facts]:
    index = view.index
    return [
        {
            "stream": stream,
            "oldest": index.tail.item(stream) if index.head[stream] > index.tail[stream] else None,
            "newest": index.head.item(stream) - 1 if index.head[stream] > index.tail[stream] else None,
            "steps": index.head.item(stream) - index.tail.item(stream),
            "episodes": index.begun.item(stream) - index.dropped.item(stream),
            "begun": index.begun.item(stream),
        }
        for stream in range(index.streams)
    ]


def _newest(view: View, table: npt.NDArray[Any], count: int) -> Iterator[Facts]:
    """The newest episodes, oldest first. An episode is numbered as it began, over all streams."""
    rows = view.index.live_episodes()
    rows = rows[~discarded(view.index, rows)]  # as in the table
    first = max(len(table) - count, 0)
    for episode, row in zip(table[first:], rows[first:], strict=True):
        number = view.index.order.item(row)
        yield {
            "episode": number,
            "stream": int(episode["stream"]),
            "first": int(episode["start"]),
            "last": int(episode["stop"]) - 1,
            "steps": int(episode["length"]),
            "live": int(episode["live"]),
            "return": _finite(episode["return"]),
            "ended": str(episode["ended"]),
            "final_obs": bool(view.index.final_slot.item(row) != NO_FINAL),
            "metadata": view.index.labels.get(number, {}),
        }


def _samplers(states: Sequence[Any]) -> Facts:
    return {
        "samplers": [
            {"sampler": kind, "state": dict(islice(_told(state), MOST_TOLD))}
            for kind, state in states[:MOST_SAMPLERS]
        ],
        "samplers_left_out": max(0, len(states) - MOST_SAMPLERS),
    }


def _rate(view: View) -> Facts:
    """The rate limit, where there is one, and what it waits for."""
    note = view.file.meta("notes").get(NOTE)
    if note is None:
        return {}
    try:
        count = noted(note, view.index.head)
    except (KeyError, TypeError, ValueError) as error:
        return {"rate_limit": {"state_text": f"damaged: {error}"}}
    return {"rate_limit": {**count.state(), "error": _finite(count.error), "state_text": str(count)}}


def _told(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values in a sampler's state; arrays are too long to show."""
    if isinstance(state, dict) and state.keys() != {"array"}:
        for key, child in state.items():
            yield from _told(child, f"{name}.{key}" if name else key)
    elif isinstance(state, float):
        yield name, _finite(state)
    elif isinstance(state, (int, str)) and not isinstance(state, bool):
        yield name, state

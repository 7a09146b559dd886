"""The report of `reverie inspect`: what a replay file holds, in words and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reverie.errors import printable
from reverie.file import LACKS_LOG, Sums, View, viewing
from reverie.index import NO_FINAL, list_episodes
from reverie.store import format_bytes

MOST_SAMPLERS, MOST_TOLD, MOST_OF_SAMPLER = 50, 20, 400  # that are listed; values and characters of each


def report(path: Path, episodes: int = 5) -> Iterator[str]:
    """Yield the lines of a report about a replay file, of one moment even while a writer goes on.

    Nothing is unpacked but final observations and the steps of each stream's newest run.

    Args:
        path: of the file.
        episodes: how many of the newest episodes to list.

    Raises:
        FileError: it cannot be opened, or is damaged.
    """
    with viewing(path) as view, view.file.db.reading():
        yield from map(printable, _overview(view, path))
        yield ""
        yield from map(printable, _columns(view, view.sums()))
        yield ""
        yield from _streams(view)
        yield ""
        yield from _episodes(view, episodes)
        yield ""
        yield from _samplers(view.samplers())


def _overview(view: View, path: Path) -> Iterator[str]:
    index, settings = view.index, view.settings
    table = list_episodes(index)
    ends = Counter(table["ended"].tolist())
    streams = "1 stream" if settings.streams == 1 else f"{settings.streams} streams"
    yield f"file        {path}, a replay file of format version {view.file.format}"
    yield f"state       {_state(view)}"
    yield (
        f"steps       {index.live_steps():,} live of {settings.capacity:,}, in {streams}; "
        f"{int(index.head.sum()):,} were added in all"
    )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ends.items()))
    gone = len(index.live_episodes()) - len(table)
    yield (
        f"episodes    {len(table):,} live{f': {kinds}' if kinds else ''}"
        f"{f'; {gone:,} more were discarded' if gone else ''}"
    )
    ended = table[table["ended"] != "running"]
    if len(ended):
        for name, values in (("returns", ended["return"]), ("lengths", ended["length"])):
            yield (
                f"{name}     {values.mean():,.2f} on average over those that ended, "
                f"from {values.min():,g} to {values.max():,g}"
            )
    most = view.file.meta("max_bytes", 0)
    yield (
        f"kept        residency {settings.residency}, durability {settings.durability}, "
        f"{f'at most {format_bytes(most)}' if most else 'no limit of bytes'}"
    )
    waiting = view.log_bytes
    yield (
        f"size        {format_bytes(path.stat().st_size)}, of which {format_bytes(view.file.db.used_bytes)} in use"
        f"{f'; {format_bytes(waiting)} more in its log' if waiting else ''}"
    )


def _state(view: View) -> str:
    if view.writer is not None:
        return f"{view.writer} writes to it now"
    if view.file.meta("clean"):
        return "closed; an episode that runs ends when the next step is added"
    if view.file.lacks_log():
        return LACKS_LOG
    return "its writer ended without closing it; opening it again cuts the episodes that run"


def _columns(view: View, found: Sums) -> Iterator[str]:
    """A row for each column: what a step takes of it, and what the sealed runs do."""
    rows = []
    fields = {column.name: column.field for column in view.settings.stored}
    for name, field in fields.items():
        raw, packed = found.run_steps * field.nbytes, found.columns[name].runs
        rows.append(
            [
                name,
                f"{field.shape} {field.dtype}",
                format_bytes(field.nbytes),
                format_bytes(raw),
                format_bytes(packed),
                _times(raw, packed),
            ]
        )
    raw = found.run_steps * sum(field.nbytes for field in fields.values())
    packed = sum(column.runs for column in found.columns.values())
    rows.append(
        [
            "all",
            "",
            format_bytes(sum(field.nbytes for field in fields.values())),
            format_bytes(raw),
            format_bytes(packed),
            _times(raw, packed),
        ]
    )
    yield from _table(
        ["column", "shape and dtype", "a step", "sealed runs", "packed", "smaller"], rows, "<<>>>>"
    )
    steps = sum(column.steps for column in found.columns.values())
    finals = sum(column.finals for column in found.columns.values())
    yield (
        f"beside them {found.step_rows:,} rows of newest steps ({format_bytes(steps)}), "
        f"{found.finals:,} final observations ({format_bytes(finals)}), "
        f"what samplers remember ({format_bytes(found.arrays_bytes)})"
    )


def _times(raw: int, packed: int) -> str:
    return f"{raw / packed:,.1f}x" if packed else "-"


def _streams(view: View) -> Iterator[str]:
    index = view.index
    rows = []
    for stream in range(index.streams):
        tail, head = index.tail.item(stream), index.head.item(stream)
        ids = [f"{tail:,}", f"{head - 1:,}"] if head > tail else ["-", "-"]
        live = index.begun.item(stream) - index.dropped.item(stream)
        rows.append([str(stream), *ids, f"{head - tail:,}", f"{live:,}", f"{index.begun.item(stream):,}"])
    yield from _table(
        ["stream", "oldest id", "newest id", "live steps", "live episodes", "begun"], rows, ">>>>>>"
    )


def _episodes(view: View, count: int) -> Iterator[str]:
    table, rows = list_episodes(view.index), []
    numbers = view.index.live_episodes()
    first = max(len(table) - count, 0)
    for episode, row in zip(table[first:], numbers[first:].tolist(), strict=True):
        final = "yes" if view.index.final_slot.item(row) != NO_FINAL else "no"
        rows.append(
            [
                f"{view.index.order.item(row)}",
                str(episode["stream"]),
                f"{episode['start']:,}",
                f"{episode['stop'] - 1:,}",
                f"{episode['length']:,}",
                f"{episode['live']:,}",
                f"{episode['return']:,.2f}",
                episode["ended"],
                final,
            ]
        )
    if not rows:
        yield "no episode to list"
        return
    yield from _table(
        ["episode", "stream", "first id", "last id", "steps", "live", "return", "ended", "final obs"],
        rows,
        ">>>>>>><<",
    )
    if first:
        yield f"and {first:,} older ones; --episodes {len(table)} lists them all"
    for number in view.index.order[numbers[first:]].tolist():
        if number in view.index.labels:
            told = json.dumps(view.index.labels[number], ensure_ascii=False)
            yield printable(f"metadata    episode {number}: {told}", MOST_OF_SAMPLER)


def _samplers(states: Sequence[Any]) -> Iterator[str]:
    if not states:
        yield "samplers    none remembers anything"
    for place, (kind, state) in enumerate(states[:MOST_SAMPLERS]):
        told = ", ".join(f"{name} {value}" for name, value in islice(_told(state), MOST_TOLD))
        line = f"{'samplers' if not place else '':<12}{kind}{f': {told}' if told else ''}"
        yield printable(line, MOST_OF_SAMPLER)
    if len(states) > MOST_SAMPLERS:
        yield f"{'':<12}and {len(states) - MOST_SAMPLERS:,} more"


def _told(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values in a sampler's state; arrays are too long to show."""
    if isinstance(state, dict) and state.keys() != {"array"}:
        for key, child in state.items():
            yield from _told(child, f"{name}.{key}" if name else key)
    elif isinstance(state, (int, float, str)) and not isinstance(state, bool):
        yield name, f"{state:g}" if isinstance(state, float) else state


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Yield a table in columns as wide as they need, each put to the side that `sides` says."""
    widths = np.max([[len(cell) for cell in row] for row in [head, *rows]], axis=0).tolist()
    for row in [head, *rows]:
        yield "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()

"""What a notebook shows: a buffer, a batch and a row of one as small pieces of HTML, with a strip of frames.

Everything is a table and a few pictures in the text itself; nothing is loaded. Frames need Pillow, and are left out
where it is missing. Nothing is drawn, so the next batch is the one that would have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, StepBatch
from reverie.buffer import ReplayBuffer
from reverie.errors import BadSetting, BufferClosed, ReplayError, counted, printable
from reverie.index import ended_of
from reverie.report.frames import as_pictures, data_uri, is_frame
from reverie.spec import Field
from reverie.store import format_bytes
from reverie.values import shown, tree_leaves

Array = npt.NDArray[Any]
Shows = Batch[Any] | StepBatch

MOST_FRAMES, BACK = 8, 64  # frames of a strip; newest steps that they are taken from
MOST_ROW = 16  # frames of a row of a batch
MOST_PIXELS = 512 * 512  # of a frame; larger ones are left out of a notebook
SIDE = 80  # pixels on the screen
CELL = "padding: 2px 10px 2px 0; text-align: left; border: 0"


def html_of_buffer(buffer: ReplayBuffer) -> str:
    """Return what is in a buffer: its sizes, its episodes, its fields, and some of its newest frames."""
    try:
        table = np.asarray(buffer.episodes)
        strip = _newest(buffer)
    except ReplayError as error:  # it was closed, or its file is gone
        return _block(repr(buffer), [], "" if isinstance(error, BufferClosed) else printable(str(error)))
    kinds = {
        kind: int(count) for kind, count in zip(*np.unique(table["ended"], return_counts=True), strict=True)
    }
    rows = [
        ["steps", f"{len(buffer):,} of {buffer.capacity:,}, {counted(buffer.streams, 'stream')}"],
        ["episodes", ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "none"],
        ["mean return", _mean(ended_of(table))],
        ["bytes", f"{format_bytes(buffer.nbytes)} of RAM, residency {buffer.residency}"],
        *([["file", str(buffer.path)]] if buffer.path else []),
    ]
    rows += [[name, f"{field.shape} {field.dtype}"] for name, field in buffer.spec.columns()]
    return _block("ReplayBuffer", rows, strip)


def _mean(ended: Array) -> str:
    return (
        f"{ended['return'].mean():,.2f} of {counted(len(ended), 'ended episode')}"
        if len(ended)
        else "none ended"
    )


def html_of_batch(batch: Shows) -> str:
    """Return the shapes and dtypes of a batch, and its first row."""
    rows = [
        [path[1:], f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"]
        for path, leaf in tree_leaves("", batch.as_dict())
    ]
    head = repr(batch).split(":", 1)[0].replace("(", ": ", 1)
    strip = _strip(batch, 0) if len(rows) and _length(batch) else ""
    return _block(head, rows, strip and f"first row:{strip}")


class Shown:
    """One row of a batch, as a notebook shows it; elsewhere it prints as a table.

    Args:
        batch: of windows or steps. row: which of them.
    """

    def __init__(self, batch: Shows, row: int) -> None:
        self._lines = list(_lines(batch, row))
        self._strip = _strip(batch, row)
        self._head = f"row {row} of {type(batch).__name__}"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._lines, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in self._lines
        ]
        return "\n".join([self._head, *lines])

    def _repr_html_(self) -> str:
        head, *rows = self._lines
        return _block(self._head, rows, self._strip, head)


def show(batch: Shows, row: int = 0) -> Shown:
    """Return one row of a batch to look at: each step's id, reward, flags and action, and its frames.

    Raises:
        BadSetting: there is no such row.
    """
    count = len(batch.stream)
    if not isinstance(row, (int, np.integer)) or not -count <= row < count:
        raise BadSetting(
            f"row: wanted one of {-count}..{count - 1}, got {shown(row)}; choose one of the batch"
        )
    return Shown(batch, int(row) % count)


# --- pieces ------------------------------------------------------------------------------------------------


def _block(head: str, rows: list[list[str]], below: str = "", names: list[str] | None = None) -> str:
    """Return a table below a line in bold. `below` is HTML."""
    cells = "".join(
        "<tr>" + "".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    top = (
        ""
        if names is None
        else "<tr>" + "".join(f'<th style="{CELL}">{escape(one)}</th>' for one in names) + "</tr>"
    )
    return f'<div><strong>{escape(head)}</strong><table style="border: 0">{top}{cells}</table>{below}</div>'


def _figures(pictures: Array, notes: list[str]) -> str:
    """Return pictures side by side, with a note below each."""
    scale = max(1, SIDE // pictures.shape[2])
    size = f"width: {scale * pictures.shape[2]}px; image-rendering: pixelated"
    figures = "".join(
        '<figure style="display: inline-block; margin: 4px 6px 0 0">'
        f'<img alt="frame" style="{size}" src="{data_uri(one, "PNG")}">'
        f'<figcaption style="font-size: 80%">{escape(note)}</figcaption></figure>'
        for one, note in zip(pictures, notes, strict=True)
    )
    return f"<div>{figures}</div>"


def _can_show(field: Field) -> bool:
    return is_frame(field) and int(np.prod(field.shape)) <= 3 * MOST_PIXELS and find_spec("PIL") is not None


def _newest(buffer: ReplayBuffer) -> str:
    """Return some of the newest frames of the stream that has most steps."""
    found = []
    for name, field in tree_leaves("obs", buffer.spec.obs):
        if not _can_show(field):
            continue
        with buffer.engine.reading() as index:
            stream = int(np.argmax(index.head - index.tail))
            tail, head = index.tail.item(stream), index.head.item(stream)
            if head == tail:
                continue
            ids = np.unique(np.linspace(max(tail, head - BACK), head - 1, MOST_FRAMES).astype(np.int64))
            rows = np.empty((len(ids), *field.shape), field.dtype)
            buffer.engine.store.gather(name, index.slots(np.array(stream), ids), rows)
        found.append(
            escape(name) + _figures(as_pictures(rows), [f"step {number}" for number in ids.tolist()])
        )
    return "".join(found)


def _length(batch: Shows) -> int:
    return 1 if isinstance(batch, StepBatch) else int(batch.mask.shape[1])


def _array(value: Any) -> Array:
    """Return an array in NumPy, from wherever it lies."""
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value)


def _row(batch: Shows, name: str, row: int) -> Array | None:
    """Return one row of an array of a batch, (L, …); None if it was drawn without."""
    try:
        value: Array = _array(batch[name])[row]
    except (KeyError, AttributeError):
        return None
    return value[None] if isinstance(batch, StepBatch) else value


def _lines(batch: Shows, row: int) -> Iterator[list[str]]:
    """Yield the names of columns, then a line for each position."""
    names = (
        ["is_first", "is_last", "is_terminal"] if isinstance(batch, RowBatch) else ["terminated", "truncated"]
    )
    ids, mask = np.atleast_1d(_array(batch.step_ids())[row]), _row(batch, "mask", row)
    reward, flags = _row(batch, "reward", row), [_row(batch, name, row) for name in names]
    small = {
        path: found for path, leaf in tree_leaves("action", batch["action"] if _has(batch, "action") else {})
        if (found := _row(batch, path, row)) is not None and int(np.prod(leaf.shape[1:])) <= 8 * _length(batch)
    }  # fmt: skip
    yield ["step", "reward", "", *small]
    for place in range(_length(batch)):
        real = mask is None or bool(np.atleast_1d(mask)[place])
        said = ", ".join(
            name for name, flag in zip(names, flags, strict=True) if flag is not None and flag[place]
        )
        values = [np.array2string(value[place], precision=3, separator=" ") for value in small.values()]
        yield [
            str(ids[place]) if real else "–",
            "" if reward is None else f"{float(reward[place]):g}",
            said if real else "padding",
            *values,
        ]


def _has(batch: Shows, name: str) -> bool:
    return name in batch.as_dict()


def _strip(batch: Shows, row: int) -> str:
    """Return the frames of a row, as many as fit side by side."""
    if not _has(batch, "obs") or isinstance(batch, (StepBatch,)):
        return ""
    reward, ids = _row(batch, "reward", row), _array(batch.step_ids())[row]
    found = []
    for name, leaf in tree_leaves("obs", batch["obs"]):
        rows = _row(batch, name, row)
        if rows is None or not _can_show(Field(tuple(leaf.shape[2:]), str(rows.dtype))):
            continue
        places = np.unique(np.linspace(0, len(rows) - 1, min(MOST_ROW, len(rows))).astype(int)).tolist()
        rewards = [""] * len(ids) if reward is None else [f", {float(value):g}" for value in reward]
        notes = [f"step {ids[at]}{rewards[at]}" if at < len(ids) else "what came after" for at in places]
        found.append(escape(name) + _figures(as_pictures(rows[places]), notes))
    return "".join(found)

"""The page itself: what was gathered, laid out, in one file."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.buffer import open as open_file
from reverie.checks import number, positive, seed_number
from reverie.errors import BadSetting, counted
from reverie.file import kind_of, viewing
from reverie.index import ended_of
from reverie.report import plots
from reverie.report.data import Coverage, Played, choose, cover, play
from reverie.report.frames import is_frame
from reverie.report.html import drawn, free_target, render, told_to_player, write
from reverie.samplers import Prioritized, Sampler, Uniform, VisitBalanced
from reverie.spec import is_obs_name
from reverie.store import format_bytes
from reverie.values import shown

# Parts of Bokeh that the page needs.
COMPONENTS = [
    "bokeh",
    "bokeh-widgets",
    "bokeh-tables",
]
PAGE_BYTES = 2_200_000  # what Bokeh, the table and the plots take
MOST_STREAMS = 20  # that are listed
MOST_METADATA = 300  # characters of an episode's metadata in the table


def report(
    source: ReplayBuffer | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    episodes: Sequence[int] | None = None,
    max_mb: float = 4.0,
    length: int = 16,
    sampler: Sampler | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Write one HTML file about a buffer or a replay file, and return its path. It needs no network to be looked at.

    It shows what is held, a table of all episodes, the episodes that fit, step by step, and what is drawn. A file is
    only read, also while somebody writes to it; its page is about 2 MB and whatever its frames take. Needs the extra
    `report`: Bokeh, Jinja2 and Pillow.

    Args:
        source: a buffer, or the path of a replay file.
        target: a name such as "report.html".
        episodes: numbers of those to play, as in `buffer.episodes`; None chooses newest, best, worst, longest and
            random ones in turn, as many as fit.
        max_mb: megabytes that the page may take. Episodes that were asked for are left out, too, where they do not fit.
        length: of the windows that are drawn to see what is drawn.
        sampler: draws them; None: the first one that a replay file remembers something of, else Uniform().
        seed: of the random choices; the same page comes of the same file.
        force: whether `target` may be there already.

    Raises:
        BadSetting: a wrong argument. FileTaken: `target` is there. FileError: a file cannot be read or written.
        ModuleNotFoundError: a package of the extra is missing.
    """
    path = free_target(target, force)
    length, seed = positive("length", length), seed_number(seed) or 0
    room = int(1e6 * number("max_mb", max_mb, 0.1, 1e4)) - PAGE_BYTES
    wanted = None if episodes is None else [_integer(one) for one in episodes]
    if isinstance(source, ReplayBuffer):
        text = _page(source, None, wanted, room, length, sampler, seed)
    elif isinstance(source, (str, os.PathLike)):
        with open_file(source, "disk", "r", seed=seed) as buffer:
            text = _page(buffer, Path(source), wanted, room, length, sampler, seed)
    else:
        raise BadSetting(
            f"source: wanted a ReplayBuffer or the path of a replay file, got {shown(source)}; pass one"
        )
    write(path, text)
    return path


def _integer(value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what is none is refused
    except TypeError as error:
        raise BadSetting(
            f"episodes: wanted whole numbers, got {shown(value)}; see buffer.episodes"
        ) from error


def _page(
    buffer: ReplayBuffer,
    path: Path | None,
    wanted: Sequence[int] | None,
    room: int,
    length: int,
    sampler: Sampler | None,
    seed: int,
) -> str:
    episodes = buffer.episodes
    table = np.asarray(episodes)
    kept = None if path is None else _kept(path)
    metadata = [json.dumps(label, ensure_ascii=False) if label else "" for label in episodes.metadata]
    played, left_out = _fitting(buffer, table, choose(table, wanted, seed), room)
    covered = cover(buffer, _sampler_of(kept) if sampler is None else sampler, length)
    groups, wide = _groups(played)
    level = 1 / len(covered.shares) if covered.draws else None
    made: dict[str, Any] = {
        "shares": plots.by_age("Share of the draws by age", "share", covered.shares, level)
    }
    if covered.kept is not None:
        name, means = covered.kept
        made["kept"] = plots.by_age(f"Mean {name} by age, as the sampler keeps it", name, means)
    if len(table):
        made |= plots.table_of(table, [text[:MOST_METADATA] for text in metadata])
    lines = {f"line{at}": plot for at, plot in enumerate(plots.curves(groups) + plots.images(wide))}
    script, divs = drawn({**made, **lines})
    streams, next_lost = _streams(buffer, table)
    return render(
        "page.html.j2",
        title=path.name if path is not None else "A buffer in memory",
        state=_state(kept),
        bokeh=COMPONENTS,
        script=script,
        facts=_facts(buffer, table, kept),
        column_heads=["column", "shape", "dtype", "a step", "raw", "packed", "smaller"],
        columns=_columns(buffer, kept),
        stream_heads=["stream", "oldest id", "newest id", "steps", "of at most", "episodes"],
        streams=streams[:MOST_STREAMS],
        more_streams=max(len(streams) - MOST_STREAMS, 0),
        next_lost=next_lost,
        plots={**divs, "curves": [divs[name] for name in lines]},
        chosen=[(one.number, why) for one, why in played],
        chosen_told=_told_of(len(table), played, left_out),
        coverage_told=_coverage(covered),
        windows=[_window(row) for row in covered.windows],
        most_drawn=[(row, f"{share:.1%}") for row, share in covered.most_drawn],
        told=told_to_player(
            [_shown(one, why, table, metadata) for one, why in played], groups + wide, plots.COLOURS
        ),
    )


class _Kept(NamedTuple):
    """What a replay file says of itself, at one moment."""

    writer: str | None
    is_clean: bool
    nbytes: int
    format: int
    packed: dict[str, tuple[int, int]]  # column -> steps of sealed runs, and the bytes that they take
    samplers: list[str]  # kinds of those that it remembers something of


def _kept(path: Path) -> _Kept:
    with viewing(path) as view:
        sums = view.sums()
        return _Kept(
            view.writer,
            bool(view.file.meta("clean")),
            path.stat().st_size,
            view.file.format,
            {name: (sums.run_steps, one.runs) for name, one in sums.columns.items()},
            [kind for kind, _ in view.samplers()],
        )


# --- the parts -------------------------------------------------------------------------------------------------


def _fitting(
    buffer: ReplayBuffer, table: npt.NDArray[np.void], chosen: list[tuple[int, str]], room: int
) -> tuple[list[tuple[Played, str]], int]:
    """Return the chosen episodes that fit, and how many of them do not."""
    found, left_out = [], 0
    for row, why in chosen:
        one = play(buffer, table, row)
        if one is None:
            continue
        if one.nbytes > room:
            left_out += 1
            continue
        room -= one.nbytes
        found.append((one, why))
    return found, left_out


def _groups(played: list[tuple[Played, str]]) -> tuple[list[str], list[str]]:
    """Return the groups of curves, and the vectors that are images, in the order of the fields."""
    curves = dict.fromkeys(group for one, _ in played for group in one.curves)
    images = dict.fromkeys(group for one, _ in played for group in one.images)
    return list(curves), list(images)


def _sampler_of(kept: _Kept | None) -> Sampler:
    """Return the first sampler of which a file remembers weights or counts, which it gets back; else Uniform()."""
    known: list[Sampler] = [Prioritized(), VisitBalanced(), VisitBalanced(by="step")]
    for kind in kept.samplers if kept else ():
        for sampler in known:
            if kind_of(sampler) == kind:
                return sampler
    return Uniform()


def _facts(buffer: ReplayBuffer, table: npt.NDArray[np.void], kept: _Kept | None) -> list[tuple[str, str]]:
    ended = ended_of(table)
    finite = ended["return"][np.isfinite(ended["return"])]
    facts = [
        ("steps", f"{len(buffer):,} of {buffer.capacity:,} ({len(buffer) / buffer.capacity:.0%})"),
        ("episodes", f"{len(table):,}; ended: {len(ended):,}"),
        ("mean return", f"{finite.mean():,.2f}" if len(finite) else "none ended"),
        ("mean length", f"{ended['length'].mean():,.1f}" if len(ended) else "none ended"),
        ("streams", f"{buffer.streams:,}"),
        ("bytes live", buffer.residency),
    ]
    if kept is None:
        return [*facts, ("memory", format_bytes(buffer.nbytes))]
    return [*facts, ("file", format_bytes(kept.nbytes)), ("format", str(kept.format))]


def _state(kept: _Kept | None) -> str:
    if kept is None:
        return "A buffer in memory."
    if kept.writer is not None:
        return f"A replay file; {kept.writer} writes to it now."
    return (
        "A replay file, closed." if kept.is_clean else "A replay file whose writer ended without closing it."
    )


def _columns(buffer: ReplayBuffer, kept: _Kept | None) -> Iterator[list[str]]:
    for name, field in buffer.spec.columns():
        steps, size = kept.packed[name] if kept else (0, 0)
        raw = steps * field.nbytes
        yield [
            name + (" (frames)" if is_obs_name(name) and is_frame(field) else ""),
            str(field.shape),
            str(field.dtype),
            format_bytes(field.nbytes),
            format_bytes(raw) if raw else "–",
            format_bytes(size) if raw else "–",
            f"{raw / size:,.1f}×" if size else "–",
        ]


def _streams(buffer: ReplayBuffer, table: npt.NDArray[np.void]) -> tuple[list[list[str]], str]:
    with buffer.engine.reading() as index:
        tails, heads, each = index.tail.tolist(), index.head.tolist(), index.capacity
    counts = np.bincount(table["stream"], minlength=buffer.streams).tolist()
    rows = [
        [
            str(one),
            *([f"{tail:,}", f"{head - 1:,}"] if head > tail else "––"),
            f"{head - tail:,}",
            f"{each:,}",
            f"{count:,}",
        ]
        for one, (tail, head, count) in enumerate(zip(tails, heads, counts, strict=True))
    ]
    full = [one for one, (tail, head) in enumerate(zip(tails, heads, strict=True)) if head - tail == each]
    if not full:
        least = min(each - (head - tail) for tail, head in zip(tails, heads, strict=True))
        return (
            rows,
            f"No stream is full: the first step would be lost after {counted(least + 1, 'step')} more.",
        )
    first = min(full, key=lambda one: heads[one] - tails[one])
    return rows, (
        f"{counted(len(full), 'stream')} full: the next step of stream {first} takes the place of its step "
        f"{tails[first]:,}."
    )


def _told_of(count: int, played: list[tuple[Played, str]], left_out: int) -> str:
    """Say which episodes the page plays, and what it leaves out."""
    if not count:
        return "There is no episode to play."
    said = f"This page plays {len(played):,} of {counted(count, 'episode')}"
    thinned = sum(one.every > 1 for one, _ in played)
    more = [
        f"{counted(left_out, 'chosen one')} had no room; a larger size takes more" if left_out else "",
        f"of {counted(thinned, 'long one')} it shows every second step or fewer" if thinned else "",
    ]
    return said + "".join(f"; {one}" for one in more if one) + "."


def _coverage(covered: Coverage) -> str:
    if not covered.draws:
        return "There is nothing to draw."
    return (
        f"Measured: {covered.draws:,} draws of windows of {counted(covered.length, 'step')} by {covered.sampler}, "
        f"padded on the right. The dashed line is where every bar would end if no age was favoured."
    )


def _window(row: tuple[int, int, float, float]) -> list[str]:
    length, windows, left_out, padding = row
    return [f"{length:,}", f"{windows:,}", f"{left_out:.1%}", f"{padding:.1%}"]


def _shown(one: Played, why: str, table: npt.NDArray[np.void], metadata: list[str]) -> dict[str, Any]:
    """Return an episode as the page's script plays it."""
    row = table[one.number]
    return {
        "number": one.number,
        "why": why,
        "stream": int(row["stream"]),
        "length": int(row["live"]),
        "ended": str(row["ended"]),
        "return": f"{row['return']:,.2f}",
        "metadata": metadata[one.number],
        "ids": one.ids,
        "every": one.every,
        "has_final": one.has_final,
        "curves": one.curves,
        "images": one.images,
        "frames": one.frames,
    }

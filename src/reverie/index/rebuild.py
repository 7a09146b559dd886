"""Sets an episode index anew: from what a file or a ring says there is, or after an interrupt. Integers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index.episodes import COUNTS, NEVER, NO_FINAL, NO_ROW, RUNNING, EpisodeIndex, Ints
from reverie.index.lengths import LengthTable


class Listed(NamedTuple):
    """The live episodes of all streams, one entry each."""

    stream: Ints
    ordinal: Ints
    start: Ints
    stop: Ints
    ended: npt.NDArray[np.int8]
    final: Ints
    total: npt.NDArray[np.float64]
    order: Ints


class Places(NamedTuple):
    """Which rows of the table the live episodes occupy, and which will be taken next."""

    stream: Ints
    ordinal: Ints
    row: Ints
    free: Ints


def listed(index: EpisodeIndex) -> Listed:
    """Return the live episodes of an index, as they began."""
    rows = index.live_rows()
    return Listed(*(getattr(index, name)[rows] for name in Listed._fields))


def places(index: EpisodeIndex) -> Places:
    """Return where the live episodes are. Samplers that keep a weight for each episode keep it by row."""
    rows = index.live_rows()
    return Places(index.stream[rows], index.ordinal[rows], rows, np.array(index._free_rows, np.int64))


def most_rows(streams: int, capacity: int) -> int:
    """Return how many rows the episode table of an index may come to have: it doubles when all have a live episode."""
    return max(64, 2 * streams * (capacity + 1))


def check_places(before: Places, index: EpisodeIndex) -> None:
    """Refuse places that are not those of some index of this size.

    Raises:
        ValueError: they are not.
    """
    most = most_rows(index.streams, index.capacity)
    for one in before:
        if one.dtype != np.int64 or one.ndim != 1 or len(one) > most:
            raise ValueError("its rows of episodes are no such arrays")
    size = len(before.row) + len(before.free)
    if not len(before.stream) == len(before.ordinal) == len(before.row) or size > most:
        raise ValueError("its rows of episodes are too many, or not as many as its episodes")
    rows = np.concatenate([before.row, before.free])
    if size and (rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) < size):
        raise ValueError("its rows of episodes are no rows")


def rebuild(
    index: EpisodeIndex, head: Ints, tail: Ints, episodes: Listed, before: Places | None = None
) -> None:
    """Make an index hold exactly these steps and episodes.

    Args:
        index: of the same number of streams and capacity; all it knew is forgotten.
        head, tail: (streams,) next id to be written; oldest live id.
        episodes: those that have a live step, in the order in which they began; those of a stream have
            consecutive ordinals and no gaps between them, and only its last one may be RUNNING.
        before: the rows that they had; those not named there get others. None: any.
    """
    count = len(episodes.stream)
    rows = np.arange(count)
    if before is not None and len(before.row):
        names = zip(before.stream.tolist(), before.ordinal.tolist(), strict=True)
        known = dict(zip(names, before.row.tolist(), strict=True))
        keys = list(zip(episodes.stream.tolist(), episodes.ordinal.tolist(), strict=True))
        taken = {known[key] for key in keys if key in known}
        unused = iter(row for row in range(count + len(taken) + 1) if row not in taken)
        rows = np.array([known[key] if key in known else next(unused) for key in keys], np.int64)
    size = max(len(index.start), int(rows.max(initial=-1)) + 1)
    if before is not None:
        size = max(size, len(before.row) + len(before.free))
    index._allocate(size)
    for name, values in episodes._asdict().items():
        getattr(index, name)[rows] = values
    index.settled[rows] = episodes.stop - (episodes.ended == RUNNING)
    index.head[:], index.tail[:] = head, tail
    index.next_order = max(index.next_order, int(episodes.order.max(initial=-1)) + 1)
    index._lengths = LengthTable()
    live = np.bincount(episodes.stream, minlength=index.streams)
    width = index._row_of.shape[1]
    while width < live.max(initial=0) + 1:
        width *= 2
    index._row_of = np.full((index.streams, width), NO_ROW, np.int64)
    index._row_of[episodes.stream, episodes.ordinal % width] = rows
    index.open_row[:] = NO_ROW
    running = episodes.ended == RUNNING
    index.open_row[episodes.stream[running]] = rows[running]
    index.dropped[:] = index.begun
    for stream in np.flatnonzero(live).tolist():
        ordinals = episodes.ordinal[episodes.stream == stream]
        index.dropped[stream], index.begun[stream] = ordinals.min(), ordinals.max() + 1
    first = np.maximum(episodes.start, tail[episodes.stream])
    counts = episodes.stop - first
    ids = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
    slots = np.repeat(episodes.stream, counts) * index.capacity + ids % index.capacity
    index.row_of_slot[slots] = np.repeat(rows, counts)
    derive(index)
    if before is not None:
        free = set(index._free_rows)
        kept = [row for row in before.free.tolist() if row in free]
        free.difference_update(kept)
        index._free_rows = [row for row in index._free_rows if row in free] + kept


def mend(index: EpisodeIndex) -> None:
    """Undo the last `commit` or `cut`, and set what follows from the rest anew. Twice is fine."""
    if index.found is not None:
        *columns, index.next_order, seams = index.found
        index.seams |= seams
        stream: Any
        for stream, head, begun, row, total in zip(
            *(np.atleast_1d(one).tolist() for one in columns), strict=True
        ):
            index.head[stream], index.begun[stream], index.open_row[stream] = head, begun, row
            if row >= 0:
                index.stop[row], index.settled[row] = head, head - 1
                index.ended[row], index.final[row], index.total[row] = RUNNING, NO_FINAL, total
    derive(index)
    index.found = None


def derive(index: EpisodeIndex) -> None:
    """Set everything that follows from heads, tails and the episodes' own entries."""
    index._allocate(max(len(getattr(index, name)) for name in (*COUNTS, "ended", "total")))
    index._lengths = LengthTable()
    live = set()
    for stream in range(index.streams):
        tail, begun = index.tail.item(stream), index.begun.item(stream)
        first = index.dropped.item(stream)
        while first < begun:
            row = index.row_of(stream, first)
            if not index.ended.item(row) or index.stop.item(row) > tail:
                break
            first += 1
        index.dropped[stream] = first
        index.front_row[stream], index._front_stop[stream] = NO_ROW, NEVER
        for ordinal in range(first, begun):
            row = index.row_of(stream, ordinal)
            live.add(row)
            if ordinal == first:
                index.front_row[stream] = row
                index._front_stop[stream] = index.stop[row] if index.ended.item(row) else NEVER
            elif index.ended.item(row):
                index._lengths.add(index.stop.item(row) - index.start.item(row), row)
    index._free_rows = [row for row in range(len(index.start) - 1, -1, -1) if row not in live]


def replacement(
    index: EpisodeIndex,
    stream: int,
    head: int,
    tail: int,
    episodes: Iterable[tuple[int, int, int, int, float]],
) -> Callable[[], None]:
    """Return what replaces all that is known of one stream; it may be called again if it was interrupted.

    Args:
        index: the index.
        stream: the stream; what was known of it is forgotten, its final places included.
        head: the next id to be written; tail: the oldest live id.
        episodes: (start, stop, ended, final, total) of each episode that has a live step, oldest first and
            without gaps; only the last one may be RUNNING.
    """
    table: list[tuple[int, int, int, int, float]] = list(episodes)
    start, stop, ended, final = (np.array([row[place] for row in table], np.int64) for place in range(4))
    total = np.array([row[4] for row in table], np.float64)
    count = len(start)
    fresh = Listed(
        np.full(count, stream),
        index.begun[stream] + np.arange(count),
        start,
        stop,
        ended.astype(np.int8),
        final,
        total,
        index.next_order + np.arange(count),
    )
    old = listed(index)
    others = old.stream != stream
    merged = Listed._make(
        np.concatenate([getattr(old, name)[others], getattr(fresh, name)]) for name in Listed._fields
    )
    heads, tails = index.head.copy(), index.tail.copy()
    heads[stream], tails[stream] = head, tail
    return partial(rebuild, index, heads, tails, merged, places(index))

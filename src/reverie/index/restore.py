"""Gives an episode index other steps and episodes: those of a file, or new ones for one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import NO_EPISODE, RUNNING
from reverie.index.episodes import EpisodeIndex
from reverie.index.runs import Ints


class EpisodeColumns(NamedTuple):
    """The live episodes of all streams, one entry each, as `IndexArrays` describes its table."""

    stream: Ints
    ordinal: Ints
    start: Ints
    stop: Ints
    ended: npt.NDArray[np.int8]
    final_slot: Ints
    total: npt.NDArray[np.float64]
    order: Ints


class TableRows(NamedTuple):
    """Which row of the table each live episode has, and which rows will be taken next.

    A file keeps these arrays under the names of these fields.
    """

    stream: Ints
    ordinal: Ints
    row: Ints
    free: Ints


def table_rows(index: EpisodeIndex) -> TableRows:
    """Return the rows of an index. Samplers that keep a weight for each episode keep it by row."""
    episodes = index.live_episodes()
    return TableRows(
        index.stream[episodes], index.ordinal[episodes], episodes, np.array(index.free, np.int64)
    )


def most_episodes(streams: int, capacity: int) -> int:
    """Return how many entries the table of an index may come to have: it doubles when all of them are in use."""
    return max(64, 2 * streams * (capacity + 1))


def check_table_rows(before: TableRows, index: EpisodeIndex) -> None:
    """Refuse rows that are not those of some index of this size.

    Raises:
        ValueError: they are not.
    """
    most = most_episodes(index.streams, index.capacity)
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
    index: EpisodeIndex, head: Ints, tail: Ints, columns: EpisodeColumns, before: TableRows | None = None
) -> None:
    """Make an index hold exactly these steps and episodes.

    Args:
        index: of the same number of streams and capacity; all it knew is forgotten.
        head, tail: (streams,) next id to be written; oldest live id.
        columns: the episodes that have a live step, in the order in which they began; those of a stream have
            consecutive ordinals and no gaps between them, and only its last one may be RUNNING.
        before: the rows that they had; those not named there get others. None: any.
    """
    episodes = _numbers(columns, before)
    size = max(len(index.start), int(episodes.max(initial=-1)) + 1)
    if before is not None:
        size = max(size, len(before.row) + len(before.free))
    index.allocate(size)
    index.head[:], index.tail[:] = head, tail
    for name, values in columns._asdict().items():
        getattr(index, name)[episodes] = values
    index.settled[episodes] = columns.stop - (columns.ended == RUNNING)
    index.next_order = max(index.next_order, int(columns.order.max(initial=-1)) + 1)
    _set_streams(index, columns, episodes)
    _set_slots(index, columns, episodes)
    index.derive()
    if before is not None:
        _free_as_before(index, before)


def _numbers(columns: EpisodeColumns, before: TableRows | None) -> Ints:
    """Return a row of the table for each episode: the one it had before, or one that no other takes."""
    count = len(columns.stream)
    if before is None or not len(before.row):
        return np.arange(count)
    names = zip(before.stream.tolist(), before.ordinal.tolist(), strict=True)
    known = dict(zip(names, before.row.tolist(), strict=True))
    keys = list(zip(columns.stream.tolist(), columns.ordinal.tolist(), strict=True))
    taken = {known[key] for key in keys if key in known}
    unused = iter(row for row in range(count) if row not in taken)
    return np.array([known[key] if key in known else next(unused) for key in keys], np.int64)


def _set_streams(index: EpisodeIndex, columns: EpisodeColumns, episodes: Ints) -> None:
    """Set which episodes each stream has, and which of them runs."""
    live = np.bincount(columns.stream, minlength=index.streams)
    width = index.by_ordinal.shape[1]
    while width < live.max(initial=0) + 1:
        width *= 2
    index.by_ordinal = np.full((index.streams, width), NO_EPISODE, np.int64)
    index.by_ordinal[columns.stream, columns.ordinal % width] = episodes
    index.open_episode[:] = NO_EPISODE
    running = columns.ended == RUNNING
    index.open_episode[columns.stream[running]] = episodes[running]
    index.dropped[:] = index.begun
    for stream in np.flatnonzero(live).tolist():
        ordinals = columns.ordinal[columns.stream == stream]
        index.dropped[stream], index.begun[stream] = ordinals.min(), ordinals.max() + 1


def _set_slots(index: EpisodeIndex, columns: EpisodeColumns, episodes: Ints) -> None:
    """Set which episode the step in each slot belongs to."""
    first = np.maximum(columns.start, index.tail[columns.stream])
    counts = columns.stop - first
    ids = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
    slots = np.repeat(columns.stream, counts) * index.capacity + ids % index.capacity
    index.episode_of_slot[slots] = np.repeat(episodes, counts)


def _free_as_before(index: EpisodeIndex, before: TableRows) -> None:
    """Let the free rows be taken in the order in which they would have been."""
    free = set(index.free)
    kept = [row for row in before.free.tolist() if row in free]
    free.difference_update(kept)
    index.free = [row for row in index.free if row in free] + kept


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
        stream: the stream; what was known of it is forgotten, its final slots included.
        head: the next id to be written; tail: the oldest live id.
        episodes: (start, stop, ended, final slot, total) of each episode that has a live step, oldest first and
            without gaps; only the last one may be RUNNING.
    """
    kinds = [("start", "i8"), ("stop", "i8"), ("ended", "i1"), ("final_slot", "i8"), ("total", "f8")]
    table = np.array([tuple(episode) for episode in episodes], kinds)
    count = np.arange(len(table))
    fresh = EpisodeColumns(
        stream=np.full(len(table), stream),
        ordinal=index.begun[stream] + count,
        start=table["start"],
        stop=table["stop"],
        ended=table["ended"],
        final_slot=table["final_slot"],
        total=table["total"],
        order=index.next_order + count,
    )
    live = index.live_episodes()
    others = live[index.stream[live] != stream]
    merged = EpisodeColumns._make(
        np.concatenate([getattr(index, name)[others], values]) for name, values in fresh._asdict().items()
    )
    heads, tails = index.head.copy(), index.tail.copy()
    heads[stream], tails[stream] = head, tail
    return partial(rebuild, index, heads, tails, merged, table_rows(index))

"""The live episodes as users see them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import CUT, RUNNING, TERMINATED, TRUNCATED
from reverie.index.choice import choice_of_kept
from reverie.index.episodes import EpisodeIndex
from reverie.index.runs import Ints

ENDED_NAMES = {RUNNING: "running", TERMINATED: "terminated", TRUNCATED: "truncated",
               TERMINATED | TRUNCATED: "terminated", CUT: "cut"}  # fmt: skip

EPISODE_DTYPE = np.dtype([
    ("stream", np.int64), ("start", np.int64), ("stop", np.int64), ("length", np.int64),
    ("live", np.int64), ("return", np.float64), ("ended", "U10"),
])  # fmt: skip

FEW = 256  # episodes that are copied at once: it takes no longer than to look at one of them late
_NAME_OF = np.array([ENDED_NAMES.get(ended, "") for ended in range(max(ENDED_NAMES) + 1)], "U10")


class EpisodeTable(Sequence[Any]):
    """The episodes that were live, and not discarded, when it was asked for, in the order in which they began.

    It is read like the structured array that `np.asarray` makes of it: by number, name of a field, slice or
    mask, and by an array's methods. Whoever asks for its length or for one row does not pay for all of them.

    It tells of the moment when it was asked for. More than FEW episodes are read late, though: one that was
    evicted before anybody looked is left out. The first look at several rows copies all of them, and from
    then on nothing changes any more.

    Beside the fields, `ids` and `metadata` have an entry for each row.

    Fields: stream; start, stop: ids of its first step and one past its last; length: stop - start;
    live: how many of these steps were held; return: the sum of all its rewards; ended: "running",
    "terminated" (also when truncated at the same step), "truncated" or "cut".

    Args:
        index: the integers of the buffer.
        lock: is held while they are read; they do not change meanwhile.
    """

    dtype = EPISODE_DTYPE
    ndim = 1
    __hash__ = None  # type: ignore[assignment]  # compares by its rows

    def __init__(self, index: EpisodeIndex, lock: AbstractContextManager[Any]) -> None:
        self._index, self._lock = index, lock
        self._rows: npt.NDArray[np.void] | None = None  # the copy, once there is one
        self._ids: Ints = np.zeros(0, np.int64)  # of its rows
        self._head, self._tail, self._open = index.head.copy(), index.tail.copy(), index.open_episode.copy()
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()
        self._totals = index.total[self._open]  # a running episode's return grows; for others this is unused
        self._kept = choice_of_kept(index)
        if len(self) <= FEW or self._kept is not None:
            self._copied()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all rows as a structured array of the caller's own."""
        return np.array(self._copied(), dtype)

    @property
    def shape(self) -> tuple[int]:
        """The number of rows, as an array has it."""
        return (len(self),)

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self)

    @property
    def ids(self) -> Ints:
        """(E,) int64; the id of each episode: how many had begun before it, in all streams. It never changes."""
        self._copied()
        return self._ids

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """What `annotate` set for each episode, as it is now; an empty dict where it set nothing."""
        with self._lock:
            return [deepcopy(self._index.labels.get(number, {})) for number in self.ids.tolist()]

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        with self._lock:
            return int((self._begun - self._first()).clip(0).sum())

    def __getitem__(self, key: Any) -> Any:
        """Return a row for a number, a column for a name, and an array of rows for a slice, a mask or a list."""
        if (
            self._rows is None
            and isinstance(key, (int, np.integer))
            and not isinstance(key, (bool, np.bool_))
        ):
            with self._lock:
                counts = (self._begun - self._first()).clip(0)
                total = int(counts.sum())
                rank = int(key) + total if key < 0 else int(key)
                if not 0 <= rank < total:
                    raise IndexError(
                        f"wanted an episode in {-total}..{total - 1}, got {key}; there are {total}"
                    )
                return self._table(*self._at_rank(rank))[0]
        return self._copied()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._copied())

    def __eq__(self, other: object) -> Any:
        return self._copied() == np.asarray(other)

    def __ne__(self, other: object) -> Any:
        return self._copied() != np.asarray(other)

    def __getattr__(self, name: str) -> Any:
        """Return whatever else an array has, such as `tolist` and `tobytes`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._copied(), name)

    def __reduce__(self) -> Any:
        """Travel, and be copied, as the structured array."""
        return np.array, (self._copied(),)

    def __repr__(self) -> str:
        return f"EpisodeTable({self._copied()!r})"

    def _copied(self) -> npt.NDArray[np.void]:
        """Return all rows, copied once."""
        with self._lock:
            if self._rows is None:
                counts = (self._begun - self._first()).clip(0)
                stream = np.repeat(np.arange(len(counts)), counts)
                ordinal = np.arange(len(stream)) + np.repeat(self._begun - np.cumsum(counts), counts)
                if self._kept is not None:
                    kept = self._kept.chosen.take(self._index.episodes_of(stream, ordinal))
                    stream, ordinal = stream[kept], ordinal[kept]
                if len(counts) > 1:
                    order = np.argsort(self._index.order[self._index.episodes_of(stream, ordinal)])
                    stream, ordinal = stream[order], ordinal[order]
                self._ids = self._index.order[self._index.episodes_of(stream, ordinal)]
                self._ids.flags.writeable = False
                self._rows = self._table(stream, ordinal)
                self._rows.flags.writeable = False
            return self._rows

    def _first(self) -> Ints:
        """Return the ordinal of the oldest episode of each stream that is live still."""
        return np.maximum(self._dropped, self._index.dropped)

    def _at_rank(self, rank: int) -> tuple[Ints, Ints]:
        """Return stream and ordinal, one each, of the episode that began after `rank` others.

        Within a stream `order` rises with the ordinal: what is asked for is one element of several sorted
        lists. A pivot from the longest one cuts all of them, until it is the element.
        """
        index, first = self._index, self._first()
        if index.streams == 1:
            return np.zeros(1, np.int64), first + rank
        low, high = first.tolist(), np.maximum(self._begun, first).tolist()
        if rank == sum(high) - sum(low) - 1:  # the newest one, the last of its stream
            some = np.flatnonzero(self._begun > first)
            last = self._begun[some] - 1
            newest = np.array([index.order[index.episodes_of(some, last)].argmax()])
            return some[newest], last[newest]
        while True:
            widths = [stop - start for start, stop in zip(low, high, strict=True)]
            longest = max(range(len(low)), key=widths.__getitem__)
            pivot = low[longest] + widths[longest] * rank // sum(widths)
            order = index.order.item(index.episode_of(longest, pivot))
            cut = [self._first_from(order, *span) for span in zip(range(len(low)), low, high, strict=True)]
            below = sum(cut) - sum(low)
            if rank < below:
                high = cut
            elif rank > below:
                rank, low = rank - below - 1, cut
                low[longest] = pivot + 1
            else:
                return np.array([longest]), np.array([pivot])

    def _first_from(self, order: int, stream: int, low: int, high: int) -> int:
        """Return the first ordinal in `low..high` of a stream's episode that did not begin before `order`."""
        index = self._index
        if low == high or index.order.item(index.episode_of(stream, high - 1)) < order:
            return high
        return low + bisect_left(
            range(low, high), order, key=lambda ordinal: index.order.item(index.episode_of(stream, ordinal))
        )

    def _table(self, stream: Ints, ordinal: Ints) -> npt.NDArray[np.void]:
        """Return the rows of episodes as they were when this object was made."""
        index, rows = self._index, self._index.episodes_of(stream, ordinal)
        ran = (ordinal == self._begun[stream] - 1) & (self._open[stream] >= 0)
        table = np.zeros(len(rows), EPISODE_DTYPE)
        table["stream"], table["start"] = stream, index.start[rows]
        table["stop"] = np.where(ran, self._head[stream], index.stop[rows])
        table["length"] = table["stop"] - table["start"]
        table["live"] = table["stop"] - np.maximum(table["start"], self._tail[stream])
        table["return"] = np.where(ran, self._totals[stream], index.total[rows])
        table["ended"] = _NAME_OF[np.where(ran, RUNNING, index.ended[rows])]
        return table


def list_episodes(index: EpisodeIndex) -> npt.NDArray[np.void]:
    """Return the live episodes as a structured array of EPISODE_DTYPE, in the order they began."""
    return np.asarray(EpisodeTable(index, nullcontext()))

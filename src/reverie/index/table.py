"""The live episodes as users see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index.arrays import CUT, RUNNING, TERMINATED, TRUNCATED
from reverie.index.choice import choice_of_kept
from reverie.index.episodes import EpisodeIndex
from reverie.index.ranks import place_at_rank
from reverie.index.runs import Ints

ENDED_NAMES = {RUNNING: "running", TERMINATED: "terminated", TRUNCATED: "truncated",
               TERMINATED | TRUNCATED: "terminated", CUT: "cut"}  # fmt: skip
ENDED = ("terminated", "truncated")  # a cut episode has stopped, but it has not ended


class EpisodeRow(np.void):  # type: ignore[misc]  # np.record, too, is a class below np.void
    """One row of the table of episodes, read by the names of its fields: `row["return"]`."""

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self[name].item()!r}" for name in self.dtype.names or ())
        return f"EpisodeRow({values})"

    __str__ = __repr__


NAMES = ("stream", "start", "stop", "length", "live", "return", "ended")
EPISODE_DTYPE = np.dtype(
    (EpisodeRow, np.dtype(list(zip(NAMES, (*[np.int64] * 5, np.float64, "U10"), strict=True))))
)

FEW = 256  # episodes that are copied at once: it takes no longer than to look at one of them late
_NAME_OF = np.array([ENDED_NAMES.get(ended, "") for ended in range(max(ENDED_NAMES) + 1)], "U10")


class EpisodeTable(Sequence[Any]):
    """The episodes that were live, and not discarded, when it was asked for, in the order in which they began.

    It is read like the structured array that `np.asarray` makes of it: by number, name of a field, slice or
    mask, and by an array's methods. Whoever asks for its length or for one row does not pay for all of them.

    It tells of the moment when it was asked for. More than FEW episodes are read late, though: one that was
    evicted before anybody looked is left out. The first look at several rows copies all of them, and from
    then on nothing changes any more.

    Beside the fields, `ids` and `metadata` have an entry for each row. `as_dict` gives everything in columns, as
    `pandas.DataFrame(buffer.episodes.as_dict())` takes it. The table itself would become one column there.

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
        self._columns: dict[str, npt.NDArray[Any]] | None = None  # the copy, once there is one, and "id"
        self._rows: npt.NDArray[np.void] | None = None  # the same as a structured array, once asked for
        self._head, self._tail, self._open = index.head.copy(), index.tail.copy(), index.open_episode.copy()
        self._begun, self._dropped = index.begun.copy(), index.dropped.copy()
        self._totals = index.total[self._open]  # a running episode's return grows; for others this is unused
        self._kept = choice_of_kept(index)
        if self._kept is not None or len(self) <= FEW:
            self._copied()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all rows as a structured array of the caller's own."""
        return np.array(self._structured(), dtype)

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
        return self._copied()["id"]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """What `annotate` set for each episode, as it is now; an empty dict where it set nothing."""
        with self._lock:
            labels = [self._index.labels.get(number) for number in self.ids.tolist()]
            return [deepcopy(label) if label else {} for label in labels]

    def as_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return "id" and every field as an array of its own, (E,) each: `pandas.DataFrame(episodes.as_dict())`."""
        return {name: self[name].copy() for name in ("id", *NAMES)}

    def __len__(self) -> int:
        if self._columns is not None:
            return len(self._columns["id"])
        with self._lock:
            return int((self._begun - self._first()).clip(0).sum())

    def __getitem__(self, key: Any) -> Any:
        """Return a row for a number, a column for a name, and an array of rows for a slice, a mask or a list.

        "id" is a name, too: `episodes["id"]` is `episodes.ids`.
        """
        if isinstance(key, str) and key in self._copied():
            return self._column(key)
        if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
            return self._row(int(key))
        return self._structured()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._structured())

    def __eq__(self, other: object) -> Any:
        return self._structured() == np.asarray(other)

    def __ne__(self, other: object) -> Any:
        return self._structured() != np.asarray(other)

    def __getattr__(self, name: str) -> Any:
        """Return whatever else an array has, such as `tolist` and `tobytes`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._structured(), name)

    def __reduce__(self) -> Any:
        """Travel, and be copied, as the structured array."""
        return np.array, (self._structured(),)

    def __repr__(self) -> str:
        return f"EpisodeTable({self._structured()!r})"

    def _row(self, number: int) -> np.void:
        """Return one row, without a look at the others."""
        with self._lock:
            first = None if self._columns is not None else np.minimum(self._first(), self._begun).tolist()
            total = len(self) if first is None else sum(self._begun.tolist()) - sum(first)
            rank = number + total if number < 0 else number
            if not 0 <= rank < total:
                raise IndexError(
                    f"wanted an episode in {-total}..{total - 1}, got {number}; there are {total}"
                )
            row = np.zeros(1, EPISODE_DTYPE)
            if first is None:
                row[0] = tuple(self._column(name)[rank] for name in NAMES)
            else:
                row[0] = self._values(*place_at_rank(self._index, first, self._begun.tolist(), rank))
            only: np.void = row[0]
            return only

    def _column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of the copy; how episodes ended is kept as a number until somebody asks."""
        columns = self._copied()
        if columns[name].dtype == np.int8:
            columns[name] = _frozen(_NAME_OF[columns[name]])
        return columns[name]

    def _structured(self) -> npt.NDArray[np.void]:
        """Return all rows, as one array."""
        with self._lock:
            if self._rows is None:
                rows = np.zeros(len(self._copied()["id"]), EPISODE_DTYPE)
                for name in NAMES:
                    rows[name] = self._column(name)
                self._rows = _frozen(rows)
            return self._rows

    def _copied(self) -> dict[str, npt.NDArray[Any]]:
        """Return all columns, copied once."""
        with self._lock:
            if self._columns is None:
                counts = (self._begun - self._first()).clip(0)
                stream = np.repeat(np.arange(len(counts)), counts)
                ordinal = np.arange(len(stream)) + np.repeat(self._begun - np.cumsum(counts), counts)
                rows = self._index.episodes_of(stream, ordinal)
                order = self._index.order[rows]
                if len(counts) > 1:
                    places = np.argsort(order, kind="stable")
                    stream, ordinal, rows, order = (
                        stream[places],
                        ordinal[places],
                        rows[places],
                        order[places],
                    )
                if self._kept is not None:
                    kept = self._kept.chosen.take(rows)
                    stream, ordinal, rows, order = stream[kept], ordinal[kept], rows[kept], order[kept]
                self._columns = {"id": _frozen(order), **self._fields(stream, ordinal, rows)}
            return self._columns

    def _first(self) -> Ints:
        """Return the ordinal of the oldest episode of each stream that is live still."""
        return np.maximum(self._dropped, self._index.dropped)

    def _fields(self, stream: Ints, ordinal: Ints, rows: Ints) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of episodes as they were when this object was made."""
        index = self._index
        start, stop, total, ended = (
            column[rows] for column in (index.start, index.stop, index.total, index.ended)
        )
        ran = np.flatnonzero(ordinal == self._begun[stream] - 1)  # at most one of each stream
        ran = ran[self._open[stream[ran]] >= 0]
        ran_in = stream[ran]
        stop[ran], total[ran], ended[ran] = self._head[ran_in], self._totals[ran_in], RUNNING
        live = stop - np.maximum(start, self._tail[stream])
        columns = (stream, start, stop, stop - start, live, total, ended)
        return dict(zip(NAMES, map(_frozen, columns), strict=True))

    def _values(self, stream: int, ordinal: int) -> tuple[Any, ...]:
        """Return the same of one episode."""
        index, episode = self._index, self._index.episode_of(stream, ordinal)
        start, stop = index.start.item(episode), index.stop.item(episode)
        total, ended = index.total.item(episode), index.ended.item(episode)
        if ordinal == self._begun.item(stream) - 1 and self._open.item(stream) >= 0:
            stop, total, ended = self._head.item(stream), self._totals.item(stream), RUNNING
        live = stop - max(start, self._tail.item(stream))
        return stream, start, stop, stop - start, live, total, _NAME_OF[ended]


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def list_episodes(index: EpisodeIndex) -> npt.NDArray[np.void]:
    """Return the live episodes as a structured array of EPISODE_DTYPE, in the order they began."""
    return np.asarray(EpisodeTable(index, nullcontext()))


def ended_of(table: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the rows of episodes that terminated or were truncated: a cut one has stopped, but it has not ended."""
    return table[np.isin(table["ended"], ENDED)]

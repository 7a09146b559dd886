"""The integers of a buffer: which steps are live, to which episode each belongs, and how many windows there are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index.lengths import LengthTable
from reverie.index.runs import Bools, Ints, Runs

RUNNING, TERMINATED, TRUNCATED, CUT = 0, 1, 2, 4  # how an episode ended; the first two may come together
ENDS = range(CUT + 1)  # terminated and truncated at once included
NO_EPISODE = -1
NO_FINAL = -1
NEVER = np.iinfo(np.int64).max
RESERVED = "reverie:"  # so begin names among the metadata of an episode that are not the user's
DISCARDED = f"{RESERVED}discarded"  # there if it was taken out

# The columns of the episode table: int64 but for two.
COLUMNS = ("start", "stop", "settled", "final_slot", "stream", "ordinal", "order", "ended", "total")
DTYPES = {"ended": np.int8, "total": np.float64}


class IndexArrays:
    """Heads, tails and the table of episodes, and the questions that they answer.

    Every live episode has an entry in the table. Its number there, `episode` everywhere in this room, is used
    again after the episode was dropped; the ids of steps never are.

    Attributes:
        streams: how many there are.
        capacity: steps each stream keeps.
        runs: how the streams are cut into runs.
        head, tail: (streams,) next id to be written; oldest live id.
        episode_of_slot: (streams * capacity,) slot -> episode that the step there belongs to.
        start, stop, settled, ended, final_slot, stream, ordinal, order, total: the table, one entry per episode.
            `stop` of a running episode is its stream's head. `settled` is one past the last id whose
            successor is known: stop - 1 while the episode runs, then stop. `final_slot` is where its final
            observation lies, or NO_FINAL. `ordinal` counts the episodes of its stream as they began, `order`
            those of all streams. `total` is the return.
        open_episode, front_episode: (streams,) the running episode; the oldest live one; or NO_EPISODE.
        front_stop: (streams,) where the oldest live episode ended, or NEVER.
        begun, dropped: (streams,) episodes ever begun, and how many of them are live no more: the live
            ones of a stream have the ordinals `dropped <= ordinal < begun`.
        by_ordinal: (streams, width) ordinal % width -> episode.
        lengths: the ended episodes that are live from their first step on, but for each stream's oldest.
        free: entries of the table that hold no live episode; the last one is taken next.
        next_order: the `order` of the episode that begins next.
        labels: the `order` of an episode -> its metadata, JSON values by name; one without any is not there.
        gone: the `order` of those among them that were discarded.
        edits: how often `labels`, or everything at once, was changed; turns: how often `gone`, or everything, was.
        kept: what `choice_of_kept` found, and when.
    """

    start: Ints
    stop: Ints
    settled: Ints
    final_slot: Ints
    stream: Ints
    ordinal: Ints
    order: Ints
    ended: npt.NDArray[np.int8]
    total: npt.NDArray[np.float64]
    _totals: memoryview[Any]

    def __init__(self, streams: int, capacity: int) -> None:
        self.streams = streams
        self.capacity = capacity
        self.runs = Runs(streams, capacity)
        self.head = np.zeros(streams, np.int64)
        self.tail = np.zeros(streams, np.int64)
        self.episode_of_slot = np.zeros(streams * capacity, np.int32)
        self.open_episode = np.full(streams, NO_EPISODE, np.int64)
        self.front_episode = np.full(streams, NO_EPISODE, np.int64)
        self.front_stop = np.full(streams, NEVER)
        self.begun = np.zeros(streams, np.int64)
        self.dropped = np.zeros(streams, np.int64)
        # The same memory, one number at a time: a step reads and writes a dozen, and NumPy takes twice as long.
        self._heads, self._tails, self._begun = self.head.data, self.tail.data, self.begun.data
        self._open, self._front_stops = self.open_episode.data, self.front_stop.data
        self._episode_at = self.episode_of_slot.data
        self.by_ordinal = np.full((streams, 8), NO_EPISODE, np.int64)
        self.lengths = LengthTable()
        self.free: list[int] = []
        self.next_order = 0
        self.labels: dict[int, dict[str, Any]] = {}
        self.gone: set[int] = set()
        self.edits = self.turns = 0
        self.kept: tuple[Hashable, Any] | None = None
        self.allocate(max(64, streams))
        self.free = list(range(len(self.start) - 1, -1, -1))

    def allocate(self, size: int) -> None:
        """Let the table have `size` entries. All columns are made before one is put in place."""
        grown = {}
        for name in COLUMNS:
            old = getattr(self, name, np.zeros(0, DTYPES.get(name, np.int64)))
            if len(old) < size:
                grown[name] = np.concatenate([old, np.zeros(size - len(old), old.dtype)])
        for name, column in grown.items():
            setattr(self, name, column)
        self._totals, self._settled, self._stops = self.total.data, self.settled.data, self.stop.data

    def widen(self) -> None:
        """Make room for twice as many live episodes in each stream."""
        width = self.by_ordinal.shape[1]
        wider = np.full((self.streams, 2 * width), NO_EPISODE, np.int64)
        for stream in range(self.streams):
            ordinals = np.arange(self.dropped[stream], self.begun[stream])
            wider[stream, ordinals % (2 * width)] = self.by_ordinal[stream, ordinals % width]
        self.by_ordinal = wider

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which do not depend on what is stored but for the episode table."""
        table = sum(getattr(self, name).nbytes for name in COLUMNS)
        return int(self.episode_of_slot.nbytes + table + 5 * self.head.nbytes)

    def moment(self) -> Hashable:
        """Return what is another thing once any step, episode or metadata has changed."""
        if self.streams == 1:
            return self._heads[0], self._tails[0], self._open[0], self._begun[0], self.edits
        changing = self.head, self.tail, self.open_episode, self.begun
        return *(numbers.tobytes() for numbers in changing), self.edits

    def moment_of_episodes(self) -> Hashable:
        """Return what is another thing once an episode began or went, or any metadata has changed."""
        return self.begun.tobytes(), self.dropped.tobytes(), self.edits

    def label(self, labels: dict[int, dict[str, Any]]) -> None:
        """Set all metadata of these episodes, by their `order`. Twice is fine."""
        gone = {order for order, label in labels.items() if DISCARDED in label}
        self.labels.update(labels)
        if not gone <= self.gone:
            self.gone |= gone
            self.turns += 1
        self.edits += 1

    def relabel(self, labels: dict[int, dict[str, Any]]) -> None:
        """Set all metadata of all episodes."""
        self.labels = labels
        self.gone = {order for order, label in labels.items() if DISCARDED in label}
        self.edits += 1
        self.turns += 1

    def live_steps(self) -> int:
        """Return how many steps are live, over all streams."""
        if self.streams == 1:
            live: int = self._heads[0] - self._tails[0]
            return live
        return int((self.head - self.tail).sum())

    def is_empty(self) -> bool:
        """Return whether no step is live."""
        return self._heads[0] == self._tails[0] and self.live_steps() == 0

    def episodes_at(self, stream: Ints | int, ids: Ints) -> Ints:
        """Return the episode of each live step."""
        slots = ids % self.capacity
        if self.streams > 1:
            slots += stream * self.capacity
        return self.episode_of_slot[slots].astype(np.int64)

    def are_live(self, stream: Ints, ids: Ints) -> Bools:
        """Return which ids are live."""
        if self.streams == 1:
            return (ids >= self._tails[0]) & (ids < self._heads[0])
        live: Bools = (ids >= self.tail[stream]) & (ids < self.head[stream])
        return live

    def slots(self, stream: Ints, ids: Ints) -> Ints:
        """Return where the steps with these ids lie."""
        return stream * self.capacity + ids % self.capacity

    def slots_of(self, episodes: Ints, ids: Ints) -> Ints:
        """Return where the steps with these ids, of these episodes, lie."""
        return ids % self.capacity if self.streams == 1 else self.slots(self.stream.take(episodes), ids)

    def streams_of(self, episodes: Ints) -> Ints:
        """Return the stream of each episode."""
        return np.zeros(len(episodes), np.int64) if self.streams == 1 else self.stream.take(episodes)

    def live_start(self, episodes: Ints) -> Ints:
        """Return the first live id of each episode."""
        return np.maximum(self.start[episodes], self.tail[self.stream[episodes]])

    def episode_of(self, stream: int, ordinal: int) -> int:
        """Return the live episode of a stream that has this ordinal."""
        return self.by_ordinal.item(stream, ordinal % self.by_ordinal.shape[1])

    def episodes_of(self, stream: Ints, ordinal: Ints) -> Ints:
        """Return the same for several; for an ordinal that is not live, some episode."""
        episodes: Ints = self.by_ordinal[stream, ordinal % self.by_ordinal.shape[1]]
        return episodes

    def newest(self, stream: int) -> int:
        """Return the `order` of the newest episode of a stream, which has begun at least one."""
        return self.order.item(self.episode_of(stream, self.begun.item(stream) - 1))

    def is_live(self, episodes: Ints) -> Bools:
        """Return which entries of the table hold an episode that has not been dropped."""
        return self.ordinal[episodes] >= self.dropped[self.stream[episodes]]

    def live_episodes(self) -> Ints:
        """Return all live episodes, in the order in which they began."""
        width = self.by_ordinal.shape[1]
        episodes = np.concatenate(
            [
                self.by_ordinal[stream, np.arange(dropped, begun) % width]
                for stream, (dropped, begun) in enumerate(zip(self.dropped, self.begun, strict=True))
            ]
        )
        return episodes[np.argsort(self.order[episodes], kind="stable")]

    def live_final_slots(self) -> Ints:
        """Return the slots of the final observations of all live episodes."""
        slots: Ints = self.final_slot[self.live_episodes()]
        found: Ints = slots[slots != NO_FINAL]
        return found

    def uniform_episodes(self, rng: np.random.Generator, count: int) -> Ints:
        """Return `count` live episodes, each being equally likely. Some episode must be live."""
        ends = np.cumsum(self.begun - self.dropped)
        rank: Ints = rng.integers(0, int(ends[-1]), count)
        stream = np.searchsorted(ends, rank, side="right") if self.streams > 1 else np.zeros(count, np.int64)
        return self.episodes_of(stream, rank + (self.begun - ends)[stream])

    def step_at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode, id) of the live steps with these ranks: streams in order, oldest first."""
        stream, ids = self.id_at_rank(rank)
        return self.episodes_at(stream, ids), ids

    def id_at_rank(self, rank: Ints) -> tuple[Ints, Ints]:
        """Return (stream, id) of the same."""
        ends = np.cumsum(self.head - self.tail)
        stream = np.searchsorted(ends, rank, side="right")
        return stream, rank + (self.head - ends)[stream]

    def special_episodes(self) -> Ints:
        """Return the episodes that the length table leaves out: each stream's oldest and its running one."""
        if self.streams == 1:
            front, opened = self.front_episode.item(0), self.open_episode.item(0)
            return np.array([episode for episode in dict.fromkeys((front, opened)) if episode >= 0], np.int64)
        episodes = np.concatenate(
            [self.front_episode, self.open_episode[self.open_episode != self.front_episode]]
        )
        return episodes[episodes >= 0]

    def count_windows(self, length: int) -> int:
        """Return how many windows of `length` settled steps lie inside one episode."""
        special = self.special_episodes()
        fits = self.settled[special] - self.live_start(special) - (length - 1)
        return int(fits[fits > 0].sum()) + self.lengths.count_windows(length)

    def count_episodes(self, length: int) -> int:
        """Return how many episodes have a window of `length` settled steps."""
        special = self.special_episodes()
        fits = self.settled[special] - self.live_start(special) >= length
        return int(np.count_nonzero(fits)) + self.lengths.count_episodes(length)

    def longest(self) -> int:
        """Return the settled steps of the longest live episode; 0 when there is none."""
        special = self.special_episodes()
        lengths = self.settled[special] - self.live_start(special)
        return max(int(lengths.max(initial=0)), self.lengths.longest())

    def window_at_rank(self, length: int, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode, start id) of the windows with these ranks among `count_windows(length)`.

        The order is arbitrary but fixed until the next change: a uniform rank gives a uniform window.
        """
        special = self.special_episodes()
        fits = np.maximum(self.settled[special] - self.live_start(special) - (length - 1), 0)
        ends = np.cumsum(fits)
        in_special = int(fits.sum())
        episode, offset = np.empty_like(rank), np.empty_like(rank)
        here = rank < in_special
        if here.any():
            which = np.searchsorted(ends, rank[here], side="right")
            episode[here] = special[which]
            offset[here] = rank[here] - (ends[which] - fits[which])
        if not here.all():
            episode[~here], offset[~here] = self.lengths.window_at_rank(
                length, rank[~here] - in_special, self.order
            )
        return episode, self.live_start(episode) + offset

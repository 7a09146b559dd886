"""The boundary rules: which steps are anchors, and which window belongs to an anchor."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from reverie.errors import BadSetting
from reverie.index.arrays import RUNNING
from reverie.index.episodes import EpisodeIndex
from reverie.index.runs import Bools, Ints
from reverie.index.windows import CrossWindows, Drawn, Windows
from reverie.values import shown


class Boundary(Protocol):
    """What a boundary rule has to say. `BOUNDARIES` lists those there are.

    The valid anchors of an episode are an interval of its live ids; everything else follows from that.
    """

    def bounds(self, index: EpisodeIndex, episodes: Ints, length: int) -> tuple[Ints, Ints]:
        """Return (first, stop): the valid anchors of each episode are `first <= id < stop`, if any."""

    def accept(self, index: EpisodeIndex, episodes: Ints, ids: Ints, length: int) -> Bools:
        """Return which of these live steps are valid anchors."""

    def count(self, index: EpisodeIndex, length: int) -> int:
        """Return how many valid anchors there are in all live episodes."""

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        """Return (episode, id) of the anchors with these ranks among `count`, in an order of its own."""

    def windows(
        self,
        index: EpisodeIndex,
        drawn: Drawn,
        length: int,
        burn_in: int,
        rng: np.random.Generator,
        stride: int = 1,
    ) -> Windows | CrossWindows:
        """Return the window of each anchor, with context before it.

        Args:
            index, drawn, rng: of the buffer, the anchors, and the source of randomness.
            length, burn_in: steps of the window and of its context, those included that are not shown.
            stride: steps from one that is shown to the next; it divides `burn_in` and `length - 1`.
        """


class Inside:
    """Never leave the episode: the anchor is the first of `length` settled steps."""

    def bounds(self, index: EpisodeIndex, episodes: Ints, length: int) -> tuple[Ints, Ints]:
        return index.live_start(episodes), index.settled.take(episodes) - (length - 1)

    def accept(self, index: EpisodeIndex, episodes: Ints, ids: Ints, length: int) -> Bools:
        return ids < index.settled.take(episodes) - (length - 1)

    def count(self, index: EpisodeIndex, length: int) -> int:
        return index.count_windows(length)

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        return index.window_at_rank(length, rank)

    def windows(
        self,
        index: EpisodeIndex,
        drawn: Drawn,
        length: int,
        burn_in: int,
        rng: np.random.Generator,
        stride: int = 1,
    ) -> Windows:
        episodes, ids = drawn.episodes, drawn.ids
        if burn_in == 0:
            whole = Windows(
                length, 0, index.streams_of(episodes), episodes, ids, ids, ids, ids + length, whole=True
            )
            return whole if stride == 1 else whole.strided(stride)
        return _clipped(index, drawn, ids, length, burn_in).strided(stride)


class Padded:
    """Leave the episode, with zeros and a False mask outside: any live step is an anchor.

    Args:
        side: where padding may lie, and so where in its window the anchor stands: "right" puts it first,
            "left" last, "both" at a uniformly random position.
    """

    __slots__ = ("side",)

    def __init__(self, side: str) -> None:
        self.side = side

    def bounds(self, index: EpisodeIndex, episodes: Ints, length: int) -> tuple[Ints, Ints]:
        return index.live_start(episodes), index.stop.take(episodes)

    def accept(self, index: EpisodeIndex, episodes: Ints, ids: Ints, length: int) -> Bools:
        return np.ones(len(ids), np.bool_)

    def count(self, index: EpisodeIndex, length: int) -> int:
        return index.live_steps()

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        return index.step_at_rank(rank)

    def windows(
        self,
        index: EpisodeIndex,
        drawn: Drawn,
        length: int,
        burn_in: int,
        rng: np.random.Generator,
        stride: int = 1,
    ) -> Windows:
        if self.side == "right":
            start = drawn.ids
        elif self.side == "left":
            start = drawn.ids - (length - 1)
        else:
            offset = drawn.offset
            if offset is None:
                offset = places_of(length, stride, rng, len(drawn.ids))
            start = drawn.ids - offset
        return _clipped(index, drawn, start, length, burn_in).strided(stride)


class Cross:
    """Run on into the stream's next episodes: windows of rows, one row for every observation.

    An episode of n steps has n rows and, once it has ended, a closing row. The anchor is a step from which
    `length` rows follow, its own included. A row tells the reward that came with its observation, so the
    oldest live step of an episode whose beginning was evicted is no row.
    """

    def bounds(self, index: EpisodeIndex, episodes: Ints, length: int) -> tuple[Ints, Ints]:
        stream = index.stream.take(episodes)
        # Counted in rows, a stream goes on to `head + ended`; there, an episode's ids lie `ordinal` higher.
        ended = index.begun[stream] - (index.open_episode[stream] >= 0)
        last = index.head[stream] + ended - length - index.ordinal.take(episodes)
        return self._first(index, episodes), np.minimum(index.stop.take(episodes), last + 1)

    def _first(self, index: EpisodeIndex, episodes: Ints) -> Ints:
        first = index.live_start(episodes)
        return first + (first > index.start.take(episodes))

    def accept(self, index: EpisodeIndex, episodes: Ints, ids: Ints, length: int) -> Bools:
        first, stop = self.bounds(index, episodes, length)
        return (ids >= first) & (ids < stop)

    def count(self, index: EpisodeIndex, length: int) -> int:
        return int(self._counts(index, length)[1].sum())

    def _counts(self, index: EpisodeIndex, length: int) -> tuple[Ints, Ints]:
        """Return each stream's first anchor and how many there are: they are consecutive ids."""
        first, counts = np.zeros(index.streams, np.int64), np.zeros(index.streams, np.int64)
        for stream in np.flatnonzero(index.begun > index.dropped).tolist():
            first[stream] = self._first(index, index.front_episode[[stream]])[0]
            # Only the last `length` rows matter: walk back until an episode has an anchor.
            for ordinal in range(index.begun.item(stream) - 1, index.dropped.item(stream) - 1, -1):
                low, high = self.bounds(index, np.array([index.episode_of(stream, ordinal)]), length)
                if high > low:
                    counts[stream] = high[0] - first[stream]
                    break
        return first, counts

    def at_rank(self, index: EpisodeIndex, length: int, rank: Ints) -> tuple[Ints, Ints]:
        first, counts = self._counts(index, length)
        ends = np.cumsum(counts)
        stream = np.searchsorted(ends, rank, side="right")
        ids = rank - (ends - counts)[stream] + first[stream]
        return index.episodes_at(stream, ids), ids

    def windows(
        self,
        index: EpisodeIndex,
        drawn: Drawn,
        length: int,
        burn_in: int,
        rng: np.random.Generator,
        stride: int = 1,
    ) -> CrossWindows:
        stream = index.stream.take(drawn.episodes)
        first = self._first(index, drawn.episodes)
        # Positions count rows: inside one episode they run with the ids, and one more lies behind its end.
        position = (drawn.ids - burn_in)[:, None] + np.arange(0, burn_in + length, stride)
        episode = np.broadcast_to(drawn.episodes[:, None], position.shape).copy()
        current, skipped = drawn.episodes, np.zeros(len(drawn.ids), np.int64)
        while True:
            # `skipped` closing rows lie between the anchor and the current episode.
            behind = index.stop.take(current) + (index.ended.take(current) != RUNNING) + skipped
            beyond = position >= behind[:, None]
            going_on = beyond[:, -1]
            if not going_on.any():
                break
            skipped = skipped + going_on
            ordinal = index.ordinal.take(current) + going_on
            current = np.where(going_on, index.episodes_of(stream, ordinal), current)
            episode = np.where(beyond, current[:, None], episode)
        ids = position - (index.ordinal[episode] - index.ordinal.take(drawn.episodes)[:, None])
        mask = position >= first[:, None]
        closing = (ids == index.stop[episode]) & mask
        windows = CrossWindows(burn_in // stride, stream, drawn.ids, episode, ids, closing, mask)
        return (
            windows
            if stride == 1
            else windows.strided(stride, first == index.start.take(drawn.episodes), index.start)
        )


def places_of(length: int, stride: int, rng: np.random.Generator, count: int) -> Ints:
    """Return where in `count` windows of `length` steps a step stands that is shown at a random position."""
    return rng.integers(0, (length - 1) // stride + 1, count) * stride


def _clipped(index: EpisodeIndex, drawn: Drawn, start: Ints, length: int, burn_in: int) -> Windows:
    """Return windows of `length` steps from `start` with context before, cut to their episodes."""
    episodes = drawn.episodes
    stop = np.minimum(start + length, index.stop.take(episodes))
    start = start - burn_in
    first = np.maximum(start, index.live_start(episodes))
    whole = bool((first == start).all() and (stop - start == length + burn_in).all())
    return Windows(
        length + burn_in, burn_in, index.streams_of(episodes), episodes, drawn.ids, start, first, stop, whole
    )


BOUNDARIES: dict[str, Boundary] = {
    "inside": Inside(),
    "pad_right": Padded("right"),
    "pad_left": Padded("left"),
    "pad_both": Padded("both"),
    "cross": Cross(),
}


def check_boundary(name: object) -> str:
    """Return the name of a boundary rule, or raise BadSetting."""
    if not isinstance(name, str) or name not in BOUNDARIES:
        raise BadSetting(
            f"boundary: wanted one of {sorted(BOUNDARIES)}, got {shown(name)}; see the docstring of sample"
        )
    return name

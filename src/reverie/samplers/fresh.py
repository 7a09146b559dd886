"""A sampler that shows every new step once, soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from reverie.index import BOUNDARIES, RUNNING, Anchors, CrossWindows, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import Sampler, State, check_sampler, join, serve
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.samplers.uniform import Uniform
from reverie.samplers.where import Condition
from reverie.values import MOST, MOST_ID


class Fresh(Sampler):
    """Every new step appears in a batch once, soon; then the fallback: DreamerV3's online queue.

    Each stream is cut into tiles of `length` steps, in the order they came. A tile is the first thing drawn
    once it is whole, or its episode has ended. What a boundary makes of a tile that an end cuts short:
    "pad_right" and "pad_both" pad it, "cross" runs on, "inside" and "pad_left" move it back until it fits, so
    that some steps appear twice. "inside" passes over episodes shorter than `length`, which it can never show.
    Where a closing row would be left between two tiles of "cross", the second one begins a step earlier.

    Args:
        fallback: draws the rest of a batch when nothing new is left.
        where: shows steps of some episodes only, as `Sampler` says; the fallback obeys it, too. An episode that
            is not chosen holds its stream up until it ends, since it may be chosen then.
    """

    def __init__(self, fallback: Sampler | None = None, *, where: Condition | None = None) -> None:
        super().__init__(where=where)
        self.fallback = Uniform() if fallback is None else check_sampler("fallback", fallback)
        self._index: EpisodeIndex | None = None
        # stream -> the first id not shown yet, and 1 if the last tile of rows ended on a step, else 0
        self._cursor: Ints | None = None
        self._turn = 0  # the stream to look at first
        self._marked: tuple[Any, ...] = None, None, 0

    def mark(self) -> None:
        """Take note of where each stream stands, for `rewind`."""
        self.fallback.mark()
        self._marked = self._index, None if self._cursor is None else self._cursor.copy(), self._turn

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        self._index, cursor, self._turn = self._marked
        self._cursor = None if cursor is None else cursor.copy()
        self.fallback.rewind()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return up to `count` tiles, and anchors of the fallback for the rest."""
        anchors = self.narrow(anchors)
        tiles = self.tiles(anchors, count)
        found = len(tiles.ids)
        if found == count:
            return tiles
        rest = self.fallback.draw(anchors, rng, count - found)
        parts = [(tiles, np.arange(found)), (rest, np.arange(found, count))]
        return join(parts, anchors, rng, count)

    def tiles(self, anchors: Anchors, count: int) -> Drawn:
        """Return up to `count` tiles that were not shown yet."""
        self._index = serve(self._index, anchors.index)
        return self._next_tiles(anchors, self._cursor_now(anchors.index), count)

    def imitate(self, original: Any) -> None:
        """Let the fallback take over settings."""
        self.fallback.imitate(original.fallback)

    def common(self) -> Any:
        """Return what the fallbacks have in common."""
        return self.fallback.common()

    def agree(self, commons: Sequence[Any]) -> None:
        """Let the fallbacks agree."""
        self.fallback.agree(commons)

    def for_part(self, streams: int, of: int) -> Fresh:
        """Return one for a part of a union."""
        part = copy(self)
        part.fallback = self.fallback.for_part(streams, of)
        return part

    def _cursor_now(self, index: EpisodeIndex) -> Ints:
        """Return the cursor, moved past what was evicted."""
        if self._cursor is None:
            self._cursor = np.zeros((2, index.streams), np.int64)
        if self._cursor.shape[1] != index.streams:
            raise unfit("cursor", f"{index.streams} streams", f"{self._cursor.shape[1]}")
        # A cursor beyond its head belongs to data that was replaced.
        ids = self._cursor[0]
        self._cursor[0] = np.where(ids > index.head, index.tail, np.maximum(ids, index.tail))
        return self._cursor

    def _next_tiles(self, anchors: Anchors, cursor: Ints, count: int) -> Drawn:
        """Return up to `count` tiles, of one stream after the other, and move on."""
        next_tile = _next_rows if anchors.boundary == "cross" else _next_steps
        found: list[tuple[int, int]] = []
        for stream in np.roll(np.arange(anchors.index.streams), -self._turn).tolist():
            while len(found) < count:
                tile = next_tile(anchors, stream, cursor[:, stream])
                if tile is None:
                    break
                found.append(tile)
            if len(found) == count:
                self._turn = (stream + 1) % anchors.index.streams
                break
        episodes = np.array([episode for episode, _ in found], np.int64)
        ids = np.array([step for _, step in found], np.int64)
        return Drawn(episodes, ids, None, np.zeros_like(ids) if anchors.boundary == "pad_both" else None)

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Any) -> None:
        """Pass priorities on to the fallback."""
        self.fallback.update(index, stream, ids, priorities)

    def window_priorities(self, td_errors: Any, mask: Any) -> Any:
        """Return what the fallback makes of TD errors."""
        return self.fallback.window_priorities(td_errors, mask)

    def save(self) -> State:
        """Return where each stream stands, and the fallback's state."""
        cursor = None if self._cursor is None else self._cursor.copy()
        return {"cursor": cursor, "turn": self._turn, "fallback": self.fallback.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting: it is no such state.
        """
        state = kept(state, "cursor", "turn", "fallback")
        cursor, turn = state["cursor"], kept_integer("turn", state["turn"], 0, MOST)
        if cursor is not None:
            cursor = kept_array("cursor", cursor, np.int64, (2, None), 0, MOST_ID)
        self.fallback.load(state["fallback"])
        self._index, self._cursor, self._turn = None, cursor, turn


def _next_steps(anchors: Anchors, stream: int, cursor: Ints) -> tuple[int, int] | None:
    """Return (episode, anchor id) of a stream's next tile of steps and move on; None while it is not whole."""
    index, length = anchors.index, anchors.length
    while cursor[0] < index.head[stream]:
        first = cursor.item(0)
        episode = index.episodes_at(stream, cursor[:1]).item()
        stop, ended = index.stop.item(episode), index.ended.item(episode) != RUNNING
        if not _may_show(anchors, episode):
            if not ended:
                return None
            cursor[:] = stop, 0
            continue
        if first + length > index.settled.item(episode) and not ended:
            return None
        cursor[:] = min(first + length, stop), 0
        if anchors.boundary == "pad_left":
            return episode, cursor.item(0) - 1
        if anchors.boundary != "inside":
            return episode, first
        fitting = min(first, stop - length)
        if fitting >= max(index.start.item(episode), index.tail.item(stream)):
            return episode, fitting
    return None


def _next_rows(anchors: Anchors, stream: int, cursor: Ints) -> tuple[int, int] | None:
    """Return the same for a tile of rows, which runs on into the next episodes."""
    index = anchors.index
    while cursor[0] < index.head[stream]:
        at = cursor.item(0)
        here = index.episodes_at(stream, cursor[:1])
        if not _may_show(anchors, here.item()):
            if index.ended.item(here.item()) == RUNNING:
                return None
            cursor[:] = index.stop.item(here.item()), 0
            continue
        first, stop = (bound.item() for bound in anchors.bounds(here))
        if at < first:  # a step whose reward lies behind the tail: no row of its own
            cursor[:] = first, 0
            continue
        if at >= stop and anchors.choice is not None and anchors.choice.is_limited(here.item()):
            cursor[:] = index.stop.item(here.item()), 0  # too little is left before a discarded episode
            continue
        if at >= stop:
            return None
        if cursor[1] and anchors.length > 1 and index.tail[stream] < at == index.start[here.item()]:
            before = index.episodes_at(stream, np.array([at - 1]))
            if _may_show(anchors, before.item()) and at - 1 >= anchors.bounds(before)[0].item():
                here, at = before, at - 1
        cursor[:] = _after(anchors, here, at)
        return here.item(), at
    return None


def _may_show(anchors: Anchors, episode: int) -> bool:
    """Whether an episode may have anchors at all."""
    return anchors.choice is None or bool(anchors.choice.chosen[episode])


def _after(anchors: Anchors, episode: Ints, at: int) -> tuple[int, int]:
    """Return the first id that a window of rows from `at` does not show, and 1 if it ends on a step."""
    drawn = Drawn(episode, np.array([at]))
    window = BOUNDARIES["cross"].windows(anchors.index, drawn, anchors.length, 0, np.random.default_rng(0))
    assert isinstance(window, CrossWindows)
    on_step = 1 - int(window.closing[0, -1])
    return int(window.id[0, -1]) + on_step, on_step

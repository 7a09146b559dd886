"""Samplers that keep a place in line: new steps first, and every window once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.index import BOUNDARIES, RUNNING, Anchors, CrossWindows, Drawn, EpisodeIndex, Ints
from reverie.process import watch
from reverie.samplers.base import Sampler, State, Uniform, check_sampler, serve
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.values import MOST, MOST_ID


class Fresh(Sampler):
    """Every new step appears in a batch once, soon; then the fallback: DreamerV3's online queue.

    Each stream is cut into tiles of `length` steps, in the order they came. A tile is the first thing drawn
    once it is whole, or its episode has ended. What a boundary makes of a tile that an end cuts short:
    "pad_right" and "pad_both" pad it, "cross" runs on, "inside" and "pad_left" move it back until it fits, so
    that some steps appear twice. "inside" passes over episodes shorter than `length`, which it can never show.
    Where a closing row would be left between two tiles of "cross", the second one begins a step earlier.

    Args:
        fallback: draws the rows of a batch for which nothing new is left.
    """

    def __init__(self, fallback: Sampler | None = None) -> None:
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
        index = self._index = serve(self._index, anchors.index)
        if self._cursor is None:
            self._cursor = np.zeros((2, index.streams), np.int64)
        if self._cursor.shape[1] != index.streams:
            raise unfit("cursor", f"{index.streams} streams", f"{self._cursor.shape[1]}")
        # A cursor beyond its head belongs to data that was replaced.
        ids = self._cursor[0]
        self._cursor[0] = np.where(ids > index.head, index.tail, np.maximum(ids, index.tail))
        found: list[tuple[int, int]] = []
        offset = 0 if anchors.boundary == "pad_both" else None
        for stream in np.roll(np.arange(index.streams), -self._turn).tolist():
            while len(found) < count:
                tile = self._next_tile(anchors, stream)
                if tile is None:
                    break
                found.append(tile)
            if len(found) == count:
                self._turn = (stream + 1) % index.streams
                break
        rows = np.array([row for row, _ in found], np.int64)
        ids = np.array([step for _, step in found], np.int64)
        missing = count - len(found)
        if missing == 0:
            return Drawn(rows, ids, None, None if offset is None else np.zeros(count, np.int64))
        rest = self.fallback.draw(anchors, rng, missing)
        return join(
            [
                (
                    Drawn(rows, ids, None, None if offset is None else np.zeros(len(ids), np.int64)),
                    np.arange(len(found)),
                ),
                (rest, np.arange(len(found), count)),
            ],
            anchors,
            rng,
            count,
        )

    def _next_tile(self, anchors: Anchors, stream: int) -> tuple[int, int] | None:
        """Return (row, anchor id) of the stream's next tile and move on; None when it is not whole yet."""
        assert self._cursor is not None
        index, length, cursor = anchors.index, anchors.length, self._cursor[:, stream]
        while cursor[0] < index.head[stream]:
            at = int(cursor[0])
            row = int(index.episodes_at(stream, np.array([at]))[0])
            if anchors.boundary == "cross":
                first, stop = (int(bound[0]) for bound in anchors.bounds(np.array([row])))
                if at < first:  # a step whose reward lies behind the tail: no row of its own
                    cursor[:] = first, 0
                    continue
                if at >= stop:
                    return None
                if cursor[1] and length > 1 and index.tail[stream] < at == index.start[row]:
                    before = index.episodes_at(stream, np.array([at - 1]))
                    if at - 1 >= int(anchors.bounds(before)[0][0]):
                        row, at = int(before[0]), at - 1
                cursor[:] = self._after(anchors, row, at)
                return row, at
            stop, ended = index.stop.item(row), index.ended.item(row) != RUNNING
            end = at + length
            if end > index.settled.item(row) and not ended:
                return None
            cursor[:] = min(end, stop), 0
            if anchors.boundary == "pad_left":
                return row, min(end, stop) - 1
            if anchors.boundary != "inside":
                return row, at
            fitting = min(at, stop - length)
            if fitting >= int(index.live_start(np.array([row]))[0]):
                return row, fitting
        return None

    def _after(self, anchors: Anchors, row: int, at: int) -> tuple[int, int]:
        """Return the first id that a window of rows from `at` does not show, and 1 if it ends on a step."""
        drawn = Drawn(np.array([row]), np.array([at]))
        window = BOUNDARIES["cross"].windows(
            anchors.index, drawn, anchors.length, 0, np.random.default_rng(0)
        )
        assert isinstance(window, CrossWindows)
        on_step = 1 - int(window.closing[0, -1])
        return int(window.id[0, -1]) + on_step, on_step

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Any) -> bool:
        """Pass priorities on to the fallback."""
        return self.fallback.update(index, stream, ids, priorities)

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


class Shuffled(Sampler):
    """Without replacement: every anchor once in an epoch, in random order.

    An epoch is over the anchors there are when it begins; what is added meanwhile waits for the next one,
    what is evicted meanwhile is left out. Beginning an epoch costs time in proportion to the anchors.

    Args:
        tiles: take every `length`-th anchor of an episode only, from its first (under "pad_left" from its
            last), so that the windows of an epoch share no step, except under "cross" around the ends.
    """

    def __init__(self, *, tiles: bool = False) -> None:
        self.tiles = bool(tiles)
        self._index: EpisodeIndex | None = None
        self._epoch: State = {}  # what `save` returns
        self._order = np.zeros(0, np.int64)  # a permutation of the epoch's anchors; none yet after `load`
        self._ends = np.zeros(0, np.int64)  # of each episode's anchors in the epoch
        self._marked: tuple[Any, ...] = None, {}, self._order, self._ends

    def mark(self) -> None:
        """Take note of the epoch, for `rewind`."""
        self._marked = self._index, dict(self._epoch), self._order, self._ends

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        self._index, epoch, self._order, self._ends = self._marked
        self._epoch = dict(epoch)

    def _forked(self, at_rest: bool) -> None:
        self._epoch = {}  # else all children of a process would go on in one order

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return the next `count` anchors in line."""
        self._index = serve(self._index, anchors.index)
        if self._epoch and not len(self._order):
            self._resume(anchors.index)
        rows, ids = [], []
        missing, begun = count, 0
        while missing:
            if not self._epoch or self._epoch["place"] >= len(self._order):
                if begun > count:
                    raise anchors.not_enough()  # epochs whose anchors are all gone at once
                self._begin(anchors, rng)
                begun += 1
            place = self._epoch["place"]
            rank = self._order[place : place + missing]
            self._epoch["place"] = place + len(rank)
            more_rows, more_ids = self._resolve(anchors, rank)
            rows.append(more_rows)
            ids.append(more_ids)
            missing -= len(more_ids)
        offset = np.zeros(count, np.int64) if self.tiles and anchors.boundary == "pad_both" else None
        return Drawn(np.concatenate(rows), np.concatenate(ids), None, offset)

    def _begin(self, anchors: Anchors, rng: np.random.Generator) -> None:
        rows = anchors.index.live_episodes()
        first, stop = anchors.bounds(rows)
        some = stop > first
        rows, first, stop = rows[some], first[some], stop[some]
        if not len(rows):
            raise anchors.not_enough()
        step = anchors.length if self.tiles else 1
        counts = -(-(stop - first) // step)
        if self.tiles and anchors.boundary == "pad_left":
            first = stop - 1 - (counts - 1) * step
        self._epoch = {
            "stream": anchors.index.stream[rows],
            "first": first,
            "counts": counts,
            "step": step,
            "seed": int(rng.integers(0, 2**63)),
            "place": 0,
        }
        self._permute()

    def _permute(self) -> None:
        watch(self._forked)
        generator = np.random.Generator(np.random.Philox(self._epoch["seed"]))
        self._order = generator.permutation(int(self._epoch["counts"].sum()))
        self._ends = np.cumsum(self._epoch["counts"])

    def _resolve(self, anchors: Anchors, rank: Ints) -> tuple[Ints, Ints]:
        """Return (row, id) of those of the epoch's anchors that are still valid."""
        index, epoch = anchors.index, self._epoch
        which = np.searchsorted(self._ends, rank, side="right")
        within = rank - (self._ends - epoch["counts"])[which]
        stream, ids = epoch["stream"][which], epoch["first"][which] + within * epoch["step"]
        live = (ids >= index.tail[stream]) & (ids < index.head[stream])
        stream, ids = stream[live], ids[live]
        rows = index.episodes_at(stream, ids)
        valid = anchors.accept(rows, ids)
        return rows[valid], ids[valid]

    def save(self) -> State:
        """Return the epoch's anchors by episode, the seed of their order, and the place in it."""
        return dict(self._epoch)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned; the order of the epoch is made again when it draws.

        Raises:
            BadSetting: it is no such state.
        """
        epoch: State = {}
        if state:
            state = kept(state, "stream", "first", "counts", "step", "seed", "place")
            for name, least in (("stream", 0), ("first", 0), ("counts", 1)):
                epoch[name] = kept_array(name, state[name], np.int64, (None,), least, MOST)
            if not len(epoch["stream"]) == len(epoch["first"]) == len(epoch["counts"]) > 0:
                raise unfit("epoch", "a stream, a first step and a count for each episode", "others")
            epoch["step"] = kept_integer("step", state["step"], 1, MOST)
            epoch["seed"] = kept_integer("seed", state["seed"], 0, 2**63 - 1)
            epoch["place"] = kept_integer("place", state["place"], 0, MOST)
        self._index, self._epoch = None, epoch
        self._order, self._ends = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def _resume(self, index: EpisodeIndex) -> None:
        """Make the order of a loaded epoch again, if it is one of this buffer."""
        epoch, size = self._epoch, index.streams * index.capacity
        if (
            epoch["stream"].max() >= index.streams
            or epoch["counts"].max() > size
            or epoch["counts"].sum() > size
        ):
            raise unfit("epoch", f"at most {size:,} steps of {index.streams} streams", "others")
        self._permute()


def join(parts: list[tuple[Drawn, Ints]], anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
    """Return one draw of `count` rows from several, each with the places that its rows take."""
    rows, ids = np.empty(count, np.int64), np.empty(count, np.int64)
    weight, offset = np.ones(count), np.zeros(count, np.int64)
    for drawn, places in parts:
        rows[places], ids[places] = drawn.episodes, drawn.ids
        if drawn.weight is not None:
            weight[places] = drawn.weight
        if drawn.offset is not None:
            offset[places] = drawn.offset
        elif anchors.boundary == "pad_both":
            offset[places] = rng.integers(0, anchors.length, len(places))
    weighted = any(drawn.weight is not None for drawn, _ in parts)
    return Drawn(rows, ids, weight if weighted else None, offset if anchors.boundary == "pad_both" else None)

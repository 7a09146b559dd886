"""A sampler without replacement: every window once in an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.index import Anchors, Drawn, EpisodeIndex, Ints
from reverie.process import watch
from reverie.samplers.base import Sampler, State, serve
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.samplers.where import Condition
from reverie.values import MOST


class Shuffled(Sampler):
    """Without replacement: every anchor once in an epoch, in random order.

    An epoch is over the anchors there are when it begins; what is added meanwhile waits for the next one,
    what is evicted meanwhile is left out. Beginning an epoch costs time in proportion to the anchors.

    Args:
        tiles: take every `length`-th anchor of an episode only, from its first (under "pad_left" from its
            last), so that the windows of an epoch share no step, except under "cross" around the ends.
        where: draws from some episodes only, as `Sampler` says. An episode that comes to be chosen waits for the
            next epoch, one that is chosen no more is left out.
    """

    def __init__(self, *, tiles: bool = False, where: Condition | None = None) -> None:
        super().__init__(where=where)
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
        anchors = self.narrow(anchors)
        taken: list[Drawn] = []
        missing, begun = count, 0
        while missing:
            if not self.left(anchors):
                if begun > count:
                    raise anchors.not_enough()  # epochs whose anchors are all gone at once
                self.begin(anchors, rng)
                begun += 1
            taken.append(self.take(anchors, missing))
            missing -= len(taken[-1].ids)
        episodes, ids = (
            np.concatenate([getattr(one, name) for one in taken]) for name in ("episodes", "ids")
        )
        return Drawn(episodes, ids, None, self._offsets(anchors, count))

    def left(self, anchors: Anchors) -> int:
        """Return how many anchors of the epoch were not drawn yet, evicted ones included."""
        self._index = serve(self._index, anchors.index)
        if self._epoch and not len(self._order):
            self._resume(anchors.index)
        return len(self._order) - int(self._epoch["place"]) if self._epoch else 0

    def take(self, anchors: Anchors, count: int) -> Drawn:
        """Return the next `count` anchors of the epoch, those left out that are no anchors any more."""
        place = self._epoch["place"]
        rank = self._order[place : place + count]
        self._epoch["place"] = place + len(rank)
        episodes, ids = self._resolve(anchors, rank)
        return Drawn(episodes, ids, None, self._offsets(anchors, len(ids)))

    def _offsets(self, anchors: Anchors, count: int) -> Ints | None:
        return np.zeros(count, np.int64) if self.tiles and anchors.boundary == "pad_both" else None

    def begin(self, anchors: Anchors, rng: np.random.Generator) -> None:
        """Begin an epoch over the anchors that there are now.

        Raises:
            NotEnoughData: there is none.
        """
        episodes, first, stop, *_ = anchors.candidates()
        if not len(episodes):
            raise anchors.not_enough()
        step = anchors.length if self.tiles else 1
        counts = -(-(stop - first) // step)
        if self.tiles and anchors.boundary == "pad_left":
            first = stop - 1 - (counts - 1) * step
        self._epoch = {
            "stream": anchors.index.stream[episodes],
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
        """Return (episode, id) of those of the epoch's anchors that are still valid."""
        index, epoch = anchors.index, self._epoch
        which = np.searchsorted(self._ends, rank, side="right")
        within = rank - (self._ends - epoch["counts"])[which]
        stream, ids = epoch["stream"][which], epoch["first"][which] + within * epoch["step"]
        live = (ids >= index.tail[stream]) & (ids < index.head[stream])
        stream, ids = stream[live], ids[live]
        episodes = index.episodes_at(stream, ids)
        valid = anchors.accept(episodes, ids)
        return episodes[valid], ids[valid]

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
        if epoch["place"] > epoch["counts"].sum():  # else the end of the epoch would never be seen
            raise unfit("place", f"at most {epoch['counts'].sum()}", epoch["place"])
        self._permute()

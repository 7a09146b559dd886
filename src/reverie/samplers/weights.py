"""A weight for every live step, or every live episode, of one buffer: both follow it draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.index import BOUNDARIES, Anchors, Bools, EpisodeIndex, Ints
from reverie.samplers.base import Follows, Proposal, State, by_episode, serve, try_then_count
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.samplers.sumtree import SumTree
from reverie.values import MOST, MOST_ID

Floats = npt.NDArray[np.float64]

MOST_WEIGHT = 1e200  # the sum of as many as there can be is still a number


class Undo:
    """What places of arrays held before they were changed, since the last `mark`."""

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: list[tuple[npt.NDArray[Any], Ints, npt.NDArray[Any]]] = []

    def mark(self) -> None:
        """Forget all."""
        self._changes = []

    def about_to_change(self, array: npt.NDArray[Any], places: Ints) -> None:
        """Keep what these places hold."""
        self._changes.append((array, places, array[places]))

    def rewind(self) -> Ints:
        """Put everything back; return the places, some of them several times."""
        for array, places, values in reversed(self._changes):
            array[places] = values
        return np.concatenate([np.zeros(0, np.int64), *(places for _, places, _ in self._changes)])


class StepWeights(Follows):
    """A weight for every live step of one buffer, following adds and evictions draw by draw.

    An anchor that can never be valid for the boundary and length in use, because its episode has ended too
    soon after it, loses its place in the tree when it is drawn in vain, once. So the share of draws in vain
    stays small, however high such a step's weight is.
    """

    __slots__ = (
        "_barred",
        "_index",
        "_kind",
        "_low",
        "_marked",
        "_seen",
        "_undo",
        "barred",
        "tree",
        "weights",
    )

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._undo = Undo()
        self._marked: tuple[Any, ...] | None = None

    def mark(self) -> None:
        """Take note of all there is, for `rewind`."""
        self._undo.mark()
        self._marked = (
            None
            if self._index is None
            else (self._index, self._seen.copy(), self._low.copy(), self._kind, self.barred)
        )

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        if self._marked is None:
            self._index = None
            return
        self._index, seen, low, self._kind, self.barred = self._marked
        self._seen[:], self._low[:] = seen, low
        places = self._undo.rewind()
        self.tree.set(places, np.where(self._barred[places], 0.0, self.weights[places]))

    def _bind(self, index: EpisodeIndex) -> None:
        self._index = index
        self.tree = SumTree(index.streams * index.capacity)
        self.weights = np.zeros(self.tree.size)  # slot -> weight, barred or not
        self._barred = np.zeros(self.tree.size, np.bool_)
        self.barred = 0  # how many slots are
        self._seen = np.zeros(index.streams, np.int64)  # head of each stream at the last call
        self._low = np.zeros(index.streams, np.int64)  # tail of each stream at the last call
        self._kind = None  # boundary and length that steps are barred for

    def follow(self, index: EpisodeIndex, fresh: float) -> Ints:
        """Give steps added since the last call the weight `fresh`; return their slots.

        Raises:
            BadSetting: the sampler already serves another buffer.
        """
        if self._index is None:
            self._bind(index)
        serve(self._index, index)
        self._forget_early(index)
        slots = self._new_slots(index)
        if len(slots):
            self.set(slots, fresh)
        return slots

    def _forget_early(self, index: EpisodeIndex) -> None:
        """Take the weight from steps that were evicted before their slots are needed: a budget of bytes does that."""
        for stream in (
            range(index.streams)
            if index.streams < 4
            else np.flatnonzero(index.tail > np.maximum(index.head - index.capacity, self._low)).tolist()
        ):
            tail = index.tail.item(stream)
            low = max(self._low.item(stream), index.head.item(stream) - index.capacity)
            if tail > low:
                self.set(stream * index.capacity + np.arange(low, tail) % index.capacity, 0.0)
        self._low[:] = index.tail

    def aim(self, anchors: Anchors) -> None:
        """Be ready to draw these anchors: others than before may be barred now."""
        kind = (anchors.boundary, anchors.length)
        if self._kind != kind:
            if self.barred:
                back = np.flatnonzero(self._barred)
                self._undo.about_to_change(self._barred, back)
                self._barred[back] = False
                self.barred = 0
                self.tree.set(back, self.weights[back])
            self._kind = kind

    def _new_slots(self, index: EpisodeIndex) -> Ints:
        capacity = index.capacity
        if index.streams == 1:
            head, seen = index.head.item(0), self._seen.item(0)
            if head == seen:
                return np.zeros(0, np.int64)
            self._seen[0] = head
            return np.arange(max(seen if seen < head else 0, index.tail.item(0)), head) % capacity
        changed = np.flatnonzero(index.head != self._seen)
        if not len(changed):
            return changed
        low = np.where(self._seen <= index.head, self._seen, 0)[changed]
        low = np.maximum(low, index.tail[changed])
        counts = index.head[changed] - low
        self._seen[:] = index.head
        stream = np.repeat(changed, counts)
        within = np.arange(len(stream)) - np.repeat(np.cumsum(counts) - counts, counts)
        return stream * capacity + (np.repeat(low, counts) + within) % capacity

    def set(self, slots: Ints, weights: npt.ArrayLike) -> None:
        """Set the weights at `slots`; those barred come back, and leave again when next drawn in vain."""
        self._undo.about_to_change(self.weights, slots)
        self.weights[slots] = weights
        if self.barred:
            back = self._barred.take(slots)
            if back.any():
                released = np.unique(slots[back])
                self._undo.about_to_change(self._barred, released)
                self._barred[released] = False
                self.barred -= len(released)
        self.tree.set(slots, weights)

    def propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Proposal:
        """Return `count` steps with probability in proportion to their weights among those not barred."""
        index = anchors.index
        if self.tree.total <= 0.0:
            raise anchors.not_enough()
        slots = self.tree.find(rng.random(count) * self.tree.total)
        if index.streams == 1:
            oldest = index.tail.item(0)
            ids = oldest + (slots - oldest) % index.capacity
            live = ids < index.head.item(0)
        else:
            stream = slots // index.capacity
            tails = index.tail[stream]
            ids = tails + (slots - tails) % index.capacity
            live = ids < index.head[stream]
        rows = index.episode_of_slot.take(slots).astype(np.int64)
        good = anchors.accept(rows, ids) & live
        if np.count_nonzero(good) < count:
            if not live.all():  # an interrupted add evicted a step, or the buffer's content was replaced
                self.set(np.unique(slots[~live]), 0.0)
            hopeless = live & ~good & (index.ended[rows] != 0) & (anchors.boundary != "cross")
            if hopeless.any():
                barred = np.unique(slots[hopeless])
                self._undo.about_to_change(self._barred, barred)
                self._barred[barred] = True
                self.barred += len(barred)
                self.tree.set(barred, 0.0)
        return rows, ids, good

    def interval_weights(self, index: EpisodeIndex, rows: Ints, first: Ints, stop: Ints) -> Floats:
        """Return the summed weight of `first <= id < stop` for each episode."""
        return np.array([self._of(index, *one).sum() for one in zip(rows, first, stop, strict=True)])

    def pick(
        self, index: EpisodeIndex, rng: np.random.Generator, rows: Ints, first: Ints, stop: Ints
    ) -> Ints:
        """Return an id from each interval, by weight."""
        ids = np.empty(len(rows), np.int64)
        for row in np.unique(rows).tolist():
            here = np.flatnonzero(rows == row)
            low, high = first.item(here[0]), stop.item(here[0])
            ends = np.cumsum(self._of(index, row, low, high))
            within = np.searchsorted(ends, rng.random(len(here)) * ends[-1], side="right")
            ids[here] = low + np.minimum(within, len(ends) - 1)
        return ids

    def _of(self, index: EpisodeIndex, row: int, first: int, stop: int) -> Floats:
        slots: Ints = index.stream.item(row) * index.capacity + np.arange(first, stop) % index.capacity
        return self.weights[slots]

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        """Return `count` valid anchors with probability in proportion to their weights."""
        index = anchors.index
        return try_then_count(
            count,
            lambda wanted: self.propose(anchors, rng, wanted),
            lambda missing: by_episode(
                anchors,
                rng,
                missing,
                lambda rows, first, stop: self.interval_weights(index, rows, first, stop),
                lambda rows, first, stop: self.pick(index, rng, rows, first, stop),
            ),
        )

    def save(self) -> State:
        """Return the weights, which are barred, and for what; nothing before the first draw."""
        if self._index is None:
            return {}
        return {
            "weights": self.weights.copy(),
            "barred": self._barred.copy(),
            "seen": self._seen.copy(),
            "kind": list(self._kind) if self._kind else None,
        }

    def load(self, state: Mapping[str, Any], index: EpisodeIndex) -> None:
        """Take back what `save` returned, for a buffer of the same sizes.

        Raises:
            BadSetting: it is no such state.
        """
        weights, barred, seen, kind = checked_step_weights(state, index.streams, index.capacity)
        self._bind(index)
        self.weights[:], self._barred[:], self._seen[:] = weights, barred, seen
        self.barred = int(np.count_nonzero(self._barred))
        self._kind = kind
        self.tree.set(np.arange(self.tree.size), np.where(self._barred, 0.0, self.weights))


def checked_step_weights(
    state: Any, streams: int, capacity: int
) -> tuple[Floats, Bools, Ints, tuple[str, int] | None]:
    """Return the weights, what is barred, the heads seen, and boundary and length, that `StepWeights` saved.

    Args:
        state: what was saved.
        streams, capacity: of the buffer; each stream keeps `capacity` steps.

    Raises:
        BadSetting: it is no such state.
    """
    state, size = kept(state, "weights", "barred", "seen", "kind"), streams * capacity
    kind = state["kind"]
    if kind is not None:
        if not isinstance(kind, (list, tuple)) or len(kind) != 2 or kind[0] not in tuple(BOUNDARIES):
            raise unfit("kind", "a boundary and a length", str(kind)[:80])
        kind = kind[0], kept_integer("length", kind[1], 1, MOST)
    return (
        kept_array("weights", state["weights"], np.float64, (size,), 0.0, MOST_WEIGHT),
        kept_array("barred", state["barred"], np.bool_, (size,), 0, 1),
        kept_array("seen", state["seen"], np.int64, (streams,), 0, MOST_ID),
        kind,
    )


def checked_episode_weights(state: Any, streams: int, rows: int) -> tuple[Floats, Ints]:
    """Return the weights and the episodes seen that `EpisodeWeights` saved.

    Args:
        state: what was saved.
        streams: of the buffer.
        rows: of its table of episodes; the weights are at most as many.

    Raises:
        BadSetting: it is no such state.
    """
    state = kept(state, "weights", "begun")
    weights = kept_array("weights", state["weights"], np.float64, (None,), 0.0, MOST_WEIGHT)
    if not 0 < len(weights) <= rows:
        raise unfit("weights", f"at most {rows}", f"{len(weights)}")
    return weights, kept_array("begun", state["begun"], np.int64, (streams,), 0, MOST_ID)


class EpisodeWeights(Follows):
    """A weight for every live episode of one buffer, by row; rows that were given up are found when drawn."""

    __slots__ = ("_begun", "_index", "_marked", "_undo", "tree", "weights")

    tree: SumTree

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._undo = Undo()
        self._marked: tuple[Any, ...] | None = None

    def mark(self) -> None:
        """Take note of all there is, for `rewind`."""
        self._undo.mark()
        self._marked = None if self._index is None else (self._index, self._begun.copy(), self.weights)

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        if self._marked is None:
            self._index = None
            return
        self._index, begun, self.weights = self._marked
        self._begun[:] = begun
        places = self._undo.rewind()
        if self.tree.size == len(self.weights):
            self.tree.set(places, self.weights[places])
        else:  # it had grown
            self.tree = SumTree(len(self.weights))
            self.tree.set(np.arange(len(self.weights)), self.weights)

    def sync(self, index: EpisodeIndex) -> Ints:
        """Give episodes that began since the last call the weight 1; return their rows."""
        if self._index is None:
            self._index = index
            self._begun = np.zeros(index.streams, np.int64)
            self.weights = np.zeros(len(index.start))
            self.tree = SumTree(len(index.start))
        serve(self._index, index)
        if len(index.start) > len(self.weights):
            grown = len(index.start) - len(self.weights)
            self.weights = np.concatenate([self.weights, np.zeros(grown)])
            self.tree = SumTree(len(self.weights))
            self.tree.set(np.arange(len(self.weights)), self.weights)
        fresh = [
            index.episode_of(stream, ordinal)
            for stream in np.flatnonzero(index.begun != self._begun).tolist()
            for ordinal in range(max(self._begun[stream], index.dropped[stream]), index.begun[stream])
        ]
        self._begun[:] = index.begun
        rows = np.array(fresh, np.int64)
        if fresh:
            self.set(rows, np.ones(len(rows)))
        return rows

    def set(self, rows: Ints, weights: npt.ArrayLike) -> None:
        """Set the weights of these episodes."""
        self._undo.about_to_change(self.weights, rows)
        self.weights[rows] = weights
        self.tree.set(rows, weights)

    def propose(
        self, anchors: Anchors, rng: np.random.Generator, count: int
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Return rows by weight, and which of them are live; the others lose their weight."""
        if self.tree.total <= 0.0:
            raise anchors.not_enough()
        index = anchors.index
        rows = self.tree.find(rng.random(count) * self.tree.total)
        live = index.is_live(rows)
        if not live.all():
            self.set(rows[~live], np.zeros(int((~live).sum())))
        return rows, live

    def save(self) -> State:
        """Return the weights by row, and how many episodes had begun."""
        return {} if self._index is None else {"weights": self.weights.copy(), "begun": self._begun.copy()}

    def load(self, state: Mapping[str, Any], index: EpisodeIndex) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting: it is no such state.
        """
        self.weights, self._begun = checked_episode_weights(state, index.streams, len(index.start))
        self._index = index
        self.tree = SumTree(len(self.weights))
        self.tree.set(np.arange(len(self.weights)), self.weights)

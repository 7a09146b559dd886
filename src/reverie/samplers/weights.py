"""A weight for every live step, or every live episode, of one buffer: both follow it draw by draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.index import BOUNDARIES, Anchors, Bools, EpisodeIndex, Ints
from reverie.samplers.base import Follows, Proposal, State, by_episode, serve, try_then_count
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.samplers.sumtree import Floats, SumTree
from reverie.values import MOST, MOST_ID

MOST_WEIGHT = 1e200  # the sum of as many as there can be is still a number


class StepWeights(Follows):
    """A weight for every live step of one buffer, by slot.

    An anchor that can never be valid for the boundary and length in use, because its episode has ended too
    soon after it, is barred when it is drawn in vain, once. So the share of draws in vain stays small, however
    high such a step's weight is.

    Attributes:
        tree: the weights; it exists from the first draw on.
    """

    __slots__ = ("_index", "_kind", "_low", "_marked", "_seen", "tree")

    tree: SumTree
    _kind: tuple[str, int] | None

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._marked: tuple[Any, ...] | None = None

    @property
    def barred(self) -> int:
        """How many steps are barred."""
        return self.tree.barred

    def mark(self) -> None:
        """Take note of all there is, for `rewind`."""
        if self._index is None:
            self._marked = None
        else:
            self.tree.mark()
            self._marked = self._index, self._seen.copy(), self._low.copy(), self._kind

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        if self._marked is None:
            self._index = None
            return
        self._index, seen, low, self._kind = self._marked
        self._seen[:], self._low[:] = seen, low
        self.tree.rewind()

    def _bind(self, index: EpisodeIndex) -> None:
        self._index = index
        self.tree = SumTree(index.streams * index.capacity)
        self._seen = np.zeros(index.streams, np.int64)  # head of each stream at the last call
        self._low = np.zeros(index.streams, np.int64)  # tail of each stream at the last call
        self._kind = None  # boundary and length that steps are barred for

    # --- following the buffer --------------------------------------------------------------------------

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
            self.tree.set(slots, fresh)
        return slots

    def _forget_early(self, index: EpisodeIndex) -> None:
        """Take the weight from steps that were evicted before their slots are needed: a budget of bytes does that."""
        streams: Sequence[int] = range(index.streams)
        if len(streams) > 3:  # else it is cheaper to look at each
            streams = np.flatnonzero(index.tail > np.maximum(index.head - index.capacity, self._low)).tolist()
        for stream in streams:
            tail = index.tail.item(stream)
            low = max(self._low.item(stream), index.head.item(stream) - index.capacity)
            if tail > low:
                self.tree.set(stream * index.capacity + np.arange(low, tail) % index.capacity, 0.0)
        self._low[:] = index.tail

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

    # --- draws -----------------------------------------------------------------------------------------

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        """Return `count` valid anchors with probability in proportion to their weights."""
        kind = (anchors.boundary, anchors.length)
        if self._kind != kind:  # other steps than before may have to be barred
            self.tree.release()
            self._kind = kind
        index = anchors.index
        return try_then_count(
            count,
            lambda wanted: self._propose(anchors, rng, wanted),
            lambda missing: by_episode(
                anchors,
                rng,
                missing,
                lambda episodes, first, stop: self._interval_weights(index, episodes, first, stop),
                lambda episodes, first, stop: self._pick(index, rng, episodes, first, stop),
            ),
        )

    def _propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Proposal:
        """Return `count` steps with probability in proportion to their weights among those not barred."""
        index = anchors.index
        if self.tree.total <= 0.0:
            raise anchors.not_enough()
        slots = self.tree.find(rng.random(count) * self.tree.total)
        ids, live = _steps_in(index, slots)
        episodes = index.episode_of_slot.take(slots).astype(np.int64)
        good = anchors.accept(episodes, ids) & live
        if np.count_nonzero(good) < count:
            if not live.all():  # an interrupted add evicted a step, or the buffer's content was replaced
                self.tree.set(np.unique(slots[~live]), 0.0)
            hopeless = live & ~good & (index.ended[episodes] != 0) & (anchors.boundary != "cross")
            if hopeless.any():
                self.tree.bar(np.unique(slots[hopeless]))
        return episodes, ids, good

    def _interval_weights(self, index: EpisodeIndex, episodes: Ints, first: Ints, stop: Ints) -> Floats:
        """Return the summed weight of `first <= id < stop` for each episode."""
        return np.array([self._of(index, *one).sum() for one in zip(episodes, first, stop, strict=True)])

    def _pick(
        self, index: EpisodeIndex, rng: np.random.Generator, episodes: Ints, first: Ints, stop: Ints
    ) -> Ints:
        """Return an id from each interval, by weight."""
        ids = np.empty(len(episodes), np.int64)
        for episode in np.unique(episodes).tolist():
            here = np.flatnonzero(episodes == episode)
            low, high = first.item(here[0]), stop.item(here[0])
            ends = np.cumsum(self._of(index, episode, low, high))
            within = np.searchsorted(ends, rng.random(len(here)) * ends[-1], side="right")
            ids[here] = low + np.minimum(within, len(ends) - 1)
        return ids

    def _of(self, index: EpisodeIndex, episode: int, first: int, stop: int) -> Floats:
        slots: Ints = index.stream.item(episode) * index.capacity + np.arange(first, stop) % index.capacity
        return self.tree.weights_at(slots)

    # --- what is remembered ----------------------------------------------------------------------------

    def save(self) -> State:
        """Return the weights, which are barred, and for what; nothing before the first draw."""
        if self._index is None:
            return {}
        return {
            "weights": self.tree.weights,
            "barred": self.tree.are_barred(),
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
        self._seen[:], self._kind = seen, kind
        self.tree.set(np.arange(self.tree.size), weights)
        self.tree.bar(np.flatnonzero(barred))


def _steps_in(index: EpisodeIndex, slots: Ints) -> tuple[Ints, Bools]:
    """Return the id of the step in each slot, and whether it is live."""
    if index.streams == 1:
        oldest = index.tail.item(0)
        ids = oldest + (slots - oldest) % index.capacity
        return ids, ids < index.head.item(0)
    stream = slots // index.capacity
    tails = index.tail[stream]
    ids = tails + (slots - tails) % index.capacity
    return ids, ids < index.head[stream]


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


class EpisodeWeights(Follows):
    """A weight for every live episode of one buffer, by its number in the table.

    Episodes that were dropped keep their weight until they are drawn.

    Attributes:
        tree: the weights; it exists from the first draw on.
    """

    __slots__ = ("_begun", "_index", "_marked", "tree")

    tree: SumTree

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None
        self._marked: tuple[Any, ...] | None = None

    def mark(self) -> None:
        """Take note of all there is, for `rewind`."""
        if self._index is None:
            self._marked = None
        else:
            self.tree.mark()
            self._marked = self._index, self.tree, self._begun.copy()

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        if self._marked is None:
            self._index = None
            return
        self._index, self.tree, begun = self._marked  # another tree, if the table has grown
        self._begun[:] = begun
        self.tree.rewind()

    def follow(self, index: EpisodeIndex) -> Ints:
        """Give episodes that began since the last call the weight 1; return them.

        Raises:
            BadSetting: the sampler already serves another buffer.
        """
        if self._index is None:
            self._index = index
            self._begun = np.zeros(index.streams, np.int64)
            self.tree = SumTree(len(index.start))
        serve(self._index, index)
        if len(index.start) > self.tree.size:
            weights = self.tree.weights
            self.tree = SumTree(len(index.start))
            self.tree.set(np.arange(len(weights)), weights)
        fresh = np.array(
            [
                index.episode_of(stream, ordinal)
                for stream in np.flatnonzero(index.begun != self._begun).tolist()
                for ordinal in range(max(self._begun[stream], index.dropped[stream]), index.begun[stream])
            ],
            np.int64,
        )
        self._begun[:] = index.begun
        if len(fresh):
            self.tree.set(fresh, 1.0)
        return fresh

    def propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Bools]:
        """Return episodes by weight, and which of them are live; the others lose their weight."""
        if self.tree.total <= 0.0:
            raise anchors.not_enough()
        episodes = self.tree.find(rng.random(count) * self.tree.total)
        live = anchors.index.is_live(episodes)
        if not live.all():
            self.tree.set(episodes[~live], 0.0)
        return episodes, live

    def save(self) -> State:
        """Return the weights by episode, and how many episodes had begun."""
        return {} if self._index is None else {"weights": self.tree.weights, "begun": self._begun.copy()}

    def load(self, state: Mapping[str, Any], index: EpisodeIndex) -> None:
        """Take back what `save` returned.

        Raises:
            BadSetting: it is no such state.
        """
        weights, self._begun = checked_episode_weights(state, index.streams, len(index.start))
        self._index = index
        self.tree = SumTree(len(weights))
        self.tree.set(np.arange(len(weights)), weights)


def checked_episode_weights(state: Any, streams: int, most: int) -> tuple[Floats, Ints]:
    """Return the weights and the episodes seen that `EpisodeWeights` saved.

    Args:
        state: what was saved.
        streams: of the buffer.
        most: entries of its table of episodes; the weights are at most as many.

    Raises:
        BadSetting: it is no such state.
    """
    state = kept(state, "weights", "begun")
    weights = kept_array("weights", state["weights"], np.float64, (None,), 0.0, MOST_WEIGHT)
    if not 0 < len(weights) <= most:
        raise unfit("weights", f"at most {most}", f"{len(weights)}")
    return weights, kept_array("begun", state["begun"], np.int64, (streams,), 0, MOST_ID)

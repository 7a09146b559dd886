"""A weight for every live step of one buffer, which is followed draw by draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.index import BOUNDARIES, Anchors, Bools, Choice, EpisodeIndex, Ints, native
from reverie.samplers.base import (
    Follows,
    Proposal,
    State,
    by_episode,
    interval_mass,
    serve,
    try_then_count,
)
from reverie.samplers.kept import kept, kept_array, kept_integer, unfit
from reverie.samplers.sumtree import Floats, SumTree
from reverie.values import MOST, MOST_ID

Kind = tuple[str, int, bool]  # boundary, length, and whether episodes are chosen
CHOSEN = "chosen episodes"
HOPELESS, NOT_LIVE = -1, -2  # kinds of steps, as `choose` in C tells them
MOST_WEIGHT = 1e200  # the sum of as many as there can be is still a number


class StepWeights(Follows):
    """A weight for every live step of one buffer, by slot.

    An anchor that can never be valid for the boundary and length in use, because its episode has ended too
    soon after it, is barred when it is drawn in vain, once. So the share of draws in vain stays small, however
    high such a step's weight is. Steps of episodes that may have no anchor are barred before a draw.

    Attributes:
        tree: the weights; it exists from the first draw on.
    """

    __slots__ = ("_index", "_kind", "_low", "_marked", "_obeyed", "_seen", "tree")

    tree: SumTree
    _kind: Kind | None
    _obeyed: tuple[int, Ints] | None  # serial of the last choice; the `order` of the episodes that it bars

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
            self._marked = self._index, self._seen, self._low, self._kind

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        if self._marked is None:
            self._index = None
            return
        self._index, self._seen, self._low, self._kind = self._marked
        self._obeyed = None
        self.tree.rewind()

    def _bind(self, index: EpisodeIndex) -> None:
        self._index = index
        self.tree = SumTree(index.streams * index.capacity)
        # Head and tail of each stream at the last call. Others take their place, so that `mark` need not copy them.
        self._seen = self._low = np.zeros(index.streams, np.int64)
        self._kind = None  # boundary and length that steps are barred for, and whether episodes are chosen
        self._obeyed = None

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
        if index.streams == 1 and index.tail.item(0) == self._low.item(0):
            return
        if len(streams) > 3:  # else it is cheaper to look at each
            streams = np.flatnonzero(index.tail > np.maximum(index.head - index.capacity, self._low)).tolist()
        for stream in streams:
            tail = index.tail.item(stream)
            low = max(self._low.item(stream), index.head.item(stream) - index.capacity)
            if tail > low:
                self.tree.set(stream * index.capacity + np.arange(low, tail) % index.capacity, 0.0)
        self._low = index.tail.copy()

    def _new_slots(self, index: EpisodeIndex) -> Ints:
        capacity = index.capacity
        if index.streams == 1:
            head, seen = index.head.item(0), self._seen.item(0)
            if head == seen:
                return np.zeros(0, np.int64)
            self._seen = index.head.copy()
            return np.arange(max(seen if seen < head else 0, index.tail.item(0)), head) % capacity
        changed = np.flatnonzero(index.head != self._seen)
        if not len(changed):
            return changed
        low = np.where(self._seen <= index.head, self._seen, 0)[changed]
        low = np.maximum(low, index.tail[changed])
        counts = index.head[changed] - low
        self._seen = index.head.copy()
        stream = np.repeat(changed, counts)
        within = np.arange(len(stream)) - np.repeat(np.cumsum(counts) - counts, counts)
        return stream * capacity + (np.repeat(low, counts) + within) % capacity

    # --- draws -----------------------------------------------------------------------------------------

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int, fresh: Ints) -> tuple[Ints, Ints]:
        """Return `count` valid anchors with probability in proportion to their weights.

        Args:
            anchors: the valid ones; rng: the source of randomness; count: how many to draw.
            fresh: what `follow` returned.
        """
        self.prepare(anchors, fresh)
        return try_then_count(
            count,
            lambda wanted: self.propose(anchors, rng, wanted),
            lambda missing: self.enumerate(anchors, rng, missing),
        )

    def prepare(self, anchors: Anchors, fresh: Ints) -> None:
        """Bar what can be no anchor now, as far as it is known; `fresh` is what `follow` returned."""
        kind = (anchors.boundary, anchors.length, anchors.choice is not None)
        if self._kind != kind:  # other steps than before may have to be barred
            self.tree.release()
            self._kind, self._obeyed = kind, None
        if anchors.choice is not None:
            self._obey(anchors, anchors.choice, fresh)

    def enumerate(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        """Return `count` valid anchors by their weights, by going through all live episodes."""
        index = anchors.index
        return by_episode(
            anchors,
            rng,
            count,
            lambda episodes, first, stop: self.interval_weights(index, episodes, first, stop),
            lambda episodes, first, stop: self._pick(index, rng, episodes, first, stop),
        )

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return the weight of all steps that are not barred, or of the valid anchors alone."""
        if exact:
            return interval_mass(anchors, lambda *intervals: self.interval_weights(anchors.index, *intervals))
        return self.tree.total

    def _obey(self, anchors: Anchors, choice: Choice, fresh: Ints) -> None:
        """Bar the steps of the episodes that are not chosen, and those of no others that can be drawn."""
        index = anchors.index
        fresh = fresh[~choice.chosen.take(index.episode_of_slot.take(fresh))]
        if len(fresh):
            self.tree.bar(np.unique(fresh))
        if self._obeyed is not None and self._obeyed[0] == choice.serial:
            return
        episodes = index.live_episodes()
        orders, left_out = index.order[episodes], ~choice.chosen.take(episodes)
        if self._obeyed is None:
            changed = np.ones(len(episodes), np.bool_)
        else:
            changed = np.isin(orders, self._obeyed[1]) != left_out
        places, ids, of = _steps_of(index, episodes[changed])
        allowed = choice.chosen.take(of)
        self.tree.bar(places[~allowed & (self.tree.leaves_at(places) > 0)])
        again = places[allowed & (self.tree.leaves_at(places) < 0)]
        if len(again):
            again = places[allowed & (self.tree.leaves_at(places) < 0) & anchors.accept(of, ids)]
            self.tree.set(again, self.tree.weights_at(again))
        self._obeyed = choice.serial, orders[left_out]

    def propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Proposal:
        """Return `count` steps with probability in proportion to their weights among those not barred."""
        index = anchors.index
        if self.tree.total <= 0.0:
            raise anchors.not_enough()
        slots = self.tree.find(rng.random(count) * self.tree.total)
        if (
            native is not None
            and index.streams == 1
            and anchors.choice is None
            and anchors.boundary == "inside"
        ):
            return self._sifted(index, slots, anchors.length)
        ids, live = _steps_in(index, slots)
        episodes = index.episode_of_slot.take(slots).astype(np.int64)
        good = anchors.accept(episodes, ids) & live
        if np.count_nonzero(good) < count:
            if not live.all():  # an interrupted add evicted a step, or the buffer's content was replaced
                self.tree.set(np.unique(slots[~live]), 0.0)
            hopeless = live & ~good & (index.ended[episodes] != 0) & (anchors.boundary != "cross")
            if anchors.choice is not None:
                hopeless |= live & ~anchors.choice.chosen.take(episodes)
            if hopeless.any():
                self.tree.bar(np.unique(slots[hopeless]))
        return episodes, ids, good

    def _sifted(self, index: EpisodeIndex, slots: Ints, length: int) -> Proposal:
        """Return what `propose` does of these slots, in C."""
        count = len(slots)
        episodes, ids, kinds = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int8)
        table = index.episode_of_slot, index.settled, index.ended
        newest = index.tail.item(0), index.head.item(0)
        found = native.choose(slots, None, *newest, index.capacity, length, *table, episodes, ids, kinds)
        bad = (kinds < 0).nonzero()[0].tolist() if found < count else ()
        for kind, change in ((NOT_LIVE, self._forget), (HOPELESS, self.tree.bar)):
            places = {slots.item(each) for each in bad if kinds.item(each) == kind}
            if places:
                change(np.array(sorted(places), np.int64))
        return episodes, ids, kinds > 0

    def _forget(self, places: Ints) -> None:
        self.tree.set(places, 0.0)

    def interval_weights(self, index: EpisodeIndex, episodes: Ints, first: Ints, stop: Ints) -> Floats:
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
            "kind": [*self._kind[:2], *[CHOSEN] * self._kind[2]] if self._kind else None,
        }

    def load(self, state: Mapping[str, Any], index: EpisodeIndex) -> None:
        """Take back what `save` returned, for a buffer of the same sizes.

        Raises:
            BadSetting: it is no such state.
        """
        weights, barred, seen, kind = checked_step_weights(state, index.streams, index.capacity)
        self._bind(index)
        self._seen, self._kind = seen, kind
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


def _steps_of(index: EpisodeIndex, episodes: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the slots and the ids of all live steps of live episodes, and the episode of each."""
    first = index.live_start(episodes)
    counts = index.stop[episodes] - first
    of = np.repeat(episodes, counts)
    ids = np.arange(len(of)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return index.slots_of(of, ids), ids, of


def checked_step_weights(state: Any, streams: int, capacity: int) -> tuple[Floats, Bools, Ints, Kind | None]:
    """Return the weights, what is barred, the heads seen, and for what, that `StepWeights` saved.

    Args:
        state: what was saved.
        streams, capacity: of the buffer; each stream keeps `capacity` steps.

    Raises:
        BadSetting: it is no such state.
    """
    state, size = kept(state, "weights", "barred", "seen", "kind"), streams * capacity
    kind = state["kind"]
    if kind is not None:
        is_list = isinstance(kind, (list, tuple)) and (len(kind) == 2 or list(kind[2:]) == [CHOSEN])
        if not is_list or kind[0] not in tuple(BOUNDARIES):
            raise unfit("kind", "a boundary and a length", str(kind)[:80])
        kind = kind[0], kept_integer("length", kind[1], 1, MOST), len(kind) == 3
    return (
        kept_array("weights", state["weights"], np.float64, (size,), 0.0, MOST_WEIGHT),
        kept_array("barred", state["barred"], np.bool_, (size,), 0, 1),
        kept_array("seen", state["seen"], np.int64, (streams,), 0, MOST_ID),
        kind,
    )

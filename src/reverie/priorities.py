"""Samplers that weigh every step or episode, and change the weights as they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.door import number
from reverie.draws import Proposal, Sampler, State, by_episode, serve, try_then_count, uniform_between
from reverie.episodes import EpisodeIndex, Ints
from reverie.errors import BadSetting
from reverie.sumtree import SumTree
from reverie.windows import Anchors, Drawn

Floats = npt.NDArray[np.float64]


class StepWeights:
    """A weight for every live step of one buffer, following adds and evictions draw by draw.

    An anchor that can never be valid for the boundary and length in use, because its episode has ended too
    soon after it, loses its place in the tree when it is drawn in vain, once. So the share of draws in vain
    stays small, however high such a step's weight is.
    """

    __slots__ = ("_barred", "_index", "_kind", "_seen", "barred", "tree", "weights")

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None

    def _bind(self, index: EpisodeIndex) -> None:
        self._index = index
        self.tree = SumTree(index.streams * index.capacity)
        self.weights = np.zeros(self.tree.size)  # slot -> weight, barred or not
        self._barred = np.zeros(self.tree.size, np.bool_)
        self.barred = 0  # how many slots are
        self._seen = np.zeros(index.streams, np.int64)  # head of each stream at the last call
        self._kind: tuple[str, int] | None = None  # boundary and length that steps are barred for

    def follow(self, index: EpisodeIndex, fresh: float) -> Ints:
        """Give steps added since the last call the weight `fresh`; return their slots.

        Raises:
            BadSetting: the sampler already serves another buffer.
        """
        if self._index is None:
            self._bind(index)
        serve(self._index, index)
        slots = self._new_slots(index)
        if len(slots):
            self.set(slots, fresh)
        return slots

    def aim(self, anchors: Anchors) -> None:
        """Be ready to draw these anchors: others than before may be barred now."""
        kind = (anchors.boundary, anchors.length)
        if self._kind != kind:
            if self.barred:
                self._barred[:] = False
                self.barred = 0
                self.tree.set(np.arange(self.tree.size), self.weights)
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
        self.weights[slots] = weights
        if self.barred:
            back = self._barred.take(slots)
            if back.any():
                released = np.unique(slots[back])
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
        else:
            tails = index.tail[slots // index.capacity]
            ids = tails + (slots - tails) % index.capacity
        rows = index.row_of_slot.take(slots).astype(np.int64)
        good = anchors.accept(rows, ids)
        if np.count_nonzero(good) < count:
            hopeless = ~good & (index.ended[rows] != 0) & (anchors.boundary != "cross")
            if hopeless.any():
                barred = np.unique(slots[hopeless])
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
                anchors, rng, missing,
                lambda rows, first, stop: self.interval_weights(index, rows, first, stop),
                lambda rows, first, stop: self.pick(index, rng, rows, first, stop),
            ),
        )  # fmt: skip

    def save(self) -> State:
        """Return the weights, which are barred, and for what; nothing before the first draw."""
        if self._index is None:
            return {}
        return {"weights": self.weights.copy(), "barred": self._barred.copy(), "seen": self._seen.copy(),
                "kind": list(self._kind) if self._kind else None}  # fmt: skip

    def load(self, state: Mapping[str, Any], index: EpisodeIndex) -> None:
        """Take back what `save` returned, for a buffer of the same sizes."""
        self._bind(index)
        self.weights[:] = state["weights"]
        self._barred[:] = state["barred"]
        self.barred = int(np.count_nonzero(self._barred))
        self._seen[:] = state["seen"]
        kind: Any = state["kind"]
        self._kind = tuple(kind) if kind else None
        self.tree.set(np.arange(self.tree.size), np.where(self._barred, 0.0, self.weights))


class Prioritized(Sampler):
    """In proportion to priority ** alpha (Schaul et al., 2016), for sequences as in R2D2 (Kapturowski et al., 2019).

    The priority belongs to the anchor of a window. New steps enter at the highest priority so far, so that
    each is likely to be seen soon. `buffer.update_priorities(batch, td_errors)` turns the TD errors of a
    window's steps into `eta * max + (1 - eta) * mean` of their absolute values, plus `epsilon`.

    A batch's `weight` is (N * P(anchor)) ** -beta, where N counts the anchors that can be drawn: 1 for all
    while all priorities are equal. Divide by its maximum for the normalisation of the paper.

    Args:
        alpha: 0 draws uniformly, 1 in full proportion.
        beta: 0 corrects nothing, 1 fully; may be set anew at any time, as annealing does.
        eta: share of the maximum in a window's priority.
        epsilon: added to every priority, so that none is 0.

    Raises:
        BadSetting: an argument out of range.
    """

    def __init__(
        self, alpha: float = 0.6, beta: float = 0.4, *, eta: float = 0.9, epsilon: float = 1e-6
    ) -> None:
        self.alpha, self.beta = number("alpha", alpha, 0, 4), number("beta", beta, 0, 4)
        self.eta, self.epsilon = number("eta", eta, 0, 1), number("epsilon", epsilon, 0, 1e6)
        self._highest = 1.0  # of all priorities so far
        self._steps = StepWeights()
        self._loaded: State = {}

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors and their importance weights."""
        self._resume(anchors.index)
        self._steps.follow(anchors.index, self._highest**self.alpha)
        self._steps.aim(anchors)
        rows, ids = self._steps.draw(anchors, rng, count)
        return Drawn(rows, ids, self._importance(anchors.index, rows, ids))

    def _importance(self, index: EpisodeIndex, rows: Ints, ids: Ints) -> Floats:
        slots = index.stream.take(rows) * index.capacity + ids % index.capacity
        drawable = index.live_steps() - self._steps.barred
        mean = self._steps.tree.total / drawable if drawable else 0.0
        return np.ones(len(ids)) if mean == 0.0 else (self._steps.weights[slots] / mean) ** -self.beta

    def window_priorities(self, td_errors: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> Floats:
        """Return the priority of each window from the TD errors (B, L) of its steps, padding left out."""
        errors = np.abs(td_errors, dtype=np.float64)
        counts: Any = mask.shape[1]
        if not mask.all():
            errors = np.where(mask, errors, 0.0)
            counts = np.maximum(mask.sum(axis=1), 1)
        largest, mean = np.maximum.reduce(errors, axis=1), np.add.reduce(errors, axis=1) / counts
        priorities: Floats = self.eta * largest + (1 - self.eta) * mean + self.epsilon
        return priorities

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Floats) -> bool:
        """Set the priorities of live anchors."""
        self._resume(index)
        self._steps.follow(index, self._highest**self.alpha)
        if len(ids):
            self._highest = max(self._highest, float(priorities.max()))
            self._steps.set(stream * index.capacity + ids % index.capacity, priorities**self.alpha)
        return True

    def _resume(self, index: EpisodeIndex) -> None:
        if self._loaded:
            self._steps.load(self._loaded, index)
            self._loaded = {}

    def save(self) -> State:
        """Return all priorities and the highest one so far."""
        return {"highest": self._highest, "steps": self._loaded or self._steps.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned."""
        self._highest = float(state["highest"])
        self._loaded = dict(state["steps"])
        self._steps = StepWeights()


class VisitBalanced(Sampler):
    """What was drawn rarely first: probability in proportion to (1 + times drawn) ** -alpha.

    Args:
        alpha: 0 ignores the counts; the larger, the stricter the balance, up to 32.
        by: "episode" counts how often an episode was drawn from and draws the anchor uniformly inside
            (Micheli et al., 2024: Δ-IRIS with alpha 5 on Crafter, 1 on Atari); "step" counts how often a step
            was the anchor, in the spirit of TWM (Robine et al., 2023).

    Raises:
        BadSetting: alpha out of range, or another `by`.
    """

    def __init__(self, alpha: float = 1.0, *, by: str = "episode") -> None:
        # Beyond 32 the weight of what was drawn a billion times would be 0 to a float64.
        self.alpha = number("alpha", alpha, 0, 32)
        if by not in ("episode", "step"):
            raise BadSetting(f"by: wanted 'episode' or 'step', got {by!r}; choose what is counted")
        self.by = by
        self._steps = StepWeights()
        self._visits = np.zeros(0, np.int64)  # slot, or episode row -> times drawn
        self._episodes = EpisodeWeights()
        self._loaded: State = {}

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors and count them as drawn."""
        if self._loaded:
            kept, self._loaded = self._loaded, {}
            self._visits = np.array(kept["visits"], np.int64)
            if self.by == "step":
                self._steps.load(kept["steps"], anchors.index)
            else:
                self._episodes.load(kept["episodes"], anchors.index)
        draw = self._draw_steps if self.by == "step" else self._draw_episodes
        return draw(anchors, rng, count)

    def _draw_steps(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        fresh = self._steps.follow(anchors.index, 1.0)
        self._steps.aim(anchors)
        if len(self._visits) == 0:
            self._visits = np.zeros(self._steps.tree.size, np.int64)
        self._visits[fresh] = 0
        rows, ids = self._steps.draw(anchors, rng, count)
        index = anchors.index
        slots = index.stream.take(rows) * index.capacity + ids % index.capacity
        np.add.at(self._visits, slots, 1)
        self._steps.set(slots, (1.0 + self._visits[slots]) ** -self.alpha)
        return Drawn(rows, ids)

    def _draw_episodes(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        fresh = self._episodes.sync(anchors.index)
        if len(self._visits) < len(self._episodes.weights):
            self._visits = np.concatenate([
                self._visits, np.zeros(len(self._episodes.weights) - len(self._visits), np.int64)
            ])  # fmt: skip
        self._visits[fresh] = 0

        def propose(wanted: int) -> Proposal:
            rows, live = self._episodes.propose(anchors, rng, wanted)
            first, stop = anchors.bounds(rows)
            return rows, uniform_between(rng, first, np.maximum(stop, first + 1)), live & (stop > first)

        rows, ids = try_then_count(
            count,
            propose,
            lambda missing: by_episode(
                anchors, rng, missing,
                lambda rows, first, stop: self._episodes.weights[rows],
                lambda rows, first, stop: uniform_between(rng, first, stop),
            ),
        )  # fmt: skip
        np.add.at(self._visits, rows, 1)
        self._episodes.set(rows, (1.0 + self._visits[rows]) ** -self.alpha)
        return Drawn(rows, ids)

    def save(self) -> State:
        """Return how often what was drawn."""
        if self._loaded:
            return self._loaded
        if len(self._visits) == 0:
            return {}
        return {"visits": self._visits.copy(), "steps": self._steps.save(), "episodes": self._episodes.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned."""
        self._loaded = dict(state)
        self._steps, self._episodes, self._visits = StepWeights(), EpisodeWeights(), np.zeros(0, np.int64)


class EpisodeWeights:
    """A weight for every live episode of one buffer, by row; rows that were given up are found when drawn."""

    __slots__ = ("_begun", "_index", "tree", "weights")

    def __init__(self) -> None:
        self._index: EpisodeIndex | None = None

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
            index.row_of(stream, ordinal)
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
        """Take back what `save` returned."""
        self._index, self._begun = index, np.array(state["begun"], np.int64)
        self.weights = np.array(state["weights"], np.float64)
        self.tree = SumTree(len(self.weights))
        self.tree.set(np.arange(len(self.weights)), self.weights)

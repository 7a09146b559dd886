"""Samplers that weigh every step or episode, and change the weights as they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import number
from reverie.errors import BadSetting
from reverie.index import Anchors, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import Proposal, Sampler, State, by_episode, try_then_count, uniform_between
from reverie.samplers.kept import kept, kept_array, kept_number, unfit
from reverie.samplers.weights import EpisodeWeights, StepWeights, Undo
from reverie.values import MOST_ID

Floats = npt.NDArray[np.float64]

MOST_PRIORITY = 1e40  # what `update_priorities` takes is a float32


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
        self._marked = self._highest, self._steps, self._loaded

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

    def mark(self) -> None:
        """Take note of all priorities, for `rewind`."""
        self._steps.mark()
        self._marked = self._highest, self._steps, self._loaded

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        self._highest, self._steps, self._loaded = self._marked
        self._steps.rewind()

    def _resume(self, index: EpisodeIndex) -> None:
        if self._loaded:
            self._steps.load(self._loaded, index)
            self._loaded = {}

    def save(self) -> State:
        """Return all priorities and the highest one so far."""
        return {"highest": self._highest, "steps": self._loaded or self._steps.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned; priorities are looked at when it draws.

        Raises:
            BadSetting: it is no such state.
        """
        state = kept(state, "highest", "steps")
        steps = state["steps"] and kept(state["steps"], "weights", "barred", "seen", "kind")
        self._highest = kept_number("highest priority", state["highest"], 0.0, MOST_PRIORITY)
        self._loaded = dict(steps)
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
        self._undo = Undo()
        self._marked = self._visits, self._loaded

    def mark(self) -> None:
        """Take note of all counts, for `rewind`."""
        self._steps.mark()
        self._episodes.mark()
        self._undo.mark()
        self._marked = self._visits, self._loaded

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        self._visits, self._loaded = self._marked
        self._undo.rewind()
        self._steps.rewind()
        self._episodes.rewind()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors and count them as drawn."""
        if self._loaded:
            index, state = anchors.index, self._loaded
            if self.by == "step":
                size = index.streams * index.capacity
                visits = kept_array("visits", state["visits"], np.int64, (size,), 0, MOST_ID)
                self._steps.load(state["steps"], index)
            else:
                visits = kept_array("visits", state["visits"], np.int64, (None,), 0, MOST_ID)
                if len(visits) > len(index.start):
                    raise unfit("visits", f"at most {len(index.start)}", f"{len(visits)}")
                self._episodes.load(state["episodes"], index)
            self._visits, self._loaded = visits, {}
        draw = self._draw_steps if self.by == "step" else self._draw_episodes
        return draw(anchors, rng, count)

    def _draw_steps(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        fresh = self._steps.follow(anchors.index, 1.0)
        self._steps.aim(anchors)
        if len(self._visits) == 0:
            self._visits = np.zeros(self._steps.tree.size, np.int64)
        self._undo.about_to_change(self._visits, fresh)
        self._visits[fresh] = 0
        rows, ids = self._steps.draw(anchors, rng, count)
        index = anchors.index
        slots = index.stream.take(rows) * index.capacity + ids % index.capacity
        self._undo.about_to_change(self._visits, slots)
        np.add.at(self._visits, slots, 1)
        self._steps.set(slots, (1.0 + self._visits[slots]) ** -self.alpha)
        return Drawn(rows, ids)

    def _draw_episodes(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        fresh = self._episodes.sync(anchors.index)
        if len(self._visits) < len(self._episodes.weights):
            self._visits = np.concatenate(
                [self._visits, np.zeros(len(self._episodes.weights) - len(self._visits), np.int64)]
            )
        self._undo.about_to_change(self._visits, fresh)
        self._visits[fresh] = 0

        def propose(wanted: int) -> Proposal:
            rows, live = self._episodes.propose(anchors, rng, wanted)
            first, stop = anchors.bounds(rows)
            return rows, uniform_between(rng, first, np.maximum(stop, first + 1)), live & (stop > first)

        rows, ids = try_then_count(
            count,
            propose,
            lambda missing: by_episode(
                anchors,
                rng,
                missing,
                lambda rows, first, stop: self._episodes.weights[rows],
                lambda rows, first, stop: uniform_between(rng, first, stop),
            ),
        )
        self._undo.about_to_change(self._visits, rows)
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
        """Take back what `save` returned; counts are looked at when it draws.

        Raises:
            BadSetting: it is no such state.
        """
        self._loaded = dict(state and kept(state, "visits", "steps", "episodes"))
        self._steps, self._episodes, self._visits = StepWeights(), EpisodeWeights(), np.zeros(0, np.int64)

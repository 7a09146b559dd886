"""A sampler that draws in proportion to priorities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import number
from reverie.index import Anchors, Bools, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import Sampler, Scale, State, only_good
from reverie.samplers.kept import kept, kept_number
from reverie.samplers.sumtree import Floats
from reverie.samplers.weights import StepWeights
from reverie.samplers.where import Condition

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
        where: draws from some episodes only, as `Sampler` says.

    Raises:
        BadSetting: an argument out of range.
    """

    def __init__(
        self,
        alpha: float = 0.6,
        beta: float = 0.4,
        *,
        eta: float = 0.9,
        epsilon: float = 1e-6,
        where: Condition | None = None,
    ) -> None:
        super().__init__(where=where)
        self.alpha, self.beta = number("alpha", alpha, 0, 4), number("beta", beta, 0, 4)
        self.eta, self.epsilon = number("eta", eta, 0, 1), number("epsilon", epsilon, 0, 1e6)
        self._highest = 1.0  # of all priorities so far
        self._steps = StepWeights()
        self._loaded: State = {}
        self._marked = self._highest, self._steps, self._loaded

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors and their importance weights."""
        anchors = self.narrow(anchors)
        fresh = self._follow(anchors.index)
        episodes, ids = self._steps.draw(anchors, rng, count, fresh)
        return Drawn(episodes, ids, self._importance(anchors.index, episodes, ids))

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return the weight of all steps that are not known to be no anchor, or of the anchors alone."""
        self._steps.prepare(anchors, self._follow(anchors.index))
        return self._steps.mass(anchors, exact)

    def offer(self, anchors: Anchors, rng: np.random.Generator, count: int, exact: bool) -> Drawn:
        """Return what comes of `count` tries, with importance weights in this part."""
        if exact:
            drawn = Drawn(*self._steps.enumerate(anchors, rng, count))
        else:
            drawn = only_good(self._steps.propose(anchors, rng, count))
        return drawn._replace(weight=self._importance(anchors.index, drawn.episodes, drawn.ids))

    def scale(self, anchors: Anchors) -> Scale:
        """Return the weight of all steps that can be drawn, and how many they are."""
        return self._steps.tree.total, anchors.index.live_steps() - self._steps.tree.barred

    def reweigh(self, weight: Floats, own: Scale, whole: Scale) -> Floats:
        """Return what the weights are where the mean priority is that of the union."""
        if not (own[0] > 0 and whole[0] > 0):
            return weight
        share: Floats = weight * ((own[0] / own[1]) / (whole[0] / whole[1])) ** -self.beta
        return share

    def imitate(self, original: Any) -> None:
        """Take over all exponents."""
        self.alpha, self.beta, self.eta = original.alpha, original.beta, original.eta
        self.epsilon = original.epsilon

    def common(self) -> float:
        """Return the highest priority so far."""
        return self._highest

    def agree(self, commons: Sequence[float]) -> None:
        """Let new steps of all parts enter at the highest priority of all."""
        self._highest = max(self._highest, *commons)

    def _follow(self, index: EpisodeIndex) -> Ints:
        self._resume(index)
        return self._steps.follow(index, self._highest**self.alpha)

    def _importance(self, index: EpisodeIndex, episodes: Ints, ids: Ints) -> Floats:
        tree = self._steps.tree
        drawable = index.live_steps() - tree.barred
        mean = tree.total / drawable if drawable else 0.0
        if mean == 0.0:
            return np.ones(len(ids))
        weights: Floats = tree.weights_at(index.slots_of(episodes, ids))
        return (weights / mean) ** -self.beta

    def window_priorities(self, td_errors: npt.NDArray[np.floating], mask: Bools) -> Floats:
        """Return the priority of each window from the TD errors (B, L) of its steps, padding left out."""
        errors = np.abs(td_errors, dtype=np.float64)
        counts: Any = mask.shape[1]
        if np.count_nonzero(mask) < mask.size:
            errors = np.where(mask, errors, 0.0)
            counts = np.maximum(mask.sum(axis=1), 1)
        largest, mean = np.maximum.reduce(errors, axis=1), np.add.reduce(errors, axis=1) / counts
        priorities: Floats = self.eta * largest + (1 - self.eta) * mean + self.epsilon
        return priorities

    def update(self, index: EpisodeIndex, stream: Ints, ids: Ints, priorities: Floats) -> None:
        """Set the priorities of live anchors."""
        self._follow(index)
        if len(ids):
            self._highest = max(self._highest, float(priorities.max()))
            self._steps.tree.set(index.slots(stream, ids), priorities**self.alpha)

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

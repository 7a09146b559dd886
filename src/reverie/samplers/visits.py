"""A sampler that counts what it drew, and draws first what it drew rarely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.checks import number
from reverie.errors import BadSetting
from reverie.index import Anchors, Drawn, EpisodeIndex, Ints
from reverie.samplers.base import (
    Proposal,
    Sampler,
    State,
    by_episode,
    only_good,
    try_then_count,
    uniform_between,
)
from reverie.samplers.episode_weights import EpisodeWeights
from reverie.samplers.kept import kept, kept_array, unfit
from reverie.samplers.sumtree import Floats
from reverie.samplers.undo import Undo
from reverie.samplers.weights import StepWeights
from reverie.samplers.where import Condition
from reverie.values import MOST_ID


class VisitBalanced(Sampler):
    """What was drawn rarely first: probability in proportion to (1 + times drawn) ** -alpha.

    Args:
        alpha: 0 ignores the counts; the larger, the stricter the balance, up to 32.
        by: "episode" counts how often an episode was drawn from and draws the anchor uniformly inside
            (Micheli et al., 2024: Δ-IRIS with alpha 5 on Crafter, 1 on Atari); "step" counts how often a step
            was the anchor, in the spirit of TWM (Robine et al., 2023).
        where: draws from some episodes only, as `Sampler` says.

    Raises:
        BadSetting: alpha out of range, or another `by`.
    """

    def __init__(self, alpha: float = 1.0, *, by: str = "episode", where: Condition | None = None) -> None:
        super().__init__(where=where)
        # Beyond 32 the weight of what was drawn a billion times would be 0 to a float64.
        self.alpha = number("alpha", alpha, 0, 32)
        if by not in ("episode", "step"):
            raise BadSetting(f"by: wanted 'episode' or 'step', got {by!r}; choose what is counted")
        self.by = by
        self._steps = StepWeights()
        self._visits = np.zeros(0, np.int64)  # slot or episode -> times drawn
        self._episodes = EpisodeWeights()
        self._loaded: State = {}
        self._undo = Undo()
        self._marked = self._visits, self._steps, self._episodes, self._loaded

    def mark(self) -> None:
        """Take note of all counts, for `rewind`."""
        self._steps.mark()
        self._episodes.mark()
        self._undo.mark()
        self._marked = self._visits, self._steps, self._episodes, self._loaded

    def rewind(self) -> None:
        """Go back to the last `mark`."""
        self._visits, self._steps, self._episodes, self._loaded = self._marked
        self._undo.rewind()
        self._steps.rewind()
        self._episodes.rewind()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` anchors and count them as drawn."""
        anchors = self.narrow(anchors)
        if self._loaded:
            self._resume(anchors.index, self._loaded)
        if self.by == "step":
            return self._draw_steps(anchors, rng, count)
        return self._draw_episodes(anchors, rng, count)

    def _draw_steps(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        fresh = self._follow(anchors.index)
        return self._counted(anchors.index, *self._steps.draw(anchors, rng, count, fresh))

    def _draw_episodes(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        self._follow(anchors.index)
        self._episodes.obey(anchors)
        drawn = try_then_count(
            count,
            lambda wanted: self._propose(anchors, rng, wanted),
            lambda missing: self._enumerate(anchors, rng, missing),
        )
        return self._counted(anchors.index, *drawn)

    def mass(self, anchors: Anchors, exact: bool) -> float:
        """Return the weight of all episodes or steps not known to have no anchor, or of those with one alone."""
        if self._loaded:
            self._resume(anchors.index, self._loaded)
        fresh = self._follow(anchors.index)
        if self.by == "step":
            self._steps.prepare(anchors, fresh)
            return self._steps.mass(anchors, exact)
        self._episodes.obey(anchors)
        if exact:
            return float(self._episodes.tree.weights_at(anchors.candidates().episodes).sum())
        return self._episodes.tree.total

    def offer(self, anchors: Anchors, rng: np.random.Generator, count: int, exact: bool) -> Drawn:
        """Return what comes of `count` tries, and count what is drawn."""
        if self.by == "step":
            drawn = self._steps.enumerate(anchors, rng, count) if exact else None
            found = only_good(self._steps.propose(anchors, rng, count)) if drawn is None else Drawn(*drawn)
        elif exact:
            found = Drawn(*self._enumerate(anchors, rng, count))
        else:
            found = only_good(self._propose(anchors, rng, count))
        return self._counted(anchors.index, found.episodes, found.ids)

    def _follow(self, index: EpisodeIndex) -> Ints:
        """Take in what is new; return it."""
        if self.by == "step":
            fresh, tree = self._steps.follow(index, 1.0), self._steps.tree
        else:
            fresh, tree = self._episodes.follow(index), self._episodes.tree
        self._forget(fresh, tree.size)
        return fresh

    def _propose(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Proposal:
        episodes, live = self._episodes.propose(anchors, rng, count)
        first, stop = anchors.bounds(episodes)
        return episodes, uniform_between(rng, first, np.maximum(stop, first + 1)), live & (stop > first)

    def _enumerate(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        return by_episode(
            anchors,
            rng,
            count,
            lambda episodes, first, stop: self._episodes.tree.weights_at(episodes),
            lambda episodes, first, stop: uniform_between(rng, first, stop),
        )

    def _counted(self, index: EpisodeIndex, episodes: Ints, ids: Ints) -> Drawn:
        """Count what was drawn."""
        if self.by == "step":
            slots = index.slots_of(episodes, ids)
            self._steps.tree.set(slots, self._count(slots))
        else:
            self._episodes.tree.set(episodes, self._count(episodes))
        return Drawn(episodes, ids)

    def _forget(self, fresh: Ints, size: int) -> None:
        """Begin to count at 0 for what is new, where there are `size` counts now."""
        if len(self._visits) < size:
            self._visits = np.concatenate([self._visits, np.zeros(size - len(self._visits), np.int64)])
        self._undo.about_to_change(self._visits, fresh)
        self._visits[fresh] = 0

    def _count(self, drawn: Ints) -> Floats:
        """Count what was drawn; return the new weights."""
        self._undo.about_to_change(self._visits, drawn)
        np.add.at(self._visits, drawn, 1)
        visits: Floats = self._visits[drawn].astype(np.float64)
        return (1.0 + visits) ** -self.alpha

    def _resume(self, index: EpisodeIndex, state: State) -> None:
        """Take back a loaded state, if it is one of this buffer."""
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

"""A weight for every live episode of one buffer, which is followed draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.index import Anchors, Bools, EpisodeIndex, Ints
from reverie.samplers.base import Follows, State, serve
from reverie.samplers.kept import kept, kept_array, unfit
from reverie.samplers.sumtree import Floats, SumTree
from reverie.samplers.weights import MOST_WEIGHT
from reverie.values import MOST_ID


class EpisodeWeights(Follows):
    """A weight for every live episode of one buffer, by its number in the table.

    Episodes that were dropped keep their weight until they are drawn.

    Attributes:
        tree: the weights; it exists from the first draw on.
    """

    __slots__ = ("_begun", "_index", "_marked", "_obeyed", "tree")

    tree: SumTree

    def __init__(self) -> None:
        self._obeyed: int | None = None  # serial of the last choice
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
        self._obeyed = None
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
            weights, self._obeyed = self.tree.weights, None
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

    def obey(self, anchors: Anchors) -> None:
        """Bar the episodes that may have no anchor, and no others."""
        choice, index = anchors.choice, anchors.index
        if choice is None:
            self.tree.release()
            self._obeyed = None
            return
        if self._obeyed == choice.serial:
            return
        episodes = index.live_episodes()
        chosen = choice.chosen.take(episodes)
        barred = self.tree.are_barred()[episodes]
        again = episodes[chosen & barred]
        if len(again):
            self.tree.set(again, self.tree.weights_at(again))
        self.tree.bar(episodes[~chosen & ~barred])
        gone = np.ones(self.tree.size, np.bool_)
        gone[episodes] = False
        gone &= self.tree.weights > 0
        if gone.any():  # a tree that was saved and loaded does not know that they were barred
            self.tree.set(np.flatnonzero(gone), 0.0)
        self._obeyed = choice.serial

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

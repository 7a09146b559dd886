"""Which episodes a sampler draws from: a condition on the table of episodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, counted
from reverie.index import Anchors, Bools, Choice, EpisodeIndex, EpisodeTable, Ints, discarded
from reverie.values import shown

Condition = Callable[[EpisodeTable], npt.ArrayLike] | Mapping[str, Any]


class Where:
    """A condition on episodes, and which of a buffer's episodes meet it now.

    A function is asked again when anything has changed, since every step makes an episode longer; a mapping only
    when an episode has begun or gone, or metadata has changed. A copy or a pickle takes along the condition alone.

    Args:
        condition: as `Sampler` says.

    Raises:
        BadSetting: it is neither a function nor a mapping.
    """

    __slots__ = ("_index", "_joined", "_moment", "_own", "condition")

    def __init__(self, condition: Condition) -> None:
        if not callable(condition) and not isinstance(condition, Mapping):
            raise BadSetting(
                f"where: wanted a function of the episode table, or a mapping of metadata, got {shown(condition)}; "
                f'write for example where=lambda episodes: episodes["return"] > 10, or where={{"task": "reach"}}'
            )
        self.condition = condition
        self._index: EpisodeIndex | None = None
        self._moment: tuple[Hashable, Hashable] = None, None
        self._own: Choice | None = None
        self._joined: tuple[Choice, Choice, Choice] | None = None

    def __reduce__(self) -> Any:
        return Where, (self.condition,)

    def narrow(self, anchors: Anchors) -> Anchors:
        """Return those of the anchors that lie in an episode that meets the condition."""
        choice, before = self._choice(anchors.index), anchors.choice
        if before is choice or (self._joined is not None and before is self._joined[2]):
            return anchors  # narrowed already
        if before is not None:
            if self._joined is None or self._joined[0] is not before or self._joined[1] is not choice:
                self._joined = before, choice, before & choice
            choice = self._joined[2]
        return Anchors(anchors.index, anchors.boundary, anchors.length, choice, anchors.stride)

    def _choice(self, index: EpisodeIndex) -> Choice:
        episodes = index.moment_of_episodes()
        moment = (episodes, index.moment() if callable(self.condition) else None)
        if self._own is None or index is not self._index or moment != self._moment:
            chosen = self._find(index)
            # The same mask of the same episodes is the same choice: whoever obeyed it need not do so again.
            same = self._own is not None and index is self._index and episodes == self._moment[0]
            if not same or self._own is None or not np.array_equal(self._own.chosen, chosen):
                self._own = Choice(chosen)
            self._index, self._moment = index, moment
        return self._own

    def _find(self, index: EpisodeIndex) -> Bools:
        """Return of every entry of the table whether it holds an episode that meets the condition."""
        chosen = np.zeros(len(index.start), np.bool_)
        episodes = index.live_episodes()
        if index.labels:
            episodes = episodes[~discarded(index, episodes)]
        if len(episodes):
            chosen[episodes] = self._meets(index, episodes)
        return chosen

    def _meets(self, index: EpisodeIndex, episodes: Ints) -> Bools:
        """Return which of these episodes, the rows of the table, meet the condition."""
        if isinstance(self.condition, Mapping):
            wanted = self.condition.items()
            labels = [index.labels.get(order, {}) for order in index.order[episodes].tolist()]
            return np.array(
                [all(key in label and label[key] == value for key, value in wanted) for label in labels]
            )
        table = EpisodeTable(index, nullcontext())
        mask = np.asarray(self.condition(table))
        if mask.dtype != np.bool_ or mask.shape != episodes.shape:
            raise BadSetting(
                f"where: wanted a mask of {counted(len(episodes), 'boolean')}, one for each row of the episode table, "
                f'got {mask.dtype} of shape {mask.shape}; return for example episodes["length"] >= 100'
            )
        return mask

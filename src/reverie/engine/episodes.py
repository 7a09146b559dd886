"""Episodes read out of a buffer, one at a time, as arrays of the reader's own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from reverie.engine.gather import Gatherer
from reverie.episode import Episode
from reverie.file import FinalStore
from reverie.index import (
    NO_FINAL,
    RUNNING,
    TERMINATED,
    TRUNCATED,
    EpisodeIndex,
    Ints,
    choice_of_kept,
    place_at_rank,
)
from reverie.spec import Column, StepSpec
from reverie.values import tree_build


def checked_rank(number: int, count: int) -> int:
    """Return `number` as one of 0..count-1, from the end if it is negative; raise IndexError if it is none."""
    if not -count <= number < count:
        raise IndexError(f"wanted an episode in {-count}..{count - 1}, got {number}; there are {count}")
    return number % count


class EpisodeReader:
    """Reads the live steps of an episode, in a turn to read.

    Args:
        spec: the fields.
        index, finals: of the buffer; gatherer: reads its steps.
    """

    def __init__(self, spec: StepSpec, index: EpisodeIndex, gatherer: Gatherer, finals: FinalStore) -> None:
        self._spec, self._columns = spec, spec.columns()
        self._index, self._gatherer, self._finals = index, gatherer, finals

    def places(self) -> tuple[Ints, Ints]:
        """Return stream and ordinal of all live episodes, oldest first: by these they are found later."""
        episodes, kept = self._index.live_episodes(), choice_of_kept(self._index)
        if kept is not None:
            episodes = episodes[kept.chosen.take(episodes)]
        return self._index.stream[episodes], self._index.ordinal[episodes]

    def place(self, number: int) -> tuple[int, int]:
        """Return the same of one of them, by its number: 0 is the oldest, -1 the newest.

        Raises:
            IndexError: there is no such episode.
        """
        index = self._index
        if choice_of_kept(index) is not None:
            streams, ordinals = self.places()
            rank = checked_rank(number, len(streams))
            return streams.item(rank), ordinals.item(rank)
        first, begun = index.dropped.tolist(), index.begun.tolist()
        return place_at_rank(index, first, begun, checked_rank(number, sum(begun) - sum(first)))

    def read(self, stream: int, ordinal: int) -> Episode | None:
        """Return an episode, or None if it is not live any more, or was discarded."""
        index = self._index
        if not index.dropped.item(stream) <= ordinal < index.begun.item(stream):
            return None
        episode, kept = index.episode_of(stream, ordinal), choice_of_kept(index)
        if kept is not None and not kept.chosen[episode]:
            return None
        begun, stop = index.start.item(episode), index.stop.item(episode)
        start, ended = max(begun, index.tail.item(stream)), index.ended.item(episode)
        slots = index.slots(np.array(stream), np.arange(start, stop))
        values = {column.name: self._gatherer.values(column, slots) for column in self._columns}
        return Episode(
            obs=tree_build("obs", self._spec.obs, values),
            action=tree_build("action", self._spec.action, values),
            reward=self._gatherer.rewards(slots),
            terminated=ended & TERMINATED != 0,
            truncated=ended & TRUNCATED != 0,
            running=ended == RUNNING,
            final_obs=self._final(index.final_slot.item(episode)),
            extras={name: values[f"extras/{name}"] for name in self._spec.extras},
            metadata=deepcopy(index.labels.get(index.order.item(episode), {})),
            stream=stream,
            start=start,
            begun=begun,
        )

    def _final(self, slot: int) -> Any:
        if slot == NO_FINAL:
            return None
        place = np.array([slot])
        shown: list[Column] = [column for column in self._columns if column.is_obs]
        rows = {column.name: self._finals.gather(column.name, place)[0] for column in shown}
        return tree_build("obs", self._spec.obs, rows)

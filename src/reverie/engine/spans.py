"""Many steps of a stream at once, in plain memory: what a step costs alone is paid for a span of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.engine.changes import Changes
from reverie.engine.steps import Steps
from reverie.file import FinalStore, Store
from reverie.index import EpisodeIndex
from reverie.store import Ring


def extend(
    changes: Changes, index: EpisodeIndex, store: Store, finals: FinalStore, stream: int, steps: Steps
) -> None:
    """Store steps of a stream, one by one or, in plain memory without a file, by spans. The caller holds the lock."""
    if changes.check is None and isinstance(store, Ring):
        _by_spans(changes, index, store, finals, stream, steps)
        return
    for place in range(len(steps.rows)):
        changes.add(stream, steps.one(place))


def _by_spans(
    changes: Changes, index: EpisodeIndex, store: Ring, finals: FinalStore, stream: int, steps: Steps
) -> None:
    """Store steps of a stream, as `changes.add` would one by one.

    The first step of an episode and its last one are added alone. What lies between them changes nothing but the
    head, the tail and bytes, and goes in as spans, none of which comes round the end of the ring.
    """
    count, place = len(steps.rows), 0
    ends = [*steps.lanes.ended.nonzero()[0].tolist(), count]
    for end in ends:
        if place < min(end + 1, count):
            changes.add(stream, steps.one(place))
            place += 1
        while place < end:
            head = index.head.item(stream)
            span = slice(place, min(end, place + index.capacity - head % index.capacity))
            values = {name: column[span] for name, column in steps.lanes.values.items()}
            rewards = steps.lanes.rewards[span]
            changes.carry_out(partial(_publish, index, store, finals, stream, values, rewards), None, None)
            place = span.stop
        if place == end < count:
            changes.add(stream, steps.one(place))
            place += 1


def _publish(
    index: EpisodeIndex,
    store: Ring,
    finals: FinalStore,
    stream: int,
    values: Mapping[str, Any],
    rewards: npt.NDArray[np.float32],
) -> None:
    slot, freed = index.make_room_span(stream, len(rewards))
    if freed:
        finals.release(freed)
    store.write(slice(slot, slot + len(rewards)), values)
    index.commit_span(stream, slot, rewards)

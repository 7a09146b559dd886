"""What samplers remembered, for a buffer whose steps or episodes lie elsewhere than they did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index import Ints

# What belongs to what a sampler may keep: these names in one dict. Weights of steps or episodes are an array of so many
# entries.
STEP_WEIGHTS, EPISODE_WEIGHTS = {"weights", "barred", "seen", "kind"}, {"weights", "begun"}
VISITS, CURSOR = {"visits", "steps", "episodes"}, {"cursor", "turn", "fallback"}


class Move(NamedTuple):
    """Where steps and episodes lay, and where they lie now.

    Attributes:
        slots: (2, live steps) before and now.
        rows: (2, live episodes) of the table of episodes, before and now; None where they are the same.
        size: slots now, of all streams together.
        table: entries of the table of episodes now; unused where `rows` is None.
        streams: how many there are now.
    """

    slots: Ints
    rows: Ints | None
    size: int
    table: int
    streams: int

    def by_slot(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values that are kept by slot; 0 where no step lay before."""
        moved = np.zeros(self.size, values.dtype)
        moved[self.slots[1]] = values[self.slots[0]]
        return moved

    def by_row(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values that are kept by row of the table of episodes; it may have grown since they were saved."""
        if self.rows is None:
            return values
        moved = np.zeros(self.table, values.dtype)
        before, now = self.rows[:, self.rows[0] < len(values)]
        moved[now] = values[before]
        return moved

    def by_stream(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values of which the last axis counts the streams; 0 for a new one."""
        kept = values[..., : self.streams]
        more = np.zeros((*kept.shape[:-1], self.streams - kept.shape[-1]), values.dtype)
        return np.concatenate([kept, more], axis=-1)


def moved(state: Any, move: Move) -> Any:
    """Return the state of a sampler, as `save` gave it, for the steps and episodes where they lie now.

    What samplers of this room keep by slot, by row or by stream is moved, wherever it stands in the state. All else
    stays as it is: ids of steps do not change, and what a sampler of somebody else keeps is its own business.
    """
    if isinstance(state, list):
        return [moved(child, move) for child in state]
    if not isinstance(state, Mapping):
        return state
    names = state.keys()
    if names == STEP_WEIGHTS:
        arrays = {name: move.by_slot(state[name]) for name in ("weights", "barred")}
        return {**state, **arrays, "seen": move.by_stream(state["seen"])}
    if names == EPISODE_WEIGHTS:
        return {"weights": move.by_row(state["weights"]), "begun": move.by_stream(state["begun"])}
    inner = {name: moved(child, move) for name, child in state.items()}
    if names == VISITS:
        place = move.by_slot if state["steps"] else move.by_row
        inner["visits"] = place(state["visits"])
    if names == CURSOR and state["cursor"] is not None:
        inner["cursor"] = move.by_stream(state["cursor"])
    return inner

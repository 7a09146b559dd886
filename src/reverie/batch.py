"""What sampling hands back: sequences, single steps, and the addresses they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.spec import Tree

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SequenceBatch:
    """B windows of L steps. Axes come as batch, time, then the field's own.

    Attributes:
        obs: (B, L+1, …) the field's dtype, or a dict of such arrays. `obs[:, t]` is what step t saw,
            `obs[:, t + 1]` what came of it.
        action: (B, L, …) the field's dtype, or a dict of such arrays.
        reward: (B, L) float32.
        terminated, truncated: (B, L) bool; how a step ended its episode, if it did.
        is_first: (B, L+1) bool; the observation opens an episode.
        mask: (B, L) bool; False on padding.
        obs_mask: (B, L+1) bool; False where no true observation is known: on padding, and after an end
            whose final observation was never given (there the last frame stands, repeated).
        weight: (B,) float32 importance weights, ones unless the sampler says otherwise.
        stream, start: (B,) int64; the address of each window: its stream and the id of its first step.
        extras: the spec's extra fields by name, each (B, L, …).
    """

    obs: Tree
    action: Tree
    reward: Floats
    terminated: Bools
    truncated: Bools
    is_first: Bools
    mask: Bools
    obs_mask: Bools
    weight: Floats
    stream: Ints
    start: Ints
    extras: dict[str, npt.NDArray[Any]]
    # The layout that made this batch: such a batch may be filled again without looking at each array.
    _layout: object = field(default=None)

    def __len__(self) -> int:
        return len(self.stream)

    def __repr__(self) -> str:
        batch, length = self.reward.shape
        return f"SequenceBatch({batch} windows of {length} steps)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepBatch:
    """B single steps with their successors: `SequenceBatch` for L = 1, without the time axis.

    Attributes:
        obs, next_obs: (B, …) the field's dtype, or dicts of such arrays.
        action: (B, …); reward: (B,) float32; terminated, truncated: (B,) bool.
        next_obs_mask: (B,) bool; False where the final observation was never given.
        stream, id: (B,) int64; the address of each step.
        extras: the spec's extra fields by name, each (B, …).
    """

    obs: Tree
    action: Tree
    reward: Floats
    terminated: Bools
    truncated: Bools
    next_obs: Tree
    next_obs_mask: Bools
    stream: Ints
    id: Ints
    extras: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.stream)

    def __repr__(self) -> str:
        return f"StepBatch({len(self)} steps)"

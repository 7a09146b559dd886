"""Single steps: what `sample_steps` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy.typing as npt

from reverie.batch.absent import MAY_LACK, Partial, has
from reverie.batch.batches import Bools, Floats, Ints
from reverie.batch.frameworks import Looked, as_tensors
from reverie.batch.trees import named, shown_trees
from reverie.errors import counted
from reverie.values import Tree, tree_map


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepBatch(Partial, Looked):
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

    def step_ids(self) -> Ints:
        """Return the id of each step, (B,)."""
        return self.id

    def as_dict(self) -> dict[str, Any]:
        """Return what the batch holds by name: arrays, and dicts of arrays. They are the same arrays."""
        names = (entry.name for entry in fields(self))
        return {name: getattr(self, name) for name in names if name not in MAY_LACK or has(self, name)}

    def __getitem__(self, name: str) -> Any:
        """Return what has this name, as in a SequenceBatch."""
        return named(self, name)

    def map(self, fn: Callable[[Any], Any]) -> dict[str, Any]:
        """Return `fn` of every array by name, in a dict: single steps on a device are no batch that we know."""
        return {name: tree_map(fn, tree) for name, tree in self.as_dict().items()}

    def torch(self, device: object = "cpu") -> Any:
        """Return every array by name as a tensor on a device, in a dict; see `SequenceBatch.torch`."""
        return as_tensors(self, device)

    def __repr__(self) -> str:
        return shown_trees(f"StepBatch({counted(len(self), 'step')}", self.as_dict())

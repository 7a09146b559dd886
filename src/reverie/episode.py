"""An episode as arrays of its own: what is read out of a buffer, and what foreign data are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import counted
from reverie.values import Tree


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Episode:
    """T steps of one episode, in NumPy arrays that belong to whoever asked for them.

    Attributes:
        obs: (T, …) the field's dtype, or a (nested) dict of such arrays: what each step saw before it acted.
        action: (T, …) the field's dtype, or a (nested) dict of such arrays.
        reward: (T,) float32; what came after each step.
        terminated, truncated: how the last step ended the episode; both may be true. Neither: it was cut, or it
            goes on.
        running: it goes on after these steps: it still ran when it was read, or it is handed on in pieces.
        final_obs: (…) like one step of `obs`: what the environment showed after the last step; None if that is
            not known.
        extras: the spec's extra fields by name, each (T, …).
        metadata: JSON values by name.
        stream: of its buffer; start: the id of the first of these steps.
        begun: the id of its first step of all. Less than `start` if its beginning was evicted.
    """

    obs: Tree
    action: Tree
    reward: npt.NDArray[np.float32]
    terminated: bool = False
    truncated: bool = False
    running: bool = False
    final_obs: Tree | None = None
    extras: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    stream: int = 0
    start: int = 0
    begun: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether its first step is here."""
        return self.begun == self.start

    @property
    def ended(self) -> str:
        """How it ended, in the words of `buffer.episodes`: terminated, truncated, cut or running."""
        if self.terminated:
            return "terminated"
        return "truncated" if self.truncated else "running" if self.running else "cut"

    def __len__(self) -> int:
        return len(self.reward)

    def __repr__(self) -> str:
        total = float(self.reward.sum(dtype=np.float64))
        return f"Episode({counted(len(self), 'step')}, return {total:g}, {self.ended})"

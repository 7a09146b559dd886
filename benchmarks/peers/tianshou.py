"""Tianshou: ReplayBuffer with `stack_num`, its documented way to windows: of observations only, ending where it drew.

`ignore_obs_next=True` holds each frame once; `sample_avail=True` draws only indices whose whole stack is there, without
it a stack is filled up with its first frame. Saved as HDF5 with `save_hdf5`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Stacked(Peer):
    """Stacks of L + 1 observations."""

    available = False
    most_steps = 100_000  # added one by one

    def make(self, ask: Ask) -> None:
        from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer

        if ask.prioritised:
            raise CannotDo("no sequences by priority: stacks of observations only")
        self.record = Batch
        more = {
            "stack_num": ask.length + 1,
            "ignore_obs_next": True,
            "sample_avail": self.available,
            "random_seed": 0,
        }
        self.buffer: Any = (
            ReplayBuffer(ask.capacity, **more)
            if ask.lanes == 1
            else VectorReplayBuffer(ask.capacity, ask.lanes, **more)
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(
            self.record(
                obs=step.obs,
                act=step.action,
                rew=step.reward,
                terminated=step.terminated,
                truncated=step.truncated,
                obs_next=step.next_obs,
                info={},
            )
        )

    def add_lanes(self, steps: Steps) -> None:
        self.add(steps)

    def sample(self, batch: int, length: int) -> Any:
        indices = self.buffer.sample_indices(batch)
        if not len(indices):
            raise RuntimeError("nothing to draw")
        return self.buffer[indices]

    def windows(self, drawn: Any) -> Windows:
        return rows(np.asarray(drawn.obs))

    def save(self, path: Path) -> None:
        self.buffer.save_hdf5(str(path.with_suffix(".hdf5")))

    def load(self, path: Path) -> None:
        self.buffer = type(self.buffer).load_hdf5(str(path.with_suffix(".hdf5")))


class Available(Stacked):
    """Only stacks that are there as a whole."""

    available = True

"""cpprb: ReplayBuffer and PrioritizedReplayBuffer, as its quick start uses them. They draw transitions only.

`next_of="obs"` is its documented way to hold each frame once; `save_transitions` its way to save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Transitions(Peer):
    """Single transitions."""

    def make(self, ask: Ask) -> None:
        import cpprb
        import numpy as np

        if ask.prioritised:
            raise CannotDo("no sequences (priorities of transitions only)")
        self.buffer: Any = cpprb.ReplayBuffer(
            ask.capacity,
            {
                "obs": {"shape": ask.obs_shape, "dtype": np.dtype(ask.dtype)},
                "act": {"shape": ask.action_size, "dtype": np.float32},
                "rew": {},
                "done": {},
                "trunc": {},
            },
            next_of="obs",
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(
            obs=step.obs,
            act=step.action,
            rew=step.reward,
            next_obs=step.next_obs,
            done=step.terminated,
            trunc=step.truncated,
        )
        if step.terminated or step.truncated:
            self.buffer.on_episode_end()

    def add_lanes(self, steps: Steps) -> None:
        raise CannotDo("no lanes with next_of: a batch is consecutive steps")

    def fill(self, steps: Steps) -> None:
        start = 0
        for number in (steps.terminated | steps.truncated).nonzero()[0].tolist():
            self._fill(steps.part(start, number + 1))
            self.buffer.on_episode_end()
            start = number + 1
        if start < len(steps.reward):
            self._fill(steps.part(start, len(steps.reward)))

    def _fill(self, steps: Steps) -> None:
        self.buffer.add(
            obs=steps.obs,
            act=steps.action,
            rew=steps.reward,
            next_obs=steps.next_obs,
            done=steps.terminated,
            trunc=steps.truncated,
        )

    def save(self, path: Path) -> None:
        self.buffer.save_transitions(str(path.with_suffix(".npz")))

    def load(self, path: Path) -> None:
        self.buffer.load_transitions(str(path.with_suffix(".npz")))
        self.buffer.sample(64)

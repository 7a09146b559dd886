"""stable-baselines3: ReplayBuffer, as its algorithms use it; one `add` takes a step of each environment.

Saved as `OffPolicyAlgorithm.save_replay_buffer` saves it, with `save_to_pkl`. `optimize_memory_usage=True` holds each
frame once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Transitions(Peer):
    """Single transitions."""

    def make(self, ask: Ask) -> None:
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        if ask.prioritised:
            raise CannotDo("no sequences, no priorities")
        dtype = np.dtype(ask.dtype)
        seen = spaces.Box(0, 255 if dtype == np.uint8 else 1, ask.obs_shape, dtype.type)
        self.lanes = ask.lanes
        self.buffer: Any = ReplayBuffer(
            ask.capacity,
            seen,
            spaces.Box(0, 1, (ask.action_size,), np.float32),
            "cpu",
            n_envs=ask.lanes,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(
            step.obs[None],
            step.next_obs[None],
            step.action[None],
            np.array([step.reward]),
            np.array([step.terminated]),
            [{}],
        )

    def add_lanes(self, steps: Steps) -> None:
        self.buffer.add(
            steps.obs, steps.next_obs, steps.action, steps.reward, steps.terminated, [{}] * self.lanes
        )

    def save(self, path: Path) -> None:
        from stable_baselines3.common.save_util import save_to_pkl

        save_to_pkl(path.with_suffix(".pkl"), self.buffer)

    def load(self, path: Path) -> None:
        from stable_baselines3.common.save_util import load_from_pkl

        self.buffer = load_from_pkl(path.with_suffix(".pkl"))
        self.buffer.sample(64)

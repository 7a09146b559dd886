"""sheeprl: EnvIndependentReplayBuffer of SequentialReplayBuffers, as its DreamerV3 uses it.

Rows run across episodes and carry `is_first`, a key that the agent adds. A window of L + 1 rows shows L steps and the
observation after them. Memory, not memory maps: its faster way where it fits. Saved as its checkpoint callback does,
as part of a torch file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Sequential(Peer):
    """Rows of single environments."""

    crosses = True

    def make(self, ask: Ask) -> None:
        from sheeprl.data.buffers import EnvIndependentReplayBuffer, SequentialReplayBuffer

        if ask.prioritised:
            raise CannotDo("no priorities")
        self.lanes = ask.lanes
        self.buffer: Any = EnvIndependentReplayBuffer(
            ask.capacity // ask.lanes, n_envs=ask.lanes, obs_keys=("obs",), buffer_cls=SequentialReplayBuffer
        )

    @staticmethod
    def record(steps: Steps, shape: tuple[int, int]) -> dict[str, Any]:
        """Return steps as (time, environments, …)."""
        flags = {
            "rewards": steps.reward,
            "terminated": steps.terminated,
            "truncated": steps.truncated,
            "is_first": steps.first,
        }
        lead = np.ndim(steps.reward)  # of one step there is no leading axis
        return {
            "obs": steps.obs.reshape(*shape, *steps.obs.shape[lead:]),
            "actions": steps.action.reshape(*shape, *steps.action.shape[lead:]),
            **{name: np.reshape(value, (*shape, 1)) for name, value in flags.items()},
        }

    def add(self, step: Steps) -> None:
        self.buffer.add(self.record(step, (1, 1)))

    def add_lanes(self, steps: Steps) -> None:
        self.buffer.add(self.record(steps, (1, self.lanes)))

    def fill(self, steps: Steps) -> None:
        self.buffer.add(self.record(steps, (len(steps.reward), 1)))

    def sample(self, batch: int, length: int) -> Any:
        return self.buffer.sample(batch, sequence_length=length + 1)

    def windows(self, drawn: Any) -> Windows:
        shown = {name: values[0].swapaxes(0, 1) for name, values in drawn.items()}  # (batch, time, …)
        ends = (shown["terminated"] | shown["truncated"])[..., 0]
        return rows(shown["obs"], ends, shown["is_first"][..., 0])

    def save(self, path: Path) -> None:
        import torch

        torch.save({"rb": self.buffer}, path)

    def load(self, path: Path) -> None:
        import torch

        self.buffer = torch.load(path, weights_only=False)["rb"]

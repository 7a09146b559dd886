"""TorchRL: TensorDictReplayBuffer with SliceSampler, as the page of SliceSampler shows it.

One row a step with a trajectory number (`traj_key="episode"`, the page's first example), slices of L + 1 rows so that
the last step's observation is there, too; `strict_length=True` is the default. Storing ("next", obs) as well would copy
every frame twice. Saved with `dumps` and `loads`, as the page "Saving the replay buffer" has it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Slice(Peer):
    """Slices by trajectory from a storage in memory."""

    cached = False
    storage = "LazyTensorStorage"

    def make(self, ask: Ask) -> None:
        from torchrl.data import replay_buffers

        self.ask = ask
        self.folder = None
        wide = {"ndim": 2} if ask.lanes > 1 else {}
        if self.storage == "LazyMemmapStorage":
            self.folder = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, self.folder, True)
            wide["scratch_dir"] = self.folder
        storage = getattr(replay_buffers, self.storage)(ask.capacity, **wide)
        count = ask.batch * (ask.length + 1)
        if ask.lanes == 1:
            self.buffer = replay_buffers.TensorDictReplayBuffer(
                storage=storage, sampler=self.sampler(ask), batch_size=count
            )
        else:  # as the page on multidimensional storages has it: (environments, time) extended along time
            self.buffer = replay_buffers.ReplayBuffer(
                storage=storage, sampler=self.sampler(ask), batch_size=count, dim_extend=1
            )

    def sampler(self, ask: Ask) -> Any:
        """Return how it draws."""
        from torchrl.data.replay_buffers.samplers import SliceSampler

        if ask.prioritised:
            raise CannotDo("see its prioritised slices")
        return SliceSampler(slice_len=ask.length + 1, traj_key="episode", cache_values=self.cached)

    def record(self, steps: Steps, batch: tuple[int, ...]) -> Any:
        """Return steps as a TensorDict."""
        import torch
        from tensordict import TensorDict

        def tensor(values: Any) -> Any:
            return torch.as_tensor(np.asarray(values))

        return TensorDict(
            {
                "obs": tensor(steps.obs),
                "action": tensor(steps.action),
                "reward": tensor(steps.reward),
                "terminated": tensor(steps.terminated),
                "truncated": tensor(steps.truncated),
                "episode": tensor(steps.episode),
            },
            batch_size=batch,
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(self.record(step, ()))

    def add_lanes(self, steps: Steps) -> None:
        self.buffer.extend(self.record(steps, (self.ask.lanes,)).unsqueeze(1))

    def fill(self, steps: Steps) -> None:
        self.buffer.extend(self.record(steps, (len(steps.reward),)))

    def sample(self, batch: int, length: int) -> Any:
        return self.buffer.sample()

    def windows(self, drawn: Any) -> Windows:
        shaped = drawn.reshape(self.ask.batch, self.ask.length + 1)
        return rows(shaped["obs"].numpy(), (shaped["terminated"] | shaped["truncated"]).numpy())

    def save(self, path: Path) -> None:
        self.buffer.dumps(path)

    def load(self, path: Path) -> None:
        self.buffer.loads(path)

    def close(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class CachedSlice(Slice):
    """The same with `cache_values=True`: where episodes lie is computed once, until the next write."""

    cached = True


class MemmapSlice(Slice):
    """Slices from memory-mapped files."""

    storage = "LazyMemmapStorage"


class CachedMemmapSlice(MemmapSlice):
    """The same with `cache_values=True`."""

    cached = True


class PrioritisedSlice(Slice):
    """PrioritizedSliceSampler; new priorities go to the first row of each slice."""

    most_steps = 1_000_000  # each draw walks over all trajectories

    def sampler(self, ask: Ask) -> Any:
        from torchrl.data.replay_buffers import samplers

        if samplers.SumSegmentTreeFp32 is None:
            import torch

            release = torch.__version__
            raise CannotDo(f"its compiled trees do not load with torch {release}")
        return samplers.PrioritizedSliceSampler(
            ask.capacity, 0.6, 0.4, slice_len=ask.length + 1, traj_key="episode", cache_values=True
        )

    def update(self, drawn: Any, priorities: Any) -> None:
        import torch

        index = drawn["index"]
        first = (index if index.ndim == 1 else index[:, 0])[:: self.ask.length + 1]
        self.buffer.update_priority(first, torch.as_tensor(priorities, dtype=torch.float32))

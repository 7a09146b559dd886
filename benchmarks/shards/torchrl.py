"""TorchRL's RayReplayBuffer, in an environment of its own: `python -m benchmarks.shards.torchrl OUT SETTINGS`.

One actor with a LazyTensorStorage and a SliceSampler, as the page of RayReplayBuffer shows it; `cache_values=True` is
the fastest way that we found (see benchmarks/peers/torchrl.py). Slices have one row more than a window has steps.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import in_turn
from benchmarks.shards.plain import Owned, cluster, one_by_one, started

EPISODE = 500
CHUNK = 500


def filled(count: int, batch: int, length: int) -> Any:
    """Return their buffer with so many steps."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, RayReplayBuffer
    from torchrl.data.replay_buffers.samplers import SliceSampler

    torch.set_num_threads(1)
    sampler = partial(SliceSampler, slice_len=length + 1, traj_key="episode", cache_values=True)
    buffer = RayReplayBuffer(
        storage=partial(LazyTensorStorage, count), sampler=sampler, batch_size=batch * (length + 1)
    )
    rng = np.random.default_rng(0)
    for first in range(0, count, CHUNK):
        numbers = torch.arange(first, min(first + CHUNK, count))
        ends = numbers % EPISODE == EPISODE - 1
        frames = rng.integers(0, 256, (len(numbers), 3, 64, 64), np.uint8)
        steps = {
            "obs": torch.as_tensor(frames),
            "action": numbers,
            "reward": torch.zeros(len(numbers)),
            "terminated": ends,
            "truncated": torch.zeros_like(ends),
            "episode": numbers // EPISODE,
        }
        buffer.extend(TensorDict(steps, [len(numbers)]))
    return buffer


def main(out: str, settings: str) -> None:
    """Write the seconds of a batch in each round, theirs and those of Ray alone."""
    given = json.loads(settings)
    with cluster(given["store_bytes"]):
        buffer = filled(given["steps"], given["batch"], given["length"])
        size = sum(value.numel() * value.element_size() for value in buffer.sample().values())
        actor, kept = started(size), [None]

        def draw() -> None:
            kept[0] = buffer.sample()

        calls = {
            "TorchRL RayReplayBuffer": draw,
            "Ray": one_by_one(actor, Owned(size, 2)),
            "Ray, not copied": one_by_one(actor, None),
        }
        seconds = in_turn(calls, given["rounds"])
    Path(out).write_text(json.dumps({"bytes": size, "seconds": {k: v.tolist() for k, v in seconds.items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:])

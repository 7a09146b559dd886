"""Draw the batches that TD-MPC2's trainer takes: time first, one observation more than actions, in tensors."""

from typing import Any

import numpy as np
import torch

import reverie as rv


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor whose memory is in the order of its axes."""
    return torch.from_numpy(np.ascontiguousarray(array))


def tdmpc2_batch(
    buffer: rv.ReplayBuffer, batch_size: int = 256, horizon: int = 3
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor, None]:
    """Return obs, action, reward, terminated and task, as its buffer's `sample` does. There is one task only."""
    batch = buffer.sample(batch_size, horizon, boundary="inside", sampler=rv.EpisodeUniform())
    if not batch.obs_mask.all():
        raise ValueError("a final observation is not known; give `final_obs` with each end")
    named = batch.time_major()
    seen = named["obs"]
    obs = {key: tensor(array) for key, array in seen.items()} if isinstance(seen, dict) else tensor(seen)
    reward, terminated = (tensor(named[name]).float().unsqueeze(-1) for name in ("reward", "terminated"))
    return obs, tensor(named["action"]), reward, terminated, None


def main() -> None:
    """Record episodes of 50 steps, every second of which terminates, and draw a batch."""
    rng = np.random.default_rng(0)
    buffer = rv.ReplayBuffer(
        rv.StepSpec(rv.Field((39,), "float32"), rv.Field((4,), "float32")), 2_000, seed=0
    )
    for step in range(1_000):
        ends, odd = step % 50 == 49, step // 50 % 2 == 1
        obs, action = rng.normal(size=(2, 39)).astype(np.float32), rng.uniform(-1, 1, 4).astype(np.float32)
        buffer.add(obs=obs[0], action=action, reward=1.0, terminated=ends and odd, truncated=ends and not odd,
                   final_obs=obs[1] if ends else None)  # fmt: skip
    obs, action, reward, terminated, task = tdmpc2_batch(buffer)
    assert obs.shape == (4, 256, 39)
    assert action.shape == (3, 256, 4)
    assert reward.shape == terminated.shape == (3, 256, 1)
    assert not terminated[:-1].any()  # an end is the last step of its window
    for name, tensor in (("obs", obs), ("action", action), ("reward", reward), ("terminated", terminated)):
        print(f"{name:12} {tuple(tensor.shape)} {tensor.dtype}")
    print("task        ", task)


if __name__ == "__main__":
    main()

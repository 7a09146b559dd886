"""Draw the batches that DIAMOND's trainer takes: padded segments of frames from -1 to 1, in tensors."""

from typing import Any

import numpy as np
import torch

import reverie as rv


def seen(frames: np.ndarray) -> torch.Tensor:
    """Return uint8 frames as its models see them: float32 from -1 to 1."""
    return torch.from_numpy(frames).div(255).mul(2).sub(1)


def diamond_batch(
    buffer: rv.ReplayBuffer, batch_size: int = 32, length: int = 19, sampler: Any = None
) -> dict[str, Any]:
    """Return the fields of DIAMOND's Batch by name. Nothing is added to the buffer meanwhile."""
    table = np.asarray(buffer.episodes)
    batch = buffer.sample(batch_size, length, boundary="pad_both", sampler=sampler)
    obs, mask = seen(batch.obs[:, :-1]), torch.from_numpy(batch.mask)
    obs[~mask] = 0  # it pads what is scaled already, so padding is grey and not black
    infos, segment_ids = [], []
    for row in range(batch_size):
        at = batch.anchor[row]
        [number] = np.flatnonzero(
            (table["stream"] == batch.stream[row]) & (table["start"] <= at) & (at < table["stop"])
        )
        steps = np.flatnonzero(batch.mask[row])
        first, last = steps[0], steps[-1]
        begins = int(batch.start[row] + first - table["start"][number])
        segment_ids.append((int(number), begins, begins + len(steps)))
        is_end = batch.terminated[row, last] or batch.truncated[row, last]
        known = is_end and batch.obs_mask[row, last + 1]
        infos.append({"final_observation": seen(batch.obs[row, last + 1])} if known else {})
    return {
        "obs": obs, "act": torch.from_numpy(batch.action).long(), "rew": torch.from_numpy(batch.reward),
        "end": torch.from_numpy(batch.terminated).byte(), "trunc": torch.from_numpy(batch.truncated).byte(),
        "mask_padding": mask, "info": infos, "segment_ids": segment_ids,
    }  # fmt: skip


def main() -> None:
    """Record episodes of 40 steps, and draw most segments from the newest quarter of them."""
    buffer = rv.ReplayBuffer(
        rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64")), 2_000, seed=0
    )
    for step in range(1_000):
        frame, ends = np.full((3, 64, 64), step % 256, np.uint8), step % 40 == 39
        buffer.add(obs=frame, action=step % 4, reward=1.0, terminated=ends, truncated=False,
                   final_obs=frame if ends else None)  # fmt: skip
    batch = diamond_batch(buffer, sampler=rv.EpisodeUniform((0.1, 0.1, 0.1, 0.7)))
    assert batch["obs"].shape == (32, 19, 3, 64, 64)
    assert -1 <= batch["obs"].min() <= batch["obs"].max() <= 1
    for name in ("obs", "act", "rew", "end", "trunc", "mask_padding"):
        assert batch[name].shape[:2] == (32, 19)
        print(f"{name:12} {tuple(batch[name].shape)} {batch[name].dtype}")
    print("info        ", sum(map(len, batch["info"])), "final observations")
    print("segment_ids ", batch["segment_ids"][:2])


if __name__ == "__main__":
    main()

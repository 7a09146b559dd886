"""Train a tiny tokenizer from torch's DataLoader, which draws sequences through a SequenceDataset."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import reverie as rv
from reverie.torch import SequenceDataset


def bouncing(steps: int) -> rv.ReplayBuffer:
    """Record a ball that bounces in a frame of 16 x 16, in episodes of 40 steps."""
    buffer = rv.ReplayBuffer(
        rv.StepSpec(rv.Field((1, 16, 16), "uint8"), rv.Field((), "int64")), 5_000, seed=0
    )
    rng = np.random.default_rng(0)
    for step in range(steps):
        if step % 40 == 0:
            place, speed = rng.uniform(0, 15, 2), rng.uniform(-2, 2, 2)
        frame = np.zeros((1, 16, 16), np.uint8)
        row, column = place.astype(int)
        frame[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 255
        buffer.add(obs=frame, action=0, reward=0.0, terminated=False, truncated=step % 40 == 39)
        speed = np.where((place + speed < 0) | (place + speed > 15), -speed, speed)
        place = place + speed
    return buffer


def main() -> None:
    """Squeeze frames through 8 numbers, for four epochs of 100 batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 8), nn.Linear(8, 64), nn.GELU(),
                          nn.Linear(64, 256))  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    # With the path of a replay file in place of the buffer, num_workers may be what you like.
    data = SequenceDataset(
        bouncing(2_000), batch_size=32, length=4, boundary="pad_right", seed=0, batches=100
    )
    loader = DataLoader(data, batch_size=None)
    for epoch in range(4):
        losses = []
        for batch in loader:
            frames = (
                batch.obs[batch.obs_mask].float() / 255
            )  # (frames, channel, height, width), padding left out
            loss = nn.functional.mse_loss(model(frames), frames.flatten(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.5f}")


if __name__ == "__main__":
    main()

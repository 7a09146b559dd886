"""Train a tiny tokenizer from torch's DataLoader, whose workers draw sequences from one replay file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import reverie as rv
from reverie.torch import SequenceDataset


def bouncing(path: Path, steps: int) -> None:
    """Record a ball that bounces in a frame of 16 x 16, in episodes of 40 steps."""
    spec, rng = rv.StepSpec(rv.Field((1, 16, 16), "uint8"), rv.Field((), "int64")), np.random.default_rng(0)
    with rv.ReplayBuffer(spec, 5_000, seed=0, path=path) as buffer:
        for step in range(steps):
            if step % 40 == 0:
                place, speed = rng.uniform(0, 15, 2), rng.uniform(-2, 2, 2)
            frame, (row, column) = np.zeros((1, 16, 16), np.uint8), place.astype(int)
            frame[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 255
            buffer.add(obs=frame, action=0, reward=0.0, terminated=False, truncated=step % 40 == 39)
            speed = np.where((place + speed < 0) | (place + speed > 15), -speed, speed)
            place = place + speed


def main(path: Path) -> None:
    """Squeeze frames through 8 numbers, for three epochs of 60 batches."""
    bouncing(path, 2_000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 8), nn.Linear(8, 64), nn.GELU(),
                          nn.Linear(64, 256))  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    data = SequenceDataset(path, batch_size=32, length=4, boundary="pad_right", seed=0, batches=60)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in range(3):
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
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "ball.replay")

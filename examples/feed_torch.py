"""Train a tiny dynamics model from a torch feed: batches are drawn and moved while the model computes."""

import numpy as np
import torch
from torch import nn

import reverie as rv
from reverie.torch import feed


def swinging(steps: int) -> rv.ReplayBuffer:
    """Record a pendulum pushed at random, in episodes of 50 steps."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((2,), "float32"), rv.Field((), "float32")), 10_000, seed=0)
    rng, state = np.random.default_rng(0), np.zeros(2)
    for step in range(steps):
        push, ends = rng.uniform(-1, 1), step % 50 == 49
        before, speed = state.astype(np.float32), state[1] + 0.2 * push - 0.1 * np.sin(state[0])
        state = np.array([state[0] + 0.2 * speed, speed])
        buffer.add(obs=before, action=push, reward=-abs(state[0]), terminated=False, truncated=ends,
                   final_obs=state.astype(np.float32) if ends else None)  # fmt: skip
        if ends:
            state = rng.uniform(-1, 1, 2)
    return buffer


def main() -> None:
    """Learn what an action changes, over windows of 10 steps."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with feed(swinging(3_000), batch_size=64, length=10, device=device) as batches:
        for step in range(201):
            batch = next(batches)
            seen, after = batch.obs[:, :-1], batch.obs[:, 1:]
            change = model(torch.cat([seen, batch.action[..., None]], -1))
            loss = nn.functional.mse_loss(change, 5 * (after - seen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                print(f"step {step}: loss {loss.item():.5f}")
        print(f"waited {batches.waited_share:.1%} of the time for {batches.batches} batches")


if __name__ == "__main__":
    main()

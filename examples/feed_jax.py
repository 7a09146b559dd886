"""Train a tiny reward model from a JAX feed: a batch is a pytree, and the step is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np

import reverie as rv
from reverie.jax import feed


def walking(steps: int) -> rv.ReplayBuffer:
    """Record random walks on 16 squares, one-hot, that pay the square of the place, in episodes of 20 steps."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((16,), "uint8"), rv.Field((), "int32")), 10_000, seed=0)
    rng, place = np.random.default_rng(0), 8
    for step in range(steps):
        move, ends = int(rng.integers(-1, 2)), step % 20 == 19
        before, place = np.eye(16, dtype=np.uint8)[place], (place + move) % 16
        buffer.add(obs=before, action=move, reward=(place / 16) ** 2, terminated=False, truncated=ends,
                   final_obs=np.eye(16, dtype=np.uint8)[place] if ends else None)  # fmt: skip
        if ends:
            place = int(rng.integers(16))
    return buffer


def loss_of(weights: jax.Array, batch) -> jax.Array:
    """Return the mean squared error of the rewards read off the observations that came of the steps."""
    frames = batch.obs[:, 1:].astype(jnp.float32)  # uint8 until the model asks for floats
    return jnp.mean((frames @ weights - batch.reward) ** 2)


@jax.jit
def train(weights: jax.Array, batch) -> tuple[jax.Array, jax.Array]:
    """Take one step downhill."""
    loss, slope = jax.value_and_grad(loss_of)(weights, batch)
    return weights - slope, loss


def main() -> None:
    """Learn what each square pays, from windows of 8 steps."""
    weights = jnp.zeros(16)
    with feed(walking(4_000), batch_size=64, length=8) as batches:
        for step in range(31):
            weights, loss = train(weights, next(batches))
            if step % 10 == 0:
                print(f"step {step}: loss {loss:.6f}")
        print(f"waited {batches.waited_share:.1%} of the time for {batches.batches} batches")


if __name__ == "__main__":
    main()

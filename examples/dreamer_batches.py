"""Draw the batches that DreamerV3's trainer takes: rows across episodes, under its names."""

from typing import Any

import numpy as np

import reverie as rv


def dreamer_batch(
    buffer: rv.ReplayBuffer, batch_size: int = 16, length: int = 64, context: int = 1, sampler: Any = None
) -> tuple[dict[str, Any], Any]:
    """Return a batch by DreamerV3's names, and the host that `buffer.write_back` takes.

    Its first `context` rows carry the latents that its replay has stored; it trains on the `length` others.
    """
    batch = buffer.sample(batch_size, context + length, boundary="cross", sampler=sampler)
    obs = batch.obs if isinstance(batch.obs, dict) else {"image": batch.obs}
    # Its `stepid` names a row in 20 bytes: here the stream, the step, and four zeros. A closing row has step -1.
    stepid = np.zeros((batch_size, context + length, 20), np.uint8)
    for first, number in ((0, np.broadcast_to(batch.stream[:, None], batch.id.shape)), (8, batch.id)):
        stepid[..., first : first + 8] = number.astype(">i8")[..., None].view(np.uint8)
    rows = {
        "action": batch.action, "reward": batch.reward, "is_first": batch.first_forced().is_first,
        "is_last": batch.is_last, "is_terminal": batch.is_terminal,
        "stepid": stepid, "consec": np.zeros(batch.id.shape, np.int32),
    }  # fmt: skip
    twice = [*(obs.keys() & batch.extras), *((obs.keys() | batch.extras) & rows.keys())]
    if twice:
        raise ValueError(
            f"wanted a name for each key of a batch, got {sorted(twice)} twice; rename these fields"
        )
    return {**obs, **batch.extras, **rows}, batch.host


def main() -> None:
    """Record episodes of 40 steps, draw new rows before old ones, and store a latent for each row."""
    spec = rv.StepSpec(
        rv.Field((64, 64, 3), "uint8"), rv.Field((), "int32"), {"deter": rv.Field((8,), "float32")}
    )
    buffer = rv.ReplayBuffer(spec, 2_000, seed=0)
    for step in range(1_000):
        frame, ends = np.full((64, 64, 3), step % 256, np.uint8), step % 40 == 39
        buffer.add(obs=frame, action=step % 4, reward=step % 40, terminated=ends, truncated=False,
                   final_obs=frame if ends else None, deter=np.zeros(8, np.float32))  # fmt: skip
    batch, host = dreamer_batch(buffer, sampler=rv.Fresh(rv.Uniform()))
    for name, array in batch.items():
        assert array.shape[:2] == (16, 65)
        print(f"{name:12} {array.shape} {array.dtype}")
    assert batch["is_first"][:, 0].all()
    buffer.write_back(host, deter=np.ones((16, 65, 8), np.float32))  # as `replay.update` does


if __name__ == "__main__":
    main()

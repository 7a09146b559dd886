"""How long it takes to draw windows, beside copying the same bytes window by window."""

from __future__ import annotations

import numpy as np

import reverie as rv
from benchmarks.measure import Row, rows_beside, side_by_side

BATCH, LENGTH = 64, 20
STEPS, ADDED = 100_000, 130_000
MEAN_EPISODE = 500
SHAPE = (3, 64, 64)


def pixel_buffer(seed: int = 0) -> rv.ReplayBuffer:
    """Return a wrapped buffer of 100,000 random frames in episodes of mean length 500."""
    spec = rv.StepSpec(rv.Field(SHAPE, "uint8"), rv.Field((18,), "float32"))
    buffer = rv.ReplayBuffer(spec, STEPS, seed=seed)
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (512, *SHAPE), np.uint8)
    action = np.zeros(18, np.float32)
    ends = rng.random(ADDED) < 1 / MEAN_EPISODE
    for number in range(ADDED):
        # Every byte of a frame differs from step to step: what is copied is real memory, not one hot page.
        frame = frames[number % 512]
        buffer.add(
            obs=frame,
            action=action,
            reward=0.0,
            terminated=bool(ends[number]),
            truncated=False,
            final_obs=frame if ends[number] else None,
        )
    return buffer


def pixel_windows(rounds: int) -> list[Row]:
    """Time sample(64, 20) fresh and with out=, beside 64 slice copies of the same windows' bytes."""
    buffer = pixel_buffer()
    frames = buffer.engine.store.columns["obs"]  # the very bytes that sample reads
    rng = np.random.default_rng(1)
    target = np.empty((BATCH, LENGTH + 1, *SHAPE), np.uint8)
    out = buffer.sample(BATCH, LENGTH)

    def slices() -> None:
        for row, start in enumerate(rng.integers(0, STEPS - LENGTH - 1, BATCH).tolist()):
            target[row] = frames[start : start + LENGTH + 1]

    def into_out() -> None:
        buffer.sample(BATCH, LENGTH, out=out)

    kept = [buffer.sample(BATCH, LENGTH)]

    def fresh() -> None:
        # As in a training loop: the last batch is still held while the next one is drawn.
        kept[0] = buffer.sample(BATCH, LENGTH)

    seconds = side_by_side(
        {"64 slice copies": slices, "sample(64, 20)": fresh, "sample(64, 20, out=batch)": into_out}, rounds
    )
    return rows_beside(
        seconds, "64 slice copies", {"sample(64, 20)": 1.20, "sample(64, 20, out=batch)": 1.08}
    )

"""What drawing costs as the buffer grows, and what prioritised sequences cost with their updates."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import reverie as rv
from benchmarks.measure import Row, rows_beside, side_by_side

SMALL, LARGE = 10_000, 2_000_000
BATCH, LENGTH = 64, 16
MEAN_EPISODE = 200

SAMPLERS: dict[str, Callable[[], rv.Sampler]] = {
    "Uniform": rv.Uniform,
    "EpisodeUniform": rv.EpisodeUniform,
    "EpisodeUniform(weights)": lambda: rv.EpisodeUniform((0.1, 0.1, 0.1, 0.7)),
    "Recent(newest)": lambda: rv.Recent(5_000),
    "Recent(half_life)": lambda: rv.Recent(half_life=5_000),
    "Prioritized": rv.Prioritized,
    "VisitBalanced(episode)": rv.VisitBalanced,
    "VisitBalanced(step)": lambda: rv.VisitBalanced(by="step"),
    "Fresh": rv.Fresh,
    "Shuffled": rv.Shuffled,
    "Mixture": lambda: rv.Mixture([(rv.Uniform(), 0.5), (rv.Recent(5_000), 0.5)]),
}


def vector_buffer(steps: int, width: int, seed: int = 0) -> rv.ReplayBuffer:
    """Return a full buffer of small observations in episodes of geometric length."""
    spec = rv.StepSpec(rv.Field((width,), "float32"), rv.Field((6,), "float32"))
    buffer = rv.ReplayBuffer(spec, steps, seed=seed)
    rng = np.random.default_rng(seed)
    obs, action = np.zeros(width, np.float32), np.zeros(6, np.float32)
    ends = (rng.random(steps + 100) < 1 / MEAN_EPISODE).tolist()
    for number in range(steps + 100):
        buffer.add(obs=obs, action=action, reward=0.0, terminated=ends[number], truncated=False)
    return buffer


def growth(rounds: int) -> list[Row]:
    """Time a draw at 2,000,000 steps beside one at 10,000, one step being added before each."""
    small, large = vector_buffer(SMALL, 1), vector_buffer(LARGE, 1)
    step = {
        "obs": np.zeros(1, np.float32),
        "action": np.zeros(6, np.float32),
        "reward": 0.0,
        "truncated": False,
    }
    rng = np.random.default_rng(1)
    rows = []
    for name, make in SAMPLERS.items():

        def drawing(buffer: rv.ReplayBuffer, sampler: rv.Sampler) -> Callable[[], float]:
            out = buffer.sample(BATCH, LENGTH, sampler=sampler)
            if isinstance(sampler, rv.Fresh):  # first show all that is there: what is timed are new steps
                for _ in range(len(buffer) // (BATCH * LENGTH) + 100):
                    buffer.sample(BATCH, LENGTH, sampler=sampler, out=out)

            def draw() -> float:
                # Only the draw counts, not the step that is added before it.
                buffer.add(**step, terminated=bool(rng.random() < 1 / MEAN_EPISODE))
                begin = time.perf_counter()
                buffer.sample(BATCH, LENGTH, sampler=sampler, out=out)
                return time.perf_counter() - begin

            return draw

        calls = {"small": drawing(small, make()), "large": drawing(large, make())}
        seconds = side_by_side(calls, rounds)
        [row] = rows_beside(seconds, "small", {"large": 1.5})
        rows.append(Row(name, row.seconds, row.limit_s, row.ratio, row.bound))
    return rows


def prioritized(rounds: int) -> list[Row]:
    """Time drawing 64 windows of 16 from 1,000,000 steps of 17 floats, and updating their priorities."""
    buffer = vector_buffer(1_000_000, 17)
    sampler = rv.Prioritized()
    rng = np.random.default_rng(2)
    out = buffer.sample(BATCH, LENGTH, sampler=sampler)
    errors = rng.random((BATCH, LENGTH))
    flat = buffer.engine.store.columns["obs"]
    target = np.empty((BATCH, LENGTH + 1, 17), np.float32)

    def both() -> None:
        buffer.sample(BATCH, LENGTH, sampler=sampler, out=out)
        buffer.update_priorities(out, errors)

    def take() -> None:
        slots = rng.integers(0, 1_000_000 - LENGTH - 1, BATCH)[:, None] + np.arange(LENGTH + 1)
        np.take(flat, slots, axis=0, out=target, mode="clip")

    for _ in range(300):  # until every step that can be no anchor and comes up has come up once
        both()
    seconds = side_by_side({"np.take of the observations": take, "draw 64x16 and update": both}, rounds)
    return rows_beside(seconds, "np.take of the observations", {})

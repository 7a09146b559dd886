"""What drawing costs as the buffer grows, and what prioritised sequences cost with their updates."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside
from benchmarks.own import kernel
from benchmarks.own.buffers import ACTION, vector_buffer
from benchmarks.own.limits import Limits

SMALL, MANY, LARGE = 10_000, 1_000_000, 2_000_000
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


def growth(rounds: int) -> list[Row]:
    """Time a draw at 2,000,000 steps beside one at 10,000. One step is added before each."""
    small, large = (vector_buffer(steps, 1, MEAN_EPISODE) for steps in (SMALL, LARGE))
    step = {
        "obs": np.zeros(1, np.float32),
        "action": np.zeros(ACTION, np.float32),
        "reward": 0.0,
        "truncated": False,
    }
    rng = np.random.default_rng(1)
    rows = []
    for name, make in SAMPLERS.items():

        def drawing(buffer: rv.ReplayBuffer, sampler: rv.Sampler) -> Callable[[], float]:
            out = buffer.sample(BATCH, LENGTH, sampler=sampler)
            if isinstance(sampler, rv.Fresh):  # show all old steps first; only new ones are timed
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
        seconds = in_turn(calls, rounds)
        [row] = rows_beside(seconds, "small", {"large": 1.5})
        rows.append(Row(name, row.seconds, row.limit_s, row.ratio, row.bound))
    return rows


def prioritized(rounds: int) -> list[Row]:
    """Time drawing 64 windows of 16 from 1,000,000 steps of 17 floats, and updating their priorities."""
    buffer = vector_buffer(MANY, 17, MEAN_EPISODE)
    sampler = rv.Prioritized()
    rng = np.random.default_rng(2)
    out = buffer.sample(BATCH, LENGTH, sampler=sampler)
    errors = rng.random((BATCH, LENGTH))
    limits = Limits(MANY, BATCH, LENGTH)

    def both() -> None:
        buffer.sample(BATCH, LENGTH, sampler=sampler, out=out)
        buffer.update_priorities(out, errors)

    for _ in range(300):  # until the sampler has met many of the steps that cannot be anchors
        both()
    calls: dict[str, Callable[[], float | None]] = {"draw 64x16 and update": both}
    seconds = in_turn({**limits.calls(), **calls, **kernel.without(calls)}, rounds)
    return limits.rows(seconds, dict.fromkeys(calls, 3.0))

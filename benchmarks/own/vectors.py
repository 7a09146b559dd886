"""What drawing and adding cost where steps are small, so that Python's calls are the limit and not bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside
from benchmarks.own import kernel
from benchmarks.own.buffers import ACTION, FRAME, vector_buffer, vector_steps
from benchmarks.own.limits import Limits
from reverie.samplers import Anchors, Drawn

STEPS = 1_000_000
WIDTH = 17
MEAN_EPISODE = 1000
SIZES = ((16, 64), (256, 8))
BOUNDS = (1.5, 1.8, 1.5)  # of the calls of `_draws`, in that order, beside copies of all fields
PLANNED = (64, 16)
LANES = 16


def vector_windows(rounds: int) -> list[Row]:
    """Time sample(16, 64) and sample(256, 8), also with one step added between draws.

    The bounds stand beside copies of all fields. Where the C kernel is in use, NumPy does the same beside it, in the
    same rounds.
    """
    buffer = vector_buffer(STEPS, WIDTH, MEAN_EPISODE)
    extra = cycle(list(vector_steps(10_000, WIDTH, MEAN_EPISODE)))
    rows = []
    for batch, length in SIZES:
        limits = Limits(STEPS, batch, length)
        calls = _draws(buffer, batch, length, extra)
        seconds = in_turn({**limits.calls(), **calls, **kernel.without(calls)}, rounds)
        rows += limits.rows(seconds, dict(zip(calls, BOUNDS, strict=True)))
    return rows


def _draws(
    buffer: rv.ReplayBuffer, batch: int, length: int, extra: Iterator[dict[str, Any]]
) -> dict[str, Callable[[], float | None]]:
    """Return the calls that draw: into a batch, a fresh one, and into one after an add."""
    out = buffer.sample(batch, length)
    kept = [buffer.sample(batch, length)]

    def refill() -> None:
        buffer.sample(batch, length, out=out)

    def fresh() -> None:
        kept[0] = buffer.sample(batch, length)

    def after_add() -> float:
        buffer.add(**next(extra))
        begin = time.perf_counter()
        buffer.sample(batch, length, out=out)
        return time.perf_counter() - begin

    call = f"sample({batch}, {length}"
    return {f"{call}, out=batch)": refill, f"{call})": fresh, f"{call}, out=batch) after an add": after_add}


class Keeping(rv.Sampler):
    """Draws as Uniform does, and keeps the anchors that it drew from."""

    def __init__(self) -> None:
        self.uniform = rv.Uniform()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return anchors, all equally likely."""
        self.anchors = anchors
        return self.uniform.draw(anchors, rng, count)


def planning(rounds: int) -> list[Row]:
    """Time choosing 64 windows of 16 at three sizes, without reading their steps; ratio and bound in microseconds."""
    rows, (batch, length) = [], PLANNED
    for steps in (10_000, STEPS, 10 * STEPS):
        buffer = vector_buffer(steps, 1, MEAN_EPISODE)
        rng, sampler = np.random.default_rng(2), Keeping()
        buffer.sample(batch, length, sampler=sampler)

        def plan(anchors=sampler.anchors, rng=rng, sampler=sampler) -> None:
            anchors.windows(sampler.draw(anchors, rng, batch), 0, rng)

        [row] = rows_beside(in_turn({"none": lambda: None, "plan": plan}, 10 * rounds), "none", {})
        rows.append(
            Row(
                f"planning 64 windows of 16 in {steps:,} steps, µs", row.seconds, 0.0, row.seconds * 1e6, 40.0
            )
        )
    return rows


def adding(rounds: int) -> list[Row]:
    """Time adding a step with a frame, and 16 lanes of vectors; ratio and bound in microseconds a step.

    The limit is storing the same arrays into three plain ones, unchecked.
    """
    frame_spec = rv.StepSpec(rv.Field(FRAME, "uint8"), rv.Field((), "int64"))
    frames = np.random.default_rng(3).integers(0, 256, (8, *FRAME), np.uint8)  # as warm as one just drawn
    pixels = rv.ReplayBuffer(frame_spec, 20_000, seed=0)
    plain = {
        "obs": np.zeros((20_000, *FRAME), np.uint8),
        "action": np.zeros(20_000, np.int64),
        "reward": np.zeros(20_000, np.float32),
    }
    turns = iter(range(10**9))

    def add() -> float:
        number = next(turns)
        frame, ends = frames[number % 8], number % 500 == 499
        begin = time.perf_counter()
        pixels.add(obs=frame, action=number % 3, reward=1.0, terminated=ends, truncated=False)
        return time.perf_counter() - begin

    def store() -> float:
        number = next(turns)
        frame = frames[number % 8]
        begin = time.perf_counter()
        plain["obs"][number % 20_000] = frame
        plain["action"][number % 20_000] = number % 3
        plain["reward"][number % 20_000] = 1.0
        return time.perf_counter() - begin

    spec = rv.StepSpec(rv.Field((WIDTH,), "float32"), rv.Field((ACTION,), "float32"))
    lanes = rv.ReplayBuffer(spec, LANES * 62_500, streams=LANES, seed=0)
    obs = np.random.default_rng(4).random((512, LANES, WIDTH), np.float32)
    action, reward = np.zeros((LANES, ACTION), np.float32), np.zeros(LANES, np.float32)
    ends = np.random.default_rng(5).random((4096, LANES)) < 1 / MEAN_EPISODE
    never = np.zeros(LANES, np.bool_)
    raw = [
        np.zeros((LANES * 62_500, WIDTH), np.float32),
        np.zeros((LANES * 62_500, ACTION), np.float32),
        np.zeros(LANES * 62_500, np.float32),
    ]
    firsts = np.arange(LANES) * 62_500

    def add_lanes() -> float:
        number = next(turns)
        seen, ended = obs[number % 512], ends[number % 4096]
        begin = time.perf_counter()
        lanes.add_batch(obs=seen, action=action, reward=reward, terminated=ended, truncated=never)
        return (time.perf_counter() - begin) / LANES

    def store_lanes() -> float:
        number = next(turns)
        seen = obs[number % 512]
        begin = time.perf_counter()
        slots = firsts + number % 62_500
        for array, values in zip(raw, (seen, action, reward), strict=True):
            array[slots] = values
        return (time.perf_counter() - begin) / LANES

    calls: tuple[tuple[str, float, Callable[[], float], Callable[[], float]], ...] = (
        ("add of a step of 3x64x64, µs", 5.0, add, store),
        ("add_batch of 16 lanes of 17 floats, µs a step", 1.5, add_lanes, store_lanes),
    )
    rows = []
    for name, bound, call, limit in calls:
        seconds = in_turn({"limit": limit, name: call}, 50 * rounds, warm_up=1000)
        ours, least = float(np.median(seconds[name])), float(np.median(seconds["limit"]))
        rows.append(Row(name, ours, least, ours * 1e6, bound))
    return rows


def extending(rounds: int) -> list[Row]:
    """Time `extend` by frames and by vectors; ratio to np.copyto of the observations, or µs a step above it."""
    rows = []
    for name, shape, count in (
        ("2,000 frames of 3x64x64", FRAME, 2_000),
        (f"100,000 vectors of {WIDTH} floats", (WIDTH,), 100_000),
    ):
        dtype = np.dtype(np.uint8 if shape == FRAME else np.float32)
        obs = np.random.default_rng(6).integers(0, 256, (count, *shape)).astype(dtype)
        buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field(shape, dtype), rv.Field((), "int64")), count, seed=0)
        steps = {
            "obs": obs,
            "action": np.zeros(count, np.int64),
            "reward": np.ones(count, np.float32),
            "terminated": np.arange(count) % MEAN_EPISODE == MEAN_EPISODE - 1,
            "truncated": np.zeros(count, np.bool_),
        }
        plain = np.zeros_like(obs)

        def extend(buffer: rv.ReplayBuffer = buffer, steps: dict[str, np.ndarray] = steps) -> None:
            buffer.extend(**steps)

        def copy(plain: np.ndarray = plain, obs: np.ndarray = obs) -> None:
            np.copyto(plain, obs)

        for call in (extend, copy):  # the memory is there, and warm
            call()
        [row] = rows_beside(in_turn({"limit": copy, "extend": extend}, max(rounds // 4, 5)), "limit", {})
        if shape == FRAME:
            rows.append(Row(f"extend by {name}", row.seconds, row.limit_s, row.ratio, 1.5))
        else:
            above = (row.seconds - row.limit_s) / count * 1e6
            rows.append(Row(f"extend by {name}, µs a step above", row.seconds, row.limit_s, above, 0.15))
    return rows

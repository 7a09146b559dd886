"""Costs that must not grow with the number of streams or of episodes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import reverie as rv
from benchmarks.harness import Row, seconds_of
from benchmarks.own.buffers import FRAME, FRAMES_SPEC, resident

SPEC = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
FEW, MANY = 100, 1_000  # streams
SHORT, LONG = 6_000, 50_000  # live episodes
EPISODES = 200_000


def add(buffer: rv.ReplayBuffer, step: int, stream: int = 0, ends: bool = False) -> None:
    """Add one step."""
    buffer.add(obs=step, action=0, reward=1.0, terminated=ends, truncated=False, stream=stream)


def many_streams(rounds: int) -> list[Row]:
    """Time flushes and closing with 1,000 streams beside 100. A flush is idle, or comes after one step."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, dict[int, list[float]]] = {
            name: {FEW: [], MANY: []} for name in ("idle flush", "flush of one stream", "close")
        }
        for _ in range(max(3, rounds // 30)):
            for streams in (FEW, MANY):
                path = Path(folder) / f"{streams}.replay"
                buffer = rv.ReplayBuffer(SPEC, 40 * streams, streams=streams, seed=0, path=path)
                lanes = np.zeros(streams, np.int64)
                for _ in range(40):
                    buffer.add_batch(
                        obs=lanes,
                        action=lanes,
                        reward=lanes,
                        terminated=lanes.astype(bool),
                        truncated=lanes.astype(bool),
                    )
                buffer.flush()
                for name in ("idle flush", "flush of one stream"):
                    times = []
                    for number in range(10):
                        if name != "idle flush":
                            add(buffer, number)
                        times.append(seconds_of(buffer.flush))
                    seconds[name][streams].append(float(np.median(times)))
                seconds["close"][streams].append(seconds_of(buffer.close))
                path.unlink()
        for name, found in seconds.items():
            many, few = float(np.median(found[MANY])), float(np.median(found[FEW]))
            rows.append(Row(f"{name}, {MANY} streams over {FEW}", many, few, many / few, 10.0))
    return rows


def many_episodes(rounds: int) -> list[Row]:
    """Time work with many live episodes beside few: adding to a file, an idle flush, and reading one episode."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        buffers = {}
        for episodes in (SHORT, LONG):
            path = Path(folder) / f"{episodes}.replay"
            buffers[episodes] = rv.ReplayBuffer(SPEC, episodes, seed=0, path=path)
            for step in range(episodes):
                add(buffers[episodes], step, ends=True)
        steps: dict[int, list[float]] = {SHORT: [], LONG: []}
        for _ in range(max(3, rounds // 10)):
            for episodes, buffer in buffers.items():
                steps[episodes].append(
                    seconds_of(lambda buffer=buffer: [add(buffer, 1, ends=True) for _ in range(64)]) / 64
                )
        for buffer in buffers.values():
            buffer.close()
        long, short = float(np.median(steps[LONG])), float(np.median(steps[SHORT]))
        rows.append(Row(f"add, {LONG:,} live episodes over {SHORT:,}", long, short, long / short, 1.2))
    times = {}
    for episodes in (EPISODES // 100, EPISODES):
        memory = rv.ReplayBuffer(SPEC, episodes, seed=0)
        for step in range(episodes):
            add(memory, step, ends=True)
        times[episodes] = float(
            np.median([seconds_of(lambda held=memory: held.episodes[-1]) for _ in range(rounds)])
        )
    few, many = times.values()
    flushes = {}
    with tempfile.TemporaryDirectory() as folder:
        for episodes in times:
            path = Path(folder) / f"{episodes}.replay"
            with rv.ReplayBuffer(SPEC, episodes, seed=0, path=path, durability="chunk") as kept:
                for step in range(episodes):
                    add(kept, step, ends=True)
                kept.flush()
                flushes[episodes] = float(np.median([seconds_of(kept.flush) for _ in range(10)]))
    idle, least = flushes[EPISODES], flushes[EPISODES // 100]
    rows.append(
        Row(f"idle flush, {EPISODES:,} episodes over {EPISODES // 100:,}", idle, least, idle / least, 2.0)
    )
    rows.append(Row(f"episodes[-1] of {EPISODES:,} over {EPISODES // 100:,}", many, few, many / few, 2.0))
    return rows


def memory_said(_: int) -> list[Row]:
    """Compare the memory that a buffer of one-step episodes takes with the `nbytes` that it says."""
    before = resident()
    buffer = rv.ReplayBuffer(FRAMES_SPEC, 4_096, seed=0)
    frame = np.ones(FRAME, np.uint8)
    for _ in range(2 * 4_096):
        buffer.add(obs=frame, action=0, reward=0.0, terminated=True, truncated=False, final_obs=frame)
    taken = resident() - before
    return [
        Row("one-step episodes: taken over said, bytes", taken, buffer.nbytes, taken / buffer.nbytes, 1.1)
    ]

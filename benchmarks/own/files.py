"""What a replay file costs: a step added, the file opened again and flushed, and memory for a million steps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside, seconds_of
from benchmarks.own.buffers import FRAMES_SPEC, played

STEPS = 100_000
RING = 20_000  # steps that a buffer keeps while adding is timed
MILLION = 1_000_000
RESIDENT_BOUND = 1e9  # bytes
GAME = "MsPacman"  # of the four recorded games, the one that packs worst


def adding(rounds: int) -> list[Row]:
    """Time adding a step of 3x64x64 to a file and to memory alone, for each residency and durability.

    A row holds the median seconds with a path and without. Its ratio is their difference in microseconds. A row
    named "mean" holds means instead: they count what happens only now and then, such as packing a run.
    """
    steps = played(GAME)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for residency, durability in product(("ram", "packed"), ("step", "chunk")):
            path = Path(folder) / f"{residency}-{durability}.replay"
            settings = {"seed": 0, "residency": residency}
            plain = rv.ReplayBuffer(FRAMES_SPEC, RING, **settings)
            kept = rv.ReplayBuffer(FRAMES_SPEC, RING, path=path, durability=durability, **settings)
            seconds: list[tuple[float, float]] = []
            for number in range(40 * rounds):
                step = steps[number % len(steps)]
                begin = time.perf_counter()
                plain.add(**step)
                between = time.perf_counter()
                kept.add(**step)
                seconds.append((between - begin, time.perf_counter() - between))
            kept.close()
            for kind, reduce in (("median", np.median), ("mean", np.mean)):
                alone, path_s = (float(reduce(column)) for column in zip(*seconds, strict=True))
                bound = 40.0 if (durability, kind) == ("step", "median") else None
                name = f"add, {residency}, {durability}, {kind}: µs more"
                rows.append(Row(name, path_s, alone, (path_s - alone) * 1e6, bound))
    return rows


def extending(rounds: int) -> list[Row]:
    """Time `extend` into a file by frames of a game and by vectors, each step safe from a kill when it returns.

    The limits are as many calls of `add` into a file, and a plain write of the same bytes.
    """
    frames = {name: np.array([step[name] for step in played(GAME)[:2000]]) for name in ("obs", "action")}
    rng = np.random.default_rng(7)
    vectors = {"obs": rng.random((20_000, 17), np.float32), "action": np.zeros(20_000, np.int64)}
    rows = []
    for name, given in (("2,000 frames", frames), ("20,000 vectors", vectors)):
        count, obs = len(given["obs"]), given["obs"]
        spec = rv.StepSpec(rv.Field(obs.shape[1:], obs.dtype), rv.Field((), "int64"))
        ends = np.arange(count) % 500 == 499
        steps = {
            **given,
            "reward": np.ones(count, np.float32),
            "terminated": ends,
            "truncated": np.zeros_like(ends),
        }
        calls = {
            "extend": lambda steps=steps, spec=spec: _timed(spec, lambda buffer: buffer.extend(**steps)),
            "add": lambda steps=steps, spec=spec: _timed(spec, lambda buffer: _add_each(buffer, steps)),
            "write": lambda steps=steps: _written(steps),
        }
        seconds = in_turn(calls, max(rounds // 20, 3), warm_up=1)
        for limit, said in (("add", "as many adds"), ("write", "a plain write of them")):
            some = {kind: seconds[kind] for kind in ("extend", limit)}
            [row] = rows_beside(some, limit, {"extend": 1.0 if limit == "add" else None})
            rows.append(Row(f"extend by {name} into a file, beside {said}", *list(vars(row).values())[1:]))
    return rows


def _timed(spec: rv.StepSpec, fill: Callable[[rv.ReplayBuffer], None]) -> float:
    """Return the seconds that it takes to fill a new file."""
    with tempfile.TemporaryDirectory() as folder:
        buffer = rv.ReplayBuffer(spec, STEPS, seed=0, path=Path(folder) / "a.replay")
        seconds = seconds_of(lambda: fill(buffer))
        buffer.close()
    return seconds


def _add_each(buffer: rv.ReplayBuffer, steps: dict[str, np.ndarray]) -> None:
    for obs, action, reward, ended in zip(
        steps["obs"],
        steps["action"].tolist(),
        steps["reward"].tolist(),
        steps["terminated"].tolist(),
        strict=True,
    ):
        buffer.add(obs=obs, action=action, reward=reward, terminated=ended, truncated=False)


def _written(steps: dict[str, np.ndarray]) -> float:
    """Return the seconds of a plain write of all arrays."""

    def write() -> None:
        for array in steps.values():
            array.tofile(file)

    with tempfile.TemporaryFile() as file:
        return seconds_of(write)


def reopening(rounds: int) -> list[Row]:
    """Time opening a file of 100,000 steps to each residency, and flushing 200 new ones; bounds in seconds."""
    steps = played(GAME)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.replay"
        with rv.ReplayBuffer(FRAMES_SPEC, STEPS, seed=0, residency="packed", path=path) as buffer:
            for number in range(STEPS):
                buffer.add(**steps[number % len(steps)])
        for residency, bound in (("ram", 1.5), ("packed", 0.5), ("disk", 0.1)):
            seconds = []
            for _ in range(max(3, rounds // 20)):
                begin = time.perf_counter()
                buffer = rv.open(path, residency)
                seconds.append(time.perf_counter() - begin)
                buffer.close()
            rows.append(
                Row(
                    f"open to {residency}, seconds",
                    float(np.median(seconds)),
                    bound,
                    float(np.median(seconds)),
                    bound,
                )
            )
        seconds = []
        with rv.open(path) as buffer:
            for _ in range(max(5, rounds // 10)):
                for step in steps[:200]:
                    buffer.add(**step)
                seconds.append(seconds_of(buffer.flush))
        flush_s = float(np.median(seconds))
        rows.append(Row("flush after 200 new steps, seconds", flush_s, 0.05, flush_s, 0.05))
    return rows


def from_the_file(rounds: int) -> list[Row]:
    """Time sample(64, 20) from packed runs and from the file, beside the same from RAM."""
    steps = played(GAME)
    with tempfile.TemporaryDirectory() as folder:
        buffers = {
            "ram": rv.ReplayBuffer(FRAMES_SPEC, RING, seed=0),
            "packed": rv.ReplayBuffer(FRAMES_SPEC, RING, seed=0, residency="packed"),
            "disk": rv.ReplayBuffer(
                FRAMES_SPEC,
                RING,
                seed=0,
                residency="disk",
                path=Path(folder) / "a.replay",
                durability="chunk",
            ),
        }
        for number in range(RING):
            for buffer in buffers.values():
                buffer.add(**steps[number % len(steps)])
        outs = {name: buffer.sample(64, 20) for name, buffer in buffers.items()}
        calls = {
            name: lambda name=name: buffers[name].sample(64, 20, out=outs[name]) and None for name in buffers
        }
        rows = rows_beside(in_turn(calls, rounds), "ram", {})
        for buffer in buffers.values():
            buffer.close()
    return [Row(f"sample(64, 20), {row.name}", row.seconds, row.limit_s, row.ratio, None) for row in rows]


RESIDENT = """
import resource, sys
import reverie as rv
from benchmarks.own.buffers import FRAMES_SPEC, played
from benchmarks.own.files import GAME, MILLION
steps = played(GAME)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
buffer = rv.ReplayBuffer(FRAMES_SPEC, MILLION, seed=0, residency="packed")
for number in range(MILLION):
    buffer.add(**steps[number % len(steps)])
buffer.sample(64, 20)
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(len(buffer), buffer.nbytes, int(lines["VmRSS"].split()[0]) * 1024)
"""


def resident(rounds: int) -> list[Row]:
    """Return what a packed buffer of 1,000,000 steps takes: resident bytes of its process, and its own nbytes."""
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    steps, held, rss = map(int, done.stdout.split())
    assert steps == MILLION
    raw = float(MILLION * 3 * 64 * 64)
    return [
        Row("1,000,000 packed steps: resident, bytes", float(rss), RESIDENT_BOUND, rss / RESIDENT_BOUND, 1.0),
        Row("1,000,000 packed steps: nbytes over raw, bytes", float(held), raw, held / raw, None),
    ]

"""How long the slow calls take among many, and how much memory a full buffer takes beside its raw bytes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import reverie as rv
from benchmarks.harness import Row
from benchmarks.own.buffers import ACTION, FRAME, FRAMES_SPEC, played, resident, vector_steps

CALLS = 1_000  # for each round: 100,000 as `make bench` runs it
WIDTH, MEAN_EPISODE = 17, 1_000
RING = 20_000  # steps that a buffer keeps while calls are timed
QUANTILES = {"p50": 0.5, "p99": 0.99, "largest": 1.0}
FRAMES_P99_S = 1e-3  # of an add to a file
VECTORS_SPEC = rv.StepSpec(rv.Field((WIDTH,), "float32"), rv.Field((ACTION,), "float32"))
VECTORS = 1_000_000  # steps of the buffers whose memory is measured
FRAMES = 20_000


def tails(rounds: int) -> list[Row]:
    """Time each of many calls of `add` and `sample`, with a file and without.

    A row holds a quantile of the seconds, and beside it the same quantile of copying the observation to its slot, or
    the windows of observations out of a plain array. The calls and the copies take turns.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, spec, steps, sizes in (
            (f"{WIDTH} floats", VECTORS_SPEC, list(vector_steps(10_000, WIDTH, MEAN_EPISODE)), (16, 64)),
            ("a frame", FRAMES_SPEC, played("MsPacman"), (4, 8)),
        ):
            for where, path in (("memory", None), ("a file", Path(folder) / f"{name}.replay")):
                with rv.ReplayBuffer(spec, RING, seed=0, path=path) as buffer:
                    kinds = {
                        f"add {name} to {where}": _adding(buffer, steps, rounds * CALLS),
                        f"sample{sizes} from {where}": _sampling(buffer, sizes, rounds * CALLS),
                    }
                    for kind, timed in kinds.items():
                        bound = (
                            FRAMES_P99_S if spec is FRAMES_SPEC and path and kind.startswith("add") else None
                        )
                        rows += _rows(kind, *timed(), bound)
    return rows


def slow_adds(rounds: int) -> list[Row]:
    """Return the 99th percentile of `add` of a frame to a file; ratio and bound in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.replay"
        with rv.ReplayBuffer(FRAMES_SPEC, RING, seed=0, path=path) as buffer:
            ours, least = _adding(buffer, played("MsPacman"), rounds * CALLS)()
    call, copy = (float(np.quantile(times, QUANTILES["p99"])) for times in (ours, least))
    return [Row("add a frame to a file, p99: ms", call, copy, call * 1e3, FRAMES_P99_S * 1e3)]


Timed = Callable[[], tuple[list[float], list[float]]]


def _rows(kind: str, ours: list[float], least: list[float], bound: float | None) -> list[Row]:
    """Return a row for each quantile; `bound` is that of the 99th percentile in seconds."""
    rows = []
    for name, quantile in QUANTILES.items():
        call, copy = float(np.quantile(ours, quantile)), float(np.quantile(least, quantile))
        most = bound / copy if bound is not None and name == "p99" else None
        rows.append(Row(f"{kind}, {name}", call, copy, call / copy, most))
    return rows


def _adding(buffer: rv.ReplayBuffer, steps: list[dict[str, Any]], calls: int) -> Timed:
    """Return what times `add`; the ring is full before, so that no memory is new."""
    first = steps[0]["obs"]
    plain = np.ones((RING, *first.shape), first.dtype)

    def timed() -> tuple[list[float], list[float]]:
        for step in islice(cycle(steps), RING):
            buffer.add(**step)
        ours, least = [], []
        for number, step in enumerate(islice(cycle(steps), calls)):
            begin = time.perf_counter()
            buffer.add(**step)
            between = time.perf_counter()
            plain[number % RING] = step["obs"]
            ours.append(between - begin)
            least.append(time.perf_counter() - between)
        return ours, least

    return timed


def _sampling(buffer: rv.ReplayBuffer, sizes: tuple[int, int], calls: int) -> Timed:
    """Return what times `sample`, fresh batches each time."""
    batch, length = sizes
    rng = np.random.default_rng(1)

    def timed() -> tuple[list[float], list[float]]:
        held = buffer.engine.store.columns["obs"]
        target = np.empty((batch, length + 1, *held.shape[1:]), held.dtype)
        ours, least, kept = [], [], None
        for _ in range(calls):
            begin = time.perf_counter()
            kept = buffer.sample(batch, length)
            between = time.perf_counter()
            for row, start in enumerate(rng.integers(0, RING - length - 1, batch).tolist()):
                target[row] = held[start : start + length + 1]
            ours.append(between - begin)
            least.append(time.perf_counter() - between)
        del kept
        return ours, least

    return timed


def memory_taken(_: int) -> list[Row]:
    """Compare the memory that full buffers take with the bytes of their steps alone, and with `nbytes`."""
    rows = []
    for kind, residency, bound in (("floats", "ram", 1.15), ("noise", "ram", 1.15), ("noise", "packed", 1.15),
                                   ("game", "packed", None)):  # fmt: skip
        # In a process of its own: what was given back before would be taken again.
        command = [sys.executable, "-m", "benchmarks.own.tails", kind, residency]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken, raw, said = map(int, done.stdout.split())
        rows.append(Row(f"{kind}, {residency}: taken over raw, bytes", taken, raw, taken / raw, bound))
        rows.append(Row(f"{kind}, {residency}: taken over said, bytes", taken, said, taken / said, bound))
    return rows


def measure(kind: str, residency: str) -> tuple[int, int, int]:
    """Return what a full buffer takes, the raw bytes of its steps, and its `nbytes`."""
    if kind == "floats":
        spec, count = VECTORS_SPEC, VECTORS
        steps: Iterator[dict[str, Any]] = vector_steps(count, WIDTH, MEAN_EPISODE)
    else:
        spec, count = FRAMES_SPEC, FRAMES
        steps = islice(cycle(played("MsPacman") if kind == "game" else list(_noise())), count)
    first = next(steps)  # what makes the steps is there now
    before = resident()
    buffer = rv.ReplayBuffer(spec, count, seed=0, residency=residency)
    for step in chain([first], steps):
        buffer.add(**step)
    raw = count * sum(column.field.nbytes for column in buffer.engine.settings.stored)
    return resident() - before, raw, buffer.nbytes


def _noise() -> Iterator[dict[str, Any]]:
    frames = np.random.default_rng(2).integers(0, 256, (64, *FRAME), np.uint8)
    for number, frame in enumerate(frames):
        yield {"obs": frame, "action": 0, "reward": 0.0, "terminated": number == 63, "truncated": False}


if __name__ == "__main__":
    print(*measure(*sys.argv[1:]))

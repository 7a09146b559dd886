"""What packing saves and what it costs, on recorded frames of four Atari games and on noise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside
from benchmarks.own.buffers import FRAME, FRAMES_SPEC, GAME_STEPS, played

GAMES = ("Breakout", "Pong", "MsPacman", "Seaquest")
BATCH, LENGTH = 64, 20
RAW_BYTES = float(GAME_STEPS * np.prod(FRAME))


def noise() -> list[dict[str, object]]:
    """Return steps whose frames cannot be packed."""
    rng = np.random.default_rng(0)
    return [
        {
            "obs": rng.integers(0, 256, FRAME, np.uint8),
            "action": 0,
            "reward": 0.0,
            "terminated": number % 500 == 499,
            "truncated": False,
        }
        for number in range(GAME_STEPS)
    ]


def sizes_and_times(rounds: int) -> list[Row]:
    """Compare packed recordings with raw ones: their bytes, and the time of sample(64, 20).

    Rows named "size" hold bytes where others hold seconds.
    """
    rows = []
    for name in (*GAMES, "noise"):
        steps = noise() if name == "noise" else played(name)
        size = float(filled(steps, "packed").nbytes)
        most = 1.02 if name == "noise" else 1 / 20
        rows.append(Row(f"{name}: size, bytes", size, RAW_BYTES, size / RAW_BYTES, most))
        for cores, bound in ((1, 12.0), (2, 7.0)):
            label = f"{name}: sample(64, 20), {cores} core{'s' * (cores > 1)}"
            with on_cores(cores):
                row = packed_beside_ram(steps, rounds)
            rows.append(Row(label, row.seconds, row.limit_s, row.ratio, None if name == "noise" else bound))
    return rows


def packed_beside_ram(steps: list[dict[str, object]], rounds: int) -> Row:
    """Return the time of sample(64, 20) from packed runs beside that from RAM."""
    ram, packed = filled(steps, "ram"), filled(steps, "packed")
    ram_out, packed_out = ram.sample(BATCH, LENGTH), packed.sample(BATCH, LENGTH)

    def from_ram() -> None:
        ram.sample(BATCH, LENGTH, out=ram_out)

    def from_packed() -> None:
        packed.sample(BATCH, LENGTH, out=packed_out)

    [row] = rows_beside(in_turn({"ram": from_ram, "packed": from_packed}, rounds), "ram", {})
    return row


def filled(steps: list[dict[str, object]], residency: str) -> rv.ReplayBuffer:
    """Return a buffer that keeps all of the steps."""
    buffer = rv.ReplayBuffer(FRAMES_SPEC, len(steps), seed=0, residency=residency)
    for step in steps:
        buffer.add(**step)
    return buffer


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let this process run on that many cores, or on all it has if those are fewer."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)

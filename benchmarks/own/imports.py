"""What it costs to bring a data set in: seconds, and memory of the process that does it alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import reverie as rv
from benchmarks.harness import Row
from benchmarks.own.buffers import FRAMES_SPEC, played
from benchmarks.own.files import GAME
from reverie.exchange import export_to

VECTOR_STEPS, VECTOR_SECONDS = 1_000_000, 3.0
FRAME_STEPS, FRAME_SECONDS, FRAME_MEMORY = 100_000, 60.0, 1e9
LENGTH = 500  # steps of an episode
WIDTH = 17

IMPORT = """
import sys, time
from reverie.exchange import import_from
source, format, path = sys.argv[1:]
begin = time.perf_counter()
with import_from(source, format, path=path or None, tell=lambda line: None) as buffer:
    steps = len(buffer)
spent = time.perf_counter() - begin
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(steps, spent, int(lines["VmHWM"].split()[0]) * 1024)
"""


def importing(rounds: int) -> list[Row]:
    """Import vectors from our npz into memory, and frames of a game from IRIS's folders into a file.

    The limits are seconds and bytes. Each import runs in a process of its own. The time of IRIS's counts the import of
    torch. Medians of three.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        npz, iris = folder / "vectors.npz", folder / "iris"
        _write_vectors(npz)
        _write_frames(iris)
        vectors = [_run(npz, "npz", None, VECTOR_STEPS) for _ in range(3)]
        frames = [
            _run(iris, "iris", folder / f"{number}.replay", FRAME_STEPS) for number in range(min(rounds, 3))
        ]
    seconds = float(np.median([one[0] for one in vectors]))
    frame_seconds, memory = np.median(frames, axis=0).tolist()
    return [
        Row("1,000,000 vectors from npz, s", seconds, VECTOR_SECONDS, seconds / VECTOR_SECONDS, 1.0),
        Row("100,000 frames from IRIS, s", frame_seconds, FRAME_SECONDS, frame_seconds / FRAME_SECONDS, 1.0),
        Row("100,000 frames from IRIS, peak bytes", memory, FRAME_MEMORY, memory / FRAME_MEMORY, 1.0),
    ]


def _write_vectors(path: Path) -> None:
    rng = np.random.default_rng(0)
    spec = rv.StepSpec(rv.Field((WIDTH,), "float32"), rv.Field((6,), "float32"))
    buffer = rv.ReplayBuffer(spec, VECTOR_STEPS, seed=0)
    ends = np.arange(VECTOR_STEPS) % LENGTH == LENGTH - 1
    obs = rng.random((VECTOR_STEPS, WIDTH), np.float32)
    buffer.extend(
        obs=obs, action=rng.random((VECTOR_STEPS, 6), np.float32), reward=rng.random(VECTOR_STEPS, np.float32),
        terminated=ends, truncated=np.zeros_like(ends), final_obs=obs[ends],
    )  # fmt: skip
    export_to(buffer, path, "npz")


def _write_frames(folder: Path) -> None:
    steps = played(GAME)
    buffer = rv.ReplayBuffer(FRAMES_SPEC, FRAME_STEPS, seed=0, residency="packed")
    for number in range(FRAME_STEPS):
        ends = number % LENGTH == LENGTH - 1
        buffer.add(
            **{**steps[number % len(steps)], "terminated": ends, "truncated": False, "final_obs": None}
        )
    export_to(buffer, folder, "iris", tell=lambda line: None)


def _run(source: Path, format: str, path: Path | None, wanted: int) -> tuple[float, float]:
    """Import in a process of its own; return seconds and the most bytes that were resident."""
    command = [sys.executable, "-c", IMPORT, str(source), format, str(path or "")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps, seconds, memory = done.stdout.split()
    if path is not None:
        path.unlink()
    assert int(steps) == wanted
    return float(seconds), float(memory)

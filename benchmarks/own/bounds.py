"""What adding, saving and opening may cost at most, each beside its limit in the same run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import reverie as rv
from benchmarks.harness import Row, seconds_of
from benchmarks.own import files, tails
from benchmarks.own.buffers import FRAME, FRAMES_SPEC
from benchmarks.peers import storing
from benchmarks.peers.face import Settings
from benchmarks.peers.reverie import Fresh

STEPS = 100_000
SAVES = 3
PASSES = 1_000  # frames that are added at once


def bounds(rounds: int) -> list[Row]:
    """Return a row for each bound; that of a file is in microseconds above memory, that of its tail in milliseconds."""
    to_file = [row for row in files.adding(rounds) if row.bound is not None]
    return [*to_memory(rounds), *to_file, *tails.slow_adds(rounds), *saved(rounds)]


def to_memory(rounds: int) -> list[Row]:
    """Time `add` and `add_batch` as the tables beside other libraries do; limit: copying the observations alone.

    A row of lanes has the seconds of one step. The limit copies the observations of all lanes at once.
    """
    rows = []
    for name, workload, bound in (
        ("add a frame of 3x64x64", storing.add_pixels, 1.5),
        ("add a vector of 17 floats", storing.add_vectors, 10.0),
        ("add 16 lanes of 17 floats, a step", storing.lanes_vectors, 5.0),
    ):
        found = workload(Fresh, Settings(rounds=10 * rounds, budget_s=20.0))
        rows.append(Row(name, found["seconds"], found["limit_s"], found["ratio"], bound))
    return rows


class Saved(NamedTuple):
    """The seconds of one round; those of reverie's call, and of the limit after it."""

    save: tuple[float, float]
    cold: tuple[float, float]
    warm: tuple[float, float]


def saved(_: int) -> list[Row]:
    """Time saving and opening 100,000 frames that no codec makes smaller, 1.23 GB.

    The limits are `np.save` of the frames with an fsync, and `np.load`. "From the disk" means that the system had
    forgotten the file's pages; "from the cache", that it had them all. Each is done once before it is timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = list(_rounds(Path(folder)))
    rows = []
    for name, kind, bound in (
        ("save_as, beside np.save and fsync", "save", 3.0),
        ("open from the disk, beside np.load", "cold", 1.5),
        ("open from the cache, beside np.load", "warm", 1.5),
    ):
        ours, least = (
            np.array(column) for column in zip(*(getattr(one, kind) for one in found), strict=True)
        )
        ratio = float(np.median(ours / least))
        rows.append(Row(name, float(np.median(ours)), float(np.median(least)), ratio, bound))
    return rows


def _rounds(folder: Path) -> Iterator[Saved]:
    rng = np.random.default_rng(0)
    held = rng.integers(0, 256, (STEPS, *FRAME), np.uint8)
    buffer = rv.ReplayBuffer(FRAMES_SPEC, STEPS, seed=0)
    nothing = np.zeros(PASSES)
    ended = np.arange(PASSES) % 500 == 499
    for first in range(0, STEPS, PASSES):
        buffer.extend(obs=held[first : first + PASSES], action=nothing.astype(np.int64), reward=nothing,
                      terminated=ended, truncated=np.zeros_like(ended))  # fmt: skip
    ours, plain = folder / "kept.replay", folder / "plain.npy"
    for _ in range(SAVES):
        ours.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
        times = [seconds_of(lambda: buffer.save_as(ours)), seconds_of(lambda: _save(plain, held))]
        for is_cold in (True, False):
            for path, call in ((ours, _open), (plain, np.load)):
                call(path)  # so that the system has the memory at hand: giving it takes longer than reading
                if is_cold:
                    _forget(path)
                times.append(seconds_of(lambda call=call, path=path: call(path)))
        yield Saved((times[0], times[1]), (times[2], times[3]), (times[4], times[5]))
    buffer.close()


def _open(path: Path) -> None:
    rv.open(path, mode="r").close()


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    """Let the system forget the pages of a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

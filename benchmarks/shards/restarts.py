"""Seconds from `kill -9` of a shard to the first batch again, beside Ray's own restart of a plain actor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reverie as rv
from benchmarks.harness import in_turn
from benchmarks.shards.buffers import STREAMS, Sizes, bytes_of, filled, named
from benchmarks.shards.figures import Table, times
from benchmarks.shards.plain import answer, started

SHARDS = 2
RAY = "Ray starting a plain actor"
IMPORTING = (
    "import ray, time; begin = time.perf_counter(); import reverie.ray; print(time.perf_counter() - begin)"
)


def restarts(sizes: Sizes, folder: Path) -> dict[str, Table]:
    """Time how long a draw waits for a shard that was killed."""
    with filled(sizes.steps, (SHARDS,), folder / "killed") as made:
        buffer = made[named(SHARDS)]
        actor = started(bytes_of(buffer.sample(sizes.batch, sizes.length)))
        calls = {
            f"one of {named(SHARDS)}": killed_shard(buffer, sizes),
            RAY: killed_actor(actor),
            "of it: importing reverie": importing,
            "of it: opening the file": opening(Path(buffer.inspect()[0]["path"]), folder / "copy.replay"),
        }
        seconds = in_turn(calls, sizes.kills, warm_up=0)
    each = sizes.steps // SHARDS
    title = f"From `kill -9` to the first batch; the shard has a file of {each:,} frames in {STREAMS // SHARDS} streams"
    return {"restarts": Table(title, "seconds", times(seconds, RAY, 1.0))}


def killed_shard(buffer: Any, sizes: Sizes) -> Callable[[], float]:
    """Return what kills the first shard and draws; it returns the seconds."""

    def run() -> float:
        process = buffer.inspect()[0]["process"]
        begin = time.perf_counter()
        os.kill(process, signal.SIGKILL)
        while True:
            buffer.sample(sizes.batch, sizes.length)
            seconds = time.perf_counter() - begin
            if buffer.inspect()[0]["process"] != process:  # else it had answered before the signal came
                return seconds

    return run


def killed_actor(actor: Any) -> Callable[[], float]:
    """Return what kills a plain actor and asks it for bytes until they come; it returns the seconds."""

    def run() -> float:
        process = answer(actor.process)
        begin = time.perf_counter()
        os.kill(process, signal.SIGKILL)
        while True:
            answer(actor.get)
            seconds = time.perf_counter() - begin
            if answer(actor.process) != process:  # else it had answered before the signal came
                return seconds

    return run


def importing() -> float:
    """Return the seconds that a process which has Ray takes to import what a shard needs more."""
    run = subprocess.run([sys.executable, "-c", IMPORTING], check=True, capture_output=True, text=True)
    return float(run.stdout)


def opening(path: Path, copy: Path) -> Callable[[], float]:
    """Return what opens a copy of a shard's file that was not closed; it returns the seconds."""

    def run() -> float:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(file, copy.with_name(file.name.replace(path.name, copy.name)))
        begin = time.perf_counter()
        buffer = rv.open(copy)
        seconds = time.perf_counter() - begin
        buffer.close()
        for file in copy.parent.glob(f"{copy.name}*"):
            file.unlink()
        return seconds

    return run

"""Run every benchmark, print the tables, and write them to benchmarks/results/reverie.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness import machine, report, write_json
from benchmarks.own import (
    bounds,
    chosen,
    feeds,
    files,
    imports,
    packed,
    samplers,
    streams,
    tails,
    unions,
    vectors,
    windows,
)

TABLES = {
    "windows": ("64 windows of 21 frames of 3x64x64 uint8 from 100,000 wrapped steps; limit: slice copies",
                windows.pixel_windows),
    "vectors": ("Windows of 17 floats from 1,000,000 steps; limit: the faster of slices and np.take of what is named",
                vectors.vector_windows),
    "planning": ("Planning 64 windows of 16; ratio in microseconds", vectors.planning),
    "steps": ("Adding to memory; limit: storing unchecked in three arrays; ratio in microseconds a step",
              vectors.adding),
    "extending": ("Many steps at once; limit: np.copyto of the observations, or what the row says",
                  lambda rounds: vectors.extending(rounds) + files.extending(rounds)),
    "growth": ("Drawing 64x16 from 2,000,000 steps, one step added between draws; limit: from 10,000 steps",
               samplers.growth),
    "prioritized": ("Prioritised 64x16 of 17 floats from 1,000,000 steps; limit: the faster of slices and np.take",
                    samplers.prioritized),
    "union": ("Batches of a union of one buffer, and of two, beside those of the buffer", unions.unions),
    "chosen": ("64 windows of 20 steps of two cameras and an arm; limit: a batch of everything", chosen.chosen),
    "packed": ("Packed residency, 3,000 steps of 3x64x64; limit: the raw bytes, or the time from RAM",
               packed.sizes_and_times),
    "adding": ("Adding a step of 3x64x64 to a file; limit: to memory alone; ratio: microseconds more", files.adding),
    "bounds": ("Adding, saving and opening; limit: the plain copy, memory alone, np.save and fsync, np.load",
               bounds.bounds),
    "tails": ("Each of 100,000 calls; limit: the same quantile of copying the same observations", tails.tails),
    "reopening": ("A file of 100,000 steps; limit and ratio in seconds", files.reopening),
    "drawing": ("Drawing from 20,000 steps; limit: the time from RAM", files.from_the_file),
    "streams": ("A file of 1,000 streams; limit: of 100", streams.many_streams),
    "episodes": ("Many live episodes; limit: few", streams.many_episodes),
    "said": ("Memory of 4,096 episodes of one step of 3x64x64; limit: nbytes", streams.memory_said),
    "taken": ("Memory of full buffers; limit: the raw bytes of their steps, or nbytes", tails.memory_taken),
    "importing": ("A data set into a buffer or a file; limit: seconds or bytes", imports.importing),
    "resident": ("Memory of 1,000,000 steps of 3x64x64, packed; limit: 1 GB, or the raw bytes", files.resident),
    "feeds": ("Feeds and mirror of 64x21 frames of 3x64x64, on the GPU if there is one; limit: plain copies",
              feeds.feeds),
}  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "tables", nargs="*", default=list(TABLES), help=f"some of {', '.join(TABLES)}; all if none"
    )
    parser.add_argument("--rounds", type=int, default=100, help="repeats of every call; medians are shown")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/reverie.json"), help="where to write JSON"
    )
    settings = parser.parse_args()
    print("  ".join(f"{name}: {value}" for name, value in machine().items()))
    results = {}
    for name in settings.tables:
        title, run = TABLES[name]
        results[title] = run(settings.rounds)
        report(title, results[title])
    write_json(settings.out, results)
    print(f"\nwritten to {settings.out}")


if __name__ == "__main__":
    main()

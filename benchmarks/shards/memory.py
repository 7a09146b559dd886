"""Memory of the process that draws, and of Ray's store, over many batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shards.buffers import Sizes, filled, named
from benchmarks.shards.figures import Figure, Table, quartiles

SHARDS = 2
LOOKS = 100  # how often memory is looked at
FIRST, LAST = "the first quarter", "the last quarter"
STORE = "most in use in Ray's store"
SHOWN = {
    "RssAnon": "memory of the process's own",
    "RssShmem": "shared pages: of Ray's store, and what it lends",
}


def memory(sizes: Sizes, folder: Path) -> dict[str, Table]:
    """Draw many small batches, and compare the last quarter with the first."""
    with filled(sizes.steps, (SHARDS,), folder / "watched") as made:
        looks = watched(made[named(SHARDS)], sizes)
    title = (
        f"Over {sizes.batches:,} batches of {sizes.small}×{sizes.short} frames from {named(SHARDS)}; "
        f"mean of the last quarter"
    )
    figures = [grown(name, looks[name]) for name in SHOWN.values()]
    return {"memory": Table(title, "MB", [*figures, *most(looks[STORE])])}


def watched(buffer: Any, sizes: Sizes) -> dict[str, np.ndarray]:
    """Return what was seen, in megabytes, between the draws."""
    import ray

    found: dict[str, list[float]] = {name: [] for name in (*SHOWN.values(), STORE)}
    all_bytes = ray.cluster_resources()["object_store_memory"]
    batch = None
    for number in range(sizes.batches):
        batch = buffer.sample(sizes.small, sizes.short)
        if (number + 1) % max(1, sizes.batches // LOOKS) == 0:
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for key, name in SHOWN.items():
                found[name].append(int(lines[key].split()[0]) * 1024 / 1e6)
            free = ray.available_resources().get("object_store_memory", 0.0)
            found[STORE].append((all_bytes - free) / 1e6)
    assert batch is not None
    return {name: np.array(values) for name, values in found.items()}


def grown(name: str, values: np.ndarray) -> Figure:
    """Return the mean of the last quarter, beside that of the first."""
    quarter = len(values) // 4
    last = values[-quarter:]
    return Figure(name, float(last.mean()), len(values), {FIRST: quartiles(last / values[:quarter].mean())})


def most(values: np.ndarray) -> list[Figure]:
    """Return the most that Ray's store held in the first quarter, and in the last. It may be nothing."""
    quarter = len(values) // 4
    return [
        Figure(f"{STORE}, {name}", float(part.max()), quarter)
        for name, part in ((FIRST, values[:quarter]), (LAST, values[-quarter:]))
    ]

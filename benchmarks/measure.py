"""Timing that survives a noisy machine: interleaved repeats, medians, ratios of neighbours."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import reverie


@dataclass(frozen=True)
class Row:
    """One line of a table: a time, the limit beside it, and the bound it is held to (None: none)."""

    name: str
    seconds: float
    limit_s: float
    ratio: float
    bound: float | None


def side_by_side(
    calls: dict[str, Callable[[], float | None]], rounds: int, warm_up: int = 5
) -> dict[str, np.ndarray]:
    """Return the seconds of each call in each round; all calls take turns, so drift hits them alike.

    A call may time itself and return its seconds, to leave out what only prepares it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            own = call()
            elapsed = time.perf_counter() - begin if own is None else own
            if number >= warm_up:
                seconds[name].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def rows_beside(seconds: dict[str, np.ndarray], limit: str, bounds: dict[str, float | None]) -> list[Row]:
    """Return a row per call: medians, and the median of the ratios to the limit, round by round."""
    return [
        Row(
            name,
            float(np.median(values)),
            float(np.median(seconds[limit])),
            float(np.median(values / seconds[limit])),
            bounds.get(name),
        )
        for name, values in seconds.items()
        if name != limit
    ]


def machine() -> dict[str, object]:
    """Return what a reader needs to know to compare: processor, cores, versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "reverie": reverie.__version__,
    }


def report(title: str, rows: list[Row]) -> None:
    """Print a table of rows."""
    print(f"\n{title}")
    print(f"  {'':44} {'time':>11} {'limit':>11} {'ratio':>7} {'bound':>7}")
    for row in rows:
        bound = "" if row.bound is None else f"{row.bound:.2f}"
        verdict = "" if row.bound is None else ("  within" if row.ratio <= row.bound else "  ABOVE")
        unit = show_bytes if row.name.endswith("bytes") else show
        times = f"{unit(row.seconds):>11} {unit(row.limit_s):>11}"
        print(f"  {row.name:44} {times} {row.ratio:7.3g} {bound:>7}{verdict}")


def show(seconds: float) -> str:
    """Return a duration with three digits and its unit."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def show_bytes(count: float) -> str:
    """Return a number of bytes in megabytes."""
    return f"{count / 1e6:.3g} MB"


def write_json(path: Path, tables: dict[str, list[Row]]) -> None:
    """Write all rows with the machine they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine(),
        "tables": {title: [asdict(row) for row in rows] for title, rows in tables.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n")

"""Times calls on a noisy machine: they take turns, and medians and ratios are shown in tables.

It needs NumPy only, because it runs in the environments of other libraries, too.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of a table: a time, the limit beside it, and the bound it is held to (None: none)."""

    name: str
    seconds: float
    limit_s: float
    ratio: float
    bound: float | None


def seconds_of(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turn(
    calls: dict[str, Callable[[], float | None]], rounds: int, budget_s: float = math.inf, warm_up: int = 5
) -> dict[str, np.ndarray]:
    """Return the seconds of each call in each round. All calls take turns, so that a slow moment slows all of them.

    A call may time itself and return its seconds. Then what it does to prepare itself is not counted. At least
    three rounds are made. No round begins once the budget is spent.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    number = 0
    while number < warm_up + rounds:
        spent = time.perf_counter() - begun
        if number >= 3 and spent > budget_s:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            own = call()
            seconds[name].append(time.perf_counter() - begin if own is None else own)
        number += 1
    drop = warm_up if number >= warm_up + 3 else number - 3
    return {name: np.array(values[drop:]) for name, values in seconds.items()}


def beside(seconds: dict[str, np.ndarray], name: str, limits: list[str]) -> dict[str, float | int]:
    """Return the medians of a call and of the faster limit, and the median and quartiles of their ratios.

    A ratio compares two times of one round.
    """
    limit = min(limits, key=lambda key: float(np.median(seconds[key])))
    ratios = seconds[name] / seconds[limit]
    return {
        "seconds": float(np.median(seconds[name])),
        "limit_s": float(np.median(seconds[limit])),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(np.quantile(ratios, 0.25)),
        "ratio_high": float(np.quantile(ratios, 0.75)),
        "rounds": len(ratios),
    }


def rows_beside(seconds: dict[str, np.ndarray], limit: str, bounds: dict[str, float | None]) -> list[Row]:
    """Return a row for each call but the limit, with the medians of `beside`."""
    rows = []
    for name in seconds:
        if name != limit:
            found = beside(seconds, name, [limit])
            rows.append(Row(name, found["seconds"], found["limit_s"], found["ratio"], bounds.get(name)))
    return rows


class Copies:
    """The limit of drawing: copy windows of one plain array into another. Small rows can also be taken at once."""

    def __init__(self, pool: np.ndarray, capacity: int, batch: int, length: int, seed: int = 0) -> None:
        self.held = np.empty((capacity, *pool.shape[1:]), pool.dtype)
        for start in range(0, capacity, len(pool)):
            self.held[start : start + len(pool)] = pool[: capacity - start]
        self.rng = np.random.default_rng(seed)
        self.batch, self.length = batch, length
        self.target = np.empty((batch, length + 1, *pool.shape[1:]), pool.dtype)

    def starts(self) -> np.ndarray:
        """Return random starts."""
        return self.rng.integers(0, len(self.held) - self.length, self.batch)

    def slices(self) -> None:
        """Copy window by window."""
        length = self.length + 1
        for row, start in enumerate(self.starts().tolist()):
            self.target[row] = self.held[start : start + length]

    def take(self) -> None:
        """Take all rows at once."""
        slots = self.starts()[:, None] + np.arange(self.length + 1)
        np.take(self.held, slots, axis=0, out=self.target, mode="clip")

    def calls(self) -> dict[str, Callable[[], None]]:
        """Return the ways that may be the faster one. Of frames, slices always are."""
        ways: dict[str, Callable[[], None]] = {"slices": self.slices}
        if self.held[0].nbytes < 1024:
            ways["take"] = self.take
        return ways


def machine() -> dict[str, object]:
    """Return what a reader needs to know to compare: processor, cores, versions."""
    import reverie

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
        "kernel": getattr(reverie, "kernel", "NumPy"),
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

"""What is measured: figures beside their limits, in tables. It needs NumPy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine


@dataclass(frozen=True)
class Figure:
    """One line of a table.

    Attributes:
        name: of what was measured.
        value: in the unit of the table, a median.
        rounds: how often it was measured.
        ratios: what it was measured beside -> first quartile, median and third quartile of the rounds' ratios.
            The first figure of a table names all that the others stand beside.
        bound: the least of the first ratio; None: there is none.
        note: what the value is made of.
    """

    name: str
    value: float
    rounds: int
    ratios: dict[str, list[float]] = field(default_factory=dict)
    bound: float | None = None
    note: str = ""

    def is_below(self) -> bool:
        """Return whether the figure misses its bound."""
        return self.bound is not None and next(iter(self.ratios.values()))[1] < self.bound


@dataclass(frozen=True)
class Table:
    """Figures of one unit, and the sentence that says what they are of."""

    title: str
    unit: str
    figures: list[Figure]


def quartiles(ratios: np.ndarray) -> list[float]:
    """Return the first quartile, the median and the third."""
    return [float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75))]


def rates(
    seconds: dict[str, np.ndarray], limits: Sequence[str], bounds: dict[str, float], per: float = 1.0
) -> list[Figure]:
    """Return how many a second each call makes, and the ratio of its rate to that of each limit.

    Args:
        seconds: of each call in each round. A ratio compares two times of one round.
        limits: names of calls.
        bounds: the least ratio of some of them to the first limit.
        per: how many a call makes.
    """
    return [
        Figure(
            name,
            float(per / np.median(taken)),
            len(taken),
            {limit: quartiles(seconds[limit] / taken) for limit in limits},
            bounds.get(name),
        )
        for name, taken in seconds.items()
    ]


def times(seconds: dict[str, np.ndarray], limit: str, unit_s: float) -> list[Figure]:
    """Return what each call takes, in units of so many seconds, and the ratio of its time to that of a limit."""
    return [
        Figure(
            name,
            float(np.median(taken) / unit_s),
            len(taken),
            {limit: quartiles(taken / seconds[limit])},
        )
        for name, taken in seconds.items()
    ]


def show(table: Table) -> list[str]:
    """Return the lines of a table in Markdown: none, if its title says why there are no figures."""
    if not table.figures:
        return []
    beside = list(table.figures[0].ratios)
    heads = ["", table.unit, *(f"beside {name}" for name in beside)]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for figure in table.figures:
        cells = [figure.name, digits(figure.value) + (f" ({figure.note})" if figure.note else "")]
        for place, name in enumerate(beside):
            if name not in figure.ratios:
                cells.append("–")
                continue
            low, middle, high = (digits(value) for value in figure.ratios[name])
            least = f", **below {figure.bound:g}**" if place == 0 and figure.is_below() else ""
            cells.append(f"×{middle} ({low} to {high}){least}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def digits(value: float) -> str:
    """Return a number with three digits, and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def write(path: Path, tables: dict[str, Table], more: dict[str, Any]) -> None:
    """Write all tables, with the machine they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": {**machine(), **more},
        "tables": {name: asdict(table) for name, table in tables.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Table]]:
    """Return the machine and the tables of a JSON."""
    kept = json.loads(path.read_text())
    tables = {
        name: Table(one["title"], one["unit"], [Figure(**figure) for figure in one["figures"]])
        for name, one in kept["tables"].items()
    }
    return kept["machine"], tables

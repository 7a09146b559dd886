"""Run every benchmark, print the tables, and write them to benchmarks/results/reverie.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import windows
from benchmarks.measure import machine, report, write_json


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="repeats of every call; medians are shown")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reverie.json"), help="where to write JSON")
    settings = parser.parse_args()
    print("  ".join(f"{name}: {value}" for name, value in machine().items()))
    title = "Windows of 21 frames of 3x64x64 uint8, from 100,000 wrapped steps"
    tables = {title: windows.pixel_windows(settings.rounds)}
    for name, rows in tables.items():
        report(name, rows)
    write_json(settings.out, tables)
    print(f"\nwritten to {settings.out}")


if __name__ == "__main__":
    main()

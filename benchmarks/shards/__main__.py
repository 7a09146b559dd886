"""Measure what shards on Ray cost; print the tables, and write them to benchmarks/results/shards.json and the page."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.shards.buffers import Sizes
from benchmarks.shards.drawing import draws
from benchmarks.shards.figures import Table, read, show, write
from benchmarks.shards.memory import memory
from benchmarks.shards.pages import PAGE, RESULTS, put_tables
from benchmarks.shards.peer import PeerFailed, peer
from benchmarks.shards.plain import cluster
from benchmarks.shards.restarts import restarts
from benchmarks.shards.writing import writes
from reverie.errors import need

SECTIONS: dict[str, Callable[[Sizes, Path], dict[str, Table]]] = {
    "draws": draws,
    "writers": writes,
    "restarts": restarts,
    "memory": memory,
}
THEIRS = "torchrl"
ORDER = ("sample", "feed", "processors", "parts", "writers", "restarts", "memory", THEIRS)  # of the tables


def measured(names: list[str], sizes: Sizes) -> dict[str, Table]:
    """Return the tables of some sections, measured in one cluster."""
    tables: dict[str, Table] = {}
    if not names:
        return tables
    with tempfile.TemporaryDirectory() as folder, cluster(sizes.store_bytes):
        for name in names:
            tables |= SECTIONS[name](sizes, Path(folder))
    return tables


def theirs(sizes: Sizes) -> dict[str, Table]:
    """Return the table of TorchRL's buffer; where it does not run, one that says why."""
    try:
        return peer(sizes)
    except PeerFailed as error:
        return {THEIRS: Table(f"TorchRL's RayReplayBuffer: it does not run here: {error}", "", [])}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    known = [*SECTIONS, THEIRS]
    parser.add_argument("sections", nargs="*", default=known, help=f"some of {', '.join(known)}; all if none")
    parser.add_argument("--rounds", type=int, default=Sizes().rounds, help="repeats of a draw")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where to write JSON; tables of other sections stay"
    )
    settings = parser.parse_args()
    unknown = [name for name in settings.sections if name not in known]
    if unknown:
        parser.error(f"wanted some of {', '.join(known)}, got {', '.join(unknown)}")
    need("ray")
    load = os.getloadavg()[1]  # of the last five minutes, before this adds to it
    sizes = replace(Sizes(), rounds=settings.rounds)
    tables = read(settings.out)[1] if settings.out.exists() else {}
    tables |= measured([name for name in settings.sections if name in SECTIONS], sizes)
    if THEIRS in settings.sections:
        tables |= theirs(sizes)
    tables = {name: tables[name] for name in ORDER if name in tables}
    for table in tables.values():
        print("", table.title, "", *show(table), sep="\n")
    write(settings.out, tables, {"ray": version("ray"), "load": load})
    if settings.out == RESULTS:
        put_tables(PAGE, settings.out)


if __name__ == "__main__":
    main()

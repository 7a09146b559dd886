"""Every operation, with every fault, in every state, wherever the bytes live: it has happened or it has not.

A cell is named `operation/state/home/fault/k`: the fault comes at the k-th line, or the k-th system call, of the
operation. `python tests/file/durability/product.py CELL ...` runs some again; `--share 0.01 --seed 3` a part of them all.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for support, when this file is run by itself

from support.cells import Cell
from support.operations import FAULTS, faults_of, scene, scenes
from support.torn import Broken
from support.worlds import HOMES


def cells(seed: int, only: str = "", together: int = 16) -> Iterator[str]:
    """Yield cells for ever, drawn by a seed: some of one scene after the other, two of three without a file.

    `only` is a regular expression that is found in operation/state/home/fault.
    """
    dice = random.Random(seed)
    chosen: dict[tuple[str, str, str], list[str]] = {}
    for one in scenes():
        for fault in faults_of(one[0], HOMES[one[2]]):
            if re.search(only, "/".join((*one, fault))):
                chosen.setdefault(one, []).append(fault)
    kinds = [
        [one for one in chosen if (HOMES[one[2]].durability is None) == quick] for quick in (True, False)
    ]
    while True:
        one = dice.choice(kinds[dice.randrange(3) == 0] or kinds[0] or kinds[1])
        counts = {fault: count for fault in chosen[one] if (count := scene(*one).count(fault))}
        for _ in range(together if counts else 0):
            # Arrays matter only where they are read twice, on few of the lines.
            fault = dice.choices(list(counts), [3 if fault == "arrays" else 1 for fault in counts])[0]
            yield "/".join((*one, fault, str(dice.randint(1, counts[fault]))))


def every_cell(share: float = 1.0, seed: int = 0, only: str = "") -> Iterator[str]:
    """Yield every cell, or a share of all of them drawn by a seed; `only` as for `cells`."""
    dice = random.Random(seed)
    for operation, state, home in scenes():
        for fault in faults_of(operation, HOMES[home]):
            if not re.search(only, f"{operation}/{state}/{home}/{fault}"):
                continue
            here = scene(operation, state, home)
            for at in range(1, here.count(fault) + 1):
                if share >= 1.0 or dice.random() < share:
                    yield f"{operation}/{state}/{home}/{fault}/{at}"


def try_cells(
    names: Iterator[str],
    count: float = float("inf"),
    alone: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[int, dict[str, str]]:
    """Try cells until `count` of them had something to fault; return how many had, and what broke, by cell.

    `say` is told of each that breaks.
    """
    tried, broken = 0, {}
    for name in names:
        if tried >= count:
            break
        try:
            tried += Cell(name, alone).run()
        except Broken as error:
            tried += 1
            broken[name] = str(error)
            say(f"{name}: {error}")
    return tried, broken


def told(broken: dict[str, str], most: int = 12) -> str:
    """Return what broke, one line for each kind, with a cell that shows it."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, error in broken.items():
        kinds.setdefault((name.split("/")[0], re.sub(r"[0-9]+|/[^ ]*", "#", error)[:60]), []).append(name)
    lines = [f"{len(names):4} like {names[0]}: {broken[names[0]]}" for names in kinds.values()]
    return "\n".join([f"{len(broken)} cells are broken:", *sorted(lines, reverse=True)[:most]])


def main() -> int:
    """Try the cells named on the command line, or a share of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", help="operation/state/home/fault/k")
    parser.add_argument("--share", type=float, default=0.0, help="of all cells, 0 to 1")
    parser.add_argument("--sample", type=int, default=0, help="so many cells, as the tests draw them")
    parser.add_argument("--only", default="", help="a regular expression for operation/state/home/fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", action="store_true", help="say how many cells there are")
    parser.add_argument("--kinds", type=int, default=60, help="kinds of broken cells to tell")
    parser.add_argument(
        "--but-alone", action="store_true", help="leave out the check of the flushed file without its log"
    )
    given = parser.parse_args()
    begun = time.perf_counter()
    if given.count:
        total = dict.fromkeys(FAULTS, 0)
        for one in scenes():
            for fault in faults_of(one[0], HOMES[one[2]]):
                total[fault] += scene(*one).count(fault)
        print(f"{len(scenes())} scenes, {sum(total.values()):,} cells: {total}")
        return 0
    names = (iter(given.cells) if given.cells else every_cell(given.share, given.seed, given.only) if given.share
             else cells(given.seed, given.only))  # fmt: skip
    tried, broken = try_cells(
        names, given.sample or float("inf"), not given.but_alone, partial(print, flush=True)
    )
    print(f"{tried} cells in {time.perf_counter() - begun:.0f} s")
    if broken:
        print(told(broken, given.kinds))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())

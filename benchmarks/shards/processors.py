"""Processor time that a batch costs in all processes together: a machine that others use, too, changes it little."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import in_turn
from benchmarks.shards.figures import Figure, Table, quartiles

BATCHES = 40  # of a turn: the kernel counts in hundredths of a second
IDLE_S = 3.0  # how long it is watched what processes spend that nothing is asked of
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
DRIVER, ACTORS, REST = "driver", "actors", "Ray's daemons"


def processors(calls: dict[str, Callable[[], object]], rounds: int, limit: str) -> Table:
    """Return the processor time of calls beside that of a limit, and which processes spend it.

    What actors and daemons spend while nothing is asked of them is left out.
    """
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    waiting = spent_in(lambda: time.sleep(IDLE_S), dict.fromkeys((DRIVER, ACTORS, REST), 0.0))
    idle = {kind: seconds / IDLE_S for kind, seconds in waiting.items()}

    def turn(name: str, call: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            found = spent_in(lambda: [call() for _ in range(BATCHES)], idle)
            spent[name].append({kind: seconds / BATCHES for kind, seconds in found.items()})
            return sum(spent[name][-1].values())

        return run

    seconds = in_turn({name: turn(name, call) for name, call in calls.items()}, rounds, warm_up=1)
    figures = []
    for name, taken in seconds.items():
        medians = {
            kind: float(np.median([one[kind] for one in spent[name][1:]])) for kind in (DRIVER, ACTORS, REST)
        }
        note = ", ".join(f"{kind} {value * 1e3:.1f}" for kind, value in medians.items())
        ratios = {limit: quartiles(taken / seconds[limit])}
        figures.append(Figure(name, float(np.median(taken) * 1e3), len(taken), ratios, note=note))
    return Table("Processor time of a batch of `sample`, in all processes together", "ms", figures)


def spent_in(call: Callable[[], object], idle: dict[str, float]) -> dict[str, float]:
    """Return the processor time that a call costs, without what each kind spends in a second anyway."""
    before, begin = by_kind(), time.monotonic()
    call()
    seconds, after = time.monotonic() - begin, by_kind()
    return {kind: max(0.0, after[kind] - before[kind] - idle[kind] * seconds) for kind in after}


def by_kind() -> dict[str, float]:
    """Return the seconds that this process and those that it started have computed, by kind."""
    seconds: dict[int, float] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended meanwhile
            continue
        process = int(stat.parent.name)
        seconds[process] = (int(fields[11]) + int(fields[12])) * TICK_S
        children[int(fields[1])].append(process)
    found = {DRIVER: seconds[os.getpid()], ACTORS: 0.0, REST: 0.0}
    below = list(children[os.getpid()])
    while below:
        process = below.pop()
        below += children[process]
        found[ACTORS if is_actor(process) else REST] += seconds[process]
    return found


def is_actor(process: int) -> bool:
    """Return whether Ray runs user's code in a process."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False

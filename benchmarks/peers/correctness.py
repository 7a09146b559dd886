"""The workload that looks for wrong windows, and counts how often each right one was drawn."""

from __future__ import annotations

import time
from collections import Counter

from benchmarks.peers.detector import valid_starts, wrongs
from benchmarks.peers.face import Ask, Cell, Make, Settings, can_draw
from benchmarks.peers.world import CODE_SHAPE, World, encoded


def correctness(make: Make, settings: Settings) -> Cell:
    """Look for wrong windows of 20 steps in a wrapped buffer of 2,000 with episodes of 30.

    It is looked at as it stands, and again while more steps are added.
    """
    size, batch, length = 2_000, 100, 20
    ask = Ask(size, CODE_SHAPE, "uint8", 2, batch, length, mean=30)
    peer = make()
    peer.make(ask)
    can_draw(peer, batch, length)
    world = World(encoded, 30, 2)
    for steps in world.chunks(size * 3 // 2):
        for number in range(len(steps.reward)):
            peer.add(steps.at(number))
    starts: Counter[tuple[int, int]] = Counter()
    counts: Counter[str] = Counter()
    begin, first = time.perf_counter(), None

    def look(count: int, keep: bool) -> None:
        nonlocal first
        for _ in range(count):
            if time.perf_counter() - begin > max(2 * settings["budget_s"], 20):
                return
            windows = peer.windows(peer.sample(batch, length))
            found = wrongs(windows)
            first = windows.obs.shape[1] if first is None else first
            counts["windows"] += len(found.start)
            for name in ("crossing", "head", "successor", "unwritten", "broken"):
                counts[name] += int(getattr(found, name).sum())
            if keep:
                starts.update(map(tuple, found.start[~found.any()].tolist()))

    newest = (len(world.lengths) - 1, (world.step or world.lengths[-1]) - 1)
    wanted = valid_starts(world.lengths, newest, size, length + 1, peer.crosses, peer.keeps_final)
    if peer.whole_episodes and (wanted[0][0], 0) not in wanted:
        wanted = [start for start in wanted if start[0] != wanted[0][0]]
    look(500 if settings["scale"] == 1 else 50, True)
    for _ in range(20):  # the head moves on
        for step in map(world.steps(13).at, range(13)):
            peer.add(step)
        look(5, False)
    return {
        "windows": counts["windows"],
        **{name: counts[name] / counts["windows"] for name in ("crossing", "head", "successor", "broken")},
        "unwritten": counts["unwritten"] / counts["windows"],
        "valid": len(wanted),
        "drawn": [starts.get(start, 0) for start in wanted],
        "elsewhere": sum(starts.values()) - sum(starts.get(start, 0) for start in wanted),
        "short": nearly_empty(make, ask),
    }


def nearly_empty(make: Make, ask: Ask) -> float | None:
    """Return the share of windows with unwritten rows when ten steps are stored. None: it gave no windows."""
    peer = make()
    peer.make(ask)
    for step in map(World(encoded, 30, 2).steps(10).at, range(10)):
        peer.add(step)
    try:
        found = wrongs(peer.windows(peer.sample(ask.batch, ask.length)))
    except Exception:  # it says that there is not enough, as it should
        return None
    return float(found.unwritten.mean())

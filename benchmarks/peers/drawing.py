"""The workloads that draw: frames, vectors, from a growing buffer, by priority.

The limit beside a time is a copy of the same bytes of observations into memory that exists already. Both take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.harness import Copies, beside, in_turn, seconds_of
from benchmarks.peers.face import Ask, Cell, Make, Peer, Settings, can_draw
from benchmarks.peers.world import World, pixels, pooled, vectors


def drawing(
    make: Make,
    settings: Settings,
    pool: np.ndarray,
    mean: int,
    capacity: int,
    added: int,
    shape: tuple[int, int],
    action_size: int,
) -> Cell:
    """Time sample(batch, length) beside copies of the same observations."""
    batch, length = shape
    peer = make()
    peer.make(Ask(capacity, pool.shape[1:], str(pool.dtype), action_size, batch, length, mean=mean))
    can_draw(peer, batch, length)
    world = World(pooled(pool), mean, action_size)
    for steps in world.chunks(added):
        peer.fill(steps)
    copies = Copies(pool, capacity, batch, length)
    held = [peer.sample(batch, length)]

    def draw() -> None:
        held[0] = peer.sample(batch, length)  # the last batch is still held while the next one is drawn

    limits = copies.calls()
    seconds = in_turn({"draw": draw, **limits}, settings["rounds"], settings["budget_s"])
    return beside(seconds, "draw", list(limits))


def pixels_long(make: Make, settings: Settings) -> Cell:
    """Draw 64x20 of frames from 100,000 wrapped steps, episodes of 500."""
    size = settings.size(100_000)
    return drawing(make, settings, pixels(), 500, size, size * 13 // 10, (64, 20), 18)


def pixels_short(make: Make, settings: Settings) -> Cell:
    """Draw the same, episodes of 30."""
    size = settings.size(100_000)
    return drawing(make, settings, pixels(), 30, size, size * 13 // 10, (64, 20), 18)


def vectors_16x64(make: Make, settings: Settings) -> Cell:
    """Draw 16x64 of 17 floats from 1,000,000 steps, episodes of 1,000."""
    size = settings.size(min(make().most_steps, 1_000_000))
    return {**drawing(make, settings, vectors(17), 1000, size, size, (16, 64), 6), "steps": size}


def vectors_256x8(make: Make, settings: Settings) -> Cell:
    """Draw 256x8 of the same."""
    size = settings.size(min(make().most_steps, 1_000_000))
    return {**drawing(make, settings, vectors(17), 1000, size, size, (256, 8), 6), "steps": size}


def growth(make: Make, settings: Settings) -> Cell:
    """Draw 64x16 of one byte from 10,000,000 steps, beside the same from 10,000."""
    most = settings.size(min(make().most_steps, 10_000_000))
    held: dict[str, Any] = {}
    calls: dict[str, Callable[[], None]] = {}
    for name, size in (("small", 10_000), ("large", most)):
        peer = make()
        peer.make(Ask(size, (1,), "uint8", 1, 64, 16, mean=1000))
        if name == "small":
            can_draw(peer, 64, 16)
        for steps in World(pooled(pixels()[:, 0, 0, :1]), 1000, 1).chunks(size):
            peer.fill(steps)

        def draw(peer: Peer = peer, name: str = name) -> None:
            held[name] = peer.sample(64, 16)

        draw()
        calls[name] = draw
    found = beside(in_turn(calls, settings["rounds"], settings["budget_s"]), "large", ["small"])
    return {**found, "steps": most}


def prioritised(make: Make, settings: Settings) -> Cell:
    """Draw 64x16 of 17 floats by priority from 1,000,000 steps, and update the priorities."""
    size, pool = settings.size(min(make().most_steps, 1_000_000)), vectors(17)
    peer = make()
    peer.make(Ask(size, (17,), "float32", 6, 64, 16, prioritised=True, mean=1000))
    can_draw(peer, 64, 16)
    for steps in World(pooled(pool), 1000, 6).chunks(size):
        peer.fill(steps)
    priorities = np.random.default_rng(3).random((4096, 64))
    number = [0]

    def both() -> None:
        number[0] += 1
        peer.update(peer.sample(64, 16), priorities[number[0] % 4096])

    for _ in range(3 if settings["scale"] > 1 else 100):
        if seconds_of(both) > 0.1:
            break
    copies = Copies(pool, size, 64, 16).calls()
    seconds = in_turn({"both": both, **copies}, settings["rounds"], settings["budget_s"])
    return {**beside(seconds, "both", list(copies)), "steps": size}

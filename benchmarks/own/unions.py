"""What drawing from a union costs beside drawing from a buffer."""

from __future__ import annotations

from collections.abc import Callable

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside
from benchmarks.own.buffers import pixel_buffer, vector_buffer

SAMPLERS: dict[str, Callable[[], rv.Sampler]] = {
    "Uniform": rv.Uniform,
    "EpisodeUniform": rv.EpisodeUniform,
    "Prioritized": rv.Prioritized,
}
KINDS: dict[str, tuple[Callable[[], rv.ReplayBuffer], int, int]] = {
    "64x20 frames": (lambda: pixel_buffer(10_000, 13_000), 64, 20),
    "64x16 of 17 floats": (lambda: vector_buffer(100_000, 17, 200), 64, 16),
}


def drawing(
    source: rv.ReplayBuffer | rv.Union, sampler: rv.Sampler, batch: int, length: int
) -> Callable[[], None]:
    """Return what draws a batch, and holds it until the next one."""
    kept: list[object] = [None]

    def draw() -> None:
        kept[0] = source.sample(batch, length, sampler=sampler)

    return draw


def unions(rounds: int) -> list[Row]:
    """Time a batch of a union of one buffer, and of two such, beside one of the buffer."""
    rows = []
    for kind, (make, batch, length) in KINDS.items():
        one, other = make(), make()
        parts = {f"{kind}: a buffer": one, "a union of one": rv.Union([one], seed=0)}
        parts["a union of two"] = rv.Union([one, other], seed=0)
        for name, sampler in SAMPLERS.items():
            calls = {
                f"{name}, {who}": drawing(source, sampler(), batch, length) for who, source in parts.items()
            }
            limit = f"{name}, {kind}: a buffer"
            bounds = {f"{name}, a union of one": 1.5}
            rows += rows_beside(in_turn(calls, rounds), limit, bounds)
    return rows

"""What a batch costs that reads some fields only, or shows every fourth step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reverie as rv
from benchmarks.harness import Row, in_turn, rows_beside
from benchmarks.own.buffers import random_frames

BATCH, LENGTH, STEPS = 64, 20, 6_000
CAMERA, ARM = rv.Field((3, 64, 64), "uint8"), rv.Field((7,), "float32")
SPEC = rv.StepSpec({"front": CAMERA, "wrist": CAMERA, "arm": ARM}, ARM)
CHOICES: dict[str, dict[str, Any]] = {
    "everything": {},
    "one camera, actions": {"fields": ("obs/front", "action")},
    "no camera": {"fields": ("obs/arm", "action", "reward")},
    "addresses alone": {"fields": ()},
    "everything, stride 4": {"stride": 4},
    "one camera, stride 4": {"fields": ("obs/front",), "stride": 4},
}


def two_cameras(residency: str) -> rv.ReplayBuffer:
    """Return a full buffer of two cameras and an arm, in episodes of 500 steps."""
    buffer = rv.ReplayBuffer(SPEC, STEPS, seed=0, residency=residency)
    frames, arm = random_frames(), [0.0] * 7
    for step in range(STEPS):
        obs = {"front": frames[step % len(frames)], "wrist": frames[-1 - step % len(frames)], "arm": arm}
        buffer.add(obs=obs, action=arm, reward=0.0, terminated=step % 500 == 499, truncated=False)
    return buffer


def drawing(buffer: rv.ReplayBuffer, how: dict[str, Any]) -> Callable[[], None]:
    """Return what draws a batch, and holds it until the next one."""
    kept: list[object] = [None]

    def draw() -> None:
        kept[0] = buffer.sample(BATCH, LENGTH, **how)

    return draw


def chosen(rounds: int) -> list[Row]:
    """Time batches of some fields, and of every fourth step, beside those of all fields and steps."""
    rows = []
    for residency in ("ram", "packed"):
        buffer = two_cameras(residency)
        calls = {f"{residency}: {name}": drawing(buffer, how) for name, how in CHOICES.items()}
        rows += rows_beside(in_turn(calls, rounds), f"{residency}: everything", {})
    return rows

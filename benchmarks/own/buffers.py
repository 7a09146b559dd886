"""The buffers that several tables measure, and the steps that they are filled with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import reverie as rv

FRAME = (3, 64, 64)
FRAMES_SPEC = rv.StepSpec(rv.Field(FRAME, "uint8"), rv.Field((), "int64"))
ACTION = 6  # floats of an action
GAME_STEPS = 3_000


def random_frames() -> npt.NDArray[np.uint8]:
    """Return 512 frames with different bytes, so that copies of them read real memory and not one hot page."""
    return np.random.default_rng(0).integers(0, 256, (512, *FRAME), np.uint8)


def pixel_buffer(steps: int, added: int) -> rv.ReplayBuffer:
    """Return a wrapped buffer of random frames, in episodes of mean length 500."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field(FRAME, "uint8"), rv.Field((18,), "float32")), steps, seed=0)
    frames, action = random_frames(), np.zeros(18, np.float32)
    ends = (np.random.default_rng(1).random(added) < 1 / 500).tolist()
    for number, ended in enumerate(ends):
        frame = frames[number % len(frames)]
        buffer.add(
            obs=frame,
            action=action,
            reward=0.0,
            terminated=ended,
            truncated=False,
            final_obs=frame if ended else None,
        )
    return buffer


def vector_buffer(steps: int, width: int, mean_episode: int) -> rv.ReplayBuffer:
    """Return a full, wrapped buffer of random vectors."""
    spec = rv.StepSpec(rv.Field((width,), "float32"), rv.Field((ACTION,), "float32"))
    buffer = rv.ReplayBuffer(spec, steps, seed=0)
    for step in vector_steps(steps + 100, width, mean_episode):
        buffer.add(**step)
    return buffer


def vector_steps(count: int, width: int, mean_episode: int) -> Iterator[dict[str, object]]:
    """Yield that many steps. A list of ten million would take gigabytes."""
    rng = np.random.default_rng(0)
    obs = rng.random((4096, width), np.float32)
    action = rng.random((4096, ACTION), np.float32)
    ends = (rng.random(count) < 1 / mean_episode).tolist()
    for number, ended in enumerate(ends):
        yield {
            "obs": obs[number % 4096],
            "action": action[number % 4096],
            "reward": 0.5,
            "terminated": ended,
            "truncated": False,
        }


@cache
def played(game: str) -> list[dict[str, object]]:
    """Return the steps of an Atari game played at random, an episode a life, as IRIS records it."""
    from reverie.gymnasium import atari

    env = atari(game)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    steps: list[dict[str, object]] = []
    for _ in range(GAME_STEPS):
        action = int(rng.integers(env.action_space.n))
        after, reward, terminated, truncated, _ = env.step(action)
        ends = terminated or truncated
        steps.append(
            {
                "obs": obs,
                "action": action,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "final_obs": after if ends else None,
            }
        )
        obs = env.reset()[0] if ends else after
    env.close()
    return steps


def resident() -> int:
    """Return the bytes of memory that this process takes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

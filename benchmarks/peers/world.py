"""The steps that every peer is given: NumPy only, the same for everybody.

Steps are made in chunks as `Steps`. How a peer stores them and draws from them is its adapter's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
# From arrays of episode, step in the episode, and id to their observations.
See = Callable[[Array, Array, Array], Array]
MAGIC = 173  # byte 0 of every encoded observation: a row without it was never written
CHUNK = 1000  # steps that are made, and given to a peer, at once


class Steps(NamedTuple):
    """One step, or many. Of many, every array has a leading axis."""

    obs: Any
    action: Any
    reward: Any
    terminated: Any
    truncated: Any
    first: Any  # the step opens an episode
    next_obs: Any  # what followed the step; at an end the true final observation
    episode: Any  # its number

    def at(self, number: int) -> Steps:
        """Return one of many."""
        return Steps(*(values[number] for values in self))

    def part(self, start: int, stop: int) -> Steps:
        """Return some of many."""
        return Steps(*(values[start:stop] for values in self))


class World:
    """Makes the steps of one endless stream. Episodes have geometric lengths, and every other one is truncated.

    Args:
        see: gives the observations for arrays of episode, step in the episode, and id.
        mean: of the episodes' lengths.
        action_size: floats of an action.
    """

    def __init__(self, see: See, mean: int, action_size: int, seed: int = 0) -> None:
        self.see, self.mean = see, mean
        self.actions = np.random.default_rng(seed).random((CHUNK, action_size), np.float32)
        self.rng = np.random.default_rng(seed + 1)
        self.lengths: list[int] = []  # of the episodes that were begun
        self.id = self.step = 0

    def steps(self, count: int) -> Steps:
        """Return the next steps, at most CHUNK."""
        episode, step, last = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool)
        done = 0
        while done < count:
            if self.step == 0:
                self.lengths.append(int(self.rng.geometric(1 / self.mean)))
            part = min(self.lengths[-1] - self.step, count - done)
            where = slice(done, done + part)
            episode[where], step[where] = len(self.lengths) - 1, np.arange(self.step, self.step + part)
            done += part
            ended = self.step + part == self.lengths[-1]
            last[done - 1] = ended
            self.step = 0 if ended else self.step + part
        ids = np.arange(self.id, self.id + count)
        self.id += count
        odd = episode % 2 == 1
        return Steps(
            self.see(episode, step, ids),
            self.actions[:count],
            np.zeros(count, np.float32),
            last & ~odd,
            last & odd,
            step == 0,
            self.see(episode, step + 1, ids + 1),
            episode,
        )

    def chunks(self, count: int) -> Iterator[Steps]:
        """Yield the next `count` steps in chunks."""
        for start in range(0, count, CHUNK):
            yield self.steps(min(CHUNK, count - start))


def pooled(pool: Array) -> See:
    """Return a `See` that shows the rows of a pool in turn, so that bytes differ from step to step."""
    return lambda episode, step, ids: pool[ids % len(pool)]


def pixels(seed: int = 0) -> Array:
    """Return a pool of random frames."""
    return np.random.default_rng(seed).integers(0, 256, (512, 3, 64, 64), np.uint8)


def vectors(width: int, seed: int = 0) -> Array:
    """Return a pool of random vectors."""
    return np.random.default_rng(seed).random((4096, width), np.float32)


CODE_SHAPE = (3, 8, 8)


def encoded(episode: Array, step: Array, ids: Array) -> Array:
    """Return uint8 observations that name their episode and their step in it."""
    out = np.zeros((len(episode), np.prod(CODE_SHAPE)), np.uint8)
    out[:, 0] = MAGIC
    for place in range(3):
        out[:, 1 + place] = episode >> (8 * place) & 255
        out[:, 4 + place] = step >> (8 * place) & 255
    return out.reshape(-1, *CODE_SHAPE)


def decoded(obs: Array) -> tuple[Array, Array, Array]:
    """Return whether observations were ever written, their episodes and their steps."""
    flat = np.asarray(obs).reshape(*obs.shape[:2], -1).astype(np.int64)
    episode, step = (sum(flat[..., start + place] << (8 * place) for place in range(3)) for start in (1, 4))
    return flat[..., 0] == MAGIC, episode, step

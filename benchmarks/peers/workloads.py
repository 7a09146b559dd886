"""What every peer is given, timed and judged by: NumPy only, the same for everybody.

Data come as `Steps`; how a peer stores them and draws from them is its adapter's. The limit beside every time is the
same bytes copied into memory that is there, in the same process and in turn with what is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
# From arrays of episode, step in the episode, and id to their observations.
See = Callable[[Array, Array, Array], Array]
MAGIC = 173  # byte 0 of every encoded observation: a row without it was never written
CHUNK = 1000  # steps that are made, and given to a peer, at once


class CannotDo(Exception):
    """A peer has no such thing; the message is what its cell says."""


class Steps(NamedTuple):
    """One step, or many: then every array has a leading axis."""

    obs: Any
    action: Any
    reward: Any
    terminated: Any
    truncated: Any
    first: Any  # the step opens an episode
    next_obs: Any  # what came of it: at an end the true final observation
    episode: Any  # its number

    def at(self, number: int) -> Steps:
        """Return one of many."""
        return Steps(*(values[number] for values in self))

    def part(self, start: int, stop: int) -> Steps:
        """Return some of many."""
        return Steps(*(values[start:stop] for values in self))


class Windows(NamedTuple):
    """What a peer drew, as every adapter spells it for the detector. B windows of T observations.

    obs: (B, T, …).
    told: (B, T-1), True where the peer says that observation t + 1 does not follow t.
    ends: (B, T-1), True where it says that the step at t ended its episode.
    mask: (B, T), False on what it calls padding.
    """

    obs: Array
    told: Array
    ends: Array
    mask: Array


def rows(
    obs: Array, ends: Array | None = None, first: Array | None = None, mask: Array | None = None
) -> Windows:
    """Return windows of T rows, each with its own flags: a flagged end, or a first row, tells of the seam."""
    obs = np.asarray(obs)
    batch, count = obs.shape[:2]
    flagged = np.zeros((batch, count - 1), bool) if ends is None else np.asarray(ends, bool)[:, : count - 1]
    told = flagged if first is None else flagged | np.asarray(first, bool)[:, 1:count]
    return Windows(
        obs, told, flagged, np.ones((batch, count), bool) if mask is None else np.asarray(mask, bool)
    )


def sequences(obs: Array, ends: Array, mask: Array | None = None) -> Windows:
    """Return windows of L steps and L+1 observations, where observation t + 1 stands for what came of step t."""
    obs = np.asarray(obs)
    batch, count = obs.shape[:2]
    told = np.zeros((batch, count - 1), bool)
    return Windows(obs, told, np.asarray(ends, bool), np.ones((batch, count), bool) if mask is None else mask)


# --- data ------------------------------------------------------------------------------------------------------


class World:
    """Steps of one stream, without end: episodes of geometric length, each other one truncated.

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
    """Return observations that are rows of a pool in turn: every byte differs from step to step."""
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


# --- wrong windows ---------------------------------------------------------------------------------------------


class Wrongs(NamedTuple):
    """For each window, what is wrong with it; and its first observation's (episode, step)."""

    crossing: Array  # runs on into another episode, without a word
    head: Array  # runs from the newest step on into the oldest ones, without a word
    successor: Array  # shows another episode's frame as what came of a step that it flags as the end
    unwritten: Array  # shows rows that were never written
    broken: Array  # repeats or leaves out steps inside an episode, without a word
    start: Array  # (B, 2)

    def any(self) -> Array:
        """Return which windows are wrong in any way."""
        return self.crossing | self.head | self.successor | self.unwritten | self.broken


def wrongs(windows: Windows) -> Wrongs:
    """Return what is wrong with windows of encoded observations."""
    written, episode, step = decoded(windows.obs)
    real = windows.mask & written
    pair = real[:, :-1] & real[:, 1:] & ~windows.told
    later, earlier = episode[:, 1:] > episode[:, :-1], episode[:, 1:] < episode[:, :-1]
    same = ~later & ~earlier
    back = earlier | (same & (step[:, 1:] < step[:, :-1]))
    elsewhere = (later | back) & pair
    return Wrongs(
        crossing=(later & pair & ~windows.ends).any(1),
        head=(back & pair & ~windows.ends).any(1),
        successor=(elsewhere & windows.ends).any(1),
        unwritten=(windows.mask & ~written).any(1),
        broken=(same & ~back & pair & (step[:, 1:] != step[:, :-1] + 1)).any(1),
        start=np.stack([episode[:, 0], step[:, 0]], 1),
    )


def valid_starts(
    lengths: list[int], newest: tuple[int, int], live: int, count: int, crosses: bool, keeps_final: bool
) -> list[tuple[int, int]]:
    """Return the (episode, step) from which a window of `count` observations may begin.

    Args:
        lengths: of all episodes that were begun; newest: the (episode, step) added last; live: steps still held.
        crosses: windows may run on into the next episodes, and tell so.
        keeps_final: the observation after an episode's last step is there, too.
    """
    steps = [
        (number, step)
        for number, length in enumerate(lengths)
        for step in range(min(length, newest[1] + 1 if number == newest[0] else length))
    ][-live:]
    if crosses:
        return steps[: len(steps) - count + 1]
    last = dict(steps)  # episode -> the last observation of it that can be shown
    for episode in last:
        last[episode] += keeps_final and last[episode] == lengths[episode] - 1
    return [(episode, step) for episode, step in steps if step + count - 1 <= last[episode]]


# --- timing ----------------------------------------------------------------------------------------------------


def in_turn(
    calls: dict[str, Callable[[], float | None]], rounds: int, budget_s: float, warm_up: int = 3
) -> dict[str, Array]:
    """Return the seconds of each call in each round; all take turns, so that drift hits them alike.

    A call may time itself and return its seconds. At least three rounds, and no new one when the budget is spent.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    number = 0
    while number < warm_up + rounds:
        spent = time.perf_counter() - begun
        if number >= 3 and spent > budget_s:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            own = call()
            seconds[name].append(time.perf_counter() - begin if own is None else own)
        number += 1
    drop = warm_up if number >= warm_up + 3 else number - 3
    return {name: np.array(values[drop:]) for name, values in seconds.items()}


def beside(seconds: dict[str, Array], name: str, limits: list[str]) -> dict[str, float | int]:
    """Return medians of a time and of the faster limit, and of their ratios round by round, with quartiles."""
    limit = min(limits, key=lambda key: float(np.median(seconds[key])))
    ratios = seconds[name] / seconds[limit]
    return {
        "seconds": float(np.median(seconds[name])),
        "limit_s": float(np.median(seconds[limit])),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(np.quantile(ratios, 0.25)),
        "ratio_high": float(np.quantile(ratios, 0.75)),
        "rounds": len(ratios),
    }


class Copies:
    """The limit of drawing: windows of a plain array copied into another, and for vectors also taken at once."""

    def __init__(self, pool: Array, capacity: int, batch: int, length: int, seed: int = 0) -> None:
        self.held = np.empty((capacity, *pool.shape[1:]), pool.dtype)
        for start in range(0, capacity, len(pool)):
            self.held[start : start + len(pool)] = pool[: capacity - start]
        self.rng = np.random.default_rng(seed)
        self.batch, self.length = batch, length
        self.target = np.empty((batch, length + 1, *pool.shape[1:]), pool.dtype)

    def starts(self) -> Array:
        """Return random starts."""
        return self.rng.integers(0, len(self.held) - self.length, self.batch)

    def slices(self) -> None:
        """Copy window by window."""
        length = self.length + 1
        for row, start in enumerate(self.starts().tolist()):
            self.target[row] = self.held[start : start + length]

    def take(self) -> None:
        """Take all rows at once."""
        slots = self.starts()[:, None] + np.arange(self.length + 1)
        np.take(self.held, slots, axis=0, out=self.target, mode="clip")

    def calls(self) -> dict[str, Callable[[], None]]:
        """Return the ways to time: of frames slices are always the faster one."""
        ways: dict[str, Callable[[], None]] = {"slices": self.slices}
        if self.held[0].nbytes < 1024:
            ways["take"] = self.take
        return ways

"""Finds what is wrong with the windows that a peer drew, and which windows it could have drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from benchmarks.peers.world import Array, decoded


class Windows(NamedTuple):
    """What a peer drew, in the form in which every adapter gives it to the detector: B windows of T observations.

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
    """Return windows of T rows, each with its own flags. An end or a first row that is flagged tells of the seam."""
    obs = np.asarray(obs)
    batch, count = obs.shape[:2]
    flagged = np.zeros((batch, count - 1), bool) if ends is None else np.asarray(ends, bool)[:, : count - 1]
    told = flagged if first is None else flagged | np.asarray(first, bool)[:, 1:count]
    return Windows(
        obs, told, flagged, np.ones((batch, count), bool) if mask is None else np.asarray(mask, bool)
    )


def sequences(obs: Array, ends: Array, mask: Array | None = None) -> Windows:
    """Return windows of L steps and L+1 observations, where observation t + 1 is what followed step t."""
    obs = np.asarray(obs)
    batch, count = obs.shape[:2]
    told = np.zeros((batch, count - 1), bool)
    return Windows(obs, told, np.asarray(ends, bool), np.ones((batch, count), bool) if mask is None else mask)


class Wrongs(NamedTuple):
    """What is wrong with each window, and the (episode, step) of its first observation."""

    crossing: Array  # runs on into another episode, without a word
    head: Array  # runs from the newest step on into the oldest ones, without a word
    successor: Array  # shows another episode's frame after a step that it flags as the end
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
        crosses: windows may run on into the next episodes, and say so.
        keeps_final: the observation after an episode's last step is kept, too.
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

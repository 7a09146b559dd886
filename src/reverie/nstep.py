"""n-step returns and what to bootstrap from, for any batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reverie.batch import Batch, Bools, Floats, Ints, RowBatch, SequenceBatch
from reverie.checks import number, positive
from reverie.errors import BadSetting


class NStep(NamedTuple):
    """n-step targets of a batch: `returns + discount * value[bootstrap]` where `mask` is True.

    Attributes:
        returns: (B, L) float32; the discounted sum of the next m <= n rewards.
        discount: (B, L) float32; gamma ** m, and 0 where the episode terminated: nothing follows.
        bootstrap: (B, L) int64; the position of the observation to bootstrap from, in `batch.obs`.
        mask: (B, L) bool; False on padding, in closing rows, in the last row of a RowBatch (its reward lies
            outside the window), and where the observation to bootstrap from is not known.
    """

    returns: Floats
    discount: Floats
    bootstrap: Ints
    mask: Bools


def n_step(batch: Batch, n: int, gamma: float) -> NStep:
    """Return n-step returns for every position of a batch (Sutton and Barto, 2018, chapter 7).

    The sum stops after n rewards, at the end of the episode, or at the end of the window, whichever comes
    first; then m < n, and the discount is that of m steps. A truncated or cut episode is bootstrapped from
    the observation after its last step; a terminated one is not.

    Args:
        batch: as `sample` returned it, with any boundary.
        n: rewards to add up, at least 1.
        gamma: discount of one step, in 0..1.

    Raises:
        BadSetting: n or gamma out of range, or something that is no batch of windows.
    """
    n, gamma = positive("n", n), number("gamma", gamma, 0, 1)
    if not isinstance(batch, (SequenceBatch, RowBatch)) or not isinstance(batch.reward, np.ndarray):
        raise BadSetting(
            f"batch: wanted a batch as sample() returns it, got {batch!r}; steps alone have no return, "
            f"and of a batch on a device pass batch.host"
        )
    if batch.stride > 1:
        raise BadSetting(
            f"batch: wanted windows of every step, got stride={batch.stride}, and the rewards between are not there; "
            f"draw with stride=1"
        )
    count, length = batch.reward.shape
    if isinstance(batch, SequenceBatch):
        reward, steps = batch.reward, batch.mask
        stops, dies = batch.terminated | batch.truncated, batch.terminated
        # The successor of a window's last real step is the window's own last observation.
        stops = stops | ~np.concatenate([steps[:, 1:], np.zeros((count, 1), np.bool_)], axis=1)
        seen = batch.obs_mask
    else:
        # A row holds the reward that came with it: a step's own is that of the row after.
        nothing = np.zeros((count, 1), np.bool_)
        reward = np.concatenate([batch.reward[:, 1:], np.zeros((count, 1), np.float32)], axis=1)
        steps = batch.mask & ~batch.is_last
        steps[:, -1] = False  # its reward lies outside the window
        stops = np.concatenate([batch.is_last[:, 1:], nothing], axis=1)
        dies = np.concatenate([batch.is_terminal[:, 1:], nothing], axis=1)
        stops[:, -2:-1] = True
        seen = batch.obs_mask
    returns = np.zeros((count, length), np.float64)
    discount = np.ones((count, length), np.float64)
    bootstrap = np.tile(np.arange(length), (count, 1))
    going = steps.copy()
    for ahead in range(min(n, length)):
        # `going[:, t]`: the sum of position t takes in the reward at t + ahead.
        here = going[:, : length - ahead]
        returns[:, : length - ahead] += np.where(here, discount[:, : length - ahead] * reward[:, ahead:], 0.0)
        alive = np.where(dies[:, ahead:], 0.0, gamma)
        discount[:, : length - ahead] *= np.where(here, alive, 1.0)
        bootstrap[:, : length - ahead] += here
        here &= ~stops[:, ahead:]
        going[:, length - ahead :] = False
    known = np.take_along_axis(seen, np.minimum(bootstrap, seen.shape[1] - 1), axis=1)
    mask = steps & (known | (discount == 0.0))
    return NStep((returns * steps).astype(np.float32), (discount * steps).astype(np.float32), bootstrap, mask)

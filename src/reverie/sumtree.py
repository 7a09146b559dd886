"""Weights with fast draws and exact sums: a tree of three levels whose blocks are added up at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEAST_FAN = 8


class SumTree:
    """`size` non-negative weights, all zero at first.

    Each level holds running sums within blocks of `fan` children, about the cube root of `size`, so a draw
    is two gathers and comparisons for all draws at once, and an update adds up three blocks. A parent is
    always computed from its children, never corrected by a difference: sums do not drift, and a tree that
    went through any history equals one made anew from the same weights, bit for bit.

    Args:
        size: how many weights there are.
    """

    __slots__ = ("_fan", "_leaf_sums", "_middle", "_middle_sums", "_root", "_root_sums", "size", "weights")

    def __init__(self, size: int) -> None:
        self.size = size
        self._fan = fan = max(LEAST_FAN, int(np.ceil(size ** (1 / 3))))
        blocks = -(-size // fan)
        parents = -(-blocks // fan)
        self.weights = np.zeros(blocks * fan)
        self._leaf_sums = np.zeros((blocks, fan))  # block of leaves -> running sums of its weights
        self._middle = np.zeros((parents, fan))  # the sum of each block of leaves
        self._middle_sums = np.zeros((parents, fan))
        self._root = np.zeros(parents)
        self._root_sums = np.zeros(parents)

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return self.weights.nbytes + self._leaf_sums.nbytes + 2 * self._middle.nbytes + 2 * self._root.nbytes

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return self._root_sums.item(-1)

    def set(self, places: Ints, weights: npt.ArrayLike) -> None:
        """Set the weights at `places`; of a place named twice the last one counts."""
        self.weights[places] = weights
        fan = self._fan
        blocks = _distinct(places // fan)
        self._leaf_sums[blocks] = sums = np.add.accumulate(self.weights.reshape(-1, fan)[blocks], axis=1)
        self._middle.reshape(-1)[blocks] = sums[:, -1]
        parents = _distinct(blocks // fan)
        self._middle_sums[parents] = sums = np.add.accumulate(self._middle[parents], axis=1)
        self._root[parents] = sums[:, -1]
        np.add.accumulate(self._root, out=self._root_sums)

    def find(self, targets: Floats) -> Ints:
        """Return, for each target in `0 <= target < total`, the place whose share of the line it falls into.

        A place with weight zero is never returned.
        """
        fan = self._fan
        parent = np.minimum(self._root_sums.searchsorted(targets, side="right"), len(self._root) - 1)
        targets = targets - (self._root_sums[parent] - self._root[parent])
        block = parent * fan + _below(self._middle_sums[parent], targets)
        flat = self._middle.reshape(-1)
        targets = targets - (self._middle_sums.reshape(-1)[block] - flat[block])
        place: Ints = block * fan + _below(self._leaf_sums[block], targets)
        # Rounding can push a target past the end of its block, onto a place without weight: step back from
        # there to the last place that has some. Seen about once in 10^12 draws, so the loop is no cost.
        for draw in np.flatnonzero(self.weights[place] == 0.0).tolist():
            place[draw] = np.flatnonzero(self.weights[: int(place[draw]) + 1])[-1]
        return place

    def check(self) -> None:
        """Assert that every sum is that of its children."""
        fan = self._fan
        assert (self.weights >= 0).all(), "no weight is negative"
        leaf_sums = np.add.accumulate(self.weights.reshape(-1, fan), axis=1)
        assert np.array_equal(self._leaf_sums, leaf_sums), "running sums of leaves"
        assert np.array_equal(self._middle.reshape(-1)[: len(leaf_sums)], leaf_sums[:, -1]), "sums of blocks"
        assert np.array_equal(self._middle_sums, np.add.accumulate(self._middle, axis=1)), (
            "running sums of blocks"
        )
        assert np.array_equal(self._root, self._middle_sums[:, -1]), "sums at the root"
        assert np.array_equal(self._root_sums, np.add.accumulate(self._root)), "running sums at the root"


def _below(sums: Floats, targets: Floats) -> Ints:
    """Return, for each row of running sums, how many are at most the target; at most the last child."""
    below: Ints = (sums <= targets[:, None]).sum(axis=1)
    np.minimum(below, sums.shape[1] - 1, out=below)
    return below


def _distinct(values: Ints) -> Ints:
    """Return values without repetition; np.unique costs more than the update it would save."""
    if len(values) == 1:
        return values
    values = np.sort(values)
    keep = np.empty(len(values), np.bool_)
    keep[0] = True
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return values[keep]

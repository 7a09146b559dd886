"""Weights with fast draws and exact sums: a tree of wide nodes, walked for all draws at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FAN = 16  # children of a node: wide enough for few levels, narrow enough to add up many nodes at once
ROOT = 1024  # the root is added up whole, and may be wider


class SumTree:
    """`size` non-negative weights, all zero at first.

    A parent is always computed from its children, never corrected by a difference: sums do not drift, and a
    tree that went through any history equals one made anew from the same weights, bit for bit.

    Args:
        size: how many weights there are.
    """

    __slots__ = ("_levels", "_root_sums", "size", "weights")

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels: list[Floats] = []  # leaves first; each (nodes, FAN), the root (children,)
        children = size
        while children > ROOT:
            nodes = -(-children // FAN)
            self._levels.append(np.zeros((nodes, FAN)))
            children = nodes
        self._levels.append(np.zeros(children))
        self._root_sums = np.zeros(children)
        self.weights = self._levels[0].reshape(-1)

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self._levels) + self._root_sums.nbytes

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return self._root_sums.item(-1)

    def set(self, places: Ints, weights: npt.ArrayLike) -> None:
        """Set the weights at `places`; of a place named twice the last one counts."""
        self.weights[places] = weights
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            places = places // FAN
            # A node named twice is added up twice, to the same sum.
            parents.reshape(-1)[places] = np.add.reduce(children.take(places, 0), axis=1)
        np.add.accumulate(self._levels[-1], out=self._root_sums)

    def find(self, targets: Floats) -> Ints:
        """Return, for each target in `0 <= target < total`, the place whose share of the line it falls into.

        A place with weight zero is never returned.
        """
        root = self._levels[-1]
        place = self._root_sums.searchsorted(targets, side="right")
        np.minimum(place, len(root) - 1, out=place)
        left = targets - self._root_sums.take(place) + root.take(place)
        rows = np.arange(0, FAN * len(targets), FAN)
        for level in self._levels[-2::-1]:
            # Rounding can push a target past its node's last child, which need not be a node of this level.
            np.minimum(place, len(level) - 1, out=place)
            children = level.take(place, 0)
            running = np.add.accumulate(children, axis=1)
            child = (running <= left[:, None]).sum(axis=1)
            np.minimum(child, FAN - 1, out=child)
            place = place * FAN + child
            child += rows
            left = left - running.take(child) + children.take(child)
        drawn = self.weights.take(place)
        if not drawn.all():
            # Rounding pushed a target past the last child with any weight: step back to it.
            for draw in (drawn == 0.0).nonzero()[0].tolist():
                place[draw] = np.flatnonzero(self.weights[: int(place[draw]) + 1])[-1]
        return place

    def check(self) -> None:
        """Assert that every sum is that of its children."""
        assert (self.weights >= 0).all(), "no weight is negative"
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            sums = np.add.reduce(children, axis=1)
            assert np.array_equal(parents.reshape(-1)[: len(sums)], sums), "sums of nodes"
        assert np.array_equal(self._root_sums, np.add.accumulate(self._levels[-1])), (
            "running sums of the root"
        )

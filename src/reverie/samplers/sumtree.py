"""Weights with fast draws and exact sums: a tree of wide nodes, walked for all draws at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reverie.index import Bools, Ints, native
from reverie.samplers.undo import Undo

Floats = npt.NDArray[np.float64]

FAN = 16  # children of a node: wide enough for few levels, narrow enough to add up many nodes at once
ROOT = 1024  # the root is added up whole, and may be wider


class SumTree:
    """`size` non-negative weights, all zero at first.

    A parent is always computed from its children, never corrected by a difference: sums do not drift, and a
    tree that went through any history equals one made anew from the same weights, bit for bit.

    A weight can be barred: it is kept, and counts as zero. Its leaf is negative then, so that the leaves are
    the only place where weights are.

    Args:
        size: how many weights there are.

    Attributes:
        barred: how many of them are barred.
    """

    __slots__ = ("_barred_at_mark", "_leaves", "_levels", "_root_sums", "_undo", "barred", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.barred = self._barred_at_mark = 0
        self._undo = Undo()
        self._levels: list[Floats] = []  # leaves first; each (nodes, FAN), the root (children,)
        children = size
        while children > ROOT:
            nodes = -(-children // FAN)
            self._levels.append(np.zeros((nodes, FAN)))
            children = nodes
        self._levels.append(np.zeros(children))
        self._root_sums = np.zeros(children)
        self._leaves = self._levels[0].reshape(-1)

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self._levels) + self._root_sums.nbytes

    @property
    def total(self) -> float:
        """The sum of all weights that are not barred."""
        return self._root_sums.item(-1)

    @property
    def weights(self) -> Floats:
        """A copy of all weights, barred or not."""
        return np.abs(self._leaves[: self.size])

    def weights_at(self, places: Ints) -> Floats:
        """Return the weights at `places`, barred or not."""
        return np.abs(self._leaves.take(places))

    def leaves_at(self, places: Ints) -> Floats:
        """Return the weights at `places`, those that are barred with a minus sign."""
        return self._leaves.take(places)

    def are_barred(self) -> Bools:
        """Return of every weight whether it is barred."""
        return self._leaves[: self.size] < 0

    # --- changes ---------------------------------------------------------------------------------------

    def set(self, places: Ints, weights: npt.ArrayLike) -> None:
        """Set the weights at `places`, none of which is barred then; of a place named twice the last one counts."""
        before = self._undo.about_to_change(self._leaves, places)
        if self.barred:
            released = before < 0
            if np.count_nonzero(released):
                self.barred -= len(np.unique(places[released]))
        self._leaves[places] = weights
        self._add_up(places)

    def bar(self, places: Ints) -> None:
        """Bar the weights at `places`, which are distinct; a weight of zero stays as it is."""
        places = places[self._leaves.take(places) > 0]
        weights = self._undo.about_to_change(self._leaves, places)
        self.barred += len(places)
        self._leaves[places] = -weights
        self._add_up(places)

    def release(self) -> None:
        """Bar no weight any more."""
        if self.barred:
            places = self.are_barred().nonzero()[0]
            self.set(places, self.weights_at(places))

    def _add_up(self, places: Ints) -> None:
        """Compute every sum that one of these places is part of."""
        if native is not None:
            leaves = np.ascontiguousarray(places, np.int64)
            native.walk(None, leaves, self.barred, self._root_sums, *self._levels)
            return
        for level, parents in enumerate(self._levels[1:]):
            places = places // FAN
            children = self._added(level, self._levels[level].take(places, 0))
            # A node named twice is added up twice, to the same sum.
            parents.reshape(-1)[places] = np.add.reduce(children, axis=1)
        root = len(self._levels) - 1
        np.add.accumulate(self._added(root, self._levels[root]), out=self._root_sums)

    def _added(self, level: int, children: Floats) -> Floats:
        """Return what these children on a level add to a sum: a barred leaf adds nothing."""
        return np.maximum(children, 0.0) if level == 0 and self.barred else children

    def mark(self) -> None:
        """Take note of all weights, for `rewind`."""
        self._undo.mark()
        self._barred_at_mark = self.barred

    def rewind(self) -> None:
        """Go back to the last `mark`, from wherever an interrupt came."""
        self.barred = self._barred_at_mark
        self._add_up(self._undo.rewind())

    # --- draws -----------------------------------------------------------------------------------------

    def find(self, targets: Floats) -> Ints:
        """Return, for each target in `0 <= target < total`, the place whose share of the line it falls into.

        A place that is barred or has the weight zero is never returned.
        """
        if native is not None:
            found = np.empty(len(targets), np.int64)
            missed = native.walk(targets, found, self.barred, self._root_sums, *self._levels)
            return self._step_back(found) if missed else found
        root = self._levels[-1]
        place = self._root_sums.searchsorted(targets, side="right")
        np.minimum(place, len(root) - 1, out=place)
        left = targets - self._root_sums.take(place) + root.take(place)
        rows = np.arange(0, FAN * len(targets), FAN)
        for level in range(len(self._levels) - 2, -1, -1):
            nodes = self._levels[level]
            # Rounding can push a target past its node's last child, which need not be a node of this level.
            np.minimum(place, len(nodes) - 1, out=place)
            children = self._added(level, nodes.take(place, 0))
            running = np.add.accumulate(children, axis=1)
            child = (running <= left[:, None]).sum(axis=1)
            np.minimum(child, FAN - 1, out=child)
            place = place * FAN + child
            child += rows
            left = left - running.take(child) + children.take(child)
        return self._step_back(place)

    def _step_back(self, places: Ints) -> Ints:
        """Where rounding pushed a target past the last child with any weight, step back to it."""
        missed = self._leaves.take(places) <= 0
        if np.count_nonzero(missed):
            for draw in missed.nonzero()[0].tolist():
                places[draw] = (self._leaves[: int(places[draw]) + 1] > 0).nonzero()[0][-1]
        return places

    def check(self) -> None:
        """Assert that every sum is that of its children."""
        assert self.barred == np.count_nonzero(self.are_barred()), "how many are barred"
        for children, parents in zip(self._levels, self._levels[1:], strict=False):
            sums = np.add.reduce(np.maximum(children, 0.0), axis=1)
            assert np.array_equal(parents.reshape(-1)[: len(sums)], sums), "sums of nodes"
        root = np.maximum(self._levels[-1], 0.0)
        assert np.array_equal(self._root_sums, np.add.accumulate(root)), "running sums of the root"

"""Samplers choose anchors. They know ids and episodes, and no bytes."""

from __future__ import annotations

import numpy as np

from reverie.episodes import EpisodeIndex, Ints
from reverie.windows import Anchors

# Below this share of accepted draws, counting is cheaper than trying again.
LEAST_ACCEPTED = 1 / 8


def uniform_steps(index: EpisodeIndex, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
    """Return (row, id) of `count` live steps, each step being equally likely. Some step must be live."""
    if index.streams == 1:
        ids: Ints = rng.integers(index.tail.item(0), index.head.item(0), count)
        return index.rows_at(0, ids), ids
    ends: Ints = np.cumsum(index.head - index.tail)
    rank: Ints = rng.integers(0, int(ends[-1]), count)
    stream = np.searchsorted(ends, rank, side="right")
    ids = rank + (index.head - ends)[stream]
    return index.rows_at(stream, ids), ids


class Uniform:
    """Every valid anchor alike."""

    __slots__ = ()

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        """Return (episode row, id) of `count` anchors; raise NotEnoughData when there is none.

        Draws live steps and keeps the valid ones: exactly uniform, whatever the share of valid steps.
        When that share turns out small, the rest is drawn by rank among the counted anchors, which is the
        same distribution: how many were accepted says nothing about which.
        """
        rows, ids = uniform_steps(anchors.index, rng, count + (count >> 3) + 4)
        good = anchors.accept(rows, ids)
        accepted = int(np.count_nonzero(good))
        if accepted == len(ids):
            return rows[:count], ids[:count]
        rows, ids = rows[good][:count], ids[good][:count]
        if accepted >= count:
            return rows, ids
        return self._complete(anchors, rng, count, rows, ids, accepted / len(good))

    def _complete(self, anchors: Anchors, rng: np.random.Generator, count: int, rows: Ints, ids: Ints,
                  share: float) -> tuple[Ints, Ints]:  # fmt: skip
        missing = count - len(ids)
        if share >= LEAST_ACCEPTED:
            more_rows, more_ids = uniform_steps(anchors.index, rng, int(missing / share * 1.5) + 8)
            good = anchors.accept(more_rows, more_ids)
            rows = np.concatenate([rows, more_rows[good][:missing]])
            ids = np.concatenate([ids, more_ids[good][:missing]])
            missing = count - len(ids)
        if missing:
            rank = rng.integers(0, anchors.require(), missing)
            more_rows, more_ids = anchors.at_rank(rank)
            rows, ids = np.concatenate([rows, more_rows]), np.concatenate([ids, more_ids])
        return rows, ids

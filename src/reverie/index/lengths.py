"""How many whole episodes of each length there are: what makes counting windows cheap."""

from __future__ import annotations

import numpy as np

from reverie.index.runs import Ints


class LengthTable:
    """Whole ended episodes by their length.

    D episodes of different lengths hold at least D * (D + 1) / 2 steps, so there are at most about
    sqrt(2 * capacity) distinct lengths: what is done per distinct length stays cheap at any size.
    """

    __slots__ = ("_counts", "_episodes", "_sorted", "_stale")

    def __init__(self) -> None:
        self._episodes: dict[int, set[int]] = {}  # length -> episodes of that length
        self._sorted = np.zeros(0, np.int64)  # distinct lengths, ascending
        self._counts = np.zeros(0, np.int64)
        self._stale = False

    def add(self, length: int, episode: int) -> None:
        self._episodes.setdefault(length, set()).add(episode)
        self._stale = True

    def remove(self, length: int, episode: int) -> None:
        episodes = self._episodes[length]
        episodes.remove(episode)
        if not episodes:
            del self._episodes[length]
        self._stale = True

    def _refresh(self) -> None:
        if self._stale:
            self._sorted = np.array(sorted(self._episodes), np.int64)
            self._counts = np.array(
                [len(self._episodes[length]) for length in self._sorted.tolist()], np.int64
            )
            self._stale = False

    def longest(self) -> int:
        self._refresh()
        return int(self._sorted[-1]) if len(self._sorted) else 0

    def count_windows(self, length: int) -> int:
        self._refresh()
        first = np.searchsorted(self._sorted, length)
        return int((self._counts[first:] * (self._sorted[first:] - (length - 1))).sum())

    def count_episodes(self, length: int) -> int:
        """Return how many episodes have at least `length` steps."""
        self._refresh()
        return int(self._counts[np.searchsorted(self._sorted, length) :].sum())

    def window_at_rank(self, length: int, rank: Ints, order: Ints) -> tuple[Ints, Ints]:
        """Return (episode, offset into the episode) of the windows with these ranks.

        Episodes of one length stand in the sequence of `order[episode]`, so that the same content gives the same
        windows whatever entries of the table its episodes have.
        """
        self._refresh()
        first = int(np.searchsorted(self._sorted, length))
        fits = self._sorted[first:] - (length - 1)
        ends = np.cumsum(self._counts[first:] * fits)
        which = np.searchsorted(ends, rank, side="right")
        within = rank - (ends[which] - self._counts[first:][which] * fits[which])
        member, offset = np.divmod(within, fits[which])
        episodes = np.empty_like(rank)
        for here in np.unique(which).tolist():
            same = np.fromiter(self._episodes[self._sorted.item(first + here)], np.int64)
            chosen = which == here
            episodes[chosen] = same[np.argsort(order[same])][member[chosen]]
        return episodes, offset

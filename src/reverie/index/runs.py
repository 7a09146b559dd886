"""How the steps of a stream are cut into runs: integers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Steps in a run. Longer runs pack better, MsPacman's frames 21 times in runs of 16, 29 in runs of 32; shorter ones
# make a window unpack less that it does not need. Measured by `make bench`.
RUN = 32


class Eviction(NamedTuple):
    """A run that has to go."""

    stream: int
    tail: int  # the stream's oldest live id afterwards
    run: int


class Runs:
    """The runs of all streams, numbered stream by stream.

    Run r of a stream covers its slots `r * RUN <= slot < (r + 1) * RUN`, the last run of a stream maybe fewer.
    So a run's number is used again when the ring comes round, and there are never more than `count`.
    """

    __slots__ = ("capacity", "count", "each", "streams")

    def __init__(self, streams: int, capacity: int) -> None:
        self.streams = streams
        self.capacity = capacity  # slots of each stream
        self.each = -(-capacity // RUN)  # runs of each stream
        self.count = streams * self.each

    def of_id(self, stream: int, step: int) -> tuple[int, int]:
        """Return (number of the run, position in it) of a step."""
        run, position = divmod(step % self.capacity, RUN)
        return stream * self.each + run, position

    def first_of(self, step: int) -> int:
        """Return the id of the first step of the run that a step is in."""
        return step - step % self.capacity % RUN

    def of_slots(self, slots: Ints) -> tuple[Ints, Ints]:
        """Return (numbers of the runs, positions in them) of slots."""
        stream, within = np.divmod(slots, self.capacity)
        run, position = np.divmod(within, RUN)
        return stream * self.each + run, position

    def steps(self, number: int) -> int:
        """Return how many steps a run has when it is full."""
        return min(RUN, self.capacity - number % self.each * RUN)

    def steps_of(self, numbers: Ints) -> Ints:
        """Return the same of several runs."""
        return np.minimum(RUN, self.capacity - numbers % self.each * RUN)

    def slots(self, number: int) -> slice:
        """Return the slots that a run covers."""
        stream, run = divmod(number, self.each)
        first = stream * self.capacity + run * RUN
        return slice(first, first + self.steps(number))

    def pieces(self, stream: int, first: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yield the slots of consecutive steps, in pieces that lie behind each other, and which steps those are.

        Steps are counted from `first`. Those that later ones replace are left out.
        """
        step = max(first, stop - self.capacity)
        while step < stop:
            slot = step % self.capacity
            count = min(stop - step, self.capacity - slot)
            slot += stream * self.capacity
            yield slice(slot, slot + count), slice(step - first, step - first + count)
            step += count

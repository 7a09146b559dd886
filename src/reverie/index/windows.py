"""Windows as addresses: which ids of which episode, before any array is touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index.runs import Bools, Ints


@dataclass(slots=True)
class Windows:
    """The addresses of B windows of L positions, context included; all arrays are (B,) int64.

    Position p stands for the step `start + stride * p`.

    Attributes:
        length: L.
        burn_in: how many of the L positions are context, at the front.
        stream: the stream of each window.
        episode: the episode of each window.
        anchor: the id that the sampler drew.
        start: the id at position 0; before `first` there is padding, so it may be negative.
        first, stop: the real steps are `first <= id < stop`.
        whole: no window holds padding (then first == start and stop is one past the last position's step).
        stride: steps from one position to the next.
    """

    length: int
    burn_in: int
    stream: Ints
    episode: Ints
    anchor: Ints
    start: Ints
    first: Ints
    stop: Ints
    whole: bool
    stride: int = 1

    def strided(self, stride: int) -> Windows:
        """Return these windows with every `stride`-th step of them for a position; context is as many steps."""
        if stride == 1:
            return self
        length = (self.length - 1) // stride + 1
        return replace(self, length=length, burn_in=self.burn_in // stride, stride=stride)

    def offsets(self) -> Ints:
        """Return (L+1,) int64: how far behind `start` each position lies; the last one is beyond the window."""
        return np.arange(0, (self.length + 1) * self.stride, self.stride)

    def behind(self, some: Ints | slice = slice(None)) -> Ints:
        """Return the position behind the last real one, of some windows."""
        real = self.stop[some] - self.start[some]
        return real if self.stride == 1 else (real - 1) // self.stride + 1


@dataclass(slots=True)
class CrossWindows:
    """The addresses of B windows of L rows. A row shows one observation; a closing row, an episode's last one.

    Attributes:
        burn_in: how many of the L rows are context, at the front.
        stream, anchor: (B,) int64; the stream, and the id of the step that the sampler drew.
        episode: (B, L) int64; the episode of each row.
        id: (B, L) int64; the step there; at a closing row one past the episode's last.
        closing: (B, L) bool; the row shows the observation after an episode's last step.
        mask: (B, L) bool; False on padding, of which there is only some before the anchor.
        marks: where not every row is shown: (opens, closes), each (B, L) bool. An episode begins at this row or at
            one that is not shown between it and the row before; the row's own episode closes at this row or at one
            that is not shown before the next row.
        stride: rows from one that is shown to the next.
    """

    burn_in: int
    stream: Ints
    anchor: Ints
    episode: Ints
    id: Ints
    closing: Bools
    mask: Bools
    marks: tuple[Bools, Bools] | None = None
    stride: int = 1

    def opens(self, start: Ints) -> Bools:
        """Return which rows open an episode; `start` has the first step of each episode."""
        opens: Bools = (self.id == start[self.episode]) & self.mask
        return opens

    def strided(self, stride: int, begun: Bools, start: Ints) -> CrossWindows:
        """Return these windows, whose rows are `stride` rows apart, with their marks.

        Args:
            stride: see above.
            begun: (B,) bool; the first row of the anchor's episode that there is opens it.
            start: the first step of each episode.
        """
        mask, closing, episode = self.mask, self.closing, self.episode
        opens, closes = self.opens(start), closing.copy()
        # Between rows of two episodes the first one closes, and the second one opens or is that row.
        other = (episode[:, 1:] != episode[:, :-1]) & mask[:, :-1]
        opens[:, 1:] |= other | (mask[:, 1:] & ~mask[:, :-1] & begun[:, None])
        closes[:, :-1] |= other
        return replace(self, marks=(opens, closes), stride=stride)


class Drawn(NamedTuple):
    """What a sampler drew: anchors, and what it has to say about them.

    Attributes:
        episodes, ids: (B,) int64; the episode and the step id of each anchor.
        weight: (B,) float; importance weights, or None for ones.
        offset: (B,) int64; where in its window the anchor stands, for rules that would place it at random;
            None lets them.
    """

    episodes: Ints
    ids: Ints
    weight: npt.NDArray[np.floating] | None = None
    offset: Ints | None = None

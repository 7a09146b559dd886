"""Windows as addresses: which ids of which episode, before any array is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.index.runs import Bools, Ints


@dataclass(slots=True)
class Windows:
    """The addresses of B windows of L steps, context included; all arrays are (B,) int64.

    Attributes:
        length: L.
        burn_in: how many of the L steps are context, at the front.
        stream: the stream of each window.
        episode: the episode of each window.
        anchor: the id that the sampler drew.
        start: the id at position 0; before `first` there is padding, so it may be negative.
        first, stop: the real steps are `first <= id < stop`.
        whole: no window holds padding (then first == start and stop == start + L).
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
    """

    burn_in: int
    stream: Ints
    anchor: Ints
    episode: Ints
    id: Ints
    closing: Bools
    mask: Bools


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

"""The squares of pixels that become tokens, and which of them are alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = 8192.0  # more than any patch's number, so that the numbers of different places are never equal


class Distinct(NamedTuple):
    """The patches of a batch, equal ones at the same place once: U of B·K.

    Attributes:
        first: (U,) int64, a patch of each kind, as a row of all B·K.
        place: (U,) int64 in 0..K-1, where in the frame they are.
        inverse: (B·K,) int64 in 0..U-1, the kind of every patch.
        count: (U,) int64, how many there are of a kind.
    """

    first: Tensor
    place: Tensor
    inverse: Tensor
    count: Tensor


def cut(frames: Tensor, side: int) -> Tensor:
    """Return frames (B, C, H, W) as their patches (B, K, C·side·side), K in row-major order."""
    batch, channels, height, width = frames.shape
    grid = frames.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def side_by_side(patches: Tensor, channels: int, side: int) -> Tensor:
    """Return patches (U, C·side·side) as one image (1, C, side, U·side), in which they stand in a row."""
    return patches.view(-1, channels, side, side).permute(1, 2, 0, 3).flatten(2).unsqueeze(0)


def distinct(patches: Tensor) -> Distinct:
    """Return which of the patches (B, K, n), floats in 0..1, are alike.

    Patches are told apart by one number each, a sum of pixels with weights that no whole numbers relate. Rounding
    may at worst count equal ones twice.
    """
    places, pixels = patches.shape[1:]
    weights = torch.linspace(1, 2, pixels, dtype=torch.float64, device=patches.device).sqrt()
    number = patches.double() @ weights + SPREAD * torch.arange(places, device=patches.device)
    _, inverse, count = number.flatten().unique(return_inverse=True, return_counts=True)
    rows = torch.arange(len(inverse), device=patches.device)
    first = torch.full_like(count, len(inverse)).scatter_reduce_(0, inverse, rows, "amin")
    return Distinct(first, first % places, inverse, count)

"""Patches: the rectangles of pixels that become tokens, and which of them are equal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SPREAD = 8192.0  # more than any patch's number, so that the numbers of different places are never equal


class Distinct(NamedTuple):
    """The patches of a batch, equal ones at the same place once: U of B·K.

    Attributes:
        first: (U,) int64, a patch of each kind, as a row of all B·K.
        place: (U,) int64 in 0..K-1, where in the frame they are.
        inverse: (B·K,) int64 in 0..U-1, the kind of every patch.
        counts: (U,) int64, how many there are of a kind.
    """

    first: Tensor
    place: Tensor
    inverse: Tensor
    counts: Tensor


class Fold(nn.Module):
    """Folds frames (B, C, H, W) into one vector for each patch, (B, C·h·w, H/h, W/w).

    Args:
        shape: (h, w), height and width of a patch.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, frames: Tensor) -> Tensor:
        (height, width), (batch, channels, rows, columns) = self.shape, frames.shape
        x = frames.reshape(batch, channels, rows // height, height, columns // width, width)
        return x.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


class Unfold(nn.Module):
    """Undoes `Fold`."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, folded: Tensor) -> Tensor:
        (height, width), (batch, _, down, across) = self.shape, folded.shape
        x = folded.reshape(batch, -1, height, width, down, across).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, -1, down * height, across * width)


def cut(frames: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return frames (B, C, H, W) as their patches of that height and width (B, K, C·h·w), K in row-major order."""
    batch, channels, rows, columns = frames.shape
    height, width = shape
    grid = frames.reshape(batch, channels, rows // height, height, columns // width, width)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def side_by_side(patches: Tensor, channels: int, shape: tuple[int, int]) -> Tensor:
    """Return patches (U, C·h·w) as one image (1, C, h, U·w), in which they stand in a row."""
    return patches.view(-1, channels, *shape).permute(1, 2, 0, 3).flatten(2).unsqueeze(0)


def distinct(patches: Tensor) -> Distinct:
    """Return which of the patches (B, K, n), floats in 0..1, are equal.

    Patches are told apart by one number each, a sum of pixels with weights that no whole numbers relate. Rounding
    may at worst count equal ones twice.
    """
    places, pixels = patches.shape[1:]
    weights = torch.linspace(1, 2, pixels, dtype=torch.float64, device=patches.device).sqrt()
    number = patches.double() @ weights + SPREAD * torch.arange(places, device=patches.device)
    _, inverse, counts = torch.unique(number, return_inverse=True, return_counts=True)
    inverse = inverse.flatten()
    rows = torch.arange(len(inverse), device=patches.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce_(0, inverse, rows, "amin")
    return Distinct(first, first % places, inverse, counts)

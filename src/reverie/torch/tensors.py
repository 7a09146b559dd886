"""Bytes that NumPy and torch see alike: dtypes, blocks of memory, and views of them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from reverie.batch import Batch
from reverie.buffer import ReplayBuffer
from reverie.engine import Layout
from reverie.errors import BadSetting
from reverie.union import Union

TensorBatch = Batch[torch.Tensor]
Source = TypeVar("Source", bound=ReplayBuffer | Union)
# The widest integers that divide a row: moving 8 bytes at a time is several times faster than one.
WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


def as_device(device: torch.device | str) -> torch.device:
    """Return a device with its number: what "cuda" means may differ from thread to thread.

    Raises:
        BadSetting: it is no device, or this build or machine has none of that kind.
    """
    try:
        # An allocation asks the backend itself, whichever it is.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise BadSetting(
            f"device: wanted one that torch can use here, got {device!r} ({str(error).splitlines()[0]}); "
            f"pass 'cpu', or install a torch with that backend"
        ) from error


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor that looks at the array's memory and keeps it alive."""
    return torch.from_numpy(array)


@cache
def tensor_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return the dtype of a tensor that looks at such an array."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def check_dtypes(buffer: Source) -> Source:
    """Return `buffer` if its fields can be tensors; raise BadSetting otherwise."""
    for column in buffer.spec.columns():
        try:
            tensor_dtype(column.field.dtype)
        except TypeError as error:
            raise BadSetting(
                f"field {column.name!r}: wanted a dtype that torch has, got {column.field.dtype}; "
                f"declare the Field with another"
            ) from error
    return buffer


def views(layout: Layout, block: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the arrays of a batch that lies in `block`, (nbytes,) uint8 on any device, by flat name."""
    tensors = {}
    for leaf in layout.leaves:
        part = block.narrow(0, leaf.offset, leaf.dtype.itemsize * math.prod(leaf.shape))
        tensors[leaf.name] = part.view(tensor_dtype(leaf.dtype)).view(leaf.shape)
    return tensors


def in_words(rows: torch.Tensor) -> torch.Tensor:
    """Return (rows, …) of any dtype as (rows, words), the same bytes as integers as wide as divide a row."""
    flat = rows.reshape(len(rows), -1).contiguous()
    nbytes = flat.shape[1] * flat.element_size()
    return flat.view(word_of(nbytes))


def word_of(nbytes: int) -> torch.dtype:
    """Return the widest integer dtype whose size divides a row of `nbytes`."""
    return next(word for size, word in WORDS if nbytes % size == 0)

"""Bytes that NumPy and torch see alike: dtypes, blocks of memory, and views of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from reverie.batch import Batch, StepBatch
from reverie.buffer import ReplayBuffer
from reverie.engine import Fields, Layout, is_read
from reverie.errors import BadSetting
from reverie.store import ALIGNMENT
from reverie.union import Union
from reverie.values import tree_leaves

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
    """Return a tensor that looks at the array's memory and keeps it alive; at a copy if torch cannot look at it."""
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


@cache
def tensor_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return the dtype of a tensor that looks at such an array."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def check_dtypes(buffer: Source, fields: Fields = None) -> Source:
    """Return `buffer` if its fields, or those that are read, can be tensors; raise BadSetting otherwise."""
    for column in buffer.spec.columns():
        if is_read(column.name, fields):
            check_dtype(column.name, column.field.dtype)
    return buffer


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Raise BadSetting if no tensor looks at an array of this dtype."""
    try:
        tensor_dtype(dtype)
    except (TypeError, ValueError) as error:  # of another byte order than the machine's: ValueError
        raise BadSetting(
            f"field {name!r}: wanted a dtype that torch has, got {dtype}; "
            f"declare the Field with another, or leave it out with fields="
        ) from error


def to_device(batch: TensorBatch | Batch | StepBatch, device: torch.device | str) -> Any:
    """Return a batch in tensors on a device; see `SequenceBatch.torch`. Of single steps it is a dict of tensors.

    Raises:
        BadSetting: no such device, or a field of a dtype that torch has not.
    """
    where = as_device(device)
    leaves = [(name[1:], leaf) for name, leaf in tree_leaves("", batch.as_dict())]
    for name, leaf in leaves:
        if not isinstance(leaf, (np.ndarray, torch.Tensor)):
            raise BadSetting(
                f"batch: wanted NumPy arrays or tensors, got {type(leaf).__name__} as {name!r}; "
                f"call torch() on the batch that sample() returned"
            )
        if isinstance(leaf, np.ndarray):
            check_dtype(name, leaf.dtype)
    if where.type == "cuda" and all(isinstance(leaf, np.ndarray) for _, leaf in leaves):
        tensors = iter(in_one_copy([leaf for _, leaf in leaves], pinned, where))
        return batch.map(lambda _: next(tensors))  # it goes through the leaves in the same order
    return batch.map(lambda leaf: (leaf if isinstance(leaf, torch.Tensor) else as_tensor(leaf)).to(where))


def pinned(nbytes: int) -> torch.Tensor:
    """Return (nbytes,) uint8 from torch's cache of pinned memory, which hands it out again only once it was copied."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


def in_one_copy(
    arrays: Sequence[npt.NDArray[Any]], allocate: Callable[[int], torch.Tensor], device: torch.device
) -> list[torch.Tensor]:
    """Return arrays on a device: all of them are put into one block on the host, which is copied without waiting.

    Args:
        arrays: of dtypes that torch has.
        allocate: returns (nbytes,) uint8 on the host.
        device: where to.
    """
    places = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)]).tolist()
    memory = allocate(places[-1])
    staged = memory.numpy()
    for place, array in zip(places, arrays, strict=False):
        np.ndarray(array.shape, array.dtype, staged, place)[...] = array
    block = memory.to(device, non_blocking=True)
    return [
        block.narrow(0, place, array.nbytes).view(tensor_dtype(array.dtype)).view(array.shape)
        for place, array in zip(places, arrays, strict=False)
    ]


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

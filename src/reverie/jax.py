"""A bridge to JAX: batches as arrays on a device, drawn and moved ahead of time."""

# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from reverie.errors import need

need("jax")  # says how to install it

import jax
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, contents, from_contents
from reverie.buffer import ReplayBuffer
from reverie.feeds import Feed, drawing
from reverie.samplers import Sampler
from reverie.union import Union

__all__ = ["Feed", "feed"]

ArrayBatch = Batch[jax.Array]


def feed(
    buffer: ReplayBuffer | Union,
    batch_size: int,
    length: int,
    *,
    device: jax.Device | jax.sharding.Sharding | None = None,
    sampler: Sampler | None = None,
    boundary: str = "inside",
    burn_in: int = 0,
    fields: Iterable[str] | None = None,
    stride: int = 1,
    prefetch: int = 2,
) -> Feed[Any, ArrayBatch]:
    """Return an iterator of batches on `device`, drawn and moved ahead of time in one background thread.

    The batches are those that `buffer.sample` would give, in that order, from the buffer as it is when they
    are drawn: up to `prefetch` batches before they are handed out. All have the same shapes, so a jitted
    function is compiled once, and they are pytrees: `step(params, batch)` may be jitted as it stands. On the
    CPU JAX may share the memory that the windows were gathered into; nothing writes there again.

    JAX keeps 32 bits of each number unless `jax_enable_x64` is set: int64 fields and ids come as int32,
    float64 as float32. `batch.host` has the addresses in full.

    Args:
        buffer: where the batches come from, a buffer or a union of some; other threads may add to it meanwhile.
        batch_size, length, sampler, boundary, burn_in, fields, stride: as for `buffer.sample`.
        device: where the arrays shall lie, a sharding included; None means JAX's default device.
        prefetch: batches kept ready, at least 1.

    Raises:
        BadSetting: an argument of the wrong kind or range.
    """
    _, draw = drawing(buffer, batch_size, length, boundary, sampler, burn_in, fields, stride)

    def put(array: npt.NDArray[Any]) -> jax.Array:
        placed: jax.Array = jax.device_put(array, device)
        return placed

    def make() -> ArrayBatch:
        # A fresh batch each time, never out=: its memory is used again only when no array looks at it.
        batch: ArrayBatch = draw().map(put)
        return batch

    return Feed(make, lambda made: made, prefetch)


def _flatten(batch: Any) -> tuple[tuple[Any, ...], tuple[tuple[str, ...], int]]:
    """Return the arrays alone: addresses in NumPy would compile a jitted function anew for each batch."""
    values = contents(batch)
    return tuple(values.values()), (tuple(values), batch.stride)


def _unflatten(kind: Any, notes: tuple[tuple[str, ...], int], parts: tuple[Any, ...]) -> ArrayBatch:
    names, stride = notes
    batch: ArrayBatch = from_contents(kind, dict(zip(names, parts, strict=True)), None, None, stride)
    return batch


for kind in (SequenceBatch, RowBatch):
    jax.tree_util.register_pytree_node(kind, _flatten, partial(_unflatten, kind))

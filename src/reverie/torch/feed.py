"""Feeds of tensor batches: plain ones to the CPU, and through pinned memory to CUDA devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from reverie.batch import Batch, without_fields
from reverie.buffer import ReplayBuffer
from reverie.engine import Layout
from reverie.feeds import Feed, drawing
from reverie.samplers import Sampler
from reverie.torch.tensors import TensorBatch, as_device, as_tensor, check_dtypes, views
from reverie.union import Union

SLOTS = 2  # pinned blocks: one is filled while the other one is copied


def feed(
    buffer: ReplayBuffer | Union,
    batch_size: int,
    length: int,
    *,
    device: torch.device | str,
    sampler: Sampler | None = None,
    boundary: str = "inside",
    burn_in: int = 0,
    fields: Iterable[str] | None = None,
    stride: int = 1,
    prefetch: int = 2,
) -> Feed[Any, TensorBatch]:
    """Return an iterator of batches on `device`, drawn ahead of time in one background thread.

    The batches are those that `buffer.sample` would give, in that order, from the buffer as it is when they
    are drawn: up to `prefetch` batches before they are handed out. They are yours: their memory is never
    written again. Frames arrive in the field's dtype; `batch.obs.float() / 255` makes floats on the device.

    To a CUDA device every batch travels in one copy, from pinned memory that is allocated once, on a stream
    of its own. The stream that is current when a batch is taken waits for that copy; a batch used on another
    stream needs `record_stream` there, as any tensor does. On the CPU nothing is copied: the tensors look at
    the memory that the windows were gathered into.

    Args:
        buffer: where the batches come from, a buffer or a union of some; other threads may add to it meanwhile.
        batch_size, length, sampler, boundary, burn_in, fields, stride: as for `buffer.sample`.
        device: where the tensors shall lie.
        prefetch: batches kept ready, at least 1.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a device that is not there.
    """
    wanted, draw = drawing(buffer, batch_size, length, boundary, sampler, burn_in, fields, stride)
    check_dtypes(buffer, wanted.fields)
    where = as_device(device)
    way: Plain | Pinned = Plain(draw, where)
    if where.type == "cuda":
        layouts = buffer.layouts if isinstance(buffer, Union) else buffer.engine.layouts
        layout = layouts.get(wanted.cross, wanted.batch_size, wanted.shown, fields=wanted.fields)
        way = Pinned(draw, layout, CudaCopies(where))
    return Feed(way.make, way.hand_over, prefetch)


class Plain:
    """The way to the CPU, and to devices without streams: a fresh batch, moved if it has to be.

    Args:
        draw: `buffer.sample` with all it needs.
        device: where the tensors shall lie.
    """

    def __init__(self, draw: Callable[[], Batch], device: torch.device) -> None:
        self._draw = draw
        self._device = device

    def make(self) -> TensorBatch:
        batch: TensorBatch = self._draw().map(lambda array: as_tensor(array).to(self._device))
        return batch

    def hand_over(self, made: TensorBatch) -> TensorBatch:
        return made


class OnItsWay(NamedTuple):
    """A batch that is being copied: where to, what says that it is there, and its flags and addresses."""

    block: torch.Tensor
    there: Any
    host: Batch


@dataclass(slots=True)
class Slot:
    """A pinned block, the batch laid out over it, and what says that its last copy is done."""

    memory: torch.Tensor
    batch: Batch
    copied: Any = None


class Pinned:
    """The way to a CUDA device: pinned slots that are filled in turn, and copied while the next one is filled.

    Args:
        draw: `buffer.sample` with all it needs but `out`.
        layout: where the arrays of a batch lie in a block.
        copies: allocates pinned blocks and copies them.
    """

    def __init__(self, draw: Callable[..., Batch], layout: Layout, copies: CudaCopies) -> None:
        self._draw = draw
        self._layout = layout
        self._copies = copies
        blocks = [copies.pinned(layout.nbytes) for _ in range(SLOTS)]
        self._slots = [Slot(block, layout.over(block.numpy())) for block in blocks]
        self._turn = 0

    def make(self) -> OnItsWay:
        slot = self._slots[self._turn]
        if slot.copied is not None:
            self._copies.wait(slot.copied)  # filling it now would change what is still being copied
        self._draw(out=slot.batch)
        # The turn passes only when a slot is used up: after an error the same one is filled.
        self._turn = (self._turn + 1) % SLOTS
        host = without_fields(slot.batch)
        block, slot.copied = self._copies.upload(slot.memory)
        return OnItsWay(block, slot.copied, host)

    def hand_over(self, made: OnItsWay) -> TensorBatch:
        self._copies.hand_over(made.block, made.there)
        return self._layout.build(views(self._layout, made.block), made.host)


class CudaCopies:
    """Copies from pinned memory to one CUDA device, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch left it so

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Return `nbytes` that the device can read by itself."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Begin to copy; return where to, and the event that says that it is done."""
        # A blocking event lets the thread sleep where it would spin, and steal a core, while it waits.
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch left it so
        with torch.cuda.stream(self._stream):
            block = memory.to(self._device, non_blocking=True)
            copied.record(self._stream)
        return block, copied

    def wait(self, copied: torch.cuda.Event) -> None:
        """Wait until a copy is done."""
        copied.synchronize()

    def hand_over(self, block: torch.Tensor, copied: torch.cuda.Event) -> None:
        """Let the current stream wait for a copy, and the block live until that stream is through with it."""
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_event(copied)
        # It was allocated for the copying stream, which would reuse it as soon as the last tensor is gone.
        block.record_stream(consumer)

"""A dataset for torch's DataLoader: every worker draws sequences of its own from one replay file."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Iterable, Iterator
from itertools import count as count_up
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from reverie import buffer as buffers
from reverie.batch import Batch, RowBatch, SequenceBatch, contents, from_contents, note_stride
from reverie.buffer import ReplayBuffer
from reverie.checks import natural, positive, seed_number
from reverie.engine import checked_fields, checked_stride, drawing, field_names, wanted
from reverie.errors import BadSetting
from reverie.index import check_boundary
from reverie.samplers import Sampler, check_sampler
from reverie.torch.tensors import TensorBatch, check_dtypes, views
from reverie.values import tree_map

MOST_WORKERS = 1024


def open_reader(path: str | os.PathLike[str]) -> ReplayBuffer:
    """Return a reader of the replay file at `path`."""
    # Every worker has one: what they read is shared by all in the system's cache, and in no worker's memory.
    return buffers.open(path, residency="disk", mode="r")


class SequenceDataset(IterableDataset[TensorBatch]):
    """Batches of sequences for a DataLoader, whole ones: give it `batch_size=None`.

        DataLoader(SequenceDataset("pong.replay", 64, 20, batches=1000), batch_size=None, num_workers=4)

    Every worker opens the replay file for itself, with residency="disk", and draws with random numbers of its
    own, a function of (seed, worker, epoch): workers never draw alike, and no epoch repeats an earlier one, with
    `persistent_workers` or without. The same seed and number of workers give the same batches again, and
    the dataset leaves the random state of the buffer as it was. A sampler that remembers something remembers
    it in each worker alone; `update_priorities` is for a `feed`, whose batches know who drew them.

    Args:
        source: the path of a replay file, or a buffer, with which `num_workers` must be 0.
        batch_size, length, boundary, sampler, burn_in, fields, stride: as for `buffer.sample`.
        seed: fixes every random choice; None takes one from the operating system.
        batches: batches of an epoch, of all workers together; None goes on for ever.

    Raises:
        BadSetting: an argument of the wrong kind or range.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ReplayBuffer,
        batch_size: int,
        length: int,
        *,
        boundary: str = "inside",
        sampler: Sampler | None = None,
        burn_in: int = 0,
        fields: Iterable[str] | None = None,
        stride: int = 1,
        seed: int | None = None,
        batches: int | None = None,
    ) -> None:
        super().__init__()
        self._source = source if isinstance(source, ReplayBuffer) else Path(source)
        length, burn_in = positive("length", length), natural("burn_in", burn_in)
        self._sizes = positive("batch_size", batch_size), length
        self._how: dict[str, Any] = {
            "boundary": check_boundary(boundary),
            "sampler": None if sampler is None else check_sampler("sampler", sampler),
            "burn_in": burn_in,
            "fields": field_names(fields),  # the file has the spec that says what there is
            "stride": checked_stride(length + burn_in, stride),
        }
        self._seed = seed_number(seed)
        self._batches = None if batches is None else positive("batches", batches)
        # worker -> epochs it has begun. In shared memory: a worker that lives for one epoch leaves its count.
        self._epochs = torch.zeros(MOST_WORKERS, dtype=torch.int64)
        self._epochs.share_memory_()  # type: ignore[no-untyped-call]  # torch left it so
        self._opened: tuple[int, ReplayBuffer] | None = None  # by which process, and what

    def __iter__(self) -> Iterator[TensorBatch]:
        """Yield the batches of one epoch, those of this worker."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if worker >= MOST_WORKERS:
            raise BadSetting(f"num_workers: wanted at most {MOST_WORKERS}, got {workers}; use fewer")
        epoch = int(self._epochs[worker])
        self._epochs[worker] += 1
        key = np.random.SeedSequence(self._seed, spawn_key=(worker, epoch))
        rng = np.random.Generator(np.random.Philox(key))
        buffer = self._reader()
        for _ in count_up() if self._batches is None else range(worker, self._batches, workers):
            yield self._draw(buffer, rng)

    def _draw(self, buffer: ReplayBuffer, rng: np.random.Generator) -> TensorBatch:
        how = wanted(buffer.spec, *self._sizes, **self._how)
        layout = buffer.engine.layouts.get(how.cross, how.batch_size, how.shown, fields=how.fields)
        block = torch.empty(layout.nbytes, dtype=torch.uint8)
        out = layout.over(block.numpy())
        engine = buffer.engine
        with drawing(engine, how.batch_size * how.length), engine.drawing_with(rng):
            engine.draw(how, out)
        batch: TensorBatch = layout.build(views(layout, block))
        note_stride(batch, how.stride)
        return batch

    def _reader(self) -> ReplayBuffer:
        if isinstance(self._source, ReplayBuffer):
            if get_worker_info() is not None:
                raise BadSetting(
                    "num_workers: wanted 0 with a buffer in memory, which workers cannot see change; "
                    "give the dataset the path of a replay file, or use reverie.torch.feed"
                )
            return self._checked(self._source)
        # An open file must not be used on the other side of a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._checked(open_reader(self._source))
        return self._opened[1]

    def _checked(self, buffer: ReplayBuffer) -> ReplayBuffer:
        return check_dtypes(buffer, checked_fields(buffer.spec, self._how["fields"]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


# --- from process to process -----------------------------------------------------------------------------


class Part(NamedTuple):
    """Where a tensor lies in the block of its batch."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _reduce(batch: TensorBatch) -> Any:
    """Send a batch that lies in one block as one block, once: each block costs a descriptor, or all of its bytes."""
    parts: dict[str, Any] = {}
    storages: dict[int, Any] = {}
    tensors: list[torch.Tensor] = []

    def place(tensor: torch.Tensor) -> Part:
        tensors.append(tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        offset = int(tensor.storage_offset()) * tensor.element_size()
        return Part(tensor.dtype, tuple(tensor.shape), offset, tensor.nbytes)

    if isinstance(batch.mask, torch.Tensor):
        parts = {name: tree_map(place, tree) for name, tree in contents(batch).items()}
    if len(storages) != 1 or not all(tensor.is_contiguous() for tensor in tensors):
        return batch.__reduce_ex__(2)
    block = torch.empty(0, dtype=torch.uint8, device=batch.mask.device).set_(storages.popitem()[1])
    # A batch that a worker made has no other one, and None need not travel.
    drawn = () if batch.drawn is None else (batch.drawn,)
    return _restore, (type(batch), parts, block, batch.stride, *drawn)


def _restore(
    kind: Any, parts: dict[str, Any], block: torch.Tensor, stride: int, drawn: Batch | None = None
) -> TensorBatch:
    def view(part: Part) -> torch.Tensor:
        return block.narrow(0, part.offset, part.nbytes).view(part.dtype).view(part.shape)

    values = {name: tree_map(view, tree) for name, tree in parts.items()}
    batch: TensorBatch = from_contents(kind, values, None, drawn, stride)
    return batch


copyreg.pickle(SequenceBatch, _reduce)
copyreg.pickle(RowBatch, _reduce)

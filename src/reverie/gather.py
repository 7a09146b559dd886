"""From addresses to arrays: lays out a batch in one block of memory and fills it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import SequenceBatch, StepBatch
from reverie.episodes import NO_FINAL, TERMINATED, TRUNCATED, EpisodeIndex, Ints
from reverie.errors import BadSetting
from reverie.memory import ALIGNMENT, Blocks
from reverie.ring import Finals, Ring
from reverie.spec import Column, StepSpec, tree_build, tree_leaves
from reverie.windows import Windows

Array = npt.NDArray[Any]


class Leaf(NamedTuple):
    """One array of a batch: its flat name, shape and dtype, and where it lies in the block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Layout:
    """Where each array of a batch of `batch` windows of `length` steps lies in one block of memory."""

    __slots__ = ("_tree", "leaves", "nbytes", "shape")

    def __init__(self, spec: StepSpec, batch: int, length: int) -> None:
        self._tree = spec
        self.shape = (batch, length)
        self.leaves: list[Leaf] = []
        self.nbytes = 0
        for column in spec.columns():
            steps = length + 1 if is_obs(column) else length
            self._place(column.name, (batch, steps, *column.field.shape), column.field.dtype)
        self._place("reward", (batch, length), np.dtype(np.float32))
        for name, steps in (("terminated", length), ("truncated", length), ("is_first", length + 1),
                            ("mask", length), ("obs_mask", length + 1)):  # fmt: skip
            self._place(name, (batch, steps), np.dtype(np.bool_))
        self._place("weight", (batch,), np.dtype(np.float32))
        self._place("stream", (batch,), np.dtype(np.int64))
        self._place("start", (batch,), np.dtype(np.int64))

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.leaves.append(Leaf(name, shape, dtype, self.nbytes))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.nbytes += -(-size // ALIGNMENT) * ALIGNMENT

    def allocate(self, blocks: Blocks) -> SequenceBatch:
        """Return a batch with unknown content."""
        block = blocks.take(self.nbytes)
        arrays = {leaf.name: np.ndarray(leaf.shape, leaf.dtype, block, leaf.offset) for leaf in self.leaves}
        spec = self._tree
        return SequenceBatch(
            obs=tree_build("obs", spec.obs, arrays),
            action=tree_build("action", spec.action, arrays),
            reward=arrays["reward"],
            terminated=arrays["terminated"],
            truncated=arrays["truncated"],
            is_first=arrays["is_first"],
            mask=arrays["mask"],
            obs_mask=arrays["obs_mask"],
            weight=arrays["weight"],
            stream=arrays["stream"],
            start=arrays["start"],
            extras={name: arrays[f"extras/{name}"] for name in spec.extras},
            _layout=self,
        )

    def check(self, out: object) -> SequenceBatch:
        """Return `out` if every array of it is one this layout would have made.

        Raises:
            BadSetting: `out` is no batch, or one of other sizes, dtypes or memory order.
        """
        if not isinstance(out, SequenceBatch):
            raise BadSetting(f"out: wanted a SequenceBatch, got {type(out).__name__}; pass an earlier batch")
        if out._layout is self:
            return out
        arrays = batch_arrays(out)
        for leaf in self.leaves:
            array = arrays.get(leaf.name)
            if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
                got = "none" if array is None else f"{array.shape} {array.dtype}"
                raise BadSetting(
                    f"out: wanted {leaf.name!r} of {leaf.shape} {leaf.dtype}, got {got}; "
                    f"pass a batch that sample() returned for the same batch_size and length"
                )
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise BadSetting(
                    f"out: wanted {leaf.name!r} contiguous and writable, got an array that is not; "
                    f"pass a batch as sample() returned it"
                )
        return out


def batch_arrays(batch: SequenceBatch) -> dict[str, Array]:
    """Return the arrays of a batch by flat name."""
    arrays = dict(tree_leaves("obs", batch.obs))
    arrays.update(tree_leaves("action", batch.action))
    arrays.update((f"extras/{name}", array) for name, array in batch.extras.items())
    for name in (
        "reward",
        "terminated",
        "truncated",
        "is_first",
        "mask",
        "obs_mask",
        "weight",
        "stream",
        "start",
    ):
        arrays[name] = getattr(batch, name)
    return arrays


def is_obs(column: Column) -> bool:
    """Whether a column belongs to the observation, and so has a successor and a final value."""
    return column.name == "obs" or column.name.startswith("obs/")


class Gatherer:
    """Fills batches from a store, its final observations and the episode index."""

    __slots__ = ("_columns", "_finals", "_index", "_store")

    def __init__(self, columns: tuple[Column, ...], index: EpisodeIndex, store: Ring, finals: Finals) -> None:
        self._columns = columns
        self._index = index
        self._store = store
        self._finals = finals

    def sequences(self, windows: Windows, batch: SequenceBatch) -> None:
        """Fill every array of `batch`, whose shape is that of `windows`."""
        index, length = self._index, windows.length
        slots = self._slots(windows)
        # An end inside the window can only be its last real step; its successor lies beside the ring.
        at_end = np.flatnonzero(windows.stop == index.stop.take(windows.row))
        if len(at_end):
            slots[at_end, length] = slots[at_end, length - 1]
        step_slots = np.ascontiguousarray(slots[:, :length])
        arrays = batch_arrays(batch)
        for column in self._columns:
            self._store.gather(column.name, slots if is_obs(column) else step_slots, arrays[column.name])
        self._store.gather("reward", step_slots, batch.reward)
        batch.terminated.fill(False)
        batch.truncated.fill(False)
        batch.is_first.fill(False)
        batch.mask.fill(True)
        batch.obs_mask.fill(True)
        batch.weight.fill(1.0)
        batch.stream[...] = windows.stream
        batch.start[...] = windows.start
        opens = np.flatnonzero(index.start.take(windows.row) == windows.first)
        if len(opens):
            batch.is_first[opens, windows.first[opens] - windows.start[opens]] = True
        if len(at_end):
            self._ends(windows, at_end, batch, arrays)

    def _slots(self, windows: Windows) -> Ints:
        """Return the slot of every step and of the id after the last one, (B, L+1)."""
        capacity = self._index.capacity
        slots = (windows.start % capacity)[:, None] + np.arange(windows.length + 1)
        if slots[:, -1].max() >= capacity:
            slots[slots >= capacity] -= capacity
        if self._index.streams > 1:
            slots += (windows.stream * capacity)[:, None]
        return slots

    def _ends(self, windows: Windows, at_end: Ints, batch: SequenceBatch, arrays: dict[str, Array]) -> None:
        """Mark the ends and put the final observations in their places."""
        index = self._index
        rows, last = windows.row[at_end], (windows.stop - windows.start)[at_end]
        ended = index.ended[rows]
        batch.terminated[at_end, last - 1] = ended & TERMINATED != 0
        batch.truncated[at_end, last - 1] = ended & TRUNCATED != 0
        places = index.final[rows]
        known = places != NO_FINAL
        batch.obs_mask[at_end, last] = known
        for name, column in self._finals.columns.items():
            arrays[name][at_end[known], last[known]] = column[places[known]]

    def steps(self, windows: Windows, spec: StepSpec) -> StepBatch:
        """Return single steps with their successors; the windows are of length 1."""
        index = self._index
        slots = self._slots(windows)
        at_end = np.flatnonzero(windows.stop == index.stop.take(windows.row))
        slots[at_end, 1] = slots[at_end, 0]
        here, after = np.ascontiguousarray(slots[:, 0]), np.ascontiguousarray(slots[:, 1])
        values: dict[str, Array] = {}
        following: dict[str, Array] = {}
        for column in self._columns:
            values[column.name] = self.rows(column, here)
            if is_obs(column):
                following[column.name] = self.rows(column, after)
        ended = np.zeros(len(here), np.int8)
        ended[at_end] = index.ended[windows.row[at_end]]
        places = index.final[windows.row[at_end]]
        known = places != NO_FINAL
        next_obs_mask = np.ones(len(here), np.bool_)
        next_obs_mask[at_end] = known
        for name, final in self._finals.columns.items():
            following[name][at_end[known]] = final[places[known]]
        reward = np.empty(len(here), np.float32)
        self._store.gather("reward", here, reward)
        return StepBatch(
            obs=tree_build("obs", spec.obs, values),
            action=tree_build("action", spec.action, values),
            reward=reward,
            terminated=ended & TERMINATED != 0,
            truncated=ended & TRUNCATED != 0,
            next_obs=tree_build("obs", spec.obs, following),
            next_obs_mask=next_obs_mask,
            stream=windows.stream.copy(),
            id=windows.start.copy(),
            extras={name: values[f"extras/{name}"] for name in spec.extras},
        )

    def rows(self, column: Column, slots: Ints) -> Array:
        """Return the column's rows at `slots`, as a fresh array."""
        out = np.empty((*slots.shape, *column.field.shape), column.field.dtype)
        self._store.gather(column.name, slots, out)
        return out

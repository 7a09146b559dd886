"""From addresses to arrays: lays out a batch in one block of memory and fills it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, StepBatch
from reverie.episodes import NO_FINAL, TERMINATED, TRUNCATED, EpisodeIndex, Ints
from reverie.errors import BadSetting
from reverie.memory import ALIGNMENT, Blocks
from reverie.spec import Column, StepSpec, tree_build, tree_leaves
from reverie.stores import FinalStore, Store
from reverie.windows import CrossWindows, Windows

Array = npt.NDArray[Any]

FLOAT, FLAG, ID = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)
# What a batch holds beside the fields of the spec: name, dtype, and what is added to L (None: no time axis).
SEQUENCE_LEAVES = (("reward", FLOAT, 0), ("terminated", FLAG, 0), ("truncated", FLAG, 0), ("is_first", FLAG, 1),
                   ("mask", FLAG, 0), ("obs_mask", FLAG, 1), ("train_mask", FLAG, 0), ("weight", FLOAT, None),
                   ("stream", ID, None), ("start", ID, None), ("anchor", ID, None))  # fmt: skip
ROW_LEAVES = (("reward", FLOAT, 0), ("is_first", FLAG, 0), ("is_last", FLAG, 0), ("is_terminal", FLAG, 0),
              ("mask", FLAG, 0), ("obs_mask", FLAG, 0), ("train_mask", FLAG, 0), ("weight", FLOAT, None),
              ("stream", ID, None), ("anchor", ID, None), ("id", ID, 0))  # fmt: skip


class Leaf(NamedTuple):
    """One array of a batch: its flat name, shape and dtype, and where it lies in the block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Layout:
    """Where each array of a batch of `batch` windows of `length` steps lies in one block of memory.

    Args:
        spec: the fields.
        kind: SequenceBatch, or RowBatch for windows that cross episodes.
        batch, length: windows, and steps or rows of each, context included.
    """

    __slots__ = ("_kind", "_others", "_spec", "leaves", "nbytes")

    def __init__(self, spec: StepSpec, kind: type[Batch], batch: int, length: int) -> None:
        self._spec = spec
        self._kind = kind
        self._others = SEQUENCE_LEAVES if kind is SequenceBatch else ROW_LEAVES
        self.leaves: list[Leaf] = []
        self.nbytes = 0
        for column in spec.columns():
            steps = length + 1 if is_obs(column) and kind is SequenceBatch else length
            self._place(column.name, (batch, steps, *column.field.shape), column.field.dtype)
        for name, dtype, more in self._others:
            self._place(name, (batch,) if more is None else (batch, length + more), dtype)

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.leaves.append(Leaf(name, shape, dtype, self.nbytes))
        size = math.prod(shape) * dtype.itemsize
        self.nbytes += -(-size // ALIGNMENT) * ALIGNMENT

    def allocate(self, blocks: Blocks) -> Batch:
        """Return a batch with unknown content."""
        return self.over(blocks.take(self.nbytes))

    def over(self, block: npt.NDArray[np.uint8]) -> Batch:
        """Return a batch whose arrays lie in `block`, `nbytes` bytes that somebody else allocated."""
        assert block.nbytes == self.nbytes
        arrays = {leaf.name: np.ndarray(leaf.shape, leaf.dtype, block, leaf.offset) for leaf in self.leaves}
        spec = self._spec
        others = {name: arrays[name] for name, _, _ in self._others}
        return self._kind(
            obs=tree_build("obs", spec.obs, arrays),
            action=tree_build("action", spec.action, arrays),
            extras={name: arrays[f"extras/{name}"] for name in spec.extras},
            _layout=self,
            **others,
        )

    def check(self, out: object) -> Batch:
        """Return `out` if every array of it is one this layout would have made.

        Raises:
            BadSetting: `out` is no such batch, or one of other sizes, dtypes or memory order.
        """
        if not isinstance(out, self._kind):
            name = self._kind.__name__
            raise BadSetting(
                f"out: wanted a {name}, got {type(out).__name__}; pass an earlier batch of that kind"
            )
        if out._layout is self:
            return out
        arrays = self.arrays(out)
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

    def arrays(self, batch: Batch) -> dict[str, Array]:
        """Return the arrays of a batch by flat name."""
        arrays = field_arrays(batch)
        for name, _, _ in self._others:
            arrays[name] = getattr(batch, name)
        return arrays


class Layouts:
    """Layouts by the sizes of their batches, remembered.

    Args:
        spec: the fields.
    """

    KEPT = 8  # a training loop uses two or three

    def __init__(self, spec: StepSpec) -> None:
        self._spec = spec
        self._known: dict[tuple[bool, int, int], Layout] = {}

    def get(self, cross: bool, batch: int, length: int, out: object = None) -> Layout:
        """Return the layout of `batch` windows of `length` steps, or rows where windows cross episodes.

        Raises:
            BadSetting: `out` is not None, and not laid out so.
        """
        layout = self._known.get((cross, batch, length))
        if layout is None:
            layout = Layout(self._spec, RowBatch if cross else SequenceBatch, batch, length)
            if len(self._known) >= self.KEPT:
                self._known.clear()
            self._known[cross, batch, length] = layout
        if out is not None:
            layout.check(out)
        return layout


def field_arrays(batch: Batch) -> dict[str, Array]:
    """Return the arrays of the spec's fields by flat name."""
    arrays = dict(tree_leaves("obs", batch.obs))
    arrays.update(tree_leaves("action", batch.action))
    for name, array in batch.extras.items():
        arrays[f"extras/{name}"] = array
    return arrays


def is_obs(column: Column) -> bool:
    """Whether a column belongs to the observation, and so has a successor and a final value."""
    return column.name == "obs" or column.name.startswith("obs/")


class Gatherer:
    """Fills batches from a store, its final observations and the episode index."""

    __slots__ = ("_columns", "_finals", "_index", "_store")

    def __init__(
        self, columns: tuple[Column, ...], index: EpisodeIndex, store: Store, finals: FinalStore
    ) -> None:
        self._columns = columns
        self._index = index
        self._store = store
        self._finals = finals

    def fill(
        self, windows: Windows | CrossWindows, batch: Batch, weight: npt.NDArray[Any] | None, sampler: object
    ) -> None:
        """Fill every array of `batch`, which was laid out for such windows.

        Args:
            windows: what to show.
            batch: where.
            weight: (B,) importance weights; None for ones.
            sampler: who drew them, for what a learner gives back later.
        """
        if isinstance(windows, Windows):
            assert isinstance(batch, SequenceBatch)
            self._sequences(windows, batch)
        else:
            assert isinstance(batch, RowBatch)
            self._rows(windows, batch)
        if weight is None:
            batch.weight.fill(1.0)
        else:
            batch.weight[...] = weight
        # Frozen for users; a batch that is filled again may come from another sampler than before.
        object.__setattr__(batch, "_sampler", sampler)

    # --- sequences inside one episode ------------------------------------------------------------------

    def _sequences(self, windows: Windows, batch: SequenceBatch) -> None:
        index, length = self._index, windows.length
        # An end inside the window can only be its last real step; its successor lies beside the ring.
        at_end = (windows.stop == index.stop.take(windows.row)).nonzero()[0]
        slots = self._slots(windows) if windows.whole else self._clipped_slots(windows, at_end)
        if windows.whole and len(at_end):
            slots[at_end, length] = slots[at_end, length - 1]
        step_slots = np.ascontiguousarray(slots[:, :length])
        arrays = field_arrays(batch)
        for column in self._columns:
            self._store.gather(column.name, slots if is_obs(column) else step_slots, arrays[column.name])
        self._store.gather("reward", step_slots, batch.reward)
        batch.terminated.fill(False)
        batch.truncated.fill(False)
        batch.is_first.fill(False)
        batch.stream[...] = windows.stream
        batch.start[...] = windows.start
        batch.anchor[...] = windows.anchor
        opens = (windows.first == index.start.take(windows.row)).nonzero()[0]
        if len(opens):
            batch.is_first[opens, windows.first[opens] - windows.start[opens]] = True
        if windows.whole:
            batch.mask.fill(True)
            batch.obs_mask.fill(True)
        else:
            self._blank_padding(windows, batch, arrays)
        batch.train_mask[...] = batch.mask
        if windows.burn_in:
            batch.train_mask[:, : windows.burn_in] = False
        if len(at_end):
            self._ends(windows, at_end, batch, arrays)

    def _slots(self, windows: Windows) -> Ints:
        """Return the slot of every step and of the id after the last one, (B, L+1), of whole windows."""
        capacity = self._index.capacity
        first = windows.start % capacity
        slots: Ints = first[:, None] + np.arange(windows.length + 1)
        if first.max() + windows.length >= capacity:
            slots[slots >= capacity] -= capacity
        if self._index.streams > 1:
            slots += (windows.stream * capacity)[:, None]
        return slots

    def _clipped_slots(self, windows: Windows, at_end: Ints) -> Ints:
        """Return slots (B, L+1) as above; on padding, and where no successor is stored, some live step's."""
        ids = windows.start[:, None] + np.arange(windows.length + 1)
        last = windows.stop.copy()
        last[at_end] -= 1
        np.clip(ids, windows.first[:, None], last[:, None], out=ids)
        return ids % self._index.capacity + (windows.stream * self._index.capacity)[:, None]

    def _blank_padding(self, windows: Windows, batch: SequenceBatch, arrays: Mapping[str, Array]) -> None:
        """Set the masks, and zero what they leave out."""
        ids = windows.start[:, None] + np.arange(windows.length + 1)
        begun = ids >= windows.first[:, None]
        np.logical_and(begun, ids <= windows.stop[:, None], out=batch.obs_mask)
        np.logical_and(begun[:, :-1], ids[:, :-1] < windows.stop[:, None], out=batch.mask)
        no_step, no_obs = ~batch.mask, ~batch.obs_mask
        for column in self._columns:
            arrays[column.name][no_obs if is_obs(column) else no_step] = 0
        batch.reward[no_step] = 0.0

    def _ends(
        self, windows: Windows, at_end: Ints, batch: SequenceBatch, arrays: Mapping[str, Array]
    ) -> None:
        """Mark the ends and put the final observations in their places."""
        index = self._index
        rows, last = windows.row[at_end], (windows.stop - windows.start)[at_end]
        ended = index.ended[rows]
        batch.terminated[at_end, last - 1] = ended & TERMINATED != 0
        batch.truncated[at_end, last - 1] = ended & TRUNCATED != 0
        places = index.final[rows]
        known = places != NO_FINAL
        batch.obs_mask[at_end, last] = known
        for column in self._columns:
            if is_obs(column):
                arrays[column.name][at_end[known], last[known]] = self._finals.gather(
                    column.name, places[known]
                )

    # --- rows that cross episodes ----------------------------------------------------------------------

    def _rows(self, windows: CrossWindows, batch: RowBatch) -> None:
        index = self._index
        row, closing, mask = windows.row, windows.closing, windows.mask
        base = (windows.stream * index.capacity)[:, None]
        anchor = windows.anchor[:, None]  # stands in where there is nothing to read
        # A closing row shows its episode's last frame until a final observation is put there.
        slots = base + np.where(mask, windows.id - closing, anchor) % index.capacity
        arrays = field_arrays(batch)
        for column in self._columns:
            out = arrays[column.name]
            self._store.gather(column.name, slots, out)
            out[~mask if is_obs(column) else ~mask | closing] = 0
        opens = (windows.id == index.start[row]) & mask
        # The reward that came with a row is that of the step before.
        none = opens | ~mask
        self._store.gather(
            "reward", base + np.where(none, anchor, windows.id - 1) % index.capacity, batch.reward
        )
        batch.reward[none] = 0.0
        batch.is_first[...] = opens
        batch.is_last[...] = closing
        batch.is_terminal[...] = closing & (index.ended[row] & TERMINATED != 0)
        batch.mask[...] = mask
        batch.train_mask[...] = mask
        batch.train_mask[:, : windows.burn_in] = False
        batch.stream[...] = windows.stream
        batch.anchor[...] = windows.anchor
        batch.id[...] = np.where(mask & ~closing, windows.id, -1)
        batch.obs_mask[...] = mask
        places = index.final[row]
        known = closing & (places != NO_FINAL)
        batch.obs_mask[closing & ~known] = False
        if known.any():
            for column in self._columns:
                if is_obs(column):
                    arrays[column.name][known] = self._finals.gather(column.name, places[known])

    # --- single steps ----------------------------------------------------------------------------------

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
            values[column.name] = self.values(column, here)
            if is_obs(column):
                following[column.name] = self.values(column, after)
        ended = np.zeros(len(here), np.int8)
        ended[at_end] = index.ended[windows.row[at_end]]
        places = index.final[windows.row[at_end]]
        known = places != NO_FINAL
        next_obs_mask = np.ones(len(here), np.bool_)
        next_obs_mask[at_end] = known
        for name, rows in following.items():
            rows[at_end[known]] = self._finals.gather(name, places[known])
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

    def values(self, column: Column, slots: Ints) -> Array:
        """Return the column's values at `slots`, as a fresh array."""
        out = np.empty((*slots.shape, *column.field.shape), column.field.dtype)
        self._store.gather(column.name, slots, out)
        return out

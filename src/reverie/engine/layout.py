"""Where each array of a batch lies: one block of memory, or an array each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import (
    ARRAYS,
    ArrayT,
    Batch,
    RowBatch,
    SequenceBatch,
    contents,
    from_contents,
    note_parts,
)
from reverie.engine.selection import Fields, is_read
from reverie.errors import BadSetting
from reverie.spec import StepSpec
from reverie.store import ALIGNMENT, RECYCLE_FROM, Blocks, check_room
from reverie.values import Tree, tree_build, tree_leaves

Array = npt.NDArray[Any]

# Flags of a SequenceBatch that stand side by side there, by what they mostly are.
OFF, ON = ("terminated", "truncated", "is_first"), ("mask", "obs_mask", "train_mask")
pick_off, pick_on = itemgetter(*OFF), itemgetter(*ON)


# Kind of batch -> what picks its arrays from all, in the order of its constructor.
PICK: dict[Any, itemgetter[Any]] = {
    kind: itemgetter(*(array.name for array in arrays)) for kind, arrays in ARRAYS.items()
}
WORK_BYTES = 32  # of integers, for each step of each window, while a batch is drawn and filled


class Leaf(NamedTuple):
    """One array of a batch: its flat name, shape and dtype, and where it lies in the block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Parts(NamedTuple):
    """The arrays of a batch, by what is done with them."""

    layout: Layout
    arrays: dict[str, Array]  # flat name -> array
    off: tuple[Array, ...]  # the flags that are mostly False
    on: tuple[Array, ...]  # the flags that are mostly True


class Layout:
    """Where each array of a batch of `batch` windows of `length` steps lies in one block of memory.

    Args:
        spec: the fields.
        kind: SequenceBatch, or RowBatch for windows that cross episodes.
        batch, length: windows, and steps or rows of each, context included.
        fields: the flat names of those that the batch shall have, "reward" included; None for all.

    Attributes:
        leaves, nbytes: the arrays, and the bytes of the block.
        reads: (name, whether it is an observation) of what is read from a store, rewards included.
        obs_names: the names of observations among these.
    """

    __slots__ = (
        "_kind",
        "_others",
        "_runs",
        "_spec",
        "_whole",
        "leaves",
        "nbytes",
        "obs_names",
        "reads",
    )

    def __init__(
        self, spec: StepSpec, kind: type[Batch], batch: int, length: int, fields: Fields = None
    ) -> None:
        self._spec = spec
        self._kind = kind
        self._whole = fields is None
        self._others = [
            array for array in ARRAYS[kind] if array.name != "reward" or is_read("reward", fields)
        ]
        columns = [column for column in spec.columns() if is_read(column.name, fields)]
        self.reads = [(column.name, column.is_obs) for column in columns]
        self.reads += [("reward", False)] if is_read("reward", fields) else []
        self.obs_names = [column.name for column in columns if column.is_obs]
        self.leaves: list[Leaf] = []
        self.nbytes = 0
        for column in columns:
            steps = length + 1 if column.is_obs and kind is SequenceBatch else length
            self._place(column.name, (batch, steps, *column.field.shape), column.field.dtype)
        for name, dtype, more in self._others:
            self._place(name, (batch,) if more is None else (batch, length + more), dtype)
        # Flags of a kind lie side by side: one call sets them all, and the gaps between them.
        ends = {leaf.name: (leaf.offset, leaf.offset + math.prod(leaf.shape)) for leaf in self.leaves}
        alike = (OFF, ON) if kind is SequenceBatch else ()
        self._runs = [slice(ends[names[0]][0], ends[names[-1]][1]) for names in alike]

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.leaves.append(Leaf(name, shape, dtype, self.nbytes))
        size = math.prod(shape) * dtype.itemsize
        self.nbytes += -(-size // ALIGNMENT) * ALIGNMENT

    def allocate(self, blocks: Blocks) -> Batch:
        """Return a batch with unknown content."""
        if self.nbytes >= RECYCLE_FROM:
            return self.over(blocks.take(self.nbytes))
        # The allocator serves what is small from warm memory, quicker than a view of a block is made.
        arrays = {name: np.empty(shape, dtype) for name, shape, dtype, _ in self.leaves}
        return self._batch(arrays, *self._flags(arrays))

    def over(self, block: npt.NDArray[np.uint8]) -> Batch:
        """Return a batch whose arrays lie in `block`, `nbytes` bytes that somebody else allocated."""
        assert block.nbytes == self.nbytes
        arrays = {name: np.ndarray(shape, dtype, block, place) for name, shape, dtype, place in self.leaves}
        return self._batch(arrays, *([(block[run],) for run in self._runs] or ((), ())))

    def _batch(self, arrays: dict[str, Array], off: tuple[Array, ...], on: tuple[Array, ...]) -> Batch:
        batch: Batch = self.build(arrays)
        note_parts(batch, Parts(self, arrays, off, on))
        return batch

    def build(self, arrays: Mapping[str, ArrayT], drawn: Batch | None = None) -> Batch[ArrayT]:
        """Return the batch that `arrays` hold under the flat names of `leaves`; `drawn` is as for `build`."""
        make = build if self._whole else build_partial
        return make(self._kind, self._spec, arrays, drawn)

    def _flags(self, arrays: dict[str, Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return (pick_off(arrays), pick_on(arrays)) if self._runs else ((), ())

    def parts(self, batch: Batch) -> Parts:
        """Return the arrays of a batch that was laid out so."""
        parts = batch.parts
        if isinstance(parts, Parts) and parts.layout is self:
            return parts
        arrays = self.arrays(batch)
        return Parts(self, arrays, *self._flags(arrays))

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
        parts = out.parts
        if isinstance(parts, Parts) and parts.layout is self:
            return out
        arrays = self.arrays(out)
        more = sorted(arrays.keys() - {leaf.name for leaf in self.leaves})
        if more:
            raise BadSetting(
                f"out: wanted a batch that has the fields to be read alone, got one with {more} as well; "
                f"pass a batch that sample() returned for the same fields="
            )
        for leaf in self.leaves:
            array: Any = arrays.get(leaf.name)
            got = "none" if array is None else f"a {type(array).__name__}"  # such as a tensor
            if isinstance(array, np.ndarray):
                got = "" if (array.shape, array.dtype) == leaf[1:3] else f"{array.shape} {array.dtype}"
            if got:
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
        return {name[1:]: array for name, array in tree_leaves("", contents(batch))}


class Layouts:
    """Layouts by the sizes of their batches, remembered.

    Args:
        spec: the fields.
    """

    KEPT = 64  # a training loop uses two or three; what a part of a union gives has another size each time

    def __init__(self, spec: StepSpec) -> None:
        self._spec = spec
        self._known: dict[tuple[bool, int, int, Fields], Layout] = {}

    def get(self, cross: bool, batch: int, length: int, out: object = None, fields: Fields = None) -> Layout:
        """Return the layout of `batch` windows of `length` steps, or rows where windows cross episodes.

        `fields` are as for a Layout.

        Raises:
            BadSetting: `out` is not None, and not laid out so.
            TooLarge: memory cannot hold such a batch.
        """
        layout = self._known.get((cross, batch, length, fields))
        if layout is None:
            layout = Layout(self._spec, RowBatch if cross else SequenceBatch, batch, length, fields)
            wanted = layout.nbytes + WORK_BYTES * batch * length
            check_room(wanted, f"batch of {batch:,} windows of {length:,} steps")
            if len(self._known) >= self.KEPT:
                self._known.clear()
            self._known[cross, batch, length, fields] = layout
        if out is not None:
            layout.check(out)
        return layout


def build(
    kind: type[Batch], spec: StepSpec, arrays: Mapping[str, ArrayT], drawn: Batch | None = None
) -> Batch[ArrayT]:
    """Return the batch of this kind that `arrays` hold under the flat names of a layout.

    Args:
        kind: SequenceBatch or RowBatch.
        spec: the fields.
        arrays: NumPy's, or those of a framework.
        drawn: on a device, the batch that was drawn, without its fields.
    """
    obs, action = tree_build("obs", spec.obs, arrays), tree_build("action", spec.action, arrays)
    extras = {name: arrays[f"extras/{name}"] for name in spec.extras}
    # By place, as both kinds of batch list them: half of what a small fresh batch costs are such calls.
    make: Any = kind
    batch: Batch[ArrayT] = make(obs, action, *PICK[kind](arrays), extras, None, drawn)
    return batch


def build_partial(
    kind: type[Batch], spec: StepSpec, arrays: Mapping[str, ArrayT], drawn: Batch | None = None
) -> Batch[ArrayT]:
    """Return the same where `arrays` lack some of the fields: the batch lacks them, too."""
    values: dict[str, Any] = {
        array.name: arrays[array.name] for array in ARRAYS[kind] if array.name in arrays
    }
    batch: Batch[ArrayT] = from_contents(kind, values | read_trees(spec, arrays), None, drawn)
    return batch


def read_trees(spec: StepSpec, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of "obs" and "action" of which something was read, and "extras" in any case."""
    likes = {"obs": spec.obs, "action": spec.action, "extras": spec.extras}
    trees = {name: partial_tree(name, like, arrays) for name, like in likes.items()}
    found = {name: tree for name, tree in trees.items() if tree is not None}
    return {"extras": {}, **found}


def partial_tree(name: str, like: Tree, arrays: Mapping[str, Any]) -> Any:
    """Return the leaves of a tree that `arrays` have, or None if they have none of them."""
    if not isinstance(like, Mapping):
        return arrays.get(name)
    children = {key: partial_tree(f"{name}/{key}", child, arrays) for key, child in like.items()}
    there = {key: child for key, child in children.items() if child is not None}
    return there or None

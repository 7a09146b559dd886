"""Batches whose arrays lie on a device: a SequenceBatch or RowBatch in a framework's own arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from reverie.batch import Batch, RowBatch
from reverie.engine import ROW_LEAVES, SEQUENCE_LEAVES
from reverie.errors import BadSetting
from reverie.spec import StepSpec, Tree, tree_build

A = TypeVar("A")  # the framework's array: torch.Tensor, jax.Array


class _Shared(Generic[A]):
    """What both kinds of batch can do."""

    __slots__ = ()
    _host: Batch | None
    stream: A

    @property
    def host(self) -> Batch:
        """The batch without its fields, in NumPy arrays of its own: what `update_priorities` and `write_back` take.

        Raises:
            BadSetting: the batch came from another process, or through a function that keeps arrays only.
        """
        if self._host is None:
            raise BadSetting(
                "host: wanted a batch of a feed or a mirror, got one that was made by a worker or inside a "
                "transformed function; keep the batch as the feed gave it"
            )
        return self._host

    def pin_memory(self) -> Any:
        """Return the batch in pinned memory: what a torch DataLoader with pin_memory=True calls."""
        return self.map(lambda array: array.pin_memory())  # type: ignore[attr-defined]  # torch alone has it

    def map(self, fn: Callable[[A], Any]) -> Any:
        """Return a batch whose every array is `fn` of this one's: `batch.map(lambda t: t.to("cuda"))`."""
        values = {}
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]  # both children are dataclasses
            if entry.name != "_host":
                values[entry.name] = tree_map(fn, getattr(self, entry.name))
        kind: Any = type(self)
        return kind(**values, _host=self._host)

    def __len__(self) -> int:
        return len(self.stream)  # type: ignore[arg-type]  # an array


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeviceSequences(_Shared[A]):
    """A SequenceBatch on a device: the same names, shapes and dtypes, in the framework's arrays.

    `host` is what `update_priorities` and `write_back` take. All other attributes: see `SequenceBatch`.
    """

    obs: Tree
    action: Tree
    reward: A
    terminated: A
    truncated: A
    is_first: A
    mask: A
    obs_mask: A
    train_mask: A
    weight: A
    stream: A
    start: A
    anchor: A
    extras: dict[str, A]
    _host: Batch | None = None

    def __repr__(self) -> str:
        batch, length = self.reward.shape  # type: ignore[attr-defined]  # an array
        return f"DeviceSequences({batch} windows of {length} steps)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DeviceRows(_Shared[A]):
    """A RowBatch on a device: the same names, shapes and dtypes, in the framework's arrays.

    `host` is what `update_priorities` and `write_back` take. All other attributes: see `RowBatch`.
    """

    obs: Tree
    action: Tree
    reward: A
    is_first: A
    is_last: A
    is_terminal: A
    mask: A
    obs_mask: A
    train_mask: A
    weight: A
    stream: A
    anchor: A
    id: A
    extras: dict[str, A]
    _host: Batch | None = None

    def __repr__(self) -> str:
        batch, length = self.reward.shape  # type: ignore[attr-defined]  # an array
        return f"DeviceRows({batch} windows of {length} rows)"


DeviceBatch = DeviceSequences[A] | DeviceRows[A]


def tree_map(fn: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the tree with `fn` of each leaf."""
    if isinstance(tree, Mapping):
        return {key: tree_map(fn, child) for key, child in tree.items()}
    return fn(tree)


def build(
    spec: StepSpec, arrays: Mapping[str, A], crosses: bool, host: Batch | None = None
) -> DeviceBatch[A]:
    """Return the batch that `arrays` hold under the flat names of a layout; of rows, if it crosses episodes."""
    kind: Any = DeviceRows if crosses else DeviceSequences
    leaves = ROW_LEAVES if crosses else SEQUENCE_LEAVES
    batch: DeviceBatch[A] = kind(
        obs=tree_build("obs", spec.obs, arrays),
        action=tree_build("action", spec.action, arrays),
        extras={name: arrays[f"extras/{name}"] for name in spec.extras},
        **{name: arrays[name] for name, _, _ in leaves},
        _host=host,
    )
    return batch


def convert(batch: Batch, fn: Callable[[Any], A]) -> DeviceBatch[A]:
    """Return a batch whose every array is `fn` of the NumPy array there."""
    crosses = isinstance(batch, RowBatch)
    kind: Any = DeviceRows if crosses else DeviceSequences
    leaves = ROW_LEAVES if crosses else SEQUENCE_LEAVES
    names = ("obs", "action", "extras", *(name for name, _, _ in leaves))
    converted: DeviceBatch[A] = kind(
        **{name: tree_map(fn, getattr(batch, name)) for name in names}, _host=without_fields(batch)
    )
    return converted


def without_fields(batch: Batch) -> Batch:
    """Return the batch's flags and addresses alone, copied."""
    leaves = ROW_LEAVES if isinstance(batch, RowBatch) else SEQUENCE_LEAVES
    copies: dict[str, Any] = {name: getattr(batch, name).copy() for name, _, _ in leaves}
    return dataclasses.replace(batch, obs={}, action={}, extras={}, **copies)

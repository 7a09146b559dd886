"""Batches: what sampling returns, and the addresses of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import methodcaller
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    get_origin,
    get_type_hints,
)

import numpy as np
import numpy.typing as npt

from reverie.batch.absent import MAY_LACK, Partial, has, lacking
from reverie.batch.frameworks import Looked, as_tensors
from reverie.batch.origin import Origin
from reverie.batch.trees import named, shown_trees
from reverie.errors import BadSetting, counted
from reverie.values import Tree, shown, tree_map

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Shaped(Protocol):
    """An array of any framework, as far as batches look at it."""

    @property
    def shape(self) -> tuple[int, ...]: ...


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # its default needs Python 3.13 elsewhere

    # SequenceBatch alone is one of NumPy arrays; SequenceBatch[torch.Tensor] lies on a device.
    ArrayT = TypeVar("ArrayT", bound=Shaped, default=npt.NDArray[Any])
else:
    from typing import TypeVar

    ArrayT = TypeVar("ArrayT")

# The dtypes of what a batch holds beside the fields of the spec, and how long its time axis is: L plus this.
FLOAT, FLAG, ID = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)
STEPS, STEPS_AND_LAST, NO_TIME = 0, 1, None


class _Windows(Partial, Generic[ArrayT], Looked):
    """What both kinds of batch can do, in the arrays of any framework."""

    __slots__ = ()
    is_first: ArrayT
    mask: ArrayT
    stream: ArrayT
    _stride: int
    _origin: Origin | None
    _parts: object
    _drawn: Batch | None

    @property
    def origin(self) -> Origin | None:
        """The buffer and the sampler that the batch came from; None on a device."""
        return self._origin

    @property
    def missing(self) -> tuple[int, ...]:
        """Shards of a sharded buffer that did not answer: the batch was drawn without them. None of other buffers."""
        origin = self._origin if self._drawn is None else self._drawn.origin
        return () if origin is None else origin.missing

    @property
    def parts(self) -> object:
        """The notes of the layout that made the batch. With them it is filled again without another check."""
        return self._parts

    @property
    def stride(self) -> int:
        """Steps from one position to the next, as `sample` was told."""
        return self._stride if self._drawn is None else self._drawn.stride

    @property
    def drawn(self) -> Batch | None:
        """On a device: the batch that was drawn, without its fields. None if it is not known."""
        return self._drawn

    @property
    def host(self) -> Batch:
        """The batch in NumPy arrays: what `update_priorities` and `write_back` take.

        A batch that `sample` returned is its own host. That of a batch on a device has no fields, only flags and
        addresses, in arrays of its own.

        Raises:
            BadSetting: the batch came from another process, or through a function that keeps arrays only.
        """
        if self._origin is not None:
            return self  # type: ignore[return-value]  # both children are batches, and only NumPy's have an origin
        if self._drawn is None:
            raise BadSetting(
                "host: wanted a batch of a feed or a mirror, got one that was made by a worker or inside a "
                "transformed function; keep the batch as the feed gave it"
            )
        return self._drawn

    def map(self, fn: Callable[[ArrayT], Any]) -> Any:
        """Return a batch whose every array is `fn` of this one's: `batch.map(lambda t: t.to("cuda"))`."""
        values = {name: tree_map(fn, tree) for name, tree in contents(self).items()}
        drawn = self._drawn if self._origin is None else without_fields(self.host)
        return from_contents(type(self), values, None, drawn, self._stride)

    def torch(self, device: object = "cpu") -> Any:
        """Return the batch in torch's tensors on a device: `batch.torch("cuda")`.

        On the CPU they look at the batch's own memory: what is written to one is in the other, and a batch that is
        filled again with `out=` changes them. To a CUDA device everything goes in one copy from pinned memory, which
        the stream that is current takes in its turn; nobody waits. `host` of what is returned is this batch's flags
        and addresses.

        Args:
            device: a torch.device, or its name.

        Raises:
            BadSetting: PyTorch is not installed, has no such device, or has not the dtype of a field.
        """
        return as_tensors(self, device)

    def as_dict(self) -> dict[str, Any]:
        """Return what the batch holds by name: arrays, and dicts of arrays. They are the same arrays."""
        return contents(self)

    def __getitem__(self, name: str) -> Any:
        """Return what has this name: `batch["reward"]`, `batch["obs/camera"]`, `batch["extras/latent"]`.

        Raises:
            FieldNotRead: the batch was drawn without it. KeyError: there is nothing of that name; the message lists
                what there is.
        """
        return named(self, name)

    def time_major(self) -> dict[str, Any]:
        """Return what the batch holds by name, with the time axis first where there is one: `(L, B, …)`.

        The arrays are views of the batch's. It is a dict and no batch, so that nobody takes one order for the other.
        """
        timeless = {array.name for array in ARRAYS[type(self)] if array.more is None}
        return {
            name: tree if name in timeless else tree_map(lambda leaf: leaf.swapaxes(0, 1), tree)
            for name, tree in contents(self).items()
        }

    def first_forced(self) -> Self:
        """Return the batch with `is_first` True at position 0 of every window, as DreamerV3's replay gives it.

        Its trainer then resets the state there (Hafner et al., 2023). Everything else is shared with this batch.
        """
        first = self.is_first
        if isinstance(first, np.ndarray):
            forced: Any = first.copy()
            forced[:, 0] = True
        elif hasattr(first, "at"):  # JAX
            forced = first.at[:, 0].set(True)
        else:
            forced = first.clone()  # type: ignore[attr-defined]  # a tensor
            forced[:, 0] = True
        return self._with(is_first=forced)

    def _with(self, **changes: Any) -> Self:
        """Return the batch with other contents under some names."""
        values = contents(self) | changes
        batch: Self = from_contents(type(self), values, self._origin, self._drawn, self._stride)
        return batch

    def pin_memory(self) -> Any:
        """Return the batch in pinned memory: what a torch DataLoader with pin_memory=True calls.

        A batch in NumPy arrays is returned as it is.
        """
        return self if self._origin is not None else self.map(methodcaller("pin_memory"))

    def __len__(self) -> int:
        return self.stream.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        # `parts` are left out: they describe the memory of these arrays.
        return from_contents, (type(self), contents(self), self._origin, self._drawn, self._stride)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SequenceBatch(_Windows[ArrayT]):
    """B windows of L steps. Axes come as batch, time, then the field's own.

    `sample` returns one of NumPy arrays. A feed, a mirror and a dataset return one of the same names, shapes and
    dtypes in the arrays of a framework, `SequenceBatch[torch.Tensor]` or `SequenceBatch[jax.Array]`. It pickles and
    copies, and its buffer takes what is learned from the copy as well.

    Attributes:
        obs: (B, L+1, …) the field's dtype, or a dict of such arrays. `obs[:, t]` is what step t saw,
            `obs[:, t + 1]` what it led to.
        action: (B, L, …) the field's dtype, or a dict of such arrays.
        reward: (B, L) float32.
        terminated, truncated: (B, L) bool; how a step ended its episode, if it did.
        is_first: (B, L+1) bool; the observation opens an episode.
        mask: (B, L) bool; False on padding.
        obs_mask: (B, L+1) bool; False where no true observation is known: on padding, and after an end
            whose final observation was never given (there the last frame stands, repeated).
        train_mask: (B, L) bool; `mask` without the context that burn_in= put in front.
        weight: (B,) float32 importance weights, ones unless the sampler says otherwise.
        stream, start: (B,) int64; the address of each window: its stream and the id at position 0, which
            lies before the episode where the window begins with padding.
        anchor: (B,) int64; the id of the step that the sampler drew.
        extras: the spec's extra fields by name, each (B, L, …).
    """

    obs: Tree
    action: Tree
    reward: Annotated[ArrayT, FLOAT, STEPS]
    terminated: Annotated[ArrayT, FLAG, STEPS]
    truncated: Annotated[ArrayT, FLAG, STEPS]
    is_first: Annotated[ArrayT, FLAG, STEPS_AND_LAST]
    mask: Annotated[ArrayT, FLAG, STEPS]
    obs_mask: Annotated[ArrayT, FLAG, STEPS_AND_LAST]
    train_mask: Annotated[ArrayT, FLAG, STEPS]
    weight: Annotated[ArrayT, FLOAT, NO_TIME]
    stream: Annotated[ArrayT, ID, NO_TIME]
    start: Annotated[ArrayT, ID, NO_TIME]
    anchor: Annotated[ArrayT, ID, NO_TIME]
    extras: dict[str, ArrayT]
    # For the buffer: see the properties. A changed copy has other arrays, so `_parts` stay behind.
    _parts: object = field(default=None, init=False)
    _origin: Origin | None = None
    _drawn: Batch | None = None
    _stride: int = 1

    def step_ids(self) -> Ints:
        """Return the id of the step at each position, (B, L) in NumPy; meaningless where `mask` is False."""
        start: Ints = self.host.start  # type: ignore[union-attr]  # the host is a SequenceBatch, too
        return start[:, None] + self.host.stride * np.arange(self.mask.shape[1])

    def __repr__(self) -> str:
        batch, length = self.mask.shape
        return shown_trees(
            f"SequenceBatch({counted(batch, 'window')} of {counted(length, 'step')}", contents(self)
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RowBatch(_Windows[ArrayT]):
    """B windows of L rows that run across episodes, as DreamerV3's replay gives them (boundary="cross").

    There is one row for every observation. A row holds what came with it, the reward and whether it ended
    the episode, and the action taken after it; the row that closes an episode has no action. On a device it has the
    arrays of a framework, as a SequenceBatch has.

    Attributes:
        obs: (B, L, …) the field's dtype, or a dict of such arrays.
        action: (B, L, …); what was done after seeing `obs`; zeros in closing rows.
        reward: (B, L) float32; what came with `obs`; 0 in the first row of an episode.
        is_first, is_last, is_terminal: (B, L) bool; the observation opens an episode; closes one, however
            it ended; closes one that terminated.
        mask: (B, L) bool; False on padding, which only burn_in= brings.
        obs_mask: (B, L) bool; False where no true observation is known: on padding, and in the closing row
            of an episode whose final observation was never given (there the last frame stands, repeated).
        train_mask: (B, L) bool; `mask` without the context that burn_in= put in front.
        weight: (B,) float32 importance weights.
        stream, anchor: (B,) int64; the stream, and the id of the step that the sampler drew: the first one
            after the context.
        id: (B, L) int64; the step of each row; -1 in closing rows and on padding.
        extras: the spec's extra fields by name, each (B, L, …); zeros in closing rows.
    """

    obs: Tree
    action: Tree
    reward: Annotated[ArrayT, FLOAT, STEPS]
    is_first: Annotated[ArrayT, FLAG, STEPS]
    is_last: Annotated[ArrayT, FLAG, STEPS]
    is_terminal: Annotated[ArrayT, FLAG, STEPS]
    mask: Annotated[ArrayT, FLAG, STEPS]
    obs_mask: Annotated[ArrayT, FLAG, STEPS]
    train_mask: Annotated[ArrayT, FLAG, STEPS]
    weight: Annotated[ArrayT, FLOAT, NO_TIME]
    stream: Annotated[ArrayT, ID, NO_TIME]
    anchor: Annotated[ArrayT, ID, NO_TIME]
    id: Annotated[ArrayT, ID, STEPS]
    extras: dict[str, ArrayT]
    # As in SequenceBatch.
    _parts: object = field(default=None, init=False)
    _origin: Origin | None = None
    _drawn: Batch | None = None
    _stride: int = 1

    def step_ids(self) -> Ints:
        """Return the id of the step at each position, (B, L) in NumPy; -1 where there is none."""
        ids: Ints = self.host.id  # type: ignore[union-attr]  # the host is a RowBatch, too
        return ids

    def __repr__(self) -> str:
        batch, length = self.mask.shape
        return shown_trees(f"RowBatch({counted(batch, 'window')} of {counted(length, 'row')}", contents(self))


Batch = SequenceBatch[ArrayT] | RowBatch[ArrayT]


class BatchArray(NamedTuple):
    """One array that a batch holds beside the fields of the spec.

    Attributes:
        name: the attribute.
        dtype: of its elements.
        more: what its time axis is longer than L; None: it has no time axis.
    """

    name: str
    dtype: np.dtype[Any]
    more: int | None


def _arrays_of(kind: type[Any]) -> tuple[BatchArray, ...]:
    hints = get_type_hints(kind, include_extras=True)
    told = ((entry.name, hints[entry.name]) for entry in fields(kind))
    return tuple(BatchArray(name, *hint.__metadata__) for name, hint in told if get_origin(hint) is Annotated)


# Kind of batch -> the arrays that its class declares, in its order. Layouts, copies and reserved names come from here.
ARRAYS: dict[Any, tuple[BatchArray, ...]] = {kind: _arrays_of(kind) for kind in (SequenceBatch, RowBatch)}


def contents(batch: _Windows[Any]) -> dict[str, Any]:
    """Return what a batch holds by name, in the order of its constructor: arrays, and trees of arrays."""
    names = ("obs", "action", *(array.name for array in ARRAYS[type(batch)]), "extras")
    return {name: getattr(batch, name) for name in names if name not in MAY_LACK or has(batch, name)}


def from_contents(kind: Any, values: Mapping[str, Any], *notes: Any) -> Any:
    """Return the batch of this kind that holds what `contents` gave; it lacks the fields that are not there.

    Args:
        kind: SequenceBatch, RowBatch, or StepBatch, which has no notes.
        values: arrays, and trees of arrays, by name.
        *notes: the origin, the batch that was drawn, and the stride, as far as they are known.
    """
    absent = [name for name in lacking(kind) if name not in values]
    noted = dict(zip(("_origin", "_drawn", "_stride"), notes, strict=False))
    batch = kind(**values, **dict.fromkeys(absent), **noted)
    for name in absent:
        object.__delattr__(batch, name)
    return batch


def without_fields(batch: Batch) -> Batch:
    """Return the batch's flags and addresses alone, copied, and its rewards if it has them."""
    there = contents(batch)
    copies: dict[str, Any] = {name: there[name].copy() for name, *_ in ARRAYS[type(batch)] if name in there}
    values = {"obs": {}, "action": {}, "extras": {}, **copies}
    alone: Batch = from_contents(type(batch), values, batch.origin, batch.drawn, batch.stride)
    return alone


def note_parts(batch: Batch, parts: object) -> None:
    """Set `parts` of a batch, which is frozen for its users."""
    object.__setattr__(batch, "_parts", parts)


def note_origin(batch: Batch, origin: Origin, stride: int) -> None:
    """Set `origin` and `stride` of a batch: one that is filled again may have been drawn otherwise before."""
    object.__setattr__(batch, "_origin", origin)
    note_stride(batch, stride)


def note_stride(batch: Batch[Any], stride: int) -> None:
    """Set `stride` of a batch."""
    object.__setattr__(batch, "_stride", stride)


def check_batch(value: object, buffer: str) -> Batch:
    """Return `value` if it is what `sample` of the buffer of this name returned, or a copy of it.

    Raises:
        BadSetting: it is no such batch, or one of another buffer.
    """
    if not isinstance(value, (SequenceBatch, RowBatch)) or value.origin is None:
        raise BadSetting(
            f"batch: wanted a batch as sample() returned it, got {shown(value)}; single steps have no window, "
            f"and of a batch on a device pass batch.host"
        )
    if value.origin.buffer != buffer:
        raise BadSetting(
            "batch: wanted one that this buffer drew, got one of another buffer, whose steps are others; "
            "pass it to the buffer whose sample() returned it"
        )
    return value

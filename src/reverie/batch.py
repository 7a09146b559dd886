"""What sampling hands back: sequences, single steps, the addresses they came from, and whose they are."""

from __future__ import annotations

import secrets
import weakref
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.spec import Tree
from reverie.values import shown

KEPT = 8  # samplers of a buffer that a batch from another process may still name


class Origin:
    """One buffer and one of its samplers.

    Copied and pickled it is the two names alone. Unpickled in the process of the buffer it is the origin that was
    pickled, sampler included; in any other it has no sampler.

    Attributes:
        buffer: the name of the buffer, which no other buffer has, here or elsewhere.
        number: that of the sampler in the buffer.
        sampler: the object itself, if it is in this process.
    """

    __slots__ = ("__weakref__", "buffer", "number", "sampler")

    def __init__(self, buffer: str, number: int, sampler: object = None) -> None:
        self.buffer, self.number, self.sampler = buffer, number, sampler

    def __copy__(self) -> Origin:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _found, (self.buffer, self.number)


# The origins whose samplers are in this process, by buffer and number.
_here: weakref.WeakValueDictionary[tuple[str, int], Origin] = weakref.WeakValueDictionary()


def _found(buffer: str, number: int) -> Origin:
    origin = _here.get((buffer, number))
    return Origin(buffer, number) if origin is None else origin


class Origins:
    """The origins of one buffer's batches; those of its last samplers are kept, as a batch keeps its own.

    Attributes:
        buffer: the name of the buffer.
    """

    __slots__ = ("_count", "_known", "_last", "buffer")

    def __init__(self) -> None:
        self.buffer = secrets.token_hex(16)
        self._known: dict[
            int, Origin
        ] = {}  # id of a sampler, which lives as long as it stands here -> its origin
        self._last = Origin(self.buffer, 0)
        self._count = 1

    def of(self, sampler: object) -> Origin:
        """Return the origin of what `sampler` draws now."""
        if self._last.sampler is sampler:
            return self._last
        origin = self._known.pop(id(sampler), None)
        if origin is None:
            origin = Origin(self.buffer, self._count, sampler)
            self._count += 1
            _here[self.buffer, origin.number] = origin
        self._known[id(sampler)] = self._last = origin  # the last one drawn with stands last
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return origin


Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class _Carried:
    """Pickles and copies without what only its layout knows: that speaks of the memory the arrays had."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, entry.name) for entry in fields(self) if entry.init)  # type: ignore[arg-type]
        return type(self), values


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SequenceBatch(_Carried):
    """B windows of L steps. Axes come as batch, time, then the field's own.

    It pickles and copies, and its buffer takes what is learned from the copy as well.

    Attributes:
        obs: (B, L+1, …) the field's dtype, or a dict of such arrays. `obs[:, t]` is what step t saw,
            `obs[:, t + 1]` what came of it.
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
    reward: Floats
    terminated: Bools
    truncated: Bools
    is_first: Bools
    mask: Bools
    obs_mask: Bools
    train_mask: Bools
    weight: Floats
    stream: Ints
    start: Ints
    anchor: Ints
    extras: dict[str, npt.NDArray[Any]]
    # What the layout that made this batch knows of it: such a batch may be filled again without another look.
    _parts: object = field(default=None, init=False)
    _origin: Origin | None = field(default=None)  # whose it is, and who takes what is learned from it

    def step_ids(self) -> Ints:
        """Return the id of the step at each position, (B, L); meaningless where `mask` is False."""
        return self.start[:, None] + np.arange(self.reward.shape[1])

    def __len__(self) -> int:
        return len(self.stream)

    def __repr__(self) -> str:
        batch, length = self.reward.shape
        return f"SequenceBatch({batch} windows of {length} steps)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RowBatch(_Carried):
    """B windows of L rows that run across episodes, as DreamerV3's replay gives them (boundary="cross").

    There is one row for every observation. A row holds what came with it, the reward and whether it ended
    the episode, and the action taken after it; the row that closes an episode has no action.

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
    reward: Floats
    is_first: Bools
    is_last: Bools
    is_terminal: Bools
    mask: Bools
    obs_mask: Bools
    train_mask: Bools
    weight: Floats
    stream: Ints
    anchor: Ints
    id: Ints
    extras: dict[str, npt.NDArray[Any]]
    _parts: object = field(default=None, init=False)  # as in SequenceBatch
    _origin: Origin | None = field(default=None)

    def step_ids(self) -> Ints:
        """Return the id of the step at each position, (B, L); -1 where there is none."""
        return self.id

    def __len__(self) -> int:
        return len(self.stream)

    def __repr__(self) -> str:
        batch, length = self.reward.shape
        return f"RowBatch({batch} windows of {length} rows)"


Batch = SequenceBatch | RowBatch


def check_batch(value: object, buffer: str) -> Batch:
    """Return `value` if it is what `sample` of the buffer of this name returned, or a copy of it.

    Raises:
        BadSetting: it is no such batch, or one of another buffer.
    """
    if not isinstance(value, (SequenceBatch, RowBatch)) or value._origin is None:
        raise BadSetting(
            f"batch: wanted a batch as sample() returned it, got {shown(value)}; single steps have no window, "
            f"and of a batch on a device pass batch.host"
        )
    if value._origin.buffer != buffer:
        raise BadSetting(
            "batch: wanted one that this buffer drew, got one of another buffer, whose steps are others; "
            "pass it to the buffer whose sample() returned it"
        )
    return value


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepBatch:
    """B single steps with their successors: `SequenceBatch` for L = 1, without the time axis.

    Attributes:
        obs, next_obs: (B, …) the field's dtype, or dicts of such arrays.
        action: (B, …); reward: (B,) float32; terminated, truncated: (B,) bool.
        next_obs_mask: (B,) bool; False where the final observation was never given.
        stream, id: (B,) int64; the address of each step.
        extras: the spec's extra fields by name, each (B, …).
    """

    obs: Tree
    action: Tree
    reward: Floats
    terminated: Bools
    truncated: Bools
    next_obs: Tree
    next_obs_mask: Bools
    stream: Ints
    id: Ints
    extras: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.stream)

    def __repr__(self) -> str:
        return f"StepBatch({len(self)} steps)"

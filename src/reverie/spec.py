"""What a step looks like: shapes and dtypes, checked at the door before a byte is written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, SpecMismatch
from reverie.limits import MOST_AXES, field_dtype

# The fields every step has. Extra fields may take none of these names, nor those that a batch adds.
STEP_FIELDS = ("obs", "action", "reward", "terminated", "truncated")
RESERVED = frozenset({*STEP_FIELDS, "final_obs", "stream", "start", "is_first", "is_last", "is_terminal",
                      "mask", "obs_mask", "train_mask", "weight", "extras"})  # fmt: skip

MOST_VALUES = 2**100  # of one step: no machine has so many, and yet they can be told

Tree = Any  # one array, or a (nested) dict of arrays: Python cannot name the recursion usefully


class Field:
    """One array of a step: its shape without batch or time axes, and its dtype.

    Args:
        shape: the shape of one step's value; `()` for a scalar.
        dtype: any fixed-size boolean, integer or floating NumPy dtype.

    Raises:
        BadSetting: a negative, zero or fractional axis, or a dtype that has no fixed plain bytes.
    """

    __slots__ = ("_row_bytes", "dtype", "integers", "shape")

    def __init__(self, shape: tuple[int, ...] | list[int] | int, dtype: npt.DTypeLike) -> None:
        axes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        for axis in axes:
            if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or axis < 1:
                raise BadSetting(
                    f"Field: wanted a shape of positive integers, got {shape!r}; "
                    f"leave out batch and time axes, and use () for a scalar"
                )
        if len(axes) > MOST_AXES or math.prod(map(int, axes)) > MOST_VALUES:
            raise BadSetting(
                f"Field: wanted at most {MOST_AXES} axes and 2**100 values, got more; store less in a step"
            )
        try:
            self.dtype = np.dtype(dtype)
        except TypeError as error:
            raise BadSetting(
                f"Field: wanted a NumPy dtype, got {dtype!r}; name one, such as 'uint8' or 'float32'"
            ) from error
        if self.dtype.kind not in "biuf":
            raise BadSetting(
                f"Field: wanted a boolean, integer or floating dtype, got {self.dtype}; "
                f"encode the value as numbers first"
            )
        self.dtype = self.dtype.newbyteorder("=")
        self.shape = tuple(int(axis) for axis in axes)
        # What a Python integer may be, where the value is one integer: the commonest action there is.
        limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" and not self.shape else None
        self.integers = range(int(limits.min), int(limits.max) + 1) if limits else range(0)
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of one step's value."""
        return self._row_bytes

    def __repr__(self) -> str:
        return f"Field({self.shape}, {self.dtype.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and (self.shape, self.dtype) == (other.shape, other.dtype)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def validate(self, name: str, value: Any, lead: tuple[int, ...] = ()) -> Any:
        """Return `value` as something of shape `lead + self.shape` whose cast to the dtype loses nothing.

        A NumPy array must have the field's dtype or one that casts to it safely; Python numbers and lists
        of them are taken when the dtype can hold every value.

        Raises:
            SpecMismatch: shape or dtype differ; the message says what was wanted, what came, and the remedy.
        """
        if type(value) is int and value in self.integers and not lead:
            return value
        want = lead + self.shape
        if type(value) is np.ndarray and value.dtype == self.dtype and value.shape == want:
            return value
        if isinstance(value, np.ma.MaskedArray):
            raise SpecMismatch(
                f"field {name!r}: wanted an array, got a masked one; fill the masked places with .filled()"
            )
        plain = not hasattr(value, "dtype")  # Python numbers and lists carry no dtype of their own
        array = numeric_array(name, value)
        if array.shape != want:
            raise SpecMismatch(
                f"field {name!r}: wanted shape {want}, got {array.shape}; {_shape_remedy(array.shape, want)}"
            )
        if np.can_cast(array.dtype, self.dtype, "safe"):
            return array
        if plain and _holds(array, self.dtype):
            return array
        raise SpecMismatch(
            f"field {name!r}: wanted dtype {self.dtype}, got {array.dtype}; {self._dtype_remedy(array, plain)}"
        )

    def _dtype_remedy(self, array: npt.NDArray[Any], plain: bool) -> str:
        if plain:
            return f"not every value fits into {self.dtype}: check the range, or declare a wider Field"
        if self.dtype == np.uint8 and array.dtype.kind == "f":
            return "pass the frame as uint8 in 0..255, before any scaling to floats"
        wider = f"Field({self.shape}, {array.dtype.name!r})"
        return f"convert it first with .astype({self.dtype.name!r}), or declare {wider}"


def numeric_array(name: str, value: object) -> npt.NDArray[Any]:
    """Return `value` as a numeric array, naming the field when it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecMismatch(
            f"field {name!r}: wanted an array, got {type(value).__name__} ({error}); "
            f"pass a NumPy array, on the CPU"
        ) from error
    if array.dtype.kind not in "biuf":
        raise SpecMismatch(
            f"field {name!r}: wanted numbers, got {type(value).__name__} of dtype {array.dtype}; "
            f"pass a NumPy array of numbers"
        )
    return array


def _holds(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether Python numbers fit: integers exactly, floats into any float."""
    if dtype.kind == "f":
        # Python floats are doubles by accident of the language: rounding them is what everyone expects.
        with np.errstate(over="ignore"):
            return bool((np.isfinite(array.astype(dtype)) == np.isfinite(array)).all())
    if array.dtype.kind not in "biu" or dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _shape_remedy(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if len(got) == len(want) + 1 and got[1:] == want:
        return "pass one step, without a batch axis, or use add_batch with one row per stream"
    if len(got) == 3 and len(want) == 3 and got == (want[1], want[2], want[0]):
        return "channels come first here: transpose with np.moveaxis(frame, -1, 0), or declare the Field so"
    return "pass exactly that shape: nothing is broadcast"


class Column(NamedTuple):
    """One leaf of the spec as the stores see it: a flat name and its field."""

    name: str  # "obs", or "obs/camera" for a leaf of a dict, "extras/logits" for an extra field
    field: Field


class StepSpec:
    """The fields of a step.

    Args:
        obs: a Field, or a (nested) dict of Fields.
        action: a Field, or a (nested) dict of Fields.
        extras: further per-step fields by name, such as `{"logits": Field((18,), "float32")}`. They are
            passed to `add` by keyword and come back in `batch.extras`.

    Raises:
        BadSetting: something that is no Field, an empty dict, or a name that is taken or unusable.
    """

    __slots__ = ("action", "extras", "obs")

    def __init__(self, obs: Tree, action: Tree, extras: Mapping[str, Field] | None = None) -> None:
        _check_tree("obs", obs)
        _check_tree("action", action)
        self.obs = obs
        self.action = action
        self.extras: dict[str, Field] = dict(extras or {})
        for name, field in self.extras.items():
            if name in RESERVED:
                raise BadSetting(
                    f"extras: wanted a free name, got {name!r}, which steps or batches use; choose another"
                )
            if not isinstance(name, str) or not name.isidentifier():
                raise BadSetting(f"extras: wanted names that are Python identifiers, got {name!r}; rename it")
            _check_tree(name, field, nested=False)

    @classmethod
    def from_env(cls, env: Any, extras: Mapping[str, Field] | None = None) -> StepSpec:
        """Return the spec of a Gymnasium environment, single or vector, from its spaces.

        Box, Discrete, MultiDiscrete, MultiBinary and (nested) Dict spaces are understood.

        Raises:
            BadSetting: a space of another kind.
        """
        # A vector environment keeps the space of one lane under `single_…`; duck typing avoids the import.
        obs = getattr(env, "single_observation_space", None) or env.observation_space
        action = getattr(env, "single_action_space", None) or env.action_space
        return cls(_field_of_space("obs", obs), _field_of_space("action", action), extras)

    def columns(self) -> tuple[Column, ...]:
        """Return every leaf, observations first, then actions, then extras, as flat named columns."""
        leaves = [*tree_leaves("obs", self.obs), *tree_leaves("action", self.action)]
        leaves += [(f"extras/{name}", field) for name, field in self.extras.items()]
        return tuple(Column(name, field) for name, field in leaves)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values; `from_json` takes them back."""
        return {"obs": _tree_to_json(self.obs), "action": _tree_to_json(self.action),
                "extras": _tree_to_json(self.extras)}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepSpec:
        """Return the spec that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: it described none.
        """
        return cls(*(_tree_from_json(value[name]) for name in ("obs", "action", "extras")))

    def __repr__(self) -> str:
        extras = f", extras={self.extras!r}" if self.extras else ""
        return f"StepSpec(obs={self.obs!r}, action={self.action!r}{extras})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepSpec) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # holds dicts


def tree_leaves(name: str, tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yield `(flat name, leaf)` of an array or nested dict, in the dict's own order."""
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            yield from tree_leaves(f"{name}/{key}", child)
    else:
        yield name, tree


def tree_build(name: str, like: Tree, leaves: Mapping[str, Any]) -> Tree:
    """Return a tree shaped as `like` whose leaves are looked up in `leaves` by flat name."""
    if isinstance(like, Mapping):
        return {key: tree_build(f"{name}/{key}", child, leaves) for key, child in like.items()}
    return leaves[name]


def flatten_value(name: str, spec: Tree, value: Tree, out: dict[str, Any]) -> None:
    """Put the leaves of `value` into `out` by flat name; its keys must be exactly those of `spec`.

    Raises:
        SpecMismatch: a key is missing or unknown, or a dict came where an array was wanted (or the reverse).
    """
    if type(spec) is Field:
        if isinstance(value, dict):
            raise SpecMismatch(
                f"field {name!r}: wanted one array, got a dict with keys {sorted(map(str, value))}; "
                f"pass the array alone, or declare a dict of Fields"
            )
        out[name] = value
        return
    if not isinstance(value, Mapping) or value.keys() != spec.keys():
        got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise SpecMismatch(
            f"field {name!r}: wanted a dict with keys {sorted(spec)}, got {got}; pass exactly these keys"
        )
    for key, child in spec.items():
        flatten_value(f"{name}/{key}", child, value[key], out)


def _check_tree(name: str, tree: Tree, nested: bool = True) -> None:
    if isinstance(tree, Field):
        return
    if not nested or not isinstance(tree, Mapping) or not tree:
        wanted = "a Field or a non-empty dict of Fields" if nested else "a Field"
        raise BadSetting(
            f"{name}: wanted {wanted}, got {tree!r}; write for example Field((3, 64, 64), 'uint8')"
        )
    for key, child in tree.items():
        if not isinstance(key, str) or not re.fullmatch(r"\w+", key):
            raise BadSetting(f"{name}: wanted keys of letters, digits and _, got {key!r}; rename the key")
        _check_tree(f"{name}/{key}", child)


def _field_of_space(name: str, space: Any) -> Tree:
    kind = type(space).__name__
    if kind == "Dict":
        return {key: _field_of_space(f"{name}/{key}", child) for key, child in space.spaces.items()}
    if kind in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        return Field(tuple(space.shape), space.dtype)
    raise BadSetting(
        f"{name}: wanted a Box, Discrete, MultiDiscrete, MultiBinary or Dict space, got {space!r}; "
        f"wrap the environment, or write the StepSpec by hand"
    )


def _tree_to_json(tree: Tree) -> Any:
    if isinstance(tree, Mapping):
        return {key: _tree_to_json(child) for key, child in tree.items()}
    return [list(tree.shape), tree.dtype.str]


def _tree_from_json(value: Any) -> Tree:
    if isinstance(value, Mapping):
        return {key: _tree_from_json(child) for key, child in value.items()}
    shape, dtype = value
    if type(shape) is not list:
        raise ValueError(f"wanted a shape, got {str(shape)[:40]}")
    return Field(shape, field_dtype(dtype))

"""What a step looks like: shapes and dtypes, checked at the door before a byte is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import ARRAYS
from reverie.errors import BadSetting, SpecMismatch
from reverie.values import MOST, MOST_AXES, Tree, field_dtype, fits, numeric_array, shown, tree_leaves

STEP_FIELDS = ("obs", "action", "reward", "terminated", "truncated")  # every step has them
# Extra fields may take none of these names. "anchor" and "id" are free, and stay so: files have such fields.
RESERVED = frozenset({*STEP_FIELDS, "final_obs", "extras"}).union(
    array.name for arrays in ARRAYS.values() for array in arrays
) - {"anchor", "id"}

MOST_VALUES = 2**100  # of one step: no machine has so many, and yet they can be told


class Field:
    """One array of a step: its shape without batch or time axes, and its dtype.

    What it takes must fit without loss: an array of its dtype or of one that casts to it safely, and integers
    that it holds exactly. Python floats, and lists of them, are rounded to a narrower float. NaN and infinity
    are stored like any other float, unless `finite` refuses them.

    Args:
        shape: the shape of one step's value; `()` for a scalar.
        dtype: any fixed-size boolean, integer or floating NumPy dtype.
        cast: also take wider floats, and round them to this floating dtype; integers must still be held exactly,
            and a finite number that would become infinity is refused. For float64 spaces kept as float32.
        finite: refuse NaN and infinity in this floating field.

    Raises:
        BadSetting: a negative, zero or fractional axis, a dtype that has no fixed plain bytes, or an option that
            only floating dtypes have.
    """

    __slots__ = ("_row_bytes", "cast", "dtype", "finite", "integers", "shape")

    def __init__(
        self,
        shape: tuple[int, ...] | list[int] | int,
        dtype: npt.DTypeLike,
        *,
        cast: bool = False,
        finite: bool = False,
    ) -> None:
        axes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        for axis in axes:
            if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not 1 <= axis <= MOST:
                raise BadSetting(
                    f"Field: wanted a shape of positive integers, at most 2**48, got {shown(shape)}; "
                    f"leave out batch and time axes, and use () for a scalar"
                )
        if len(axes) > MOST_AXES or math.prod(map(int, axes)) > MOST_VALUES:
            raise BadSetting(
                f"Field: wanted at most {MOST_AXES} axes and 2**100 values, got more; store less in a step"
            )
        self.dtype = _plain_dtype(dtype)
        self.shape = tuple(int(axis) for axis in axes)
        for name, value in (("cast", cast), ("finite", finite)):
            if not isinstance(value, bool) or (value and self.dtype.kind != "f"):
                raise BadSetting(
                    f"Field: wanted {name}=True with a floating dtype only, got {name}={value!r} with {self.dtype}; "
                    f"leave it out, or declare a floating dtype"
                )
        self.cast, self.finite = cast, finite
        # What a Python integer may be, where the value is one integer: the commonest action there is.
        limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" and not self.shape else None
        self.integers = range(int(limits.min), int(limits.max) + 1) if limits else range(0)
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of one step's value."""
        return self._row_bytes

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that are True."""
        return ("cast",) * self.cast + ("finite",) * self.finite

    def __repr__(self) -> str:
        options = "".join(f", {name}=True" for name in self.options)
        return f"Field({self.shape}, {self.dtype.name!r}{options})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.dtype, self.options

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether arrays of `dtype` are taken, as far as the dtype tells."""
        return np.can_cast(dtype, self.dtype, "safe") or (self.cast and dtype.kind == "f")

    def validate(self, name: str, value: Any, lead: tuple[int, ...] = (), rows: Any = ...) -> Any:
        """Return `value` as something of shape `lead + self.shape` whose cast to the dtype loses nothing.

        Args:
            name: of the field, for the message.
            value: an array of any framework, a number, or a list; see `reverie.values`.
            lead: the axes before the field's own.
            rows: which rows of the leading axis are looked at; the numbers in the others do not matter.

        Raises:
            SpecMismatch: shape, dtype or a number does not fit; the message says what was wanted, what came,
                and the remedy.
        """
        if type(value) is int and value in self.integers and not lead:
            return value
        want = lead + self.shape
        if (
            type(value) is np.ndarray
            and value.dtype == self.dtype
            and value.shape == want
            and not self.finite
        ):
            return value
        plain = not hasattr(value, "dtype")  # Python numbers and lists carry no dtype of their own
        array = numeric_array(name, value)
        if array.shape != want:
            raise SpecMismatch(
                f"field {name!r}: wanted shape {want}, got {array.shape}; {_shape_remedy(array.shape, want)}"
            )
        if not fits(array[rows], self.dtype, value, self.cast):
            kind = array.dtype if plain else value.dtype
            one_by_one = plain or self.cast or np.can_cast(array.dtype, self.dtype, "safe")
            raise SpecMismatch(
                f"field {name!r}: wanted dtype {self.dtype}, got {kind}; {self._remedy(array, one_by_one)}"
            )
        if self.finite and not np.isfinite(array[rows]).all():
            raise SpecMismatch(
                f"field {name!r}: wanted finite numbers, got NaN or infinity; "
                f"find out where they came from, or declare the Field without finite=True"
            )
        if self.cast and array.dtype != self.dtype:
            with np.errstate(over="ignore"):  # in rows that nobody looks at
                return array.astype(self.dtype)
        return array

    def _remedy(self, array: npt.NDArray[Any], one_by_one: bool) -> str:
        if one_by_one and self.dtype.kind == "f" and array.dtype.kind in "iu":
            return f"{self.dtype} does not hold these integers exactly: declare a wider Field, or pass rounded floats"
        if one_by_one and self.dtype.kind in "iu" and array.dtype.kind == "f":
            return "pass an integer, rounded as you mean it, or declare a Field of floats"
        if one_by_one:
            return f"not every value fits into {self.dtype}: check the range, or declare a wider Field"
        if self.dtype == np.uint8 and array.dtype.kind == "f":
            return "pass the frame as uint8 in 0..255, before any scaling to floats"
        wider = f"Field({self.shape}, {array.dtype.name!r})"
        if self.dtype.kind == array.dtype.kind == "f":
            return f"convert it first with .astype({self.dtype.name!r}), or declare {wider}, or this one with cast=True"
        return f"convert it first with .astype({self.dtype.name!r}), or declare {wider}"


def _plain_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        plain: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise BadSetting(
            f"Field: wanted a NumPy dtype, got {dtype!r}; name one, such as 'uint8' or 'float32'"
        ) from error
    if plain.kind not in "biuf":
        raise BadSetting(
            f"Field: wanted a boolean, integer or floating dtype, got {plain}; encode the value as numbers first"
        )
    # By its name it is the very object that arrays of this dtype have, which `Intake` recognises without comparing.
    return np.dtype(plain.newbyteorder("=").str)


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

    @property
    def is_obs(self) -> bool:
        """Whether it belongs to the observation, and so has a successor and a final value."""
        return is_obs_name(self.name)


def is_obs_name(name: str) -> bool:
    """Whether the column of this flat name belongs to the observation."""
    return name == "obs" or name.startswith("obs/")


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
    def from_env(
        cls, env: Any, extras: Mapping[str, Field] | None = None, *, cast: npt.DTypeLike | None = None
    ) -> StepSpec:
        """Return the spec of a Gymnasium environment, single or vector, from its spaces.

        Box, Discrete, MultiDiscrete, MultiBinary, Text and (nested) Dict and Tuple spaces are understood. A Tuple
        is a dict with the keys "0", "1" and so on. A Text is a uint8 field of its UTF-8 bytes, zeros after its end:
        `max_length` bytes if all its characters are ASCII, else `4 * max_length`.

        Args:
            env: the environment.
            extras: further per-step fields by name.
            cast: a floating dtype such as "float32", to which wider floats are rounded: the spaces of MuJoCo are
                float64, which takes twice the memory. Their fields become `Field(shape, cast, cast=True)`.

        Raises:
            BadSetting: a space of another kind, or a `cast` that is no floating dtype.
        """
        to = None if cast is None else Field((), cast, cast=True).dtype
        # A vector environment keeps the space of one lane under `single_…`; duck typing avoids the import.
        obs = getattr(env, "single_observation_space", None) or env.observation_space
        action = getattr(env, "single_action_space", None) or env.action_space
        return cls(_field_of_space("obs", obs, to), _field_of_space("action", action, to), extras)

    def columns(self) -> tuple[Column, ...]:
        """Return every leaf, observations first, then actions, then extras, as flat named columns."""
        leaves = [*tree_leaves("obs", self.obs), *tree_leaves("action", self.action)]
        leaves += [(f"extras/{name}", field) for name, field in self.extras.items()]
        return tuple(Column(name, field) for name, field in leaves)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values; `from_json` takes them back."""
        return {
            "obs": _tree_to_json(self.obs),
            "action": _tree_to_json(self.action),
            "extras": _tree_to_json(self.extras),
        }

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


def _field_of_space(name: str, space: Any, cast: np.dtype[Any] | None) -> Tree:
    kind = type(space).__name__
    if kind == "Dict":
        return {key: _field_of_space(f"{name}/{key}", child, cast) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return {str(i): _field_of_space(f"{name}/{i}", child, cast) for i, child in enumerate(space.spaces)}
    if kind == "Text":
        return Field((text_width(space),), "uint8")
    if kind in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        field = Field(tuple(space.shape), space.dtype)
        if cast is not None and field.dtype.kind == "f" and field.dtype.itemsize > cast.itemsize:
            field = Field(field.shape, cast, cast=True)
        return field
    raise BadSetting(
        f"{name}: wanted a Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple space, got {space!r}; "
        f"wrap the environment so that its values have one fixed shape"
    )


def text_width(space: Any) -> int:
    """Return the most bytes of UTF-8 that a text of this Text space has."""
    return int(space.max_length) * (1 if "".join(space.character_set).isascii() else 4)


def _tree_to_json(tree: Tree) -> Any:
    if isinstance(tree, Mapping):
        return {key: _tree_to_json(child) for key, child in tree.items()}
    return [list(tree.shape), tree.dtype.str, *tree.options]


def _tree_from_json(value: Any) -> Tree:
    if isinstance(value, Mapping):
        return {key: _tree_from_json(child) for key, child in value.items()}
    shape, dtype, *options = value
    if type(shape) is not list:
        raise ValueError(f"wanted a shape, got {str(shape)[:40]}")
    field = Field(shape, field_dtype(dtype), cast="cast" in options, finite="finite" in options)
    if options != list(field.options):
        raise ValueError(f"wanted options such as 'cast', got {str(options)[:40]}")
    return field

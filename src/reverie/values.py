"""Values: those that users pass, as NumPy arrays; those that a replay file may hold; and trees of arrays."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import SpecMismatch

Array = npt.NDArray[Any]
MOST = 2**48  # steps, rows, bytes: more than any machine holds, and far from where int64 overflows
PLAIN = frozenset({int, float, bool})
# NumPy dtypes that hold every value of a type which NumPy itself has not, such as bfloat16.
WIDER = (np.float32, np.int8, np.uint8)
LONGEST = 128  # bits of an integer that a message still shows in digits


def numeric_array(name: str, value: object, form: str = "field {!r}") -> Array:
    """Return `value` as a NumPy array of booleans, integers or floats; memory is shared where that is possible.

    Taken are NumPy arrays and scalars, torch tensors on any device and with any gradient, JAX arrays, whatever
    else NumPy can read, numbers, and (nested) lists of all these. Types that NumPy has not come as a wider one:
    bfloat16 as float32.

    Args:
        name: of the field.
        value: what the user passed.
        form: how a message writes the name.

    Raises:
        SpecMismatch: it is nothing of the kind; the message names the field.
    """
    if type(value) is np.ndarray and value.dtype.kind in "biuf":
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise SpecMismatch(
            f"{form.format(name)}: wanted an array, got a masked one; fill the masked places with .filled()"
        )
    try:
        array = _array(value)
    except MemoryError:
        raise
    except Exception as error:  # a framework may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SpecMismatch(
            f"{form.format(name)}: wanted an array, got {type(value).__name__} ({reason}); "
            f"pass a NumPy array, on the CPU"
        ) from error
    if array.dtype.kind not in "biuf":
        if isinstance(value, int):
            raise SpecMismatch(
                f"{form.format(name)}: wanted an integer of at most 64 bits, got {shown(value)}; check the range"
            )
        raise SpecMismatch(
            f"{form.format(name)}: wanted numbers, got {type(value).__name__} of dtype {array.dtype}; "
            f"pass a NumPy array of numbers"
        )
    return array


def owned(name: str, value: object) -> Any:
    """Return a copy of `value` that nobody else will write to: plain numbers as they are, an array of the rest.

    Raises:
        SpecMismatch: these are no numbers.
    """
    if isinstance(value, (list, tuple)):
        return [owned(name, item) for item in value]
    return value if type(value) in PLAIN else numeric_array(name, value).copy()


def is_foreign(value: object) -> bool:
    """Whether `value` is an array of another framework than NumPy, such as a tensor."""
    return hasattr(value, "dtype") and not isinstance(value, (np.ndarray, np.generic))


def is_lossless(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether `target` holds every value of `source`. NumPy calls int64 to float64 safe, which it is up to 2**53."""
    if not np.can_cast(source, target, "safe"):
        return False
    return not (source.kind in "iu" and target.kind == "f" and 8 * source.itemsize > _digits(target))


def fits(array: Array, dtype: np.dtype[Any], value: object, rounded: bool = False) -> bool:
    """Whether `dtype` takes these numbers: an array's by its dtype, Python's one by one.

    Args:
        array: the numbers.
        dtype: a boolean, integer or floating dtype.
        value: what `array` was made of.
        rounded: whether wider floats may be rounded, as Python's are.
    """
    mixed = isinstance(value, (list, tuple)) and array.dtype.kind == "f"  # of integers and floats, perhaps
    if not mixed and is_lossless(array.dtype, dtype):
        return True
    one_by_one = rounded or not hasattr(value, "dtype") or np.can_cast(array.dtype, dtype, "safe")
    return one_by_one and holds(array, dtype, value)


def holds(array: Array, dtype: np.dtype[Any], value: object = None) -> bool:
    """Whether `dtype` holds these numbers: integers exactly; floats may be rounded, but not to infinity.

    Args:
        array: the numbers.
        dtype: a boolean, integer or floating dtype.
        value: what `array` was made of: NumPy makes one float64 of a list that mixes integers and floats.
    """
    if dtype.kind == "b":
        return array.dtype.kind == "b"
    if array.dtype.kind == "f":
        if dtype.kind != "f":
            return False
        with np.errstate(over="ignore"):
            if not (np.isfinite(array.astype(dtype)) == np.isfinite(array)).all():
                return False
        if not isinstance(value, (list, tuple)) or not (np.abs(array) >= 2.0 ** _digits(dtype)).any():
            return True
        return all(_is_exact(item, dtype) for item in _items(value) if isinstance(item, int))
    if array.size == 0 or array.dtype.kind == "b":
        return True
    low, high = int(array.min()), int(array.max())
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return limits.min <= low and high <= limits.max
    if max(-low, high) <= 2 ** _digits(dtype):
        return True
    return all(_is_exact(item, dtype) for item in {low, high}) and _are_exact(array, dtype)


def shown(value: object) -> str:
    """Return how a message shows `value`: Python refuses to write an integer of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > LONGEST:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} with an integer of thousands of digits"


def _array(value: Any) -> Array:
    # Whoever passes a tensor has imported torch: it is looked up, never loaded.
    torch: Any = sys.modules.get("torch")
    kind: Any = getattr(torch, "Tensor", ())
    if isinstance(value, kind):
        tensor: Any = value.detach()
        if tensor.dtype.is_floating_point and tensor.dtype not in (
            torch.float16,
            torch.float32,
            torch.float64,
        ):
            tensor = tensor.float()
        array: Array = tensor.numpy(force=True)
        return array
    array = _of_list(_read(value)) if isinstance(value, (list, tuple)) else np.asarray(value)
    if array.dtype.kind == "V":
        for wider in WIDER:
            if np.can_cast(array.dtype, wider, "safe"):
                return array.astype(wider)
    return array


def _of_list(value: list[Any]) -> Array:
    array = np.asarray(value)
    # NumPy makes floats of a list whose integers need 64 bits, and loses the last ones.
    if array.dtype == np.float64 and array.size and array.min() >= 0 and array.max() >= 2.0**63:
        return np.asarray(value, np.uint64 if all(isinstance(item, int) for item in _items(value)) else None)
    return array


def _read(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    """Return a list in which only NumPy arrays and plain numbers are left."""
    if set(map(type, value)) <= PLAIN:
        return list(value)
    return [
        item if type(item) in PLAIN else _read(item) if isinstance(item, (list, tuple)) else _array(item)
        for item in value
    ]


def _items(value: object) -> Iterator[Any]:
    """Yield the Python numbers in nested lists."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    elif type(value) in PLAIN:
        yield value
    else:
        yield from _array(value).ravel().tolist()


def _digits(dtype: np.dtype[Any]) -> int:
    """Return the binary digits of a floating dtype: it holds every integer up to 2 ** digits."""
    return int(np.finfo(dtype).nmant) + 1


def _is_exact(value: int, dtype: np.dtype[Any]) -> bool:
    """Whether a floating dtype holds an integer exactly."""
    value = abs(value)
    odd = value // (value & -value) if value else 0
    return odd.bit_length() <= _digits(dtype) and value <= int(np.finfo(dtype).max)


def _are_exact(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a floating dtype holds integers exactly, the largest of which it does not round to infinity."""
    if _digits(dtype) >= 64:
        return True
    magnitude = np.abs(array).astype(np.uint64)  # of -2**63, too: it stays so, and is 2**63 without a sign
    lowest_bit = np.maximum(magnitude & (~magnitude + np.uint64(1)), np.uint64(1))
    return not bool((magnitude // lowest_bit >> np.uint64(_digits(dtype))).any())


MOST_JSON = 4 << 20  # characters of a named value
MOST_LABEL = 1 << 16  # characters of the metadata of an episode
MOST_LEVELS = 40  # of lists and dicts within each other
MOST_AXES = 32  # of an array
MOST_ID = 2**61  # of steps, episodes: sums and differences of two stay far from where int64 overflows
# Bytes that samplers may remember of a small buffer, and for each step of a large one:
MOST_ARRAYS = 64 << 20
ARRAY_BYTES_OF_STEP = 64

_DTYPE = re.compile(r"[<|=][biufcSUmM]\d{1,6}(\[\w{1,8}\])?")
_FIELD_DTYPE = re.compile(r"[<|][biuf](1|2|4|8|12|16)")


def most_array_bytes(capacity: int) -> int:
    """Return how many bytes samplers may remember, all in all, of a buffer of so many steps."""
    return MOST_ARRAYS + ARRAY_BYTES_OF_STEP * capacity


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is none, too long, or its lists and dicts lie too deep within each other.
    """
    if len(text) > MOST_JSON:
        raise ValueError(f"its JSON has {len(text):,} characters")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deep") from error
    if text.count("[") + text.count("{") > MOST_LEVELS:
        level = [value]
        for _ in range(MOST_LEVELS):
            level = [
                child
                for one in level
                if type(one) in (list, dict)
                for child in (one.values() if type(one) is dict else one)
                if type(child) in (list, dict)
            ]
        if level:
            raise ValueError("its JSON is nested too deep")
    return value


def integers(value: Any, count: int, below: int) -> list[int]:
    """Return `value` if it is a list of `count` integers in `0 <= integer < below`.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not list or len(value) != count:
        raise ValueError(f"wanted {count} integers")
    for one in value:
        integer(one, below)
    return value


def integer(value: Any, below: int, least: int = 0) -> int:
    """Return `value` if it is an integer in `least <= value < below`.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not least <= value < below:
        raise ValueError(f"wanted an integer from {least} to {below - 1}, got {str(value)[:40]}")
    return value


def field_dtype(text: Any) -> np.dtype[Any]:
    """Return the dtype of a column.

    Raises:
        ValueError: the text names none.
    """
    if type(text) is not str or not _FIELD_DTYPE.fullmatch(text):
        raise ValueError(f"wanted a dtype such as '<f4', got {str(text)[:40]!r}")
    return _dtype(text)


def array_form(text: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the dtype, shape and bytes of an array that a text such as "<f8 200 3" describes.

    Raises:
        ValueError: it describes none.
    """
    name, *axes = text[:1000].split(" ")
    if len(text) > 1000 or not _DTYPE.fullmatch(name) or len(axes) > MOST_AXES:
        raise ValueError(f"{text[:40]!r} is no dtype and shape")
    if not all(axis.isascii() and axis.isdigit() and len(axis) < 16 for axis in axes):
        raise ValueError(f"{text[:40]!r} is no dtype and shape")
    dtype, shape = _dtype(name), tuple(map(int, axes))
    return dtype, shape, math.prod(shape) * dtype.itemsize


def _dtype(text: str) -> np.dtype[Any]:
    try:
        return np.dtype(text)
    except TypeError as error:
        raise ValueError(f"{text!r} is no dtype") from error


Tree = Any  # one array, or a (nested) dict of arrays: Python cannot name the recursion usefully


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


def tree_map(fn: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the tree with `fn` of each leaf."""
    if isinstance(tree, Mapping):
        return {key: tree_map(fn, child) for key, child in tree.items()}
    return fn(tree)

"""What a replay file may ask of its reader: checked before anything is made from it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

MOST_JSON = 4 << 20  # characters of a named value
MOST_LEVELS = 40  # of lists and dicts within each other
MOST_AXES = 32  # of an array
MOST_ID = 2**61  # of steps, episodes: sums and differences of two stay far from where int64 overflows
MOST_ARRAYS = (
    64 << 20
)  # bytes that samplers may remember of a small buffer, and for each step of a large one:
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

"""Checks of flags, rewards, streams and settings."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, FileTaken, SpecMismatch
from reverie.spec import Field
from reverie.values import MOST, holds, numeric_array, shown

Ints = npt.NDArray[np.int64]

REWARD = Field((), "float32")
FLAG = Field((), "bool")
FLOAT32_MAX = float(np.finfo(np.float32).max)
_TRUE, _FALSE = np.True_, np.False_  # the objects that NumPy's bools are
_FLOAT32 = struct.Struct("<f")
_EXACT = 2.0**24  # float32 holds every whole number up to here


def positive(name: str, value: object) -> int:
    """Return `value` as an int if it is an integer of at least 1; raise BadSetting otherwise."""
    if type(value) is int and 1 <= value <= MOST:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MOST:
        raise BadSetting(
            f"{name}: wanted an integer of at least 1, at most 2**48, got {shown(value)}; pass a positive whole number"
        )
    return int(value)


def natural(name: str, value: object) -> int:
    """Return `value` as an int if it is an integer of at least 0; raise BadSetting otherwise."""
    if type(value) is int and 0 <= value <= MOST:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= MOST:
        raise BadSetting(
            f"{name}: wanted a non-negative integer, at most 2**48, got {shown(value)}; "
            f"pass 0 or a positive whole number"
        )
    return int(value)


def number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a float if it is a number in `low..high`; raise BadSetting otherwise."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise BadSetting(
            f"{name}: wanted a number in {low:g}..{high:g}, got {shown(value)}; pass one in that range"
        )
    return float(value)


def seed_number(seed: object) -> int:
    """Return `seed`, or one from the operating system for None; raise BadSetting otherwise."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(2, np.uint64)[0])
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise BadSetting(
            f"seed: wanted a non-negative integer or None, got {shown(seed)}; pass 0 or a positive whole number"
        )
    return int(seed)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool, one of NumPy or torch included; raise SpecMismatch otherwise."""
    if value is True or value is False:
        return value
    if value is _TRUE or value is _FALSE:
        return value is _TRUE
    if getattr(value, "shape", None) == () and numeric_array(name, value).dtype == np.bool_:
        return bool(value)
    raise SpecMismatch(
        f"field {name!r}: wanted a bool, got {shown(value)}; write bool(...) around a number that means one"
    )


def flags(name: str, value: npt.ArrayLike, lanes: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return bools of shape `lanes`; raise SpecMismatch otherwise."""
    checked: npt.NDArray[np.bool_] = FLAG.validate(name, value, lanes)
    return checked


def reward_number(value: object, name: str = "reward") -> float:
    """Return `value` as a float32 holds it, if it is one finite number; raise SpecMismatch otherwise."""
    if type(value) is float and -_EXACT <= value <= _EXACT and value.is_integer():
        return value  # the commonest rewards
    if type(value) is np.float32:
        value = float(value)
    if not isinstance(value, (int, float)):
        if getattr(value, "shape", None) != () or isinstance(value, np.ma.MaskedArray):
            raise SpecMismatch(f"field {name!r}: wanted one number, got {value!r}; pass a float")
        value = numeric_array(name, value).item()
    try:
        amount = float(value)  # type: ignore[arg-type]  # what item() returned is a number
    except OverflowError:
        amount = float("inf")
    # `x - x` is 0 for every finite x and NaN for the rest; then what float32 cannot hold.
    if amount - amount != 0.0 or abs(amount) > FLOAT32_MAX:
        raise SpecMismatch(
            f"field {name!r}: wanted a finite float32, got {amount!r}; find out where it came from"
        )
    # What is stored, so that returns are the sums of stored rewards, wherever they are summed up again.
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(amount))[0]
    if rounded != value and isinstance(value, int):
        raise SpecMismatch(
            f"field {name!r}: wanted an integer that float32 holds exactly, got {shown(value)}; "
            f"pass it as a float if it may be rounded"
        )
    return rounded


def _some(rewards: npt.NDArray[Any]) -> str:
    """Return how a message shows rewards: a trajectory has millions."""
    return str(rewards.tolist()) if rewards.size <= 64 else f"{rewards.size:,} numbers, not all of which are"


def reward_numbers(value: npt.ArrayLike, lanes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return finite numbers of shape `lanes` as float32; raise SpecMismatch otherwise."""
    array = numeric_array("reward", value)
    if array.shape != lanes or array.dtype.kind not in "biuf":
        raise SpecMismatch(
            f"field 'reward': wanted numbers of shape {lanes}, got {array.dtype} of shape {array.shape}; "
            f"pass one reward per lane"
        )
    if array.dtype == np.float32:
        rewards = array
    else:
        with np.errstate(over="ignore"):
            rewards = array.astype(np.float32)
        if array.dtype.kind != "f" and not holds(array, rewards.dtype):
            raise SpecMismatch(
                f"field 'reward': wanted integers that float32 holds exactly, got {_some(array)}; "
                f"pass them as floats if they may be rounded"
            )
    if np.count_nonzero(np.isfinite(rewards)) < rewards.size:
        raise SpecMismatch(
            f"field 'reward': wanted finite float32 numbers, got {_some(array)}; find out where they came from"
        )
    return rewards


def stream_number(value: object, streams: int) -> int:
    """Return `value` if it is the number of a stream; raise SpecMismatch otherwise."""
    if type(value) is int and 0 <= value < streams:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < streams:
        raise SpecMismatch(
            f"stream: wanted an integer in 0..{streams - 1}, got {shown(value)}; "
            f"make the buffer with more streams if there are more environments"
        )
    return int(value)


def distinct_streams(value: npt.ArrayLike, streams: int) -> Ints:
    """Return `value` as different stream numbers; raise SpecMismatch otherwise."""
    which = numeric_array("streams", value)
    if which.ndim != 1 or len(which) == 0 or which.dtype.kind not in "iu":
        raise SpecMismatch(f"streams: wanted a list of integers, got {value!r}; name at least one stream")
    which = which.astype(np.int64)
    if which.min() < 0 or which.max() >= streams or len(np.unique(which)) != len(which):
        raise SpecMismatch(
            f"streams: wanted different integers in 0..{streams - 1}, got {which.tolist()}; "
            f"a call stores one step per stream"
        )
    return which


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse a path at which no file can be made; `force` allows to replace one that is there.

    Raises:
        BadSetting: there is no folder to put it in.
        FileTaken: there is something at this path already.
    """
    if not path.parent.is_dir():
        raise BadSetting(f"out: wanted a folder to put it in, got none at {path.parent}; make it first")
    if path.is_dir():
        raise FileTaken(f"{path}: wanted a path for a file, got a folder; name a file in it")
    if path.exists() and not force:
        raise FileTaken(
            f"{path}: wanted a path that is free, got one that exists; choose another, or replace it with "
            "--force (force=True)"
        )

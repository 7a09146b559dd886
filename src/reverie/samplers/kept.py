"""What a sampler remembered, checked before it is used again: it may come from a damaged file, or another buffer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting


def kept(state: Any, *names: str) -> Mapping[str, Any]:
    """Return `state` if it is a mapping with these names and no others; raise BadSetting otherwise."""
    if not isinstance(state, Mapping) or set(state) != set(names):
        got = sorted(map(str, state))[:8] if isinstance(state, Mapping) else type(state).__name__
        raise unfit("state", f"the names {sorted(names)}", str(got)[:200])
    return state


def kept_array(
    name: str, value: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...], low: float, high: float
) -> npt.NDArray[Any]:
    """Return a copy of `value` if it is an array of this dtype and shape with values in `low..high`.

    Args:
        name: of the array, for the error.
        value: what was remembered.
        dtype: that the array's own casts to without loss.
        shape: of the array; None takes any length.
        low, high: the least and the largest value allowed.

    Raises:
        BadSetting: it is not.
    """
    if not isinstance(value, np.ndarray) or not np.can_cast(value.dtype, dtype, "safe"):
        raise unfit(name, f"an array of {np.dtype(dtype)}", getattr(value, "dtype", type(value).__name__))
    fits = len(shape) == value.ndim and all(
        want in (None, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise unfit(name, f"an array of shape {shape}", f"one of shape {value.shape}")
    if not ((value >= low) & (value <= high)).all():  # NaN is neither
        raise unfit(name, f"values from {low:g} to {high:g}", "others")
    return value.astype(dtype)


def kept_number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` if it is a number in `low..high`; raise BadSetting otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise unfit(name, "a number", type(value).__name__)
    if not low <= value <= high:
        raise unfit(name, f"a number from {low:g} to {high:g}", "another")
    return float(value)


def kept_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` if it is an integer in `low..high`; raise BadSetting otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise unfit(name, f"an integer from {low} to {high}", str(value)[:40])
    return int(value)


def unfit(name: str, wanted: str, got: object) -> BadSetting:
    """Return the error for a state that cannot be used."""
    return BadSetting(
        f"{name} of a sampler's state: wanted {wanted}, got {got}; it is damaged, or of another buffer: "
        f"make a new sampler"
    )

"""What a union is made from, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.errors import BadSetting, SpecMismatch, counted
from reverie.spec import StepSpec
from reverie.values import shown

PartLike = ReplayBuffer | str | os.PathLike[str]


def checked_parts(parts: object) -> list[PartLike]:
    if isinstance(parts, (str, bytes)) or not isinstance(parts, Sequence) or not parts:
        raise BadSetting(f"parts: wanted a list of buffers and paths, got {shown(parts)}; give at least one")
    for part in parts:
        if not isinstance(part, (ReplayBuffer, str, os.PathLike)):
            raise BadSetting(
                f"parts: wanted buffers and paths of replay files, got {shown(part)}; "
                f"a drop-in buffer is opened by its path"
            )
    named = [id(part) if isinstance(part, ReplayBuffer) else os.path.realpath(part) for part in parts]
    named += [
        os.path.realpath(part.path)
        for part in parts
        if isinstance(part, ReplayBuffer) and part.path is not None
    ]
    if len(set(named)) < len(named):
        raise BadSetting(
            "parts: wanted each buffer and each file once, got one twice; use weights= to count it more"
        )
    return list(parts)


def checked_weights(weights: object, count: int) -> npt.NDArray[np.float64]:
    try:
        shares = np.asarray(weights, np.float64)
        good = shares.shape == (count,) and bool((shares >= 0).all()) and 0 < shares.sum() < np.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise BadSetting(
            f"weights: wanted {counted(count, 'number')} that are not negative, one for each part, and not all 0, got "
            f"{shown(weights)}; (0.5, 0.5) takes half from each of two"
        )
    normed: npt.NDArray[np.float64] = shares / shares.sum()
    return normed


def common_spec(specs: list[StepSpec]) -> StepSpec:
    """Return the spec of all parts.

    Raises:
        SpecMismatch: one has other fields than the first.
    """
    first = {column.name: column.field for column in specs[0].columns()}
    for number, spec in enumerate(specs[1:], 1):
        fields = {column.name: column.field for column in spec.columns()}
        for name in sorted(first.keys() | fields.keys()):
            wanted, got = first.get(name), fields.get(name)
            shape = (
                None
                if wanted is None or got is None
                else (wanted.shape, wanted.dtype) == (got.shape, got.dtype)
            )
            if not shape:
                raise SpecMismatch(
                    f"field {name!r}: wanted {wanted or 'none'} in part {number} of the union, as in part 0, got "
                    f"{got or 'none'}; record or import the parts with the same fields"
                )
    return specs[0]

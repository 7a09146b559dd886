"""Spaces: the values of Tuple and Text spaces as a buffer stores them, and back as the environment takes them.

A Tuple space is stored like a Dict whose keys are `"0"`, `"1"` and so on. A text is stored as its UTF-8 bytes,
uint8, with zeros after its end; see `reverie.StepSpec.from_env` for the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from reverie.errors import SpecMismatch, counted
from reverie.spec import text_width
from reverie.values import Tree

Space = gymnasium.Space[Any]
# Their values are stored as they are. Asked by type: `isinstance` of a Dict space is slow, and each step asks often.
PLAIN = frozenset({Box, Discrete, MultiBinary, MultiDiscrete})


def stored(name: str, space: Space, value: Any, lanes: int | None = None) -> Tree:
    """Return a value of `space` as the buffer stores it, without a copy of its arrays.

    Args:
        name: of the field, for a message.
        space: of one lane.
        value: what the environment or the policy gave; what is in the stored form already stays so.
        lanes: how many lanes the value is of, if it is a vector environment's.

    Raises:
        SpecMismatch: a tuple of another length, or a text that is none or too long.
    """
    if type(space) in PLAIN:
        return value
    if isinstance(space, Dict) and isinstance(value, Mapping):
        children = space.spaces
        return {
            key: stored(f"{name}/{key}", children[key], child, lanes) if key in children else child
            for key, child in value.items()
        }
    if isinstance(space, Tuple):
        parts = _parts(name, space, value)
        return {key: stored(f"{name}/{key}", *part, lanes) for key, part in parts.items()}
    if isinstance(space, Text) and not isinstance(value, np.ndarray):
        return _encoded(name, space, value, lanes)
    return value


def played(space: Space, value: Any) -> Any:
    """Return an action as `env.step` takes it: tuples and texts where `space`, of one lane, has them."""
    if type(space) in PLAIN:
        return value
    if isinstance(space, Dict) and isinstance(value, Mapping):
        return {key: played(space.spaces[key], child) for key, child in value.items()}
    if isinstance(space, Tuple):
        given = value.values() if isinstance(value, Mapping) else value
        return tuple(played(child, part) for child, part in zip(space.spaces, given, strict=True))
    if isinstance(space, Text) and isinstance(value, np.ndarray):
        return _text(value) if value.ndim == 1 else tuple(map(_text, value))
    return value


def _parts(name: str, space: Space, value: Any) -> dict[str, tuple[Space, Any]]:
    """Return each part of a tuple with its space, by its name."""
    assert isinstance(space, Tuple), "the caller looked"
    keys = [str(number) for number in range(len(space.spaces))]
    if isinstance(value, Mapping) and sorted(map(str, value)) == sorted(keys):
        value = [value[key] for key in keys]
    if not isinstance(value, (tuple, list)) or len(value) != len(keys):
        got = f"{len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__
        raise SpecMismatch(
            f"field {name!r}: wanted a tuple of {counted(len(keys), 'value')} as its space says, got {got}; "
            f"pass one value for each space of the Tuple"
        )
    return {key: (child, part) for key, child, part in zip(keys, space.spaces, value, strict=True)}


def _encoded(name: str, space: Text, value: Any, lanes: int | None) -> npt.NDArray[np.uint8]:
    """Return the bytes of a text, (width,), or of a text for each lane, (lanes, width)."""
    width = text_width(space)
    if lanes is None:
        return _bytes(name, width, value)
    if isinstance(value, str) or len(value) != lanes:
        raise SpecMismatch(f"field {name!r}: wanted {lanes} texts, got {value!r}; pass one per lane")
    return np.stack([_bytes(name, width, text) for text in value])


def _bytes(name: str, width: int, text: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(text, str):
        raise SpecMismatch(f"field {name!r}: wanted a text, got {type(text).__name__}; pass a str")
    data = text.encode()
    if len(data) > width or "\0" in text:
        raise SpecMismatch(
            f"field {name!r}: wanted a text of at most {width} bytes of UTF-8 without NUL, got {text!r}; "
            f"keep to the max_length and the characters of the space"
        )
    return np.frombuffer(data.ljust(width, b"\0"), np.uint8).copy()


def _text(data: npt.NDArray[Any]) -> str:
    return data.astype(np.uint8).tobytes().rstrip(b"\0").decode()

"""A transition as the drop-in classes take it: what fits, or an error whose remedy is in their words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import flag, reward_number
from reverie.engine import Step
from reverie.errors import BadSetting, FileError, ReplayError, SpecMismatch
from reverie.index import TERMINATED, TRUNCATED
from reverie.values import numeric_array

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
EXACT = 2.0**24  # float32 holds every whole number up to here
SHORT = 32  # numbers of an action vector: to add up more in Python takes longer than NumPy's own way
# What `terminals` holds for a truncated step, and before a cut. It equals 0.0 for every reader, and still
# tells the seam when a trainer's checkpoint, which saves the four arrays and nothing else, is loaded again.
SEAM = -0.0
_INDEX = range(-(2**63), 2**63)

# What the engine calls otherwise, and what the drop-in classes have not at all.
_OTHERWISE = (("reverie.open", "IRISReplayBuffer.open"), ("capacity", "size"))
_FOREIGN = re.compile(r"add_batch|\bField|StepSpec|\bspec\b|boundary|residency|mode=|write_back|sampler")
_REMEDIES: dict[type[ReplayError], str] = {
    FileError: "make or open the buffer in the process that uses it",
    SpecMismatch: "pass exactly that, or make the buffer for what you have",
}


class TransitionIntake:
    """Checks the transitions of one buffer.

    Args:
        shape: of a frame.
        size: of an action vector.
    """

    __slots__ = ("_one_hots", "_shape", "_size")

    def __init__(self, shape: tuple[int, ...], size: int) -> None:
        self._shape, self._size = shape, size
        self._one_hots = list(np.eye(size, dtype=np.float32)) if size <= SHORT else []

    def step(self, obs: Any, action: Any, reward: Any, terminal: Any, truncated: Any, final_obs: Any) -> Step:
        """Return a step that fits, or raise SpecMismatch. What comes most often is seen without a call."""
        size = self._size
        if type(obs) is not np.ndarray or obs.dtype is not UINT8 or obs.shape != self._shape:
            obs = frame("obs", obs, self._shape)
        if type(action) is int and 0 <= action < size <= SHORT:
            vector = self._one_hots[action]
        elif (
            type(action) is np.ndarray
            and action.dtype is FLOAT32
            and action.shape == (size,)
            and size <= SHORT
            and isfinite(sum(action.tolist()))  # doubles, whose sum is finite only if all of them are
        ):
            vector = action
        else:
            vector = action_vector(action, size)
        if type(reward) is not float or not (-EXACT <= reward <= EXACT and reward.is_integer()):
            reward = reward_number(reward)
        ended, marker = 0, 0.0
        if terminal is not False and (terminal is True or terminal_flag(terminal)):
            ended, marker = TERMINATED, 1.0
        if truncated is not False and flag("truncated", truncated):
            ended, marker = ended | TRUNCATED, marker or SEAM
        values = {"obs": obs, "action": vector, "extras/terminals": marker, "reward": reward}
        if final_obs is None:
            return values, reward, ended, None
        return values, reward, ended, {"obs": final_frame(final_obs, self._shape, bool(ended))}


def frame_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a frame; raise BadSetting for what is none."""
    axes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if (
        not axes
        or not all(type(axis) is int or isinstance(axis, np.integer) for axis in axes)
        or min(axes) < 1
    ):
        raise BadSetting(
            f"obs_shape: wanted at least one axis, each a positive integer, got {value!r}; "
            f"pass for example (3, 64, 64), without a batch axis"
        )
    return tuple(map(int, axes))


def frame(name: str, value: Any, shape: tuple[int, ...] | None) -> Frames:
    """Return `value` as uint8, of `shape` unless that is None; raise SpecMismatch where uint8 cannot hold it."""
    if isinstance(value, np.ma.MaskedArray):
        raise SpecMismatch(
            f"field {name!r}: wanted an array, got a masked one; fill the masked places with .filled()"
        )
    plain = not hasattr(value, "dtype")  # Python's numbers and lists carry no dtype of their own
    array = numeric_array(name, value)
    if shape is not None and array.shape != shape:
        raise SpecMismatch(
            f"field {name!r}: wanted shape {shape}, got {array.shape}; {_shape_remedy(array.shape, shape)}"
        )
    if array.dtype.kind in "iu" and plain and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    if array.dtype != UINT8 and array.dtype != np.bool_:
        way = "before any scaling to floats" if array.dtype.kind == "f" else "all values being in 0..255"
        raise SpecMismatch(f"field {name!r}: wanted uint8, got {array.dtype}; pass the frame as uint8, {way}")
    return array.astype(np.uint8, copy=False)


def _shape_remedy(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if got[1:] == wanted:
        return "pass one frame, without a batch axis"
    if len(got) == 3 and len(wanted) == 3 and got == (wanted[1], wanted[2], wanted[0]):
        return "channels come first here: pass np.moveaxis(frame, -1, 0)"
    return "pass exactly that shape: nothing is broadcast"


def action_value(action: Any, name: str = "action") -> int | float | Floats:
    """Return an action as an integer, a finite number, or a float32 vector of its own."""
    if isinstance(action, np.integer) and int(action) in _INDEX:
        return int(action)
    array = numeric_array(name, action)
    kind = array.dtype.kind
    if array.ndim == 0 and kind in "iu" and int(array) in _INDEX:
        return int(array)
    if array.ndim > 1 or (array.ndim == 0 and kind != "f"):
        raise SpecMismatch(
            f"field {name!r}: wanted an integer or a vector of numbers, got {action!r}; "
            f"pass the index of a discrete action, or its vector"
        )
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32)
    if not np.isfinite(vector).all() or (kind in "iu" and not (vector.astype(np.float64) == array).all()):
        raise SpecMismatch(
            f"field {name!r}: wanted finite float32 numbers, integers held exactly, got {action!r}; "
            f"find out where it came from"
        )
    return vector if array.ndim else float(vector)


def action_vector(action: Any, size: int) -> Floats:
    """Return an action as a float32 vector of `size`: an integer one-hot, one number as it is, a vector, too."""
    value = action_value(action)
    if isinstance(value, int):
        if not 0 <= value < size:
            raise SpecMismatch(
                f"field 'action': wanted an integer in 0..{size - 1}, got {value}; check action_size"
            )
        one_hot = np.zeros(size, np.float32)
        one_hot[value] = 1.0
        return one_hot
    vector = np.atleast_1d(np.asarray(value, np.float32))
    if vector.shape != (size,):
        what = "one number" if isinstance(value, float) else f"shape {vector.shape}"
        raise SpecMismatch(
            f"field 'action': wanted an integer or shape ({size},), got {what}; "
            f"pass int(action) for an index, or the whole vector: nothing is broadcast"
        )
    return vector


def terminal_flag(value: Any, name: str = "terminal") -> bool:
    """Return a terminal given as bool, 0 or 1, of any numeric type; raise SpecMismatch otherwise."""
    if type(value) is np.bool_:
        return bool(value)
    number = None
    with suppress(SpecMismatch):
        number = reward_number(value, name)
    if number not in (0.0, 1.0):
        raise SpecMismatch(
            f"field {name!r}: wanted a bool, 0 or 1, got {value!r}; say whether the episode ended"
        )
    return number == 1.0


def final_frame(value: Any, shape: tuple[int, ...], ended: bool) -> Frames:
    """Return a final observation, which only an end has; raise SpecMismatch otherwise."""
    if not ended:
        raise SpecMismatch(
            "final_obs: wanted it only with an end, got it with terminal=False and truncated=False; "
            "leave it out, or pass truncated=True if the episode stops here"
        )
    return frame("final_obs", value, shape)


@contextmanager
def own_words() -> Iterator[None]:
    """Let the engine's errors speak of what the drop-in classes have."""
    try:
        yield
    except ReplayError as error:
        text = str(error)
        for theirs, ours in _OTHERWISE:
            text = text.replace(theirs, ours)
        told, _, remedy = text.rpartition("; ")
        clauses = [clause for clause in re.split(r",? (?:or|and) ", remedy) if not _FOREIGN.search(clause)]
        if len(clauses) < len(re.split(r",? (?:or|and) ", remedy)):
            text = f"{told}; {', or '.join(clauses) or _default_remedy(error)}"
        error.args = (text,)
        raise


def _default_remedy(error: ReplayError) -> str:
    kinds = (remedy for kind, remedy in _REMEDIES.items() if isinstance(error, kind))
    return next(kinds, "make or open another buffer there")

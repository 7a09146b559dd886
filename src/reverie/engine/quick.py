"""The step that comes most often, stored with few calls: plain arrays, inside of an episode, in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from reverie.checks import FLOAT32_MAX
from reverie.engine.engine import Engine
from reverie.spec import Field
from reverie.store import Ring

FALSE = np.False_  # the one object that every false value of NumPy is
REWARDS = frozenset(
    {float, np.float32, np.float64}
)  # types of rewards that fit if they are finite in float32


class Quick:
    """Stores steps of a buffer that has no file, and whose observations and actions are one plain array each.

    It takes what fits at first sight, and leaves the rest, errors included, to `Intake` and `Changes`. What is decided
    once for a buffer is decided here: which dtype and shape an array has, and where it goes.

    Args:
        engine: of the buffer.
        ring: its steps.
        obs, action: their fields.
    """

    def __init__(self, engine: Engine, ring: Ring, obs: Field, action: Field) -> None:
        self._engine, self._streams = engine, engine.settings.streams
        self._changes, self._index = engine.changes, engine.index
        self._obs_dtype, self._obs_shape = obs.dtype, obs.shape
        self._action_dtype, self._action_shape, self._integers = action.dtype, action.shape, action.integers
        self._obs, self._action = ring.columns["obs"], ring.columns["action"]
        # One number at a time: it rounds as NumPy does, in a third of the time.
        self._rewards: memoryview[Any] = ring.columns["reward"].data
        self._rounded: memoryview[Any] = np.zeros(1, np.float32).data  # what is stored is what is added up

    def add(
        self, obs: Any, action: Any, reward: Any, terminated: object, truncated: object, stream: object
    ) -> bool:
        """Store a step that does not end its episode, if it fits at first sight; return whether it was stored."""
        if not (
            (terminated is False or terminated is FALSE)
            and (truncated is False or truncated is FALSE)
            and type(reward) in REWARDS
            and type(obs) is ndarray
            and obs.dtype is self._obs_dtype
            and obs.shape == self._obs_shape
            and type(stream) is int
            and 0 <= stream < self._streams
        ):
            return False
        if type(action) is ndarray:
            if action.dtype is not self._action_dtype or action.shape != self._action_shape:
                return False
        elif type(action) is not int or action not in self._integers:
            return False
        amount = float(reward)
        if not -FLOAT32_MAX <= amount <= FLOAT32_MAX:  # of NaN, too
            return False
        changes = self._changes
        with self._engine.lock:
            if changes.check is not None or changes.pending is not None:
                return False
            self._index.found = None
            changes.pending = self._publish, (stream, obs, action, amount), None
            stored = self._publish(stream, obs, action, amount)
            changes.pending = None
        return stored

    def _publish(self, stream: int, obs: Any, action: Any, amount: float) -> bool:
        """Store a step that is decided. After an interrupt it is called again, once `EpisodeIndex.mend` was."""
        rounded = self._rounded
        rounded[0] = amount
        slot = self._index.go_on(stream, rounded[0])
        if slot < 0:
            return False
        self._obs[slot] = obs
        self._action[slot] = action
        self._rewards[slot] = amount
        return True


def quick_add(engine: Engine) -> Callable[[Any, Any, Any, object, object, object], bool]:
    """Return `Quick.add` of a buffer, or what stores nothing where the buffer is none for it."""
    spec, store = engine.settings.spec, engine.store
    fields = spec.obs, spec.action
    if engine.changes.check is not None or spec.extras or not isinstance(store, Ring):
        return _never
    if not all(isinstance(field, Field) and not field.finite for field in fields):
        return _never
    return Quick(engine, store, *fields).add


def _never(*step: object) -> bool:
    return False

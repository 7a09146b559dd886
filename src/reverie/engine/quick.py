"""The step that comes most often, stored with few calls: plain arrays, inside of an episode, in memory alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from reverie.checks import FLOAT32_MAX
from reverie.engine.engine import Engine
from reverie.index import NO_SEAMS, native
from reverie.spec import Field
from reverie.store import Ring

FALSE = np.False_  # the one object that every false value of NumPy is
BOOL, FLOAT32, FLOAT64 = (np.dtype(kind) for kind in (np.bool_, np.float32, np.float64))
FEW = 128  # numbers that Python adds up sooner than NumPy
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
        self._action_type = None if action.shape else action.dtype.type
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
        if type(action) is self._action_type:
            pass  # a NumPy number of the field's dtype
        elif type(action) is ndarray:
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


class QuickLanes:
    """Does for one step of every stream what `Quick` does for one step, while all streams have come equally far.

    Between two of its steps nothing else has changed if the index has found what was left there. Then the streams'
    heads, tails and episodes are known without a look at them.

    Args:
        engine, ring, obs, action: as of `Quick`.
    """

    def __init__(self, engine: Engine, ring: Ring, obs: Field, action: Field) -> None:
        index = engine.index
        self._engine, self._changes, self._index, self._finals = engine, engine.changes, index, engine.finals
        streams, capacity = index.streams, index.capacity
        self._lanes, self._none_ended = (streams,), bytes(streams)
        self._obs_dtype, self._obs_shape = obs.dtype, (streams, *obs.shape)
        self._action_dtype, self._action_shape = action.dtype, (streams, *action.shape)
        by_stream = {
            name: column.reshape(streams, capacity, *column.shape[1:])
            for name, column in ring.columns.items()
        }
        self._obs, self._action, self._reward = (by_stream[name] for name in ("obs", "action", "reward"))
        self._episode_at = index.episode_of_slot.reshape(streams, capacity)
        self._left: Any = object()  # what was left in the index: nothing yet
        self._head = self._tail = self._stop = (
            0  # of every stream; the first tail at which an episode is dropped
        )
        self._episodes = np.zeros(streams, np.int64)  # the running ones
        self._marks = self._episodes.astype(np.int32)  # as slots have them
        self._totals = np.zeros(streams)  # their returns

    def add(
        self, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any, final_obs: Any
    ) -> bool:
        """Store a step of each stream if none ends and all fit at first sight; return whether they were stored."""
        if not (
            type(obs) is type(action) is type(reward) is type(terminated) is type(truncated) is ndarray
            and obs.dtype is self._obs_dtype
            and obs.shape == self._obs_shape
            and action.dtype is self._action_dtype
            and action.shape == self._action_shape
            and reward.shape == self._lanes
            and terminated.dtype is truncated.dtype is BOOL
            and terminated.shape == truncated.shape == self._lanes
            and terminated.tobytes() == truncated.tobytes() == self._none_ended
            and (
                final_obs is None
                or (
                    type(final_obs) is ndarray
                    and final_obs.dtype is self._obs_dtype
                    and final_obs.shape == self._obs_shape
                )
            )
        ):
            return False
        rewards = _stored(reward)
        if rewards is None:
            return False
        changes = self._changes
        with self._engine.lock:
            if changes.check is not None or changes.pending is not None:
                return False
            if self._index.found is not self._left and not self._look():
                return False
            tail = max(self._tail, self._head + 1 - self._index.capacity)
            totals = self._totals + rewards
            changes.pending = self._publish, (self._head, tail, totals, obs, action, rewards), None
            self._publish(self._head, tail, totals, obs, action, rewards)
            self._head, self._tail, self._totals = self._head + 1, tail, totals
            changes.pending = None
        return True

    def _look(self) -> bool:
        """Take note of where the streams are; return whether all are equally far and in the middle of an episode."""
        index = self._index
        if index.seams or index.open_episode.min() < 0:
            return False
        head, tail = index.head.item(0), index.tail.item(0)
        if (index.head != head).any() or (index.tail != tail).any():
            return False
        self._head, self._tail, self._stop = head, tail, index.front_stop.min().item()
        self._episodes = index.open_episode.copy()
        self._marks = self._episodes.astype(np.int32)
        self._totals = index.total[self._episodes]
        # It takes nothing back: what is about to be written is written whole again after an interrupt.
        index.found = self._left = (), (), (), (), (), index.next_order, NO_SEAMS
        return True

    def _publish(self, head: int, tail: int, totals: Any, obs: Any, action: Any, rewards: Any) -> None:
        """Store steps that are decided. After an interrupt it is called again, and leaves the same."""
        index, episodes = self._index, self._episodes
        place = head % index.capacity
        self._obs[:, place] = obs
        self._action[:, place] = action
        self._reward[:, place] = rewards
        self._episode_at[:, place] = self._marks
        index.total[episodes] = totals
        index.settled[episodes] = head
        index.stop[episodes] = head + 1
        index.tail.fill(tail)
        index.head.fill(head + 1)
        if tail >= self._stop:
            for stream in np.flatnonzero(index.front_stop <= tail).tolist():
                self._finals.release(index.evict(stream, tail))
            self._stop = index.front_stop.min().item()


def _stored(reward: ndarray[Any, Any]) -> npt.NDArray[np.float32] | None:
    """Return rewards as they are stored, a copy that no other thread writes to; None if not all of them fit.

    The sum of finite numbers is finite: float64 has room for as many float32 as there may be.
    """
    is_few = len(reward) <= FEW
    if reward.dtype is FLOAT32:
        rewards = reward.copy()
    elif reward.dtype is FLOAT64:
        largest = max(map(abs, reward.tolist())) if is_few else np.abs(reward).max()
        if not largest <= FLOAT32_MAX:
            return None
        rewards = reward.astype(np.float32)
    else:
        return None
    total = sum(rewards.tolist()) if is_few else np.add.reduce(rewards, dtype=np.float64)
    return rewards if -math.inf < total < math.inf else None


class Direct:
    """Does most of what `Quick` and `QuickLanes` do in one call of the C kernel, into which no interrupt comes.

    The rest goes their way: rows that are not contiguous or very large, and lanes that drop an episode.

    Args:
        engine, ring, obs, action: as of `Quick`.
    """

    def __init__(self, engine: Engine, ring: Ring, obs: Field, action: Field) -> None:
        self._engine, self._changes, self._index = engine, engine.changes, engine.index
        self._quick, self._lanes = Quick(engine, ring, obs, action), QuickLanes(engine, ring, obs, action)
        self._columns = [ring.columns[name] for name in ("obs", "action", "reward")]
        self._kinds = ndarray, action.dtype.type, REWARDS, FALSE
        self._put, self._put_lanes = native.put, native.put_lanes
        self._place = self._total = cast(Any, None)

    def add(
        self, obs: Any, action: Any, reward: Any, terminated: object, truncated: object, stream: object
    ) -> bool:
        """Store a step that does not end its episode, if it fits at first sight; return whether it was stored."""
        index, changes = self._index, self._changes
        with self._engine.lock:
            if changes.check is None and changes.pending is None and not index.seams:
                if index.total is not self._total:
                    self._look()
                found, index.found = index.found, None
                if self._put(self._place, obs, action, reward, terminated, truncated, stream):
                    return True
                index.found = found
        return self._quick.add(obs, action, reward, terminated, truncated, stream)

    def add_lanes(
        self, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any, final_obs: Any
    ) -> bool:
        """Store a step of each stream if none ends and all fit at first sight; return whether they were stored."""
        index, changes = self._index, self._changes
        with self._engine.lock:
            if changes.check is None and changes.pending is None and not index.seams:
                if index.total is not self._total:
                    self._look()
                found, index.found = index.found, None
                if self._put_lanes(self._place, obs, action, reward, terminated, truncated, final_obs):
                    return True
                index.found = found
        return self._lanes.add(obs, action, reward, terminated, truncated, final_obs)

    def _look(self) -> None:
        """Tell the kernel where the arrays are: the table of episodes has grown."""
        index = self._index
        streams = index.head, index.tail, index.open_episode, index.front_stop
        table = index.stop, index.settled, index.total
        arrays = *self._columns, *streams, index.episode_of_slot, *table
        self._place = native.place(*arrays, index.capacity, *self._kinds)
        self._total = index.total


def quick_ways(engine: Engine) -> tuple[Callable[..., bool], Callable[..., bool]]:
    """Return `Quick.add` and `QuickLanes.add` of a buffer, or what stores nothing where the buffer is none for them."""
    spec, store = engine.settings.spec, engine.store
    fields = spec.obs, spec.action
    if engine.changes.check is not None or spec.extras or not isinstance(store, Ring):
        return _never, _never
    if not all(isinstance(field, Field) and not field.finite for field in fields):
        return _never, _never
    if native is not None:
        direct = Direct(engine, store, *fields)
        return direct.add, direct.add_lanes
    return Quick(engine, store, *fields).add, QuickLanes(engine, store, *fields).add


def _never(*step: object) -> bool:
    return False

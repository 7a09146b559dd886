"""The trajectory being collected, in lists, before it joins a replay buffer: IRISOnPolicyBuffer."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.compat import Floats, Frames, IRISReplayBuffer
from reverie.door import (
    action_value,
    flag,
    positive,
    reward_number,
    same_shape,
    stream_number,
    terminal_flag,
)
from reverie.errors import BadSetting, BufferFull, SpecMismatch
from reverie.spec import Field
from reverie.values import numeric_array


class IRISOnPolicyBuffer:
    """Keeps the current trajectory in lists, until it joins the main buffer.

    Args:
        max_steps: steps it takes before it says that it is full.

    Attributes:
        observations: list of uint8 arrays; actions: list of float32 arrays or integers; rewards, terminals:
            lists of floats. One entry per step, each a copy of what was added.
    """

    def __init__(self, max_steps: int = 1000) -> None:
        self.max_steps = positive("max_steps", max_steps)
        self._frame_shape: tuple[int, ...] = (0, 0, 0)  # of the newest step ever: the rank when empty
        self._action_shape: tuple[int, ...] = (0,)
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.observations: list[Frames] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminals: list[float] = []
        self._truncated: list[bool] = []
        self._final_obs: list[Frames | None] = []

    def __len__(self) -> int:
        return len(self.observations)

    def __copy__(self) -> Self:
        return deepcopy(self)  # two trajectories never share their lists

    def add(self, obs: npt.ArrayLike, action: npt.ArrayLike, reward: float, terminal: float, *,
            truncated: bool = False, final_obs: npt.ArrayLike | None = None) -> None:  # fmt: skip
        """Store a copy of one transition; the arguments are those of `IRISReplayBuffer.add`.

        Raises:
            BufferFull: `max_steps` are held already; they stay.
            SpecMismatch: a value of the wrong kind, or of another shape than those before it.
        """
        if len(self) >= self.max_steps:
            raise BufferFull(f"wanted room for a step, got all {self.max_steps} taken; call move_to or clear")
        field = Field(self._frame_shape if len(self) else numeric_array("obs", obs).shape, "uint8")
        frame, taken = np.array(field.validate("obs", obs), np.uint8), action_value(action)
        if len(self):
            same_shape("action", np.shape(taken), self._action_shape)
        ended, stopped, amount = terminal_flag(terminal), flag("truncated", truncated), reward_number(reward)
        if final_obs is not None and not (ended or stopped):
            raise SpecMismatch("final_obs: wanted it only with an end, got it without; leave it out")
        final = None if final_obs is None else np.array(field.validate("final_obs", final_obs), np.uint8)
        self.observations.append(frame)
        self.actions.append(taken)
        self.rewards.append(amount)
        self.terminals.append(float(ended))
        self._truncated.append(stopped)
        self._final_obs.append(final)
        self._frame_shape, self._action_shape = frame.shape, np.shape(taken)

    def get_arrays(self) -> tuple[Frames, Floats, Floats, Floats]:
        """Return (T, *obs_shape) uint8 observations, and float32 actions (T, …), rewards (T,), terminals (T,).

        An empty buffer gives arrays of the same ranks with T = 0.
        """
        observations = np.array(self.observations, np.uint8).reshape(len(self), *self._frame_shape)
        actions = np.array(self.actions, np.float32).reshape(len(self), *self._action_shape)
        return observations, actions, np.array(self.rewards, np.float32), np.array(self.terminals, np.float32)

    def move_to(self, buffer: IRISReplayBuffer | ReplayBuffer, *, stream: int = 0) -> None:
        """Add all steps to `buffer`, then clear. If it refuses a step, nothing is moved.

        The trajectory stands for itself: the target's running episode is cut before it, and after it unless
        it ended by itself, so that it is never joined to what another trajectory brings.

        Raises:
            SpecMismatch: a step does not fit the target, or `stream` does not exist there.
            BufferClosed: the target was closed.
        """
        if not isinstance(buffer, (IRISReplayBuffer, ReplayBuffer)):
            raise BadSetting(f"buffer: wanted a replay buffer, got {type(buffer).__name__}; pass one of ours")
        engine = buffer._engine if isinstance(buffer, IRISReplayBuffer) else buffer
        with engine._lock:
            engine._keeper.check_open()
            stream = stream_number(stream, engine.streams)
            records = zip(self.observations, self.actions, self.rewards, self.terminals, self._truncated,
                          self._final_obs, strict=True)  # fmt: skip
            # All are checked before the first is stored.
            if isinstance(buffer, IRISReplayBuffer):
                cut, store = buffer.cut, buffer._store
                steps = [buffer._prepare(*record) for record in records]
            else:
                cut, store = partial(engine.cut, stream), partial(engine._changes.add, stream)
                steps = [
                    engine._intake.step(obs, action, reward, bool(terminal), truncated, final, {})
                    for obs, action, reward, terminal, truncated, final in records
                ]
            if steps:
                cut()
                for step in steps:
                    store(step)
                cut()
        self.clear()

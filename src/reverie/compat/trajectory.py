"""The trajectory being collected, in lists, before it joins a replay buffer: IRISOnPolicyBuffer."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.checks import flag, positive, reward_number, stream_number
from reverie.compat.replay import IRISReplayBuffer
from reverie.compat.transitions import (
    UINT8,
    Floats,
    Frames,
    TransitionIntake,
    action_value,
    final_frame,
    frame,
    own_words,
    terminal_flag,
)
from reverie.engine import Intake
from reverie.errors import BadSetting, BufferFull, SpecMismatch

LISTS = ("observations", "actions", "rewards", "terminals")


class End(float):
    """The terminal of a step that ended its episode: 1.0, or 0.0 if it was truncated only.

    It is an entry of the list `terminals` and brings what belongs to the end: whatever is done to the lists,
    that stays with its step.
    """

    __slots__ = ("final_obs", "truncated")

    truncated: bool
    final_obs: Frames | None

    def __new__(cls, terminal: bool, truncated: bool, final_obs: Frames | None) -> End:
        """Return the end of an episode."""
        self = super().__new__(cls, terminal)
        self.truncated, self.final_obs = truncated, final_obs
        return self

    def __reduce__(self) -> Any:
        """Travel, and be copied, with what it brings."""
        return End, (bool(self), self.truncated, self.final_obs)


class Transition(NamedTuple):
    """A step of the lists that fits."""

    obs: Frames
    action: int | float | Floats
    reward: float
    terminal: float  # an End, unless it was written by hand or nothing ended


class IRISOnPolicyBuffer:
    """Keeps the current trajectory in lists, until it joins the main buffer.

    The lists may be changed by hand: appended to, cut, cleared. What they hold is looked at again by `add`,
    `get_arrays` and `move_to`.

    Args:
        max_steps: steps it takes before it says that it is full.

    Attributes:
        observations: list of uint8 arrays; actions: list of float32 vectors, integers or floats; rewards,
            terminals: lists of floats. One entry per step, each a copy of what was added.
    """

    observations: list[Any]
    actions: list[Any]
    rewards: list[Any]
    terminals: list[Any]

    def __init__(self, max_steps: int = 1000) -> None:
        self.max_steps = positive("max_steps", max_steps)
        # Of the newest step ever: they say the ranks of arrays without rows.
        self._frame: Frames = np.zeros((0, 0, 0), np.uint8)
        self._action: int | float | Floats = np.zeros(0, np.float32)
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.observations, self.actions, self.rewards, self.terminals = [], [], [], []

    def __len__(self) -> int:
        return len(self.observations)

    def __copy__(self) -> Self:
        return deepcopy(self)  # two trajectories never share their lists

    def add(
        self,
        obs: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: float,
        terminal: float,
        *,
        truncated: bool = False,
        final_obs: npt.ArrayLike | None = None,
    ) -> None:
        """Store a copy of one transition; the arguments are those of `IRISReplayBuffer.add`.

        Raises:
            BufferFull: `max_steps` are held already; they stay.
            SpecMismatch: a value of the wrong kind, or of another shape than those before it.
            BadSetting: the lists were changed by hand and have not the same length any more.
        """
        count = self._count()
        if count >= self.max_steps:
            raise BufferFull(f"wanted room for a step, got all {count} taken; call move_to or clear")
        like = self._step(count - 1, None) if count else None
        image = frame("obs", obs, None if like is None else like.obs.shape)
        taken = _action_like(action, None if like is None else like.action, "action")
        amount, ended = reward_number(reward), terminal_flag(terminal)
        stopped = flag("truncated", truncated)
        final = None if final_obs is None else final_frame(final_obs, image.shape, ended or stopped).copy()
        step = Transition(
            image.copy(), taken, amount, End(ended, stopped, final) if ended or stopped else 0.0
        )
        for name, value in zip(LISTS, step, strict=True):
            getattr(self, name).append(value)
        self._frame, self._action = step.obs, step.action

    def get_arrays(self) -> tuple[Frames, npt.NDArray[Any], Floats, Floats]:
        """Return (T, *obs_shape) uint8 observations, actions, and float32 rewards (T,) and terminals (T,).

        Actions come as they were added: (T, A) float32 for vectors, (T,) int64 for integers, (T,) float32
        for floats. An empty buffer gives arrays of the same ranks with T = 0.

        Raises:
            SpecMismatch, BadSetting: the lists were changed by hand, and do not fit together any more.
        """
        steps = self._steps()
        image, action = (steps[-1].obs, steps[-1].action) if steps else (self._frame, self._action)
        kind = np.int64 if isinstance(action, int) else np.float32
        return (
            np.array([step.obs for step in steps], np.uint8).reshape(len(steps), *image.shape),
            np.array([step.action for step in steps], kind).reshape(len(steps), *np.shape(action)),
            np.array([step.reward for step in steps], np.float32),
            np.array([step.terminal for step in steps], np.float32),
        )

    def move_to(self, buffer: IRISReplayBuffer | ReplayBuffer, *, stream: int = 0) -> None:
        """Add all steps to `buffer`, then clear. If it refuses a step, nothing is moved.

        The trajectory stands for itself: the target's running episode is cut before it, and after it unless
        it ended by itself, so that it is never joined to what another trajectory brings. If the target's file
        cannot be written any more, or Ctrl-C comes, the steps that are there are moved, and the others stay.

        Args:
            buffer: an IRISReplayBuffer or a ReplayBuffer.
            stream: of a ReplayBuffer, which environment this was.

        Raises:
            SpecMismatch: a step does not fit the target, or `stream` does not exist there.
            BadSetting: `buffer` is none, or the lists were changed by hand and have not the same length.
            BufferClosed: the target was closed. FileError: its file cannot be written.
        """
        if not isinstance(buffer, (IRISReplayBuffer, ReplayBuffer)):
            raise BadSetting(f"buffer: wanted a replay buffer, got {type(buffer).__name__}; pass one of ours")
        steps = self._steps()
        engine = buffer.engine
        with engine.lock, own_words():
            engine.check_open()
            if isinstance(buffer, IRISReplayBuffer) and stream != 0:
                raise SpecMismatch(
                    f"stream: wanted 0, got {stream!r}; an IRISReplayBuffer has one: leave it out"
                )
            stream = stream_number(stream, engine.settings.streams)
            check: Callable[..., Any]
            cut: Callable[[], None]
            add: Callable[..., None]
            if isinstance(buffer, IRISReplayBuffer):
                ready = [_spelled(step, "terminal") for step in steps]
                check = TransitionIntake(buffer.obs_shape, buffer.action_size).step
                cut, add = buffer.cut, buffer.add
            else:
                ready = [_spelled(step, "terminated") for step in steps]
                check = partial(Intake(buffer.spec).step, extras={})
                cut, add = partial(buffer.cut, stream), partial(buffer.add, stream=stream)
            for step in ready:  # all are checked before the first is stored
                check(**step)
            head = engine.index.head.item(stream)
            try:
                if ready:
                    cut()
                    for step in ready:
                        add(**step)
                    cut()
            finally:  # what is there is not moved again
                engine.settle()
                moved = engine.index.head.item(stream) - head
                for name in LISTS:
                    setattr(self, name, getattr(self, name)[moved:])

    # --- what the lists hold -----------------------------------------------------------------------------

    def _count(self) -> int:
        """Return how many steps the lists hold, if they have the same length."""
        for name in LISTS:
            if not isinstance(getattr(self, name), list):
                raise BadSetting(
                    f"{name}: wanted a list, got {type(getattr(self, name)).__name__}; call clear"
                )
        counts = {name: len(getattr(self, name)) for name in LISTS}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise BadSetting(
                f"lists: wanted one entry per step in each, got {told}; change all four alike, or call clear"
            )
        return counts["observations"]

    def _steps(self) -> list[Transition]:
        """Return all steps, each of which has been looked at."""
        steps: list[Transition] = []
        for number in range(self._count()):
            steps.append(self._step(number, steps[-1] if steps else None))
        return steps

    def _step(self, number: int, like: Transition | None) -> Transition:
        """Return one step of the lists, if it is one, and one as `like`."""
        obs, action, reward, terminal = (getattr(self, name)[number] for name in LISTS)
        shape = None if like is None else like.obs.shape
        if type(obs) is not np.ndarray or obs.dtype is not UINT8 or obs.shape != (shape or obs.shape):
            obs = frame(f"observations[{number}]", obs, shape)
        action = _action_like(action, None if like is None else like.action, f"actions[{number}]")
        if type(terminal) is not End:
            terminal = float(terminal_flag(terminal, f"terminals[{number}]"))
        elif terminal.final_obs is not None and terminal.final_obs.shape != obs.shape:
            # Another frame was put in the place of its step's.
            terminal = End(bool(terminal), terminal.truncated, None)
        return Transition(obs, action, reward_number(reward, f"rewards[{number}]"), terminal)


def _spelled(step: Transition, end_name: str) -> dict[str, Any]:
    """Return a step as the arguments of a buffer's `add`, which calls an end `end_name`."""
    end = step.terminal if isinstance(step.terminal, End) else End(bool(step.terminal), False, None)
    told = {end_name: bool(end), "truncated": end.truncated, "final_obs": end.final_obs}
    return {"obs": step.obs, "action": step.action, "reward": step.reward, **told}


def _action_like(action: Any, like: int | float | Floats | None, name: str) -> int | float | Floats:
    """Return an action of the same kind and shape as `like`; raise SpecMismatch otherwise."""
    value = action_value(action, name)
    if like is not None and _kind(value) != _kind(like):
        raise SpecMismatch(
            f"field {name!r}: wanted {_kind(like)} as in the step before, got {_kind(value)}; "
            f"a trajectory has actions of one kind"
        )
    return value


def _kind(action: int | float | Floats) -> str:
    if isinstance(action, np.ndarray):
        return f"shape {action.shape}"
    return "an integer" if isinstance(action, int) else "one number"

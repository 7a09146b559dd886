"""Recording Gymnasium environments, single and vector, into a replay buffer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from reverie.buffer import ReplayBuffer
from reverie.checks import positive, seed_number
from reverie.errors import BadSetting, counted
from reverie.gymnasium.players import LanesPlayer, OnePlayer
from reverie.gymnasium.policies import Policy, Transform, asked, at_random
from reverie.gymnasium.suitability import AnyEnv, check_fit, count_lanes

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recording:
    """What one call of `record` added.

    Attributes:
        steps: steps added, over all lanes.
        returns: sum of rewards of each episode that terminated or was truncated, in the order of their ends.
        lengths: steps of each of those episodes.
        duration_s: how long it took, environment and policy included.
    """

    steps: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    duration_s: float

    @property
    def episodes(self) -> int:
        """Episodes that terminated or were truncated; those cut at the end of the run do not count."""
        return len(self.returns)

    @property
    def steps_per_s(self) -> float:
        """Steps added per second."""
        return self.steps / self.duration_s

    def __repr__(self) -> str:
        told = f"{counted(self.steps, 'step')} in {self.duration_s:.1f} s, {counted(self.episodes, 'episode')} ended"
        if not self.episodes:
            return f"Recording({told})"
        mean, length = (sum(values) / self.episodes for values in (self.returns, self.lengths))
        return f"Recording({told}, mean return {mean:.2f}, mean length {length:.1f})"


def record(
    env: AnyEnv,
    buffer: ReplayBuffer,
    policy: Policy | None = None,
    steps: int = 1_000,
    *,
    seed: int | None = None,
    transform: Transform | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Recording:
    """Play `env` from a reset and add exactly `steps` steps to `buffer`, true transitions only.

    A vector environment of N lanes adds one step per lane and row, lane i into stream i. All three autoreset
    modes are understood: the row that only resets a lane (`NEXT_STEP`) is not stored, and every episode that
    ends gets the observation that truly came last (`infos["final_obs"]` under `SAME_STEP`). When fewer steps
    are left than lanes have one to give, the lanes with the lowest numbers add theirs and the others' are
    dropped, so `steps` need not divide by N.

    The run starts with `env.reset(seed=seed)` and leaves nothing open: episodes still running when it stops,
    at the end or because the environment, the policy, `transform` or `on_step` raised, are cut, and so is whatever was
    open in the buffer before. An exception passes on after that; a run that goes well also stores what each
    cut episode showed when it stopped, so that its last step has its successor.

    Each episode's metadata names the environment, if Gymnasium made it, as `env`, and the seed of its reset, if it had
    one, as `seed`. Where an episode ends with each life of an Atari game, `episode_is` is "life".

    Observations and actions are copied before the environment moves on, so it may reuse its arrays. One case
    is beyond reach: under `SAME_STEP` in an `AsyncVectorEnv`, a lane that resets into the very array that
    held its last observation has overwritten it before anyone can read it. (`SyncVectorEnv` has the same
    trap; there it is refused.)

    Args:
        env: a `gymnasium.Env`, or a `gymnasium.vector.VectorEnv` that names its autoreset mode.
        buffer: takes the steps; as many streams as lanes, a spec like `StepSpec.from_env(env)`, which may leave out
            keys of the observation. A field in its `extras` comes from `transform`, or else from the policy, or else
            from the `info` of that step, by name; a vector environment's is `infos[name]`, under the mask
            `infos["_" + name]`.
        policy: maps observations to actions: one to one for a single environment, for a vector environment
            arrays (or dicts of arrays) with a leading lane axis to the same. None plays uniformly at random. One
            with two positional parameters without defaults gets (obs, info), where info came with that
            observation. It may return (action, extras), a tuple of two whose second is a dict of extra fields,
            unless the action space is a Tuple: there a tuple is always the action.
        steps: steps to add, over all lanes, at least 1.
        seed: seeds the environment (lane i with `seed + i`, as Gymnasium does) and, independently, the random
            actions of `policy=None`. None is different each time.
        transform: makes extra fields of each step: called once for each step of each lane, before it is added, with a
            dict of `obs`, `action`, `reward`, `terminated`, `truncated`, `next_obs` (what came of it, also at an end)
            and `info`, which it must not change; returns a dict of extra fields by name.
        on_step: called after each addition with the number of steps added so far.

    Returns:
        What was added: steps, returns and lengths of the episodes that ended, and the time taken.

    Raises:
        BadSetting: an argument that cannot be honoured; nothing was played.
        SpecMismatch: `env` and `buffer` disagree about a field (nothing was played), the environment returned
            something that its spaces do not promise, or neither policy nor info has an extra field.
    """
    steps = positive("steps", steps)
    with Recorder(env, buffer, seed=seed, transform=transform) as recorder:
        return recorder.step(policy, steps, on_step=on_step)


class Recorder:
    """Plays an environment into a buffer in pieces, each going on where the last one stopped.

    The first `step` resets the environment with `seed`. Steps of a vector environment's row that a call has no
    room for are kept, and the next call adds them first. `close`, or the end of a `with` block, cuts what runs.

    When the environment, the policy, `transform` or `on_step` raises, the running episodes are cut after their last
    stored step, without a final observation; the error passes on, and the next `step` begins with a reset.

    Args:
        env: as for `record`.
        buffer: as for `record`. What was open in it is cut.
        seed, transform: as for `record`.

    Raises:
        BadSetting: an argument that cannot be honoured.
        SpecMismatch: `env` and `buffer` disagree about a field.
    """

    def __init__(
        self,
        env: AnyEnv,
        buffer: ReplayBuffer,
        *,
        seed: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        self._seed = None if seed is None else seed_number(seed)
        lanes = count_lanes(env)
        check_fit(env, lanes, buffer)
        self._buffer, self._lanes = buffer, lanes
        self._player = (
            LanesPlayer(env, buffer, transform)
            if isinstance(env, VectorEnv)
            else OnePlayer(env, buffer, transform)
        )
        self._action_space = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
        self._random = at_random(env.action_space, self._seed)
        self._tally = _Tally(lanes)
        self._is_playing = self._is_closed = False
        _cut_all(buffer)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "playing" if self._is_playing else "about to reset"
        return f"Recorder({counted(self._lanes or 1, 'environment')}, {state}, into {self._buffer!r})"

    def step(
        self, policy: Policy | None = None, n: int = 1, *, on_step: Callable[[int], None] | None = None
    ) -> Recording:
        """Add exactly `n` steps, and return what came of them.

        An episode that began in an earlier call and ended in this one is told whole.

        Args:
            policy: as for `record`; another call may bring another.
            n: steps to add, over all lanes, at least 1.
            on_step: called after each addition with the number of steps that this call has added.

        Raises:
            BadSetting: no such `n`, or the recorder was closed.
            SpecMismatch: as for `record`.
        """
        n = positive("n", n)
        if self._is_closed:
            raise BadSetting("Recorder: wanted an open one, got one that was closed; make another")
        ask = asked(self._random if policy is None else policy, self._action_space)
        self._tally.begin(on_step)
        done = False
        try:
            if not self._is_playing:
                self._player.start(self._seed)
                self._seed, self._is_playing = None, True  # a reset after an error starts other episodes
            left = n
            while left:
                left -= self._player.play(ask, left, self._tally.count)
            done = True
        finally:
            if not done:
                self._is_playing = False
                self._tally.forget()
                _cut_all(self._buffer)
        return self._tally.result()

    def close(self) -> None:
        """Cut the running episodes with what the environment showed last; the environment stays open."""
        if self._is_playing:
            self._is_playing = False
            try:
                self._player.stop()
            finally:
                _cut_all(self._buffer)
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_all(buffer: ReplayBuffer) -> None:
    for stream in range(buffer.streams):
        buffer.cut(stream)


class _Tally:
    """Counts what was added; per lane, the episode under way."""

    def __init__(self, lanes: int) -> None:
        self._return = np.zeros(lanes)  # lane -> rewards of its running episode
        self._length = np.zeros(lanes, np.int64)  # lane -> steps of its running episode
        self.begin(None)

    def begin(self, on_step: Callable[[int], None] | None) -> None:
        """Count anew; the episodes under way go on."""
        self._on_step = on_step
        self._started = time.perf_counter()
        self._steps = 0
        self._returns: list[float] = []
        self._lengths: list[int] = []

    def forget(self) -> None:
        """Forget the episodes under way: they were cut."""
        self._return[:] = 0
        self._length[:] = 0

    def count(self, lanes: Ints, reward: npt.NDArray[np.float64], ended: Bools) -> None:
        """Take note of one added step for each of `lanes`."""
        self._steps += len(lanes)
        self._return[lanes] += reward
        self._length[lanes] += 1
        over = lanes[ended]
        if len(over):
            self._returns += self._return[over].tolist()
            self._lengths += self._length[over].tolist()
            self._return[over] = 0
            self._length[over] = 0
        if self._on_step is not None:
            self._on_step(self._steps)

    def result(self) -> Recording:
        duration_s = time.perf_counter() - self._started
        return Recording(self._steps, tuple(self._returns), tuple(self._lengths), duration_s)

"""Recording Gymnasium environments, single and vector, into a replay buffer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from reverie.buffer import ReplayBuffer
from reverie.checks import positive, seed_number
from reverie.errors import BadSetting, SpecMismatch
from reverie.gymnasium.lanes import for_env, numbers, own, put, row, rows
from reverie.spec import Column, StepSpec
from reverie.values import Tree, tree_leaves

AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]
Policy = Callable[[Any], Any]
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


def record(
    env: AnyEnv,
    buffer: ReplayBuffer,
    policy: Policy | None = None,
    steps: int = 1_000,
    *,
    seed: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Recording:
    """Play `env` from a reset and add exactly `steps` steps to `buffer`, true transitions only.

    A vector environment of N lanes adds one step per lane and row, lane i into stream i. All three autoreset
    modes are understood: the row that only resets a lane (`NEXT_STEP`) is not stored, and every episode that
    ends gets the observation that truly came last (`infos["final_obs"]` under `SAME_STEP`). When fewer steps
    are left than lanes have one to give, the lanes with the lowest numbers add theirs and the others' are
    dropped, so `steps` need not divide by N.

    The run starts with `env.reset(seed=seed)` and leaves nothing open: episodes still running when it stops,
    at the end or because the environment, the policy or `on_step` raised, are cut, and so is whatever was
    open in the buffer before. An exception passes on after that; a run that goes well also stores what each
    cut episode showed when it stopped, so that its last step has its successor.

    Observations and actions are copied before the environment moves on, so it may reuse its arrays. One case
    is beyond reach: under `SAME_STEP` in an `AsyncVectorEnv`, a lane that resets into the very array that
    held its last observation has overwritten it before anyone can read it. (`SyncVectorEnv` has the same
    trap; there it is refused.)

    Args:
        env: a `gymnasium.Env`, or a `gymnasium.vector.VectorEnv` that names its autoreset mode.
        buffer: takes the steps; as many streams as lanes, a spec like `StepSpec.from_env(env)`.
        policy: maps observations to actions: one to one for a single environment, for a vector environment
            arrays (or dicts of arrays) with a leading lane axis to the same. None plays uniformly at random.
        steps: steps to add, over all lanes, at least 1.
        seed: seeds the environment (lane i with `seed + i`, as Gymnasium does) and, independently, the random
            actions of `policy=None`. None is different each time.
        on_step: called after each addition with the number of steps added so far.

    Returns:
        What was added: steps, returns and lengths of the episodes that ended, and the time taken.

    Raises:
        BadSetting: an argument that cannot be honoured; nothing was played.
        SpecMismatch: `env` and `buffer` disagree about a field (nothing was played), or the environment
            returned something that its spaces do not promise.
    """
    steps = positive("steps", steps)
    seed = None if seed is None else seed_number(seed)
    lanes = _count_lanes(env)
    _check_fit(env, lanes, buffer)
    play = _random_policy(env, seed) if policy is None else policy
    tally = _Tally(lanes, on_step)
    _cut_all(buffer)
    try:
        if isinstance(env, VectorEnv):
            _record_lanes(env, buffer, play, steps, seed, tally)
        else:
            _record_one(env, buffer, play, steps, seed, tally)
    finally:
        _cut_all(buffer)
    return tally.result()


def _record_one(
    env: gymnasium.Env[Any, Any],
    buffer: ReplayBuffer,
    policy: Policy,
    steps: int,
    seed: int | None,
    tally: _Tally,
) -> None:
    only = np.zeros(1, np.int64)  # the one lane of a single environment
    obs, _ = env.reset(seed=seed)
    for left in range(steps, 0, -1):
        seen = own("obs", obs)
        chosen = policy(obs)
        action = own("action", chosen)
        obs, reward, terminated, truncated, _ = env.step(for_env("action", chosen, obs))
        amount = float(numbers("reward", reward, ()))
        terminated, truncated = (
            bool(numbers("terminated", terminated, ())),
            bool(numbers("truncated", truncated, ())),
        )
        ended = terminated or truncated
        buffer.add(
            obs=seen,
            action=action,
            reward=amount,
            terminated=terminated,
            truncated=truncated,
            final_obs=obs if ended else None,
        )
        tally.count(only, np.array([amount]), np.array([ended]))
        if ended and left > 1:
            obs, _ = env.reset()
    buffer.cut(final_obs=obs)


def _record_lanes(
    env: VectorEnv[Any, Any, Any],
    buffer: ReplayBuffer,
    policy: Policy,
    steps: int,
    seed: int | None,
    tally: _Tally,
) -> None:
    mode, each = _autoreset_mode(env), (env.num_envs,)
    playing = np.ones(env.num_envs, np.bool_)  # False for lanes whose next row only resets them
    left = steps
    obs, _ = env.reset(seed=seed)
    while left:
        seen = own("obs", obs)
        chosen = policy(obs)
        action = own("action", chosen)
        obs, reward, terminated, truncated, infos = env.step(for_env("action", chosen, obs))
        reward = numbers("reward", reward, each).astype(np.float64)
        terminated = numbers("terminated", terminated, each).astype(np.bool_)
        truncated = numbers("truncated", truncated, each).astype(np.bool_)
        ended = terminated | truncated
        final = None
        if ended.any():
            final = _final_obs(env, obs, infos, ended) if mode is AutoresetMode.SAME_STEP else obs
        giving = np.flatnonzero(playing)
        lanes, dropped = giving[:left], giving[left:]
        if len(lanes):
            buffer.add_batch(
                obs=rows("obs", seen, env.num_envs, lanes),
                action=rows("action", action, env.num_envs, lanes),
                reward=reward[lanes],
                terminated=terminated[lanes],
                truncated=truncated[lanes],
                final_obs=None if final is None else rows("final_obs", final, env.num_envs, lanes),
                streams=lanes,
            )
            left -= len(lanes)
            tally.count(lanes, reward[lanes], ended[lanes])
        if mode is AutoresetMode.NEXT_STEP:
            playing = ~(ended & playing)
        elif mode is AutoresetMode.DISABLED and ended.any() and left:
            obs, _ = env.reset(options={"reset_mask": ended})
    for lane in dropped.tolist():
        buffer.cut(lane, final_obs=row("obs", seen, env.num_envs, lane))
    for lane in lanes.tolist():
        buffer.cut(lane, final_obs=row("obs", obs, env.num_envs, lane))


def _cut_all(buffer: ReplayBuffer) -> None:
    for stream in range(buffer.streams):
        buffer.cut(stream)


class _Tally:
    """Counts what was added; per lane, the episode under way."""

    def __init__(self, lanes: int, on_step: Callable[[int], None] | None) -> None:
        self._on_step = on_step
        self._started = time.perf_counter()
        self._steps = 0
        self._return = np.zeros(lanes)  # lane -> rewards of its running episode
        self._length = np.zeros(lanes, np.int64)  # lane -> steps of its running episode
        self._returns: list[float] = []
        self._lengths: list[int] = []

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


def _count_lanes(env: AnyEnv) -> int:
    if isinstance(env, VectorEnv):
        mode = _autoreset_mode(env)
        inner = env.unwrapped
        if mode is AutoresetMode.NEXT_STEP and isinstance(inner, AsyncVectorEnv) and not inner.shared_memory:
            # Gymnasium's worker clears its pending autoreset in reset() only where memory is shared: after a
            # reset its first "step" may be a reset in disguise, a dead transition that nothing gives away.
            raise BadSetting(
                "env: wanted shared_memory=True in an AsyncVectorEnv that resets on the next step, got False, which "
                "lets a pending autoreset survive reset(); build it with shared_memory=True, "
                "or with another autoreset_mode"
            )
        return int(env.num_envs)
    if isinstance(env, gymnasium.Env):
        return 1
    raise BadSetting(
        f"env: wanted a gymnasium.Env or gymnasium.vector.VectorEnv, got {type(env).__name__}; "
        f"wrap it as one, or add its steps with ReplayBuffer.add"
    )


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    # Some vector environments write their mode into the metadata of their class, where the last one built
    # speaks for all; an attribute of the environment itself is the better witness.
    named = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(named)
    except ValueError:
        raise BadSetting(
            f"env: wanted metadata['autoreset_mode'] to be a gymnasium.vector.AutoresetMode, got {named!r}; "
            f"set it to the mode that the environment follows, so that no reset is stored as a step"
        ) from None


def _check_fit(env: AnyEnv, lanes: int, buffer: ReplayBuffer) -> None:
    """Refuse a buffer that cannot take the steps of `env`, before anything is played."""
    if buffer.streams != lanes:
        raise BadSetting(
            f"buffer: wanted one stream per lane, {lanes} in all, got {buffer.streams}; "
            f"build it with streams={lanes}"
        )
    wanted = _fields(StepSpec.from_env(env).columns())
    got = _fields(buffer.spec.columns())
    remedy = "build the buffer with StepSpec.from_env(env), or wrap the environment"
    if wanted.keys() != got.keys():
        raise SpecMismatch(f"buffer: wanted the fields {sorted(wanted)}, got {sorted(got)}; {remedy}")
    for name, field in wanted.items():
        held = got[name]
        if field.shape != held.shape or not held.takes(field.dtype):
            raise SpecMismatch(
                f"field {name!r}: wanted {field} as the environment has it, got {held}; {remedy}"
            )


def _fields(columns: tuple[Column, ...]) -> dict[str, Any]:
    return {column.name: column.field for column in columns}


def _random_policy(env: AnyEnv, seed: int | None) -> Policy:
    space = copy.deepcopy(env.action_space)  # the environment's own generator stays as it is
    # A stream of its own: the environment seeds its generator with the bare number.
    space.seed(None if seed is None else int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    return lambda obs: space.sample()


def _final_obs(env: VectorEnv[Any, Any, Any], obs: Tree, infos: Mapping[str, Any], ended: Bools) -> Tree:
    """Return `obs` with the rows of lanes that ended replaced by what they truly saw last (`SAME_STEP`)."""
    if "final_obs" not in infos:
        raise SpecMismatch(
            f"env: wanted infos['final_obs'] for lanes {np.flatnonzero(ended).tolist()}, which ended, "
            f"got infos with keys {sorted(infos)}; use AutoresetMode.NEXT_STEP, or unwrap what hides it"
        )
    out = own("obs", obs)
    for lane in np.flatnonzero(ended).tolist():
        final = row("final_obs", infos["final_obs"], env.num_envs, lane)
        _refuse_overwritten(env, lane, final)
        put("final_obs", out, lane, final)
    return out


def _refuse_overwritten(env: VectorEnv[Any, Any, Any], lane: int, final: Tree) -> None:
    """Refuse a lane of a SyncVectorEnv whose reset observation lies in the memory of its final one."""
    inner = env.unwrapped
    if not isinstance(inner, SyncVectorEnv):
        return
    # Gymnasium keeps each lane's newest observation here, as the lane returned it. It has no public name for that.
    after = dict(tree_leaves("obs", vars(inner)["_env_obs"][lane]))
    for name, leaf in tree_leaves("obs", final):
        if (
            isinstance(leaf, np.ndarray)
            and isinstance(after[name], np.ndarray)
            and np.shares_memory(leaf, after[name])
        ):
            raise SpecMismatch(
                f"env: wanted lane {lane} to keep its final observation apart from the next reset's, got one "
                f"array for both, already overwritten; return a copy from its reset(), "
                f"or use AutoresetMode.NEXT_STEP"
            )

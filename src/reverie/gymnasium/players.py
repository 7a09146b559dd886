"""Players: one step of an environment at a time, single or vector, and its true transition into the buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from reverie.buffer import ReplayBuffer
from reverie.errors import SpecMismatch
from reverie.gymnasium.finals import true_final
from reverie.gymnasium.lanes import for_env, numbers, own, row, rows
from reverie.gymnasium.policies import Answer, Transform, told
from reverie.gymnasium.spaces import played, stored
from reverie.gymnasium.suitability import autoreset_mode
from reverie.spec import Field
from reverie.values import Tree

Ask = Callable[[Any, Any], Answer]
Count = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]], None]
Array = npt.NDArray[Any]
ONLY = np.zeros(1, np.int64)  # the one lane of a single environment


class OnePlayer:
    """Plays a single environment."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], buffer: ReplayBuffer, transform: Transform | None
    ) -> None:
        self._env, self._buffer, self._transform = env, buffer, transform
        self._obs: Any = None
        self._info: Any = {}
        self._ended = False
        self._notes: dict[str, Any] | None = None  # for the episode that begins with the next step

    def start(self, seed: int | None) -> None:
        """Reset the environment."""
        self._notes = _notes_of(self._env, seed)
        self._obs, self._info = self._env.reset(seed=seed)
        self._ended = False

    def play(self, ask: Ask, left: int, count: Count) -> int:
        """Add one step and return 1."""
        if self._ended:
            self.start(None)
        seen = own("obs", self._stored(self._obs))
        chosen, extras = ask(self._obs, self._info)
        space = self._env.action_space
        action = own("action", stored("action", space, chosen))
        extras = {name: own(name, value) for name, value in extras.items()}
        self._obs, reward, terminated, truncated, self._info = self._env.step(
            for_env("action", played(space, chosen), self._obs)
        )
        amount = float(numbers("reward", reward, ()))
        over = [bool(numbers(*pair, ())) for pair in (("terminated", terminated), ("truncated", truncated))]
        self._ended = any(over)
        step = {"obs": seen, "action": action, "reward": amount, "terminated": over[0], "truncated": over[1]}
        if self._transform is not None:
            told_step = {**step, "next_obs": self._stored(self._obs), "info": self._info}
            extras = {**extras, **told(self._transform, told_step)}
        self._buffer.add(
            **step,
            final_obs=self._stored(self._obs) if self._ended else None,
            **self._from_info(extras),
        )
        if self._notes is not None:
            _annotate(self._buffer, 0, self._notes)
            self._notes = None
        count(ONLY, np.array([amount]), np.array([self._ended]))
        return 1

    def stop(self) -> None:
        """Cut the running episode with what the environment showed last."""
        self._buffer.cut(final_obs=self._stored(self._obs))

    def _stored(self, obs: Any) -> Tree:
        return _picked(self._buffer.spec.obs, stored("obs", self._env.observation_space, obs))

    def _from_info(self, extras: dict[str, Any]) -> dict[str, Any]:
        if not self._buffer.spec.extras:
            return extras
        absent = [name for name in self._buffer.spec.extras if name not in extras]
        for name in absent:
            if name not in self._info:
                raise _missing(name, self._info)
        return {**extras, **{name: self._info[name] for name in absent}}


@dataclass(slots=True)
class _Row:
    """One step of every lane; `waiting` names the lanes whose step is not in the buffer yet."""

    seen: Tree
    action: Tree
    reward: Array
    terminated: Array
    truncated: Array
    final: Tree
    extras: dict[str, Any]
    infos: Mapping[str, Any]
    waiting: Array


class LanesPlayer:
    """Plays a vector environment, lane i into stream i."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], buffer: ReplayBuffer, transform: Transform | None
    ) -> None:
        self._env, self._buffer, self._mode = env, buffer, autoreset_mode(env)
        self._transform = transform
        self._obs: Any = None
        self._infos: Any = {}
        self._playing = np.ones(env.num_envs, np.bool_)  # False for lanes whose next row only resets them
        self._ended = np.zeros(env.num_envs, np.bool_)  # lanes to reset before the next row (`DISABLED`)
        self._row: _Row | None = None
        # Lane -> notes for the episode that begins with its next step.
        self._notes: dict[int, dict[str, Any]] = {}

    def start(self, seed: int | None) -> None:
        """Reset all lanes."""
        for lane in range(self._env.num_envs):
            self._notes[lane] = _notes_of(self._env, None if seed is None else seed + lane)
        self._obs, self._infos = self._env.reset(seed=seed)
        self._playing[:], self._ended, self._row = True, np.zeros_like(self._ended), None

    def play(self, ask: Ask, left: int, count: Count) -> int:
        """Add the waiting lanes' steps, or play a row and add its; at most `left`. Return how many were added."""
        if self._row is None or not len(self._row.waiting):
            self._row = self._play_row(ask)
        held, lanes = self._row, self._row.waiting[:left]
        held.waiting = held.waiting[left:]
        if len(lanes):
            each = self._env.num_envs
            self._buffer.add_batch(
                obs=rows("obs", held.seen, each, lanes),
                action=rows("action", held.action, each, lanes),
                reward=held.reward[lanes],
                terminated=held.terminated[lanes],
                truncated=held.truncated[lanes],
                final_obs=None if held.final is None else rows("final_obs", held.final, each, lanes),
                streams=lanes,
                **self._extras(held, lanes),
            )
            ended = (held.terminated | held.truncated)[lanes]
            for lane, is_over in zip(lanes.tolist(), ended.tolist(), strict=True):
                if lane in self._notes:
                    _annotate(self._buffer, lane, self._notes.pop(lane))
                if is_over:
                    self._notes[lane] = _notes_of(self._env, None)
            count(lanes, held.reward[lanes], ended)
        return len(lanes)

    def stop(self) -> None:
        """Cut every running episode with what its lane showed after the last step that was added."""
        assert self._row is not None, "a row was played"
        waiting, obs = set(self._row.waiting.tolist()), self._stored(self._obs)
        for lane in range(self._env.num_envs):
            last = self._row.seen if lane in waiting else obs
            self._buffer.cut(lane, final_obs=row("obs", last, self._env.num_envs, lane))

    def _play_row(self, ask: Ask) -> _Row:
        if self._ended.any():
            self._obs, self._infos = self._env.reset(options={"reset_mask": self._ended})
            self._ended = np.zeros_like(self._ended)
        env, each = self._env, (self._env.num_envs,)
        seen = own("obs", self._stored(self._obs))
        chosen, extras = ask(self._obs, self._infos)
        action = own("action", stored("action", env.single_action_space, chosen, env.num_envs))
        extras = {name: own(name, value) for name, value in extras.items()}
        self._obs, reward, terminated, truncated, infos = env.step(
            for_env("action", played(env.single_action_space, chosen), self._obs)
        )
        self._infos = infos
        reward = numbers("reward", reward, each).astype(np.float64)
        terminated = numbers("terminated", terminated, each).astype(np.bool_)
        truncated = numbers("truncated", truncated, each).astype(np.bool_)
        giving, ended = np.flatnonzero(self._playing), terminated | truncated
        final = self._final(ended) if ended.any() else None
        if self._mode is AutoresetMode.NEXT_STEP:
            self._playing = ~(ended & self._playing)
        elif self._mode is AutoresetMode.DISABLED:
            self._ended = ended
        return _Row(seen, action, reward, terminated, truncated, final, extras, infos, giving)

    def _final(self, ended: Array) -> Tree:
        space = self._env.single_observation_space
        obs = stored("obs", space, self._obs, self._env.num_envs)
        if self._mode is AutoresetMode.SAME_STEP:
            return _picked(self._buffer.spec.obs, true_final(self._env, obs, self._infos, ended))
        return own("obs", _picked(self._buffer.spec.obs, obs))  # a step may wait while the arrays change

    def _stored(self, obs: Any) -> Tree:
        whole = stored("obs", self._env.single_observation_space, obs, self._env.num_envs)
        return _picked(self._buffer.spec.obs, whole)

    def _extras(self, held: _Row, lanes: Array) -> dict[str, Any]:
        each = self._env.num_envs
        given = {name: rows(name, value, each, lanes) for name, value in held.extras.items()}
        if self._transform is not None:
            all_told = [told(self._transform, self._step_of(held, lane)) for lane in lanes.tolist()]
            for name in {name for one in all_told for name in one}:
                if not all(name in one for one in all_told):
                    raise SpecMismatch(
                        f"transform: wanted field {name!r} for every lane, got it for some; return it always"
                    )
                given[name] = [one[name] for one in all_told]
        for name in self._buffer.spec.extras:
            if name not in given:
                given[name] = [self._from_infos(name, held, lane) for lane in lanes.tolist()]
        return given

    def _from_infos(self, name: str, held: _Row, lane: int) -> Any:
        """Return the info that came with a lane's step: under `SAME_STEP` an end's is not the reset's."""
        infos = self._infos_of(held, lane)
        if not _has(infos, name, lane):
            raise _missing(name, infos)
        return row(name, infos[name], self._env.num_envs, lane)

    def _infos_of(self, held: _Row, lane: int) -> Mapping[str, Any]:
        if self._mode is AutoresetMode.SAME_STEP and (held.terminated | held.truncated)[lane]:
            ends: Mapping[str, Any] = held.infos.get("final_info", {})
            return ends
        return held.infos

    def _step_of(self, held: _Row, lane: int) -> dict[str, Any]:
        """Return the step of one lane as a transform sees it."""
        each, infos = self._env.num_envs, self._infos_of(held, lane)
        ended = bool((held.terminated | held.truncated)[lane])
        after = held.final if ended else self._stored(self._obs)
        names = [
            name for name in infos if name not in ("final_obs", "final_info") and not name.startswith("_")
        ]
        return {
            "obs": row("obs", held.seen, each, lane),
            "action": row("action", held.action, each, lane),
            "reward": held.reward.item(lane),
            "terminated": bool(held.terminated[lane]),
            "truncated": bool(held.truncated[lane]),
            "next_obs": row("obs", after, each, lane),
            "info": {name: row(name, infos[name], each, lane) for name in names if _has(infos, name, lane)},
        }


def _has(infos: Mapping[str, Any], name: str, lane: int) -> bool:
    """Whether the infos of a row tell something of this name for a lane."""
    mask = infos.get(f"_{name}")
    return name in infos and (mask is None or bool(mask[lane]))


def _notes_of(env: Any, seed: int | None) -> dict[str, Any]:
    """Return what is noted of an episode that a reset begins: the environment's id, and the seed if there is one.

    Where an episode ends with each life of a game, that is noted, too.
    """
    spec = getattr(env, "spec", None)
    notes = {} if spec is None else {"env": str(spec.id)}
    if isinstance(env, gymnasium.Env) and env.has_wrapper_attr("episode_is"):
        notes["episode_is"] = str(env.get_wrapper_attr("episode_is"))
    return notes if seed is None else {**notes, "seed": seed}


def _annotate(buffer: ReplayBuffer, stream: int, notes: Mapping[str, Any]) -> None:
    """Note something of the newest episode of a stream, which may have ended already."""
    if notes:
        buffer.annotate(episode=buffer.engine.index.newest(stream), **notes)


def _picked(spec: Tree, obs: Tree) -> Tree:
    """Return the parts of an observation that the buffer has fields for."""
    if type(spec) is Field or not isinstance(spec, Mapping) or not isinstance(obs, Mapping):
        return obs
    return {key: _picked(child, obs[key]) for key, child in spec.items() if key in obs}


def _missing(name: str, info: Mapping[str, Any]) -> SpecMismatch:
    return SpecMismatch(
        f"field {name!r}: wanted it in the info of every step, or from the policy, got info with keys "
        f"{sorted(map(str, info))}; let the policy return (action, {{{name!r}: …}}), or leave the field out of the spec"
    )

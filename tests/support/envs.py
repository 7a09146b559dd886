"""Scripted environments that write down what truly happened, and the buffer's contents for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import reverie as rv

# One step as (obs, action, reward, terminated, truncated, next obs, whether the next obs is known).
Told = tuple[tuple[int, ...], int, float, bool, bool, tuple[int, ...], bool]
TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)


class Scripted(gym.Env[Any, Any]):
    """Episodes of given lengths and ends, over and over. An observation is (lane, episode, step).

    Args:
        lane: told in every observation.
        script: (length, (terminated, truncated)) of each episode; repeated when it has run out.
        reuse: return one array for all observations, changed in place.
        nested: observations are nested dicts of the same numbers.
        row_resets: a reset takes a row of the vector environment, as with autoreset on the next step.
        fail_at: raise in this step, counted over all episodes.

    Attributes:
        log: (row, step) for each step, in order; row counts what the vector environment had done before.
    """

    def __init__(
        self,
        lane: int = 0,
        script: Sequence[tuple[int, tuple[bool, bool]]] = ((3, TERMINATED),),
        *,
        reuse: bool = False,
        nested: bool = False,
        row_resets: bool = False,
        fail_at: int | None = None,
    ) -> None:
        self.lane, self.script, self.reuse, self.nested = lane, script, reuse, nested
        self.row_resets, self.fail_at = row_resets, fail_at
        whole = gym.spaces.Box(0, 1_000_000, (3,), np.int64)
        part = gym.spaces.Box(0, 1_000_000, (2,), np.int64)
        lane_space = gym.spaces.Box(0, 1_000_000, (), np.int64)
        inner = gym.spaces.Dict({"time": part})
        self.observation_space = gym.spaces.Dict({"in": inner, "lane": lane_space}) if nested else whole
        self.action_space = gym.spaces.Discrete(5, start=10)
        self.episode, self.t, self.row = -1, 0, -1 if row_resets else 0
        self.log: list[tuple[int, Told]] = []
        self.resets = 0
        self._array = np.zeros(3, np.int64)

    def numbers(self) -> tuple[int, int, int]:
        return (self.lane, self.episode, self.t)

    def observation(self) -> Any:
        if self.reuse:
            self._array[:] = self.numbers()
        whole = self._array if self.reuse else np.array(self.numbers(), np.int64)
        return {"in": {"time": whole[1:]}, "lane": np.array(whole[0])} if self.nested else whole

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        self.resets += 1
        self.row += self.row_resets
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        if self.fail_at == len(self.log):
            raise RuntimeError("the environment broke")
        before = self.numbers()
        length, (terminated, truncated) = self.script[self.episode % len(self.script)]
        self.t += 1
        if self.t < length:
            terminated = truncated = False
        reward = 100.0 * self.episode + self.t
        told = (before, int(action), reward, terminated, truncated, self.numbers(), True)
        self.log.append((self.row, told))
        self.row += 1
        return self.observation(), reward, terminated, truncated, {}


def plain(obs: Any) -> tuple[int, ...]:
    """Return the three numbers of an observation, nested or not."""
    if isinstance(obs, dict):
        return (int(obs["lane"]), *(int(number) for number in obs["in"]["time"]))
    return tuple(int(number) for number in obs)


def row_of(obs: Any, row: int) -> Any:
    return {key: row_of(child, row) for key, child in obs.items()} if isinstance(obs, dict) else obs[row]


def contents(buffer: rv.ReplayBuffer) -> dict[int, list[Told]]:
    """Return every live settled step of each stream, in order, as the buffer tells it."""
    told: dict[tuple[int, int], Told] = {}
    wanted = buffer.count_windows(1)
    while len(told) < wanted:  # draws are uniform: each step turns up soon
        batch = buffer.sample_steps(4 * wanted)
        for i in range(len(batch)):
            told[int(batch.stream[i]), int(batch.id[i])] = (
                plain(row_of(batch.obs, i)),
                int(batch.action[i]),
                float(batch.reward[i]),
                bool(batch.terminated[i]),
                bool(batch.truncated[i]),
                plain(row_of(batch.next_obs, i)),
                bool(batch.next_obs_mask[i]),
            )
    streams: dict[int, list[Told]] = {stream: [] for stream in range(buffer.streams)}
    for (stream, step), value in sorted(told.items()):
        assert step == len(streams[stream]), "ids have a gap"
        streams[stream].append(value)
    return streams


def truth(logs: Sequence[Sequence[tuple[int, Told]]], steps: int) -> dict[int, list[Told]]:
    """Return the first `steps` true transitions of each lane: row by row, lanes in order."""
    events = sorted((row, lane, told) for lane, log in enumerate(logs) for row, told in log)
    streams: dict[int, list[Told]] = {lane: [] for lane in range(len(logs))}
    for _, lane, told in events[:steps]:
        streams[lane].append(told)
    return streams

"""Every space of Gymnasium that has one fixed shape is recorded as the environment gave it; the others are refused."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import reverie as rv
from reverie.gymnasium import record

SPACES = {
    "discrete": Discrete(3, start=-5),
    "multi_discrete": MultiDiscrete([2, 3]),
    "multi_binary": MultiBinary(4),
    "grid": MultiBinary((2, 3)),
    "scalar": Box(-1, 1, (), np.float32),
    "half": Box(-1, 1, (2,), np.float16),
    "bytes": Box(0, 255, (2, 1, 2), np.uint8),
    "text": Text(5, min_length=0),
    "wide_text": Text(3, charset="aé界"),
    "tuple": Tuple((Discrete(4), Box(0, 1, (2,), np.float64))),
    "nested": Dict({"a": Tuple((Text(4), Dict({"b": Tuple((Discrete(2), Discrete(3, start=1)))})))}),
}


class Draws(gym.Env[Any, Any]):
    """Shows random values of a space, takes actions of the same space, and writes down both."""

    def __init__(self, space: Any) -> None:
        self.observation_space, self.action_space = copy.deepcopy(space), space
        self.observation_space.seed(7)
        self.log: list[tuple[Any, Any, Any]] = []
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.now = 0, self.observation_space.sample()
        return self.now, {}

    def step(self, action: Any) -> Any:
        # A vector environment hands out a scalar of NumPy where a Box of shape () wants an array.
        taken = (
            np.asarray(action) if self.action_space.shape == () and isinstance(action, np.generic) else action
        )
        assert self.action_space.contains(taken), action
        before, self.now = self.now, self.observation_space.sample()
        self.log.append((before, action, self.now))
        self.t += 1
        return self.now, 0.0, self.t == 4, False, {}


def told(space: Any, value: Any) -> Any:
    """Return a value as plain lists, in the form in which it is stored: the slow twin."""
    if isinstance(space, Dict):
        return {key: told(space[key], value[key]) for key in space.spaces}
    if isinstance(space, Tuple):
        return {str(i): told(child, value[i]) for i, child in enumerate(space.spaces)}
    if isinstance(space, Text):
        width = space.max_length * (1 if all(ord(c) < 128 for c in space.characters) else 4)
        return list(value.encode()) + [0] * (width - len(value.encode()))
    return np.asarray(value).tolist()


def held(tree: Any, index: int) -> Any:
    if isinstance(tree, dict):
        return {key: held(child, index) for key, child in tree.items()}
    return tree[index].tolist()


def check(buffer: rv.ReplayBuffer, space: Any, logs: list[Any], steps: int) -> None:
    batch = buffer.sample_steps(400)
    stored = [(held(batch.obs, i), held(batch.action, i), held(batch.next_obs, i)) for i in range(400)]
    logged = [tuple(told(space, value) for value in row) for log in logs for row in log]
    assert len(buffer) == steps
    assert batch.next_obs_mask.all()
    assert all(row in logged for row in stored)
    assert all(row in stored for row in logged[:2])


@pytest.mark.parametrize("kind", SPACES)
def test_a_single_environment_of_every_space_is_recorded(kind: str) -> None:
    """Observations, actions and successors are the ones that the environment wrote down."""
    space = SPACES[kind]
    env = Draws(space)
    buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 60, seed=0)
    record(env, buffer, steps=10, seed=3)
    check(buffer, space, [env.log], 10)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", SPACES)
def test_a_vector_environment_of_every_space_is_recorded(kind: str, mode: AutoresetMode) -> None:
    """The same for lanes, in every autoreset mode."""
    space = SPACES[kind]
    env = SyncVectorEnv([lambda: Draws(space)] * 2, autoreset_mode=mode)
    buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 60, streams=2, seed=0)
    record(env, buffer, steps=20, seed=3)
    check(buffer, space, [lane.log for lane in env.envs], 20)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Sequence(Discrete(2)),
        gym.spaces.OneOf((Discrete(2), Discrete(3))),
        gym.spaces.Graph(Discrete(2), None),
    ],
)
def test_spaces_without_one_shape_are_refused(space: Any) -> None:
    """A space whose values differ in shape is refused by name, with a remedy."""
    with pytest.raises(rv.BadSetting, match=r"obs/0: wanted a Box, .* got .*wrap the environment"):
        rv.StepSpec.from_env(Draws(Tuple((space, Discrete(2)))))


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (Tuple((Discrete(2), Discrete(2))), (1,), "wanted a tuple of 2 values as its space says, got 1"),
        (Tuple((Discrete(2), Discrete(2))), 1, "wanted a tuple of 2 values as its space says, got int"),
        (Text(3), "abcd", "wanted a text of at most 3 bytes"),
        (Text(3), 5, "wanted a text, got int"),
    ],
)
def test_an_action_outside_its_space_is_refused(space: Any, action: Any, message: str) -> None:
    """A tuple of another length and a text that is too long are refused, and nothing is stored."""
    env = Draws(space)
    buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 10, seed=0)
    with pytest.raises(rv.SpecMismatch, match=message):
        record(env, buffer, lambda obs: action, 3)
    assert len(buffer) == 0


def test_a_policy_may_answer_in_the_stored_form() -> None:
    """A dict with the names of a tuple's parts reaches the environment as the tuple, bytes as the text."""
    space = Tuple((Discrete(2), Text(3)))
    env = Draws(space)
    buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 10, seed=0)
    record(env, buffer, lambda obs: {"0": np.int64(1), "1": np.array([97, 98, 0], np.uint8)}, 2)
    assert [action for _, action, _ in env.log] == [(1, "ab")] * 2

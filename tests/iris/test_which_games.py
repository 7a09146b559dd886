"""Games that IRIS cannot play are refused before anything starts."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from toy_games import SIDE, Lights

from reverie import BadSetting
from reverie.iris.agent import Agent
from reverie.iris.collect import Collector, evaluate
from reverie.iris.run import Run, new_replay

FRAME = gymnasium.spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)


def lights(shows=None, **spaces):
    """A maker of games with these spaces, whose every observation is `shows(frame)`."""

    class Other(Lights):
        def _frame(self):
            frame = super()._frame()
            return frame if shows is None else shows(frame)

    def make(training: bool = True):
        game = Other()
        for name, space in spaces.items():
            setattr(game, name, space)
        return game

    return make


SPACES = {
    "Box actions": (lights(action_space=gymnasium.spaces.Box(-1, 1, (2,))), "wanted a Discrete action space, got Box"),
    "several actions": (lights(action_space=gymnasium.spaces.MultiDiscrete([3, 3])), "Discrete action space, got MultiDiscrete"),
    "binary actions": (lights(action_space=gymnasium.spaces.MultiBinary(3)), "Discrete action space, got MultiBinary"),
    "Dict actions": (lights(action_space=gymnasium.spaces.Dict({"a": FRAME})), "Discrete action space, got Dict"),
    "Dict frames": (lights(observation_space=gymnasium.spaces.Dict({"image": FRAME})), r"\(3, 16, 16\) uint8 .*got Dict"),
    "channels last": (lights(observation_space=gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)), r"got Box.*\(16, 16, 3\)"),
    "float frames": (lights(observation_space=gymnasium.spaces.Box(0, 1, (3, 16, 16))), "got Box.*float32.*; wrap"),
}  # fmt: skip
SHOWN = {
    "Dict frames": (lambda frame: {"image": frame}, r"uint8 .*got object of shape \(\)"),
    "channels last": (lambda frame: frame.transpose(1, 2, 0), r"got uint8 of shape \(16, 16, 3\)"),
    "float frames": (lambda frame: frame / 255.0, "got float64 of shape"),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_game_with_other_spaces_starts_no_run(name, config, tmp_path):
    """A run refuses actions that are not discrete and frames that its tokenizer does not take, by the spaces."""
    games, message = SPACES[name]
    with pytest.raises(BadSetting, match=message):
        Run.start(tmp_path, config, games)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SHOWN)
def test_a_game_that_shows_something_else_is_not_played(name, config):
    """A game without an observation space is refused by its first observation, for training and for testing."""
    shows, message = SHOWN[name]
    agent, games = Agent(config, 3), [lights(shows)() for _ in range(config.collection.environments)]
    with pytest.raises(BadSetting, match=message):
        Collector(agent, games, new_replay(config, 0), seed=0)
    with pytest.raises(BadSetting, match=message):
        evaluate(agent, games, episodes=1, temperature=1.0, seed=0)


def test_a_game_with_another_number_of_actions_is_not_played(config):
    """An agent of three actions refuses a game that has four."""
    agent, games = (
        Agent(config, 3),
        [lights(action_space=SimpleNamespace(n=4))() for _ in range(config.collection.environments)],
    )
    with pytest.raises(BadSetting, match="wanted the 3 actions that the agent was made for, got 4"):
        Collector(agent, games, new_replay(config, 0), seed=0)
    with pytest.raises(BadSetting, match="wanted the 3 actions that the agent was made for, got 4"):
        evaluate(agent, games, episodes=1, temperature=1.0, seed=0)


def test_a_run_goes_on_with_its_own_game_only(config, tmp_path):
    """A run that began with three actions refuses to go on with a game of four, and stays as it is."""
    run = Run.start(tmp_path, config, lights())
    run.epoch()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(BadSetting, match="wanted the 3 actions that the agent was made for, got 4"):
        Run.resume(tmp_path, lights(action_space=SimpleNamespace(n=4)))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

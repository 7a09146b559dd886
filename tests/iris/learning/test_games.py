"""Games by name."""

from __future__ import annotations

import numpy as np
import pytest

from reverie import BadSetting
from reverie.iris.learning.games import games


def test_an_atari_game_trains_on_lives_and_is_tested_on_whole_games() -> None:
    """In training a lost life ends the episode and is told apart from the end of the game."""
    make = games("breakout")
    ends = []
    for training in (True, False):
        game = make(training)
        obs, _ = game.reset(seed=0)
        assert np.asarray(obs).shape == (3, 64, 64)
        assert game.action_space.n == 4
        while True:
            _, _, terminated, _, info = game.step(1)
            if terminated:
                break
        ends.append(info["life_lost"])
        game.close()
    assert ends == [True, False]


def test_minatar_games_have_a_prefix() -> None:
    """minatar:breakout is another game than Breakout."""
    pytest.importorskip("minatar")
    game = games("MinAtar:breakout")(True)
    assert game.reset(seed=0)[0].shape == (3, 10, 10)
    assert game.action_space.n == 3


@pytest.mark.parametrize("name", ["brekout", "minatar:pong"])
def test_unknown_games_are_refused_before_anything_runs(name: str) -> None:
    """The name is checked when games are asked for, not when the first is made."""
    if name.startswith("minatar"):
        pytest.importorskip("minatar")
    with pytest.raises(BadSetting, match="wanted one of"):
        games(name)

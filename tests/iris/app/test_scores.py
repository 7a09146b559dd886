"""Scores on a scale where random play is 0 and a human is 1."""

import pytest

from reverie.iris.app.scores import SCORES, human_normalised


def test_random_play_is_nought_and_a_human_is_one() -> None:
    """Both ends of the scale, and the published mean of IRIS on two games."""
    assert len(SCORES) == 26
    for game, (low, high) in SCORES.items():
        assert human_normalised(game, low) == 0.0
        assert human_normalised(game, high) == 1.0
    assert human_normalised("Boxing", 70.1) == pytest.approx(5.83, abs=0.01)
    assert human_normalised("breakout", 83.7) == pytest.approx(2.85, abs=0.01)


def test_other_games_have_no_such_scale() -> None:
    """MinAtar's Breakout is another game."""
    assert human_normalised("minatar:breakout", 3.0) is None

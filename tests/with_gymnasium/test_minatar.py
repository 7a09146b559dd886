"""MinAtar's games: frames, seeds, actions."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from reverie import BadSetting, ReplayBuffer, StepSpec
from reverie.gymnasium import record
from reverie.gymnasium.minatar_games import GAMES, PALETTE, minatar

pytest.importorskip("minatar")


@pytest.mark.parametrize("game", GAMES)
def test_every_game_plays_in_colour(game: str) -> None:
    """Frames are (3, 10, 10) bytes of the palette's colours, several of them, and change while it plays."""
    env = minatar(game)
    frame, _ = env.reset(seed=0)
    frames = [frame] + [env.step(np.int64(step % env.action_space.n))[0] for step in range(30)]  # type: ignore[attr-defined]
    assert {(one.shape, one.dtype.str) for one in frames} == {((3, 10, 10), "|u1")}
    colours = {tuple(pixel) for one in frames for pixel in one.reshape(3, -1).T.tolist()}
    assert colours <= {(0, 0, 0), *PALETTE}
    assert len(colours) >= 3
    assert any((one != frames[0]).any() for one in frames)


def test_breakout_shows_its_ball_over_everything() -> None:
    """At the start the ball lies on its own trail and is white, the paddle is cyan, and the rest of three rows is green."""
    frame, _ = minatar("Breakout").reset(seed=1)
    pixels = frame.transpose(1, 2, 0).tolist()
    assert sum(row.count([0, 160, 0]) for row in pixels) == 29
    assert pixels[9].count([0, 255, 255]) == 1
    assert pixels[3].count([255, 255, 255]) == 1
    assert not any([255, 0, 0] in row for row in pixels)


def test_a_seed_and_actions_fix_a_game() -> None:
    """Even sticky actions come again, whatever was played before."""

    def play(env: object, seed: int) -> list[object]:
        frames = [env.reset(seed=seed)[0].tolist()]  # type: ignore[attr-defined]
        for step in range(60):
            frame, reward, terminated, _, _ = env.step(np.int64(step % 3))  # type: ignore[attr-defined]
            frames.append((frame.tolist(), reward))
            if terminated:
                break
        return frames

    for sticky in (0.1, 0.5):
        env = minatar("breakout", sticky_actions=sticky)
        first = play(env, 4)
        play(env, 5)
        assert play(env, 4) == first
        assert play(minatar("breakout", sticky_actions=sticky), 4) == first


def test_it_can_be_recorded_and_tells_nothing_about_its_viewer(caplog: pytest.LogCaptureFixture) -> None:
    """`record` takes it like any environment, and importing it leaves no warning in the log."""
    with caplog.at_level(logging.WARNING):
        env = minatar("breakout")
    assert not caplog.records
    buffer = ReplayBuffer(StepSpec.from_env(env), 200, seed=0)
    result = record(env, buffer, steps=200, seed=0)
    assert result.episodes > 5
    assert 0 <= sum(result.returns) < 60


def test_what_cannot_be_played_is_refused() -> None:
    """An unknown game and an impossible probability name the remedy."""
    with pytest.raises(BadSetting, match="wanted one of asterix"):
        minatar("pong")
    with pytest.raises(BadSetting, match="probability"):
        minatar("breakout", sticky_actions=2.0)
    assert minatar("Space Invaders").action_space == minatar("space_invaders").action_space

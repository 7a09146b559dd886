"""MinAtar's Breakout by its pixels: what is where, what an expert does, and whether two frames agree."""

from __future__ import annotations

import numpy as np
import pytest

from reverie.iris.app.breakout import (
    LEFT,
    RIGHT,
    STAY,
    ball_right,
    expert_actions,
    paddle_right,
    read_scene,
    trail_right,
)
from reverie.pictures import Frames

WHITE, RED, CYAN, GREEN = (255, 255, 255), (255, 0, 0), (0, 255, 255), (0, 160, 0)


def frame(*painted: tuple[int, int, tuple[int, int, int]]) -> Frames:
    """One frame (1, 3, 10, 10) of black with some pixels: row, column, colour."""
    shown = np.zeros((1, 3, 10, 10), np.uint8)
    for row, column, colour in painted:
        shown[0, :, row, column] = colour
    return shown


def test_things_are_found_by_their_colours() -> None:
    """Row and column of each, also where a colour is a little off; -1 for what is not there."""
    scene = read_scene(frame((5, 2, WHITE), (4, 1, (230, 20, 9)), (9, 4, CYAN), (1, 7, GREEN), (2, 7, GREEN)))
    assert (scene.ball.tolist(), scene.trail.tolist(), scene.paddle.tolist()) == ([[5, 2]], [[4, 1]], [4])
    assert np.argwhere(scene.bricks[0]).tolist() == [[1, 7], [2, 7]]
    nothing = read_scene(frame())
    assert (nothing.ball.tolist(), nothing.trail.tolist(), nothing.paddle.tolist()) == (
        [[-1, -1]],
        [[-1, -1]],
        [-1],
    )


@pytest.mark.parametrize(
    ("painted", "action"),
    [
        ([(5, 2, WHITE), (4, 1, RED), (9, 5, CYAN)], STAY),  # falls to row 8 at column 5
        ([(5, 2, WHITE), (4, 1, RED), (9, 6, CYAN)], LEFT),
        ([(5, 2, WHITE), (4, 1, RED), (9, 4, CYAN)], RIGHT),
        ([(7, 9, WHITE), (6, 8, RED), (9, 9, CYAN)], STAY),  # turned at the wall, it stays a step in its column
        ([(4, 4, WHITE), (5, 3, RED), (3, 5, GREEN), (9, 5, CYAN)], RIGHT),  # comes back from the brick: to column 9
        ([(3, 0, WHITE), (9, 5, CYAN)], STAY),  # the first frame, in which the ball hides its trail
        ([(3, 9, WHITE), (9, 5, CYAN)], LEFT),
        ([(8, 4, WHITE), (8, 3, RED), (9, 3, CYAN)], LEFT),  # just struck: up, round and down to column 1
        ([(5, 2, WHITE)], STAY),  # nowhere to go without a paddle
    ],
)  # fmt: skip
def test_an_expert_goes_where_the_ball_will_be(
    painted: list[tuple[int, int, tuple[int, int, int]]], action: int
) -> None:
    """The paddle belongs below the ball's last place above the floor."""
    assert expert_actions(frame(*painted)).tolist() == [action]


def test_an_expert_misses_nothing() -> None:
    """Where the game obeys, it clears the wall of thirty bricks and goes on."""
    pytest.importorskip("minatar")
    from reverie.gymnasium import minatar

    for seed in range(2):
        game = minatar("breakout", sticky_actions=0.0)
        obs, won = game.reset(seed=seed)[0], 0.0
        for _ in range(500):
            obs, reward, terminated, _, _ = game.step(np.int64(expert_actions(obs[None])[0]))
            won += float(reward)
            assert not terminated
        assert won > 30


def test_any_frame_may_be_imagined() -> None:
    """Noise and impossible places are judged like all others."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 3, 10, 10), np.uint8)
    assert set(expert_actions(noise).tolist()) <= {STAY, LEFT, RIGHT}
    assert expert_actions(frame((9, 3, WHITE), (8, 2, RED), (9, 5, CYAN))).tolist() == [LEFT]


def test_sights_compare_places() -> None:
    """1 where the thing is in its place, 0 where it is elsewhere or missing, NaN where there is none to see."""
    real = np.concatenate([frame((5, 2, WHITE), (4, 1, RED), (9, 4, CYAN))] * 2 + [frame()])
    shown = np.concatenate([frame((5, 2, WHITE), (4, 2, RED)), frame((9, 4, CYAN)), frame((5, 2, WHITE))])
    assert np.array_equal(ball_right(shown, real), [1, 0, np.nan], equal_nan=True)
    assert np.array_equal(trail_right(shown, real), [0, 0, np.nan], equal_nan=True)
    assert np.array_equal(paddle_right(shown, real), [0, 1, np.nan], equal_nan=True)

"""MinAtar's Breakout as its frames show it: where ball and paddle are, and what an expert would do.

Everything here looks at pixels alone, so it judges real frames and imagined ones alike. The rules are those of
MinAtar (Young and Tian, 2019): the ball moves by one row and one column a step, and a red trail stands where it was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reverie.iris.app.diagnosis import Insight
from reverie.iris.app.recording import Bools, Floats, Ints
from reverie.pictures import Frames

NAME = "minatar:breakout"
SIDE, FLOOR = 10, 9  # of the field; the row of the paddle
STAY, LEFT, RIGHT = 0, 1, 2  # its actions
# What a pixel may show, as reverie.gymnasium paints it. Nothing is black.
BRICK, TRAIL, PADDLE, BALL = 1, 2, 3, 4
COLOURS = np.array([(0, 0, 0), (0, 160, 0), (255, 0, 0), (0, 255, 255), (255, 255, 255)], np.int64)
LONGEST_FLIGHT = 40  # steps: more than the ball takes from anywhere down to the floor


class Scene(NamedTuple):
    """Where things are in B frames. A place that no pixel shows is -1.

    Attributes:
        ball, trail: (B, 2) int64, row and column.
        paddle: (B,) int64, its column.
        bricks: (B, 10, 10) bool.
    """

    ball: Ints
    trail: Ints
    paddle: Ints
    bricks: Bools


def read_scene(frames: Frames) -> Scene:
    """Return where things are in frames (B, 3, 10, 10) uint8; each pixel counts as the colour nearest to it."""
    pixels = frames.transpose(0, 2, 3, 1).astype(np.int64)[..., None, :]  # (B, 10, 10, 1, 3)
    kinds = np.square(pixels - COLOURS).sum(-1).argmin(-1)  # (B, 10, 10)
    return Scene(_place(kinds == BALL), _place(kinds == TRAIL), _place(kinds == PADDLE)[:, 1], kinds == BRICK)


def expert_actions(frames: Frames) -> Ints:
    """Return, for frames (B, 3, 10, 10) uint8, the actions (B,) that bring the paddle below the ball in time."""
    scene = read_scene(frames)
    actions = np.full(len(frames), STAY, np.int64)
    for row, (ball, paddle) in enumerate(zip(scene.ball, scene.paddle, strict=True)):
        if ball[0] >= 0 and paddle >= 0:
            aim = _landing(ball, _heading(ball, scene.trail[row], int(paddle)), scene.bricks[row])
            actions[row] = STAY if aim == paddle else LEFT if aim < paddle else RIGHT
    return actions


def ball_right(shown: Frames, real: Frames) -> Floats:
    """Return whether shown frames (B, 3, 10, 10) have the ball where the real ones have it: (B,), 0 or 1."""
    return _same(read_scene(shown).ball, read_scene(real).ball)


def trail_right(shown: Frames, real: Frames) -> Floats:
    """Return the same for the ball's trail, without which nobody knows where the ball goes; NaN where it has none."""
    return _same(read_scene(shown).trail, read_scene(real).trail)


def paddle_right(shown: Frames, real: Frames) -> Floats:
    """Return the same for the paddle."""
    return _same(read_scene(shown).paddle[:, None], read_scene(real).paddle[:, None])


def _same(shown: Ints, real: Ints) -> Floats:
    return np.where(real[:, 0] < 0, np.nan, (shown == real).all(1))


def _place(there: Bools) -> Ints:
    """Return row and column (B, 2) of the first True of each (B, 10, 10); -1 where there is none."""
    flat = there.reshape(len(there), -1)
    found = np.stack(np.unravel_index(flat.argmax(1), there.shape[1:]), 1)
    return np.where(flat.any(1, keepdims=True), found, -1).astype(np.int64)


def _heading(ball: Ints, trail: Ints, paddle: int) -> tuple[int, int]:
    """Return how the ball goes on, (down, right), each 1 or -1.

    A ball that has just struck something stands in the row or column where it was, and has turned round.
    """
    if trail[0] < 0:  # a game begins: the ball stands on its trail, at a wall
        return 1, 1 if ball[1] < SIDE // 2 else -1
    down, right = (int(now - before) for now, before in zip(ball, trail, strict=True))
    if right == 0:
        right = 1 if ball[1] == 0 else -1
    if down == 0:
        down = -1 if ball[0] == FLOOR - 1 else 1
        if (
            down < 0 and paddle == ball[1] != trail[1]
        ):  # struck by the paddle's far side: it returns as it came
            right = -right
    return down, right


def _landing(ball: Ints, heading: tuple[int, int], bricks: Bools) -> int:
    """Return the column above the floor from which the ball will strike it."""
    (row, column), (down, right) = map(int, ball), heading
    for _ in range(LONGEST_FLIGHT):
        if not 0 <= column + right < SIDE:
            right = -right
            ahead = column
        else:
            ahead = column + right
        if row + down < 0:
            row, down = 0, 1
        elif row + down >= FLOOR:
            return column
        elif bricks[row + down, ahead]:
            down = -down
        else:
            row += down
        column = ahead
    return column


INSIGHT = Insight({"ball": ball_right, "trail": trail_right, "paddle": paddle_right}, expert_actions, STAY)

"""MinAtar, five Atari games on ten by ten pixels, as Gymnasium environments with frames in colour.

MinAtar (Young and Tian, 2019) is a package of its own: `pip install --no-deps MinAtar==1.0.15`. Without
`--no-deps` it brings plotting libraries that only its viewer needs.
"""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, need

Frame = npt.NDArray[np.uint8]

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
SIDE = 10  # height and width of a frame
# One colour for each channel of a game, in the order in which they are painted over each other.
PALETTE = ((0, 160, 0), (255, 0, 0), (0, 255, 255), (255, 255, 255), (255, 255, 0), (255, 0, 255), (0, 0, 255),
           (255, 128, 0), (128, 128, 128), (128, 0, 255))  # fmt: skip
# The ball of Breakout stays visible over its trail, and the paddle over both the wall and the trail.
PAINTED = {"breakout": ("brick", "trail", "paddle", "ball")}


def minatar(game: str, *, sticky_actions: float = 0.1) -> gymnasium.Env[Frame, np.int64]:
    """Return a MinAtar game: observations (3, 10, 10) uint8, channels first, minimal actions.

    A game is fixed by the seed of its `reset` and by its actions. It has no time limit.

    Args:
        game: one of asterix, breakout, freeway, seaquest and space_invaders, in any spelling.
        sticky_actions: the probability that the last action is repeated instead of the chosen one.

    Raises:
        BadSetting: an unknown game, or no probability.
        ModuleNotFoundError: MinAtar is not installed.
    """
    asked = str(game).lower().replace("-", "").replace("_", "").replace(" ", "")
    known = {name.replace("_", ""): name for name in GAMES}
    if asked not in known:
        raise BadSetting(f"game: wanted one of {', '.join(GAMES)}, got {game!r}; choose one")
    if not 0 <= sticky_actions <= 1:
        raise BadSetting(
            f"sticky_actions: wanted a probability in 0..1, got {sticky_actions}; choose another"
        )
    return _MinAtar(known[asked], sticky_actions)


class _MinAtar(gymnasium.Env[Frame, np.int64]):
    def __init__(self, game: str, sticky_actions: float) -> None:
        # On import MinAtar warns that it cannot draw, which nobody asked it to.
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            need("minatar")
            from minatar import Environment
        finally:
            logging.disable(level)
        self._game = Environment(game, sticky_action_prob=sticky_actions)
        self._actions: list[int] = self._game.minimal_action_set()
        channels: dict[str, int] = self._game.env.channels
        self._painted = [channels[name] for name in PAINTED.get(game, tuple(channels))]
        self._colours = np.array(PALETTE[: len(channels)], np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed)
        self._game.last_action = 0  # else the last game's last action could stick to this one
        self._game.reset()
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        reward, terminated = self._game.act(self._actions[action])
        return self._frame(), float(reward), bool(terminated), False, {}

    def _frame(self) -> Frame:
        state = self._game.state()  # (10, 10, channels) bool
        frame = np.zeros((SIDE, SIDE, 3), np.uint8)
        for colour, channel in zip(self._colours, self._painted, strict=True):
            frame[state[:, :, channel]] = colour
        return np.ascontiguousarray(frame.transpose(2, 0, 1))

"""A small game with frames, lives and chance, for the tests of playing and of whole runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

SIDE = 16


class Lights:
    """The first action wins a point where the light is on; a life lasts `life` steps, a game `lives` lives.

    A frame is as bright as the step's number in its life, with the light in its upper left corner. Which light
    burns is drawn by chance from the seed.

    Attributes:
        seeds: of the games begun so far. resets: how many resets there were.
    """

    def __init__(self, life: int = 5, lives: int = 2) -> None:
        self.life, self.lives = life, lives
        self.seeds: list[int | None] = []
        self.resets = 0
        self.closed = False
        self.action_space = SimpleNamespace(n=3)
        self._array = np.zeros((3, SIDE, SIDE), np.uint8)  # used again for every frame
        self._left = self._time = 0
        self._lost = False

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        self.resets += 1
        if seed is not None or not self._lost:
            self.seeds.append(seed)
            self._rng = np.random.default_rng(seed)
            self._left = self.lives
        self._lost, self._time = False, 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self._on and action == 0)
        self._time += 1
        ended = self._time == self.life
        self._left -= ended
        self._lost = ended and self._left > 0
        return self._frame(), reward, ended, False, {"life_lost": self._lost}

    def close(self) -> None:
        self.closed = True

    def _frame(self) -> Any:
        self._on = bool(self._rng.random() < 0.5)
        self._array[...] = 20 * self._time % 256
        self._array[:, :4, :4] = 255 * self._on
        return self._array


class Wandering(Lights):
    """The same game, but neither seed nor actions fix it, and its second channel tells one game from another."""

    def __init__(self, chance: np.random.Generator, **shape: int) -> None:
        super().__init__(**shape)
        self._chance = chance
        self._name = 0

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._name = (self._name + 1 + int(self._chance.integers(100))) % 256
            seed = int(self._chance.integers(1 << 31))
        return super().reset(seed=seed)

    def _frame(self) -> Any:
        frame = super()._frame()
        frame[1] = self._name
        return frame


class FromOne(Lights):
    """The same game with the actions 1, 2 and 3; it refuses any other."""

    def __init__(self, **shape: int) -> None:
        super().__init__(**shape)
        self.action_space = SimpleNamespace(n=3, start=np.int64(1))
        self.asked: list[int] = []

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (1, 2, 3)
        self.asked.append(int(action))
        return super().step(action - 1)

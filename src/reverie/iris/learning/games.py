"""Games by name, and a lane: a game that is played for the agent and can be put back to where it was.

A game is anything with the face of a Gymnasium environment whose observations are frames (C, H, W) uint8. The
actions of the agent and of the replay are 0..n-1. Only a `Lane` knows with which number a game begins to count.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt

from reverie import BadSetting

MINATAR = "minatar:"  # begins the names of MinAtar's games


class Game(Protocol):
    """The part of a Gymnasium environment that is used here."""

    @property
    def action_space(self) -> Any:
        """Its `n` is the number of actions, its `start` the first of them: 0 if it has none."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode: (observation, info)."""

    def step(self, action: Any, /) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one step: (observation, reward, terminated, truncated, info)."""

    def close(self) -> None:
        """Let go of what it holds."""


Games = Callable[[bool], Game]
"""Makes a game: for training if True (a lost life may end an episode), for testing if False."""


def games(name: str) -> Games:
    """Return what makes a game, for training or for testing.

    Args:
        name: an Atari game such as Breakout, or one of MinAtar's such as minatar:breakout.

    Raises:
        BadSetting: there is no such game.
    """

    def make(training: bool) -> Game:
        if name.lower().startswith(MINATAR):
            from reverie.gymnasium import minatar

            return minatar(name[len(MINATAR) :])
        from reverie.gymnasium import atari

        return atari(name, train=training)

    make(False).close()  # an unknown name is refused here and not in the middle of things
    return make


def count_actions(game: Game) -> int:
    """Return how many actions a game has.

    Raises:
        BadSetting: its action space is not Discrete.
    """
    space = game.action_space
    count = getattr(space, "n", None)
    if not isinstance(count, (int, np.integer)) or getattr(space, "shape", ()) != ():
        raise BadSetting(
            f"game: wanted a Discrete action space, got {space}; wrap the game so that each action is one number"
        )
    return int(count)


def check_game(game: Game, shown: object, frame: tuple[int, int, int], actions: int) -> None:
    """Refuse a game that an agent cannot play.

    Args:
        game: it has begun.
        shown: its observation.
        frame: (C, H, W) of the frames that the agent sees.
        actions: how many the agent knows.

    Raises:
        BadSetting: the game shows other frames, or has another number of actions.
    """
    seen = _as_frame(shown)
    if seen.shape != frame or seen.dtype != np.uint8:
        raise BadSetting(
            f"game: wanted frames shaped {frame} of dtype uint8, as the agent sees them, got {seen.shape} of "
            f"dtype {seen.dtype}; choose a preset or a tokenizer.frame of that shape, or wrap the game"
        )
    if (count := count_actions(game)) != actions:
        raise BadSetting(
            f"game: wanted the {actions} actions that the agent knows, got {count}; choose the game that it "
            f"was made for, or start another run"
        )


class Lane:
    """A game that can be put back to where it was, by playing the same actions again from the same seed.

    Every game begins with a seed of its own. An episode that ends with `life_lost` in the info leaves the
    game running: the next episode goes on with it. Actions are 0..n-1, whatever the game calls them.

    Args:
        game: what is played. Only one that is fixed by its seed and the actions can be put back.
        seed: numbers that tell this lane from all others.
    """

    def __init__(self, game: Game, seed: tuple[int, ...]) -> None:
        self.game = game
        self.seed = seed
        self.begun = 0  # games so far
        self.actions: list[int] = []  # of the running game
        self.life_lost = False
        self.obs: npt.NDArray[np.uint8]
        self._first = int(getattr(game.action_space, "start", 0))
        self._seen = 0  # a checksum of everything that the running game showed
        self.new_game()

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Play one step and return (reward, terminated, truncated)."""
        obs, reward, terminated, truncated, info = self.game.step(self._first + action)
        self.actions.append(action)
        self.life_lost = bool(info.get("life_lost", False)) and not truncated
        came = float(reward), bool(terminated), bool(truncated)
        self._show(obs, *came, self.life_lost)
        return came

    def next_episode(self) -> None:
        """Go on after an end: with the same game if only a life was lost, else with a new one."""
        if self.life_lost:
            self._show(self.game.reset()[0])
            self.life_lost = False
        else:
            self.new_game()

    def new_game(self) -> None:
        """Leave the running game and begin another."""
        seed = np.random.SeedSequence([*self.seed, self.begun]).generate_state(1)[0]
        self._seen = 0
        self._show(self.game.reset(seed=int(seed))[0])
        self.begun += 1
        self.actions.clear()
        self.life_lost = False

    def save(self) -> dict[str, Any]:
        """Return what `load` needs; not between an end and the next episode."""
        return {"begun": self.begun, "actions": list(self.actions), "seen": self._seen}

    def load(self, state: dict[str, Any]) -> bool:
        """Play a game again up to where it was saved; return whether it showed the same from its first frame on."""
        self.begun = state["begun"] - 1
        self.new_game()
        for action in state["actions"]:
            _, terminated, truncated = self.step(action)
            if terminated or truncated:
                self.next_episode()
        # A state of before there were checksums has none: nobody knows what was seen.
        return self.begun == state["begun"] and self._seen == state.get("seen")

    def _show(self, obs: object, *came: object) -> None:
        self.obs = _as_frame(obs)
        self._seen = zlib.crc32(
            repr(came).encode(), zlib.crc32(np.ascontiguousarray(self.obs).data, self._seen)
        )


def _as_frame(obs: object) -> npt.NDArray[np.uint8]:
    if isinstance(obs, (Mapping, Sequence)):
        raise BadSetting(
            f"game: wanted one array as its observation, got a {type(obs).__name__}; wrap the game so that it "
            f"shows a frame alone"
        )
    return np.asarray(obs)

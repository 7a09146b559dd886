"""Atari as IRIS plays it: the wrappers, their order, and the numbers."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import TimeLimit

from reverie.checks import positive
from reverie.errors import BadSetting, need

Frame = npt.NDArray[np.uint8]
Info = dict[str, Any]
Step = tuple[Frame, SupportsFloat, bool, bool, Info]

SIDE = 64  # height and width of what the agent sees
SKIP = 4  # raw frames that one action lasts
MAX_FRAMES_TRAIN = 20_000  # raw frames: 5,000 agent steps
MAX_FRAMES_TEST = 108_000  # half an hour at 60 frames a second: 27,000 agent steps
NOOP = 0  # the first action of every minimal action set
SUFFIX = "NoFrameskip-v4"


def atari(
    game: str,
    *,
    train: bool = True,
    seed: int | None = None,
    max_frames: int | None = None,
    render_mode: Literal["human", "rgb_array"] | None = None,
) -> gymnasium.Env[Frame, np.int64]:
    """Return a game as IRIS plays it: observations (3, 64, 64) uint8, channels first, minimal actions.

    From the emulator outwards; the order is part of the result:

    | # | layer         | train  | test    | what it does                                                    |
    |---|---------------|--------|---------|-----------------------------------------------------------------|
    | 0 | emulator      |        |         | `<Game>NoFrameskip-v4`: no sticky actions, minimal action set,  |
    |   |               |        |         | raw RGB frames (210, 160, 3)                                    |
    | 1 | time limit    | 20,000 | 108,000 | raw frames until `truncated`, no-ops included                   |
    | 2 | no-op start   | 1..30  | 1       | raw no-op frames after a real reset, uniform; resets again if   |
    |   |               |        |         | they end the game                                               |
    | 3 | skip and max  | 4      | 4       | repeats the action, sums the rewards, stops at an end; resizes  |
    |   |               |        |         | to 64 x 64 (bilinear), then takes the maximum of the last two   |
    | 4 | lives         | report | report  | `info["life_lost"]`, `info["game_over"]`                        |
    | 5 | episodic life | on     | off     | a lost life is `terminated`; the next `reset()` plays one no-op |
    |   |               |        |         | (4 raw frames) and goes on with the same game                   |

    A frame is resized before the maximum is taken, and only the frames that the maximum needs are: the same
    pixels as resizing each one. A step that ends early shows the maximum of the last two frames it played, or
    the one it played. An observation after a reset is one frame, without a maximum. Rewards are not clipped.

    With episodic life, `reset()` starts the game anew after a game over, after a truncation, when no life was
    lost (the caller gave up), or when a seed is given. What the no-op after a lost life earns is not seen, and
    neither is that it ends the game or reaches the time limit: the next step ends the episode, whatever its
    action.

    Args:
        game: the name in any spelling: "Breakout", "ms_pacman", "MsPacman".
        train: training or testing numbers, see the table.
        seed: used by the first `reset()` that is not given one. The number of no-ops is all that is random.
        max_frames: raw frames until truncation; None for the table's number.
        render_mode: as in `gymnasium.make`.

    Raises:
        BadSetting: an unknown game (the message names close ones), or a time limit below 1.
        ModuleNotFoundError: ale-py or Pillow is missing.
    """
    limit = MAX_FRAMES_TRAIN if train else MAX_FRAMES_TEST
    if max_frames is not None:
        limit = positive("max_frames", max_frames)
    raw = gymnasium.make(
        _game_id(game),
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        obs_type="rgb",
        max_num_frames_per_episode=0,  # no limit: the emulator counts frames otherwise than the time limit
        render_mode=render_mode,
        disable_env_checker=True,
    )
    env: gymnasium.Env[Any, Any] = TimeLimit(raw, limit)
    env = _NoopStart(env, 30 if train else 1, seed)
    env = _SkipAndMax(env)
    env = _Lives(env)
    return _EpisodicLife(env) if train else env


def _game_id(game: str) -> str:
    """Return the environment id of a game named in any spelling."""
    need("ale_py")
    import ale_py

    # Otherwise each emulator writes a banner to stderr, before Gymnasium's wrapper can quieten it.
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    names = [name.removesuffix(SUFFIX) for name in gymnasium.registry if name.endswith(SUFFIX)]
    known = {name.lower(): name for name in names}
    asked = re.sub(r"[^a-z0-9]", "", str(game).lower())
    if asked in known:
        return known[asked] + SUFFIX
    close = [known[key] for key in difflib.get_close_matches(asked, known, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(sorted(names))}"
    raise BadSetting(f"game: wanted one of {len(names)} Atari games, got {game!r}; {hint}")


class _NoopStart(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Plays 1 to `most` raw no-op frames after each reset."""

    def __init__(self, env: gymnasium.Env[Frame, Any], most: int, seed: int | None) -> None:
        super().__init__(env)
        self._most = most
        self._seed = seed  # for the first reset only

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        seed, self._seed = (self._seed if seed is None else seed), None
        obs, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.np_random.integers(1, self._most, endpoint=True))):
            obs, _, terminated, truncated, info = self.env.step(NOOP)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        return obs, info


class _SkipAndMax(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Repeats an action, and shows the maximum of the last two frames, resized and channels first."""

    def __init__(self, env: gymnasium.Env[Frame, Any]) -> None:
        need("PIL")
        from PIL import Image

        super().__init__(env)
        self._image = Image
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        raw, info = self.env.reset(seed=seed, options=options)
        return np.ascontiguousarray(self._resized(raw)), info

    def step(self, action: Any) -> Step:
        total = 0.0
        before, raw = None, None  # the last two raw frames of this step
        for _ in range(SKIP):
            before = raw
            raw, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        assert raw is not None
        if before is None:
            obs = np.ascontiguousarray(self._resized(raw))
        else:
            obs = np.maximum(
                self._resized(before), self._resized(raw), out=np.empty((3, SIDE, SIDE), np.uint8)
            )
        return obs, total, terminated, truncated, info

    def _resized(self, raw: Frame) -> Frame:
        """Return a raw frame (210, 160, 3) as a (3, 64, 64) view of a small one."""
        small = self._image.fromarray(raw).resize((SIDE, SIDE), self._image.Resampling.BILINEAR)
        return np.asarray(small).transpose(2, 0, 1)


class _Lives(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Tells in `info` whether a step lost a life while others are left, and whether the game ended."""

    def __init__(self, env: gymnasium.Env[Frame, Any]) -> None:
        super().__init__(env)
        self._left = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._left = info["lives"]
        return obs, {**info, "life_lost": False, "game_over": False}

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        lives = info["lives"]
        # Some games show 0 lives for a while before they end: the life is lost when the game is over.
        lost = 0 < lives < self._left and not terminated
        self._left = lives
        return obs, reward, terminated, truncated, {**info, "life_lost": lost, "game_over": terminated}


class _EpisodicLife(gymnasium.Wrapper[Frame, Any, Frame, Any]):
    """Ends an episode with each life; the game itself goes on."""

    episode_is = "life"  # `record` notes it in the metadata of each episode

    def __init__(self, env: gymnasium.Env[Frame, Any]) -> None:
        super().__init__(env)
        self._goes_on = False  # the last step lost a life and the game can be continued

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        if self._goes_on and seed is None:
            self._goes_on = False
            # No end is missed: a game that is over, or out of time, is so at the next step as well.
            obs, _, _, _, info = self.env.step(NOOP)
            return obs, {**info, "life_lost": False, "game_over": False}
        self._goes_on = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._goes_on = info["life_lost"] and not truncated
        return obs, reward, terminated or info["life_lost"], truncated, info

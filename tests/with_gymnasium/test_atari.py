"""The Atari stack, against a slow construction by hand from raw frames."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.gymnasium import atari, record

FIRE = 1  # in Breakout; without it the ball never starts


def small(raw: Any) -> Any:
    """Resize a raw frame on its own, channels first."""
    resized = Image.fromarray(raw).resize((64, 64), Image.Resampling.BILINEAR)
    return np.array(resized).transpose(2, 0, 1)


class ByHand:
    """IRIS's environment in the plainest way: every raw frame resized, every counter spelt out."""

    def __init__(self, game: str, *, limit: int, most_noops: int, episodic: bool) -> None:
        self.raw = gym.make(f"{game}NoFrameskip-v4", disable_env_checker=True)
        self.limit, self.most_noops, self.episodic = limit, most_noops, episodic
        self.lives, self.frames, self.lost, self.over = 0, 0, False, True

    def frame(self, action: int) -> Any:
        raw, reward, terminated, truncated, info = self.raw.step(action)
        assert not truncated
        self.frames += 1
        return small(raw), reward, terminated, self.frames >= self.limit, info["lives"]

    def real_reset(self, seed: int | None) -> Any:
        raw, info = self.raw.reset(seed=seed)
        obs, lives = small(raw), info["lives"]
        self.frames = 0
        for _ in range(self.raw.unwrapped.np_random.integers(1, self.most_noops + 1)):
            obs, _, terminated, truncated, lives = self.frame(0)
            if terminated or truncated:
                raw, info = self.raw.reset()
                obs, lives, self.frames = small(raw), info["lives"], 0
        return obs, lives

    def reset(self, seed: int | None = None) -> Any:
        if self.episodic and self.lost and not self.over and seed is None:
            obs, _, _, _, lives = self.skip(0)
        else:
            obs, lives = self.real_reset(seed)
        self.lives, self.lost, self.over = lives, False, False
        return obs

    def skip(self, action: int) -> Any:
        seen, total = [], 0.0
        for _ in range(4):
            obs, reward, terminated, truncated, lives = self.frame(action)
            seen.append(obs)
            total += reward
            if terminated or truncated:
                break
        return np.max(seen[-2:], axis=0), total, terminated, truncated, lives

    def step(self, action: int) -> Any:
        obs, reward, terminated, truncated, lives = self.skip(action)
        self.lost = not terminated and 0 < lives < self.lives
        self.lives = lives
        self.over = terminated or truncated
        return obs, reward, terminated or (self.episodic and self.lost), truncated


@pytest.mark.parametrize(
    ("game", "train", "limit", "steps"),
    [
        ("Breakout", True, None, 260),
        ("Breakout", True, 203, 120),
        ("Breakout", True, 535, 160),  # the no-op after a lost life reaches the limit; so it does below
        ("MsPacman", True, 919, 240),
        ("Breakout", True, 7, 12),  # shorter than most starts: the no-ops themselves reach the limit
        ("Breakout", False, None, 260),
        ("Pong", True, 90, 60),
        ("MsPacman", True, None, 120),
    ],
)
def test_stack_equals_the_construction_by_hand(game: str, train: bool, limit: int | None, steps: int) -> None:
    """Frames, rewards, ends and resets are bit for bit those of a slow stack built from raw frames."""
    env = atari(game, train=train, max_frames=limit)
    default = 20_000 if train else 108_000
    hand = ByHand(game, limit=limit or default, most_noops=30 if train else 1, episodic=train)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=5)
    assert obs.flags.c_contiguous
    np.testing.assert_array_equal(obs, hand.reset(seed=5))
    ended, length, shortest = 0, 0, steps
    for _ in range(steps):
        length += 1
        action = int(rng.integers(env.action_space.n))
        obs, *rest, info = env.step(action)
        hand_obs, *hand_rest = hand.step(action)
        np.testing.assert_array_equal(obs, hand_obs)
        assert rest == hand_rest
        assert info["life_lost"] == hand.lost
        assert info["game_over"] == (hand.over and not rest[2])
        assert obs.shape == (3, 64, 64)
        assert obs.dtype == np.uint8
        assert obs.flags.c_contiguous
        if rest[1] or rest[2]:
            ended, length, shortest = ended + 1, 0, min(length, shortest)
            np.testing.assert_array_equal(env.reset()[0], hand.reset())
    assert ended > 0 or (game, limit) == ("MsPacman", None)
    assert (shortest == 1) == (limit in (7, 535, 919))
    env.close()
    hand.raw.close()


def play(env: Any, steps: int, seed: int) -> tuple[list[int], list[Any]]:
    """Play fixed random actions; return the lives left after each episode's end, and the frames."""
    rng = np.random.default_rng(seed)
    lives, frames = [], []
    for _ in range(steps):
        obs, _, terminated, truncated, info = env.step(int(rng.integers(4)))
        frames.append(obs)
        if terminated or truncated:
            assert info["life_lost"] != info["game_over"]
            lives.append(info["lives"])
            _, info = env.reset()
            assert not info["life_lost"]
            assert not info["game_over"]
    return lives, frames


def test_a_lost_life_ends_the_episode_and_the_game_goes_on() -> None:
    """In training lives run down across resets, and a real reset after the game restores them."""
    env = atari("Breakout", seed=0)
    _, info = env.reset()
    assert info["lives"] == 5
    lives, _ = play(env, 420, seed=1)
    assert lives[:6] == [4, 3, 2, 1, 0, 4]


def test_in_testing_an_episode_is_a_whole_game() -> None:
    """In testing a lost life is told in info and ends nothing; the game's end does."""
    env = atari("Breakout", train=False)
    env.reset(seed=0)
    rng = np.random.default_rng(1)
    lost = 0
    while True:
        _, _, terminated, _, info = env.step(int(rng.integers(4)))
        lost += info["life_lost"]
        if terminated:
            break
        assert not info["game_over"]
    assert lost == 4
    assert info["game_over"]


def test_going_on_after_a_life_costs_one_skipped_noop() -> None:
    """The reset after a lost life advances the same game by 4 raw frames."""
    env = atari("Breakout", seed=0)
    env.reset()
    while True:
        *_, terminated, _, info = env.step(FIRE)
        if terminated:
            break
    before = info["episode_frame_number"]
    _, info = env.reset()
    assert info["episode_frame_number"] == before + 4
    assert info["lives"] == 4


@pytest.mark.parametrize("how", ["seed", "gave up"])
def test_a_reset_that_no_lost_life_explains_is_real(how: str) -> None:
    """A seeded reset, and one in mid-life, start the game anew even where a life was lost before."""
    env = atari("Breakout", seed=0)
    env.reset()
    while not env.step(FIRE)[2]:
        pass
    if how == "gave up":
        env.reset()
        env.step(0)
    _, info = env.reset(seed=3 if how == "seed" else None)
    assert info["lives"] == 5
    assert info["episode_frame_number"] <= 31


class Dying(gym.Env[Any, Any]):
    """A stand-in emulator whose lives after each frame are scripted, and whose game ends with the script."""

    observation_space = gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, lives: list[int]) -> None:
        self.lives = lives
        self.games = 0
        self.frames = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.games += 1
        self.t = 0
        return np.full((210, 160, 3), self.games, np.uint8), {"lives": 3}

    def step(self, action: Any) -> Any:
        earned = float(self.t < len(self.lives))  # after its end a game stands still
        self.t = min(self.t + 1, len(self.lives))
        self.frames += 1
        frame = np.full((210, 160, 3), 100 + self.t, np.uint8)
        return frame, earned, self.t == len(self.lives), False, {"lives": self.lives[self.t - 1]}


def stub(
    monkeypatch: pytest.MonkeyPatch, lives: list[int], *, train: bool, **options: Any
) -> tuple[Any, Dying]:
    """Return the stack around a stand-in emulator, with exactly one no-op at the start."""
    emulator = Dying(lives)
    monkeypatch.setattr("gymnasium.make", lambda *args, **kwargs: emulator)
    env = atari("Breakout", train=train, **options)
    skip = env.env.env if train else env.env
    monkeypatch.setattr(skip.env, "_most", 1)
    env.reset()
    return env, emulator


def test_a_noop_that_ends_the_game_leaves_one_step_to_play(monkeypatch: pytest.MonkeyPatch) -> None:
    """If going on after a lost life ends the game, the reset shows the ended game and the next step ends the episode."""
    env, emulator = stub(monkeypatch, [3, 2, 2, 2, 2, 2, 0], train=True)
    _, reward, terminated, _, info = env.step(1)  # raw frames 2 to 5
    assert (reward, terminated, info["life_lost"]) == (4.0, True, True)
    obs, info = env.reset()  # raw frames 6 and 7, where the game ends
    assert emulator.games == 1
    assert (info["lives"], info["life_lost"], info["game_over"]) == (0, False, False)
    assert (obs == 107).all()
    obs, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["life_lost"], info["game_over"]) == (False, True)
    _, info = env.reset()
    assert (emulator.games, info["lives"]) == (2, 3)


def test_an_end_in_mid_skip_shows_the_last_two_frames_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ends on its first raw frame shows that frame; on a later one, the maximum of two."""
    env, _ = stub(monkeypatch, [3, 2, 2, 2, 2, 2, 0], train=False)
    env.step(0)  # raw frames 2 to 5
    obs, reward, terminated, _, info = env.step(0)  # 6 and 7
    assert (reward, terminated, info["game_over"]) == (2.0, True, True)
    assert (obs == 107).all()
    env, _ = stub(monkeypatch, [3] * 9, train=False, max_frames=6)
    env.step(0)
    obs, reward, _, truncated, _ = env.step(0)  # 6 alone
    assert (reward, truncated) == (1.0, True)
    assert (obs == 106).all()


def test_no_lives_left_is_no_lost_life_until_the_game_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A game that shows 0 lives before it ends has its episode ended once, by the game."""
    env, emulator = stub(monkeypatch, [1] * 3 + [0] * 6, train=True)
    *_, terminated, _, info = env.step(0)  # raw frames 2 to 5
    assert (terminated, info["life_lost"], info["lives"]) == (False, False, 0)
    *_, terminated, _, info = env.step(0)  # 6 to 9
    assert (terminated, info["life_lost"], info["game_over"]) == (True, False, True)
    env.reset()
    assert emulator.games == 2


def test_a_life_lost_at_the_time_limit_is_followed_by_a_real_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step loses a life and reaches the time limit, both flags are set and the game is over."""
    env, emulator = stub(monkeypatch, [3, 3, 2, 2, 2, 2, 2, 2], train=True, max_frames=5)
    *_, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["life_lost"], info["game_over"]) == (True, True, True, False)
    env.reset()
    assert (emulator.games, emulator.frames) == (2, 5 + 1)


def test_noops_are_one_in_testing_and_up_to_thirty_in_training() -> None:
    """Testing starts after exactly 1 raw no-op, training after a seeded number of up to 30."""
    test = atari("Breakout", train=False)
    train = atari("Breakout")
    start = test.reset(seed=0)[1]["episode_frame_number"]
    assert {test.reset()[1]["episode_frame_number"] for _ in range(5)} == {start}
    counts = [train.reset()[1]["episode_frame_number"] - start + 1 for _ in range(30)]
    assert 1 <= min(counts) < 10
    assert 20 < max(counts) <= 30
    seeds = [train.reset(seed=seed)[1]["episode_frame_number"] for seed in (4, 4, 5, 6)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) > 1


def test_the_seed_of_the_stack_serves_the_first_reset_only() -> None:
    """atari(seed=s).reset() is atari().reset(seed=s), and the second reset goes on from there."""
    given, asked = atari("Breakout", seed=9), atari("Breakout")
    first, second = given.reset()[0], given.reset()[1]
    np.testing.assert_array_equal(first, asked.reset(seed=9)[0])
    assert second == asked.reset()[1]


def test_time_limits_truncate_in_raw_frames() -> None:
    """The limit counts raw frames and no-ops: 20,000 and 108,000 by default; it truncates, nothing more."""
    assert atari("Breakout").spec.max_episode_steps == 20_000
    assert atari("Breakout", train=False).spec.max_episode_steps == 108_000
    env = atari("Breakout", train=False, max_frames=30)
    for _ in range(2):
        env.reset()
        ends = [env.step(0)[2:4] for _ in range(8)]  # 1 no-op, then 7 steps of 4, then one frame of an eighth
        assert ends == [(False, False)] * 7 + [(False, True)]
    assert env.unwrapped.ale.getInt("max_num_frames_per_episode") == 0


def test_actions_are_minimal_and_not_sticky() -> None:
    """Breakout has 4 actions, and equal actions give equal frames whatever the seed."""
    env = atari("Breakout", train=False)
    assert env.action_space == gym.spaces.Discrete(4)
    assert env.observation_space == gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    runs = []
    for seed in (1, 2):
        env.reset(seed=seed)
        runs.append(np.array(play(env, 100, seed=0)[1]))
    np.testing.assert_array_equal(*runs)
    assert len(np.unique(runs[0].reshape(100, -1), axis=0)) > 50


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "mspacman", "Ms Pacman"])
def test_a_game_may_be_named_in_any_spelling(name: str) -> None:
    """Pascal case, snake case, lower case and blanks name the same game."""
    assert atari(name).spec.id == "MsPacmanNoFrameskip-v4"


@pytest.mark.parametrize(
    ("game", "message"),
    [("Brekout", "did you mean Breakout"), ("pongg", "Pong"), ("xyzzy", "choose from Adventure, AirRaid")],
)
def test_an_unknown_game_gets_close_matches(game: str, message: str) -> None:
    """A misspelt game is refused with the names it resembles, or with all of them."""
    with pytest.raises(rv.BadSetting, match=message):
        atari(game)


@pytest.mark.parametrize("limit", [0, -4, 2.5, True])
def test_a_time_limit_below_one_is_refused(limit: Any) -> None:
    """max_frames must be a positive integer."""
    with pytest.raises(rv.BadSetting, match="max_frames: wanted an integer of at least 1"):
        atari("Breakout", max_frames=limit)


def test_a_recording_holds_lives_as_episodes() -> None:
    """Recorded in training, each life is an episode with its true final observation, and seeds repeat."""
    frames = []
    for _ in range(2):
        env = atari("Breakout")
        buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 200, seed=0)
        result = record(env, buffer, steps=200, seed=2)
        assert set(buffer.episodes["ended"].tolist()) == {"terminated", "cut"}
        assert result.episodes == (buffer.episodes["ended"] == "terminated").sum() >= 3
        batch = buffer.sample(16, 10)
        assert batch.obs_mask.all()
        frames.append(batch.obs)
    np.testing.assert_array_equal(*frames)


def test_vector_lanes_play_the_stack() -> None:
    """The stack works as lanes of a vector environment, where resets go on with the game too."""
    env = gym.vector.SyncVectorEnv([lambda: atari("Breakout")] * 2, autoreset_mode="SameStep")
    buffer = rv.ReplayBuffer(rv.StepSpec.from_env(env), 300, streams=2, seed=0)
    result = record(env, buffer, steps=300, seed=0)
    assert result.episodes >= 4
    assert min(lane.unwrapped.ale.lives() for lane in env.envs) < 4


def test_the_emulator_prints_no_banner() -> None:
    """Making a game writes nothing to stdout or stderr."""
    code = "from reverie.gymnasium import atari; atari('Breakout').reset(seed=0)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")

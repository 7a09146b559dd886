"""Playing real games: to fill the replay, and to see how well the agent plays.

A game is anything with the face of a Gymnasium environment whose observations are frames (C, H, W) uint8; this
module knows no more of Gymnasium than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt
import torch

from reverie import BadSetting, ReplayBuffer
from reverie.iris.actor_critic import Memory
from reverie.iris.agent import Agent
from reverie.iris.chance import draw
from reverie.iris.train import to_frames

TRAINING, TESTING = 0, 1  # which games a seed is for


class Game(Protocol):
    """The part of a Gymnasium environment that is used here."""

    @property
    def action_space(self) -> Any:
        """Its `n` is the number of actions."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode: (observation, info)."""

    def step(self, action: Any, /) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one step: (observation, reward, terminated, truncated, info)."""

    def close(self) -> None:
        """Let go of what it holds."""


def check_game(game: Game, frame: tuple[int, ...], actions: int | None = None, shown: Any = None) -> int:
    """Return the number of actions of a game that IRIS can play.

    Args:
        game: has discrete actions, and shows frames (C, H, W) uint8.
        frame: (C, H, W) of the frames that the tokenizer takes.
        actions: how many actions the agent has; None if it is not made yet.
        shown: the first observation, if the game has begun; else the game's space is asked, if it tells one.

    Raises:
        BadSetting: it has other actions, or other observations.
    """
    count = getattr(game.action_space, "n", None)
    if not isinstance(count, (int, np.integer)) or getattr(game.action_space, "shape", None) not in (
        (),
        None,
    ):
        raise BadSetting(
            f"game: wanted a Discrete action space, got {game.action_space!r}; wrap the game, so that its actions are "
            f"numbers 0..n-1"
        )
    if actions not in (None, count):
        raise BadSetting(
            f"game: wanted the {actions} actions that the agent was made for, got {count}; "
            f"play the game that the run began with, or start a new run"
        )
    seen = getattr(game, "observation_space", None) if shown is None else shown
    if seen is not None and (
        getattr(seen, "shape", None) != frame or getattr(seen, "dtype", None) != np.uint8
    ):
        what = repr(seen) if shown is None else f"{seen.dtype} of shape {seen.shape}"
        raise BadSetting(
            f"game: wanted frames {frame} uint8 as the tokenizer takes them, got {what}; "
            f"wrap the game, or choose a preset for such frames"
        )
    return int(count)


class Lane:
    """A game that can be put back to where it was, by playing the same actions again from the same seed.

    Every game begins with a seed of its own. An episode that ends with `life_lost` in the info leaves the
    game running: the next episode goes on with it.

    Args:
        game: deterministic, given a seed and actions.
        seed: numbers that tell this lane from all others.
    """

    def __init__(self, game: Game, seed: tuple[int, ...]) -> None:
        self.game = game
        self.seed = seed
        self.begun = 0  # games so far
        self.actions: list[int] = []  # of the running game
        self.life_lost = False
        self.obs: npt.NDArray[np.uint8]
        self._begin()

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Play one step and return (reward, terminated, truncated)."""
        obs, reward, terminated, truncated, info = self.game.step(action)
        self.obs = np.asarray(obs)
        self.actions.append(action)
        self.life_lost = bool(info.get("life_lost", False)) and not truncated
        return float(reward), bool(terminated), bool(truncated)

    def next_episode(self) -> None:
        """Go on after an end: with the same game if only a life was lost, else with a new one."""
        if self.life_lost:
            self.obs = np.asarray(self.game.reset()[0])
            self.life_lost = False
        else:
            self._begin()

    def save(self) -> dict[str, Any]:
        """Return what `load` needs; not between an end and the next episode."""
        return {"begun": self.begun, "actions": list(self.actions)}

    def load(self, state: dict[str, Any]) -> None:
        """Play a game again up to where it was saved."""
        self.begun = state["begun"] - 1
        self._begin()
        for action in state["actions"]:
            _, terminated, truncated = self.step(action)
            if terminated or truncated:
                self.next_episode()

    def _begin(self) -> None:
        seed = np.random.SeedSequence([*self.seed, self.begun]).generate_state(1)[0]
        self.obs = np.asarray(self.game.reset(seed=int(seed))[0])
        self.begun += 1
        self.actions.clear()
        self.life_lost = False


@dataclass(frozen=True, slots=True)
class Played:
    """Episodes that ended: the sum of rewards and the number of steps of each, in the order of their ends."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]


class Collector:
    """Plays games by the agent's policy and adds every step to the replay, one stream for each game.

    Episodes go on from one call to the next. At the start of a call the memory of the policy is rebuilt from
    the newest frames of the running episodes, for the weights have changed. The observation after an end is
    not stored.

    Args:
        agent: plays; it sees reconstructions.
        games: as many as the replay has streams.
        buffer: takes the steps.
        seed: fixes the games and when they are played at random; the policy draws from PyTorch's generator.
    """

    def __init__(self, agent: Agent, games: Sequence[Game], buffer: ReplayBuffer, *, seed: int) -> None:
        if buffer.streams != len(games):
            raise BadSetting(
                f"games: wanted one for each of the {buffer.streams} streams of the buffer, got {len(games)}"
                f"; build the buffer with streams={len(games)}"
            )
        self.agent = agent
        self.buffer = buffer
        self.lanes = [Lane(game, (seed, TRAINING, number)) for number, game in enumerate(games)]
        for lane in self.lanes:
            check_game(lane.game, agent.config.tokenizer.frame, agent.num_actions, lane.obs)
        self._rng = np.random.default_rng([seed, TRAINING])
        burn_in = agent.config.actor_critic_loss.burn_in
        shape = (len(games), burn_in, *agent.config.tokenizer.frame)
        self._recent = np.zeros(
            shape, np.uint8
        )  # the newest stored frames of each running episode, last newest
        self._known = np.zeros(len(games), np.int64)  # how many of them are of this episode
        self._return = np.zeros(len(games))  # of each running episode
        self._length = np.zeros(len(games), np.int64)

    @torch.no_grad()
    def collect(
        self,
        steps: int,
        *,
        epsilon: float,
        temperature: float = 1.0,
        on_step: Callable[[int], None] | None = None,
    ) -> Played:
        """Play `steps` steps, over all games, and return the episodes that ended.

        Args:
            steps: a multiple of the number of games.
            epsilon: the probability, at each step, that all games play at random.
            temperature: divides the policy's logits.
            on_step: called with the number of steps played so far.
        """
        lanes = len(self.lanes)
        if steps < 0 or steps % lanes:
            raise BadSetting(f"steps: wanted a multiple of the {lanes} games, got {steps}; round it")
        agent = self.agent.eval()
        memory = None  # rebuilt when the policy is first asked
        returns: list[float] = []
        lengths: list[int] = []
        for row in range(steps // lanes):
            obs = np.stack([lane.obs for lane in self.lanes])
            at_random = self._rng.random() < epsilon
            if epsilon < 1:
                memory = self._remembered() if memory is None else memory
                logits, _, memory = agent.look(to_frames(obs, agent.device), memory)
                action = draw(logits, temperature).cpu().numpy()
            if at_random:
                action = self._rng.integers(agent.num_actions, size=lanes)
            came = [lane.step(int(chosen)) for lane, chosen in zip(self.lanes, action, strict=True)]
            reward, terminated, truncated = (np.array(column) for column in zip(*came, strict=True))
            self.buffer.add_batch(
                obs=obs, action=action, reward=reward, terminated=terminated, truncated=truncated
            )
            self._note(obs, reward)
            ended = terminated | truncated
            for lane in np.flatnonzero(ended).tolist():
                returns.append(float(self._return[lane]))
                lengths.append(int(self._length[lane]))
                self.lanes[lane].next_episode()
            self._known[ended], self._return[ended], self._length[ended] = 0, 0.0, 0
            if memory is not None:
                memory = _forgotten(memory, ended)
            if on_step is not None:
                on_step((row + 1) * lanes)
        return Played(tuple(returns), tuple(lengths))

    def save(self) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
        """Return everything that the next call depends on but the weights, the replay and PyTorch's generator.

        That is a dict of JSON values, and the newest frames of the running episodes.
        """
        state = {
            "lanes": [lane.save() for lane in self.lanes],
            "rng": self._rng.bit_generator.state,
            "known": self._known.tolist(),
            "return": self._return.tolist(),
            "length": self._length.tolist(),
        }
        return state, self._recent.copy()

    def load(self, state: dict[str, Any], frames: npt.NDArray[np.uint8]) -> None:
        """Take back what `save` returned."""
        for lane, its_state in zip(self.lanes, state["lanes"], strict=True):
            lane.load(its_state)
        self._rng.bit_generator.state = state["rng"]
        self._known[...], self._return[...] = state["known"], state["return"]
        self._length[...], self._recent[...] = state["length"], frames

    def _note(self, obs: npt.NDArray[np.uint8], reward: npt.NDArray[np.float64]) -> None:
        if self._recent.shape[1]:
            self._recent[:, :-1] = self._recent[:, 1:].copy()
            self._recent[:, -1] = obs
        self._known += 1
        self._return += reward
        self._length += 1

    def _remembered(self) -> Memory:
        burn_in = self._recent.shape[1]
        mask = np.arange(burn_in) >= burn_in - self._known[:, None]  # (N, burn_in)
        frames = to_frames(self._recent, self.agent.device)
        return self.agent.recall(frames, torch.from_numpy(mask).to(self.agent.device))


@torch.no_grad()
def evaluate(
    agent: Agent,
    games: Sequence[Game],
    *,
    episodes: int,
    temperature: float,
    seed: int,
    max_steps: int | None = None,
) -> Played:
    """Play `episodes` episodes without random play, and return them.

    Each game plays its share from the first to the last, so that short episodes are not over-counted. Chance
    comes from `seed` alone.

    Args:
        agent: plays; it sees reconstructions.
        games: played side by side.
        episodes: how many, at least 1.
        temperature: divides the policy's logits; 0 takes the likeliest action.
        seed: fixes games and policy.
        max_steps: after so many steps an episode is broken off.
    """
    if episodes < 1:
        raise BadSetting(f"episodes: wanted at least 1, got {episodes}; raise it")
    agent.eval()
    lanes = [Lane(game, (seed, TESTING, number)) for number, game in enumerate(games[:episodes])]
    for lane in lanes:
        check_game(lane.game, agent.config.tokenizer.frame, agent.num_actions, lane.obs)
    shares = [len(range(number, episodes, len(lanes))) for number in range(len(lanes))]
    generator = torch.Generator(agent.device).manual_seed(seed)
    memory = agent.actor_critic.initial_memory(len(lanes))
    total, length = np.zeros(len(lanes)), np.zeros(len(lanes), np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    while any(shares):
        obs = np.stack([lane.obs for lane in lanes])
        logits, _, memory = agent.look(to_frames(obs, agent.device), memory)
        action = draw(logits, temperature, generator).cpu().numpy()
        ended = np.zeros(len(lanes), np.bool_)
        for number, lane in enumerate(lanes):
            if not shares[number]:
                continue
            reward, terminated, truncated = lane.step(int(action[number]))
            total[number] += reward
            length[number] += 1
            if terminated or truncated or length[number] == max_steps:
                returns.append(float(total[number]))
                lengths.append(int(length[number]))
                ended[number], shares[number] = True, shares[number] - 1
                lane.next_episode()
        total[ended], length[ended] = 0.0, 0
        memory = _forgotten(memory, ended)
    return Played(tuple(returns), tuple(lengths))


def interval(returns: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval: 0 for a single one."""
    half = 1.96 * stdev(returns) / sqrt(len(returns)) if len(returns) > 1 else 0.0
    return fmean(returns), half


def _forgotten(memory: Memory, ended: npt.NDArray[np.bool_]) -> Memory:
    """Return the memory with zeros for the games whose episode ended."""
    if not ended.any():
        return memory
    over = torch.from_numpy(ended).to(memory.hidden.device).unsqueeze(1)
    return Memory(*(part.masked_fill(over, 0.0) for part in memory))

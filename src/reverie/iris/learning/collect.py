"""Playing real games: to fill the replay, and to see how well the agent plays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from reverie import BadSetting, ReplayBuffer
from reverie.iris.learning.games import Game, Lane, check_game
from reverie.iris.learning.train import to_frames
from reverie.iris.models import Agent, Memory, draw

TRAINING, TESTING = 0, 1  # which games a seed is for


@dataclass(frozen=True, slots=True)
class Played:
    """Episodes that ended: the sum of rewards and the number of steps of each, in the order of their ends."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]


class Recording(Protocol):
    """What takes the steps of several games: a replay, or the writers of one."""

    @property
    def streams(self) -> int:
        """How many games there are."""

    def add_batch(self, *, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Take one step of each game; every array begins with (streams,)."""

    def cut(self, stream: int, /) -> None:
        """End the running episode of a game."""


class Collector:
    """Plays games by the agent's policy and adds every step to the replay, one stream for each game.

    Episodes go on from one call to the next. At the start of a call the memory of the policy is rebuilt from
    the newest frames of the running episodes, for the weights have changed. The observation after an end is
    not stored. After a call that broke off amid a step, of which some games may have played and some not, all
    running episodes are cut and new games begin.

    Args:
        agent: plays; it sees reconstructions.
        games: as many as the replay has streams.
        buffer: takes the steps.
        seed: fixes the games and when they are played at random; the policy draws from PyTorch's generator.
    """

    def __init__(self, agent: Agent, games: Sequence[Game], buffer: Recording, *, seed: int) -> None:
        if buffer.streams != len(games):
            raise BadSetting(
                f"games: wanted one for each of the {buffer.streams} streams of the buffer, got {len(games)}"
                f"; build the buffer with streams={len(games)}"
            )
        self.agent = agent
        self.buffer = buffer
        self.lanes = _begun(agent, games, seed, TRAINING)
        self._rng = np.random.default_rng([seed, TRAINING])
        self._held = np.zeros(len(games), np.int64)  # the random action that each game holds
        self._hold = np.zeros(len(games), np.int64)  # for how many more steps
        burn_in = agent.config.actor_critic_loss.burn_in
        shape = (len(games), burn_in, *agent.config.tokenizer.frame)
        # The newest stored frames of each running episode, last newest.
        self._recent = np.zeros(shape, np.uint8)
        self._known = np.zeros(len(games), np.int64)  # how many of them are of this episode
        self._return = np.zeros(len(games))  # of each running episode
        self._length = np.zeros(len(games), np.int64)
        self._amid = False  # a step: some games may have played theirs, and the replay may hold it

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
            epsilon: the probability, at each step, that all games play at random; or, with `random_stretch`, that
                a game begins to hold a random action.
            temperature: divides the policy's logits.
            on_step: called with the number of steps played so far.
        """
        lanes = len(self.lanes)
        if steps < 0 or steps % lanes:
            raise BadSetting(f"steps: wanted a multiple of the {lanes} games, got {steps}; round it")
        self._settle()
        agent = self.agent.eval()
        memory = None  # rebuilt when the policy is first asked
        returns: list[float] = []
        lengths: list[int] = []
        for row in range(steps // lanes):
            obs = np.stack([lane.obs for lane in self.lanes])
            action = by_chance = self._by_chance(epsilon)
            if epsilon < 1:
                memory = self._remembered() if memory is None else memory
                logits, _, memory = agent.look(to_frames(obs, agent.device), memory)
                action = np.where(by_chance < 0, draw(logits, temperature).cpu().numpy(), by_chance)
            self._amid = True
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
            self._forget(ended)
            self._amid = False
            if memory is not None:
                memory = _forgotten(memory, ended)
            if on_step is not None:
                on_step((row + 1) * lanes)
        return Played(tuple(returns), tuple(lengths))

    def save(self) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
        """Return everything that the next call depends on but the weights, the replay and PyTorch's generator.

        That is a dict of JSON values, and the newest frames of the running episodes. Call it before the replay is
        saved: it cuts the episodes of a call that broke off.
        """
        self._settle()
        state = {
            "lanes": [lane.save() for lane in self.lanes],
            "rng": self._rng.bit_generator.state,
            "known": self._known.tolist(),
            "return": self._return.tolist(),
            "length": self._length.tolist(),
            "held": self._held.tolist(),
            "hold": self._hold.tolist(),
        }
        return state, self._recent.copy()

    def keep(self, path: Path) -> None:
        """Write the replay to a file of its own."""
        assert isinstance(self.buffer, ReplayBuffer), "what plays for others keeps nothing"
        self.buffer.save_as(path)

    def load(self, state: dict[str, Any], frames: npt.NDArray[np.uint8]) -> list[int]:
        """Take back what `save` returned, and put the games back to where they were.

        An episode goes on only if its game showed the same when it was played again, and if the replay holds as
        many steps of it. Otherwise it is cut, and a new game begins.

        Returns:
            The numbers of the games whose episodes were cut.
        """
        self._rng.bit_generator.state = state["rng"]
        self._known[...], self._return[...] = state["known"], state["return"]
        self._length[...], self._recent[...] = state["length"], frames
        self._held[...], self._hold[...] = state.get("held", 0), state.get("hold", 0)
        stored = np.zeros(len(self.lanes), np.int64)
        assert isinstance(self.buffer, ReplayBuffer), "games are put back where there is one process alone"
        for episode in self.buffer.episodes:
            if episode["ended"] == "running":
                stored[episode["stream"]] = episode["length"]
        cut = []
        for number, (lane, its_state) in enumerate(zip(self.lanes, state["lanes"], strict=True)):
            if not lane.load(its_state) or stored[number] != self._length[number]:
                self._begin_anew(number)
                cut.append(number)
        return cut

    def _settle(self) -> None:
        """Begin anew after a call that broke off amid a step."""
        if self._amid:
            for number in range(len(self.lanes)):
                self._begin_anew(number)
            self._amid = False

    def _begin_anew(self, number: int) -> None:
        self.buffer.cut(number)
        self.lanes[number].new_game()
        self._forget(number)

    def _forget(self, games: int | npt.NDArray[np.bool_]) -> None:
        """Begin to count anew, for some games."""
        self._known[games], self._return[games], self._length[games], self._hold[games] = 0, 0.0, 0, 0

    def _by_chance(self, epsilon: float) -> npt.NDArray[np.int64]:
        """Return the random action of each game, -1 where the policy is to act."""
        games, actions = len(self.lanes), self.agent.num_actions
        longest = self.agent.config.collection.random_stretch
        if longest is None:
            at_random = self._rng.random() < epsilon
            return self._rng.integers(actions, size=games) if at_random else np.full(games, -1)
        chances = self.agent.config.collection.chances(epsilon, games)
        begins = (self._hold == 0) & (self._rng.random(games) < chances)
        self._held[begins] = self._rng.integers(actions, size=begins.sum())
        self._hold[begins] = self._rng.integers(1, longest, size=begins.sum(), endpoint=True)
        holds = self._hold > 0
        self._hold[holds] -= 1
        return np.where(holds, self._held, -1)

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
    lanes = _begun(agent, games[:episodes], seed, TESTING)
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


def _begun(agent: Agent, games: Sequence[Game], seed: int, kind: int) -> list[Lane]:
    """Return a lane for each game, all of which the agent can play."""
    lanes = [Lane(game, (seed, kind, number)) for number, game in enumerate(games)]
    for lane in lanes:
        check_game(lane.game, lane.obs, agent.config.tokenizer.frame, agent.num_actions)
    return lanes


def _forgotten(memory: Memory, ended: npt.NDArray[np.bool_]) -> Memory:
    """Return the memory with zeros for the games whose episode ended."""
    if not ended.any():
        return memory
    over = torch.from_numpy(ended).to(memory.hidden.device).unsqueeze(1)
    return Memory(*(part.masked_fill(over, 0.0) for part in memory))

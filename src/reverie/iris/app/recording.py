"""Games that an agent plays to be looked into: every step with what the agent thought of it, and the way back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reverie.iris.learning import Lane, Run, to_frames
from reverie.iris.models import Memory, draw
from reverie.pictures import Frames

DIAGNOSING = 2  # what these games' seeds are for; training and testing have 0 and 1

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recording:
    """The steps of whole episodes, N in all, one episode after the other.

    Attributes:
        frames: (N, C, H, W) uint8, what each step saw.
        action: (N,) int64. reward: (N,) float64, as the game gave it. end: (N,) bool, whether the episode ended.
        depth: (N,) int64, how many steps of the episode before this one had a reward.
        left: (N,) int64, how many steps the episode goes on for, this one included.
        worth: (N,) float64, the signs of the rewards from here on, discounted as the critic does it.
        value: (N,) float64, what the critic expected. entropy: (N,) float64 in nats, of the policy.
        memory: of the actor-critic before each step, both (N, width) float32.
        episodes: which lane and game each was, in this order.
    """

    frames: Frames
    action: Ints
    reward: Floats
    end: Bools
    depth: Ints
    left: Ints
    worth: Floats
    value: Floats
    entropy: Floats
    memory: Memory
    episodes: tuple[Episode, ...]

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True, slots=True)
class Episode:
    """Where an episode lies in a recording, and how its lane comes back to it.

    Attributes:
        start, stop: of its steps. ended: whether it did; else it was broken off. lane: its number.
        state: of the lane, when the last step was played.
    """

    start: int
    stop: int
    ended: bool
    lane: int
    state: dict[str, Any]

    def state_before(self, steps: int) -> dict[str, Any]:
        """Return the lane's state `steps` steps before the end, at most as many as the episode has."""
        return {**self.state, "actions": self.state["actions"][:-steps]}


@dataclass(slots=True)
class _Course:
    """The running episode of a lane: a list for every column."""

    frames: list[Frames] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    judged: list[tuple[float, float]] = field(default_factory=list)  # value and entropy
    memory: list[torch.Tensor] = field(default_factory=list)


def new_lanes(run: Run, count: int) -> list[Lane]:
    """Return lanes for `count` new games of a run, the same ones every time."""
    return [Lane(run.new_game(False), (run.seed, DIAGNOSING, number)) for number in range(count)]


@torch.no_grad()
def record(run: Run, lanes: Sequence[Lane], *, episodes: int) -> Recording:
    """Play `episodes` whole episodes by the policy of a run, as it is tested, and return them.

    Args:
        run: its agent plays.
        lanes: games that have just begun. Each plays its share of the episodes.
        episodes: how many, at least 1. One that takes longer than a test would let it is broken off.
    """
    agent, settings = run.agent.eval(), run.config.evaluation
    generator = torch.Generator(agent.device).manual_seed(run.seed)
    memory = agent.actor_critic.initial_memory(len(lanes))
    shares = [len(range(number, episodes, len(lanes))) for number in range(len(lanes))]
    courses = [_Course() for _ in lanes]
    ended: list[tuple[Episode, _Course]] = []
    while any(shares):
        obs = np.stack([lane.obs for lane in lanes])
        before = torch.stack(memory, 1).cpu()  # (B, 2, width)
        logits, value, memory = agent.look(to_frames(obs, agent.device), memory)
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
        action = draw(logits, settings.temperature, generator).tolist()
        over = torch.zeros(len(lanes), 1, dtype=torch.bool)
        for number, (lane, course) in enumerate(zip(lanes, courses, strict=True)):
            if not shares[number]:
                continue
            reward, terminated, truncated = lane.step(action[number])
            course.frames.append(obs[number])
            course.action.append(action[number])
            course.reward.append(reward)
            course.judged.append((float(value[number]), float(entropy[number])))
            course.memory.append(before[number])
            length, whole = len(course.action), terminated or truncated
            if whole or length == settings.max_steps:
                ended.append((Episode(0, length, whole, number, lane.save()), course))
                over[number], shares[number], courses[number] = True, shares[number] - 1, _Course()
                lane.next_episode()
        memory = Memory(*(part.masked_fill(over.to(part.device), 0.0) for part in memory))
    return _joined(ended, run.config.actor_critic_loss.gamma)


def _joined(ended: Sequence[tuple[Episode, _Course]], gamma: float) -> Recording:
    """Return episodes one after the other."""
    stops = np.cumsum([episode.stop for episode, _ in ended]).tolist()
    episodes = [
        replace(episode, start=stop - episode.stop, stop=stop)
        for stop, (episode, _) in zip(stops, ended, strict=True)
    ]
    courses = [course for _, course in ended]
    rewards = [np.sign(course.reward) for course in courses]
    left = np.concatenate([np.arange(len(course.action), 0, -1) for course in courses])
    judged = np.concatenate([np.array(course.judged) for course in courses])
    memory = torch.stack([one for course in courses for one in course.memory])
    return Recording(
        frames=np.stack([frame for course in courses for frame in course.frames]),
        action=np.array([one for course in courses for one in course.action], np.int64),
        reward=np.array([one for course in courses for one in course.reward], np.float64),
        end=np.concatenate([_last(episode) for episode in episodes]),
        depth=np.concatenate([np.cumsum(signs != 0) - (signs != 0) for signs in rewards]).astype(np.int64),
        left=left.astype(np.int64),
        worth=np.concatenate(
            [
                _discounted(signs, gamma, 0.0 if episode.ended else course.judged[-1][0])
                for signs, episode, course in zip(rewards, episodes, courses, strict=True)
            ]
        ),
        value=judged[:, 0],
        entropy=judged[:, 1],
        memory=Memory(memory[:, 0], memory[:, 1]),
        episodes=tuple(episodes),
    )


def _last(episode: Episode) -> Bools:
    last = np.zeros(episode.stop - episode.start, np.bool_)
    last[-1] = episode.ended
    return last


def _discounted(rewards: Floats, gamma: float, following: float) -> Floats:
    """Return, for every step, the sum of what is to come, `following` after the last one included.

    What comes a step later is worth `gamma` of it.
    """
    sums = np.zeros(len(rewards))
    for step in range(len(rewards) - 1, -1, -1):
        sums[step] = following = rewards[step] + gamma * following
    return sums

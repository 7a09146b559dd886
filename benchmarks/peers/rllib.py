"""RLlib: EpisodeReplayBuffer, as its DreamerV3 uses it: pieces of episodes go in, rows of B x T come out.

Where an episode ends within a row, the beginning of a random other one follows, flagged. It takes pieces of episodes:
a step is a piece of one step, as an EnvRunner gives it, and making the piece is counted.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Episodes(Peer):
    """Rows of L + 1 observations."""

    crosses = True
    whole_episodes = True
    most_steps = 1_000_000  # it keeps a Python object for every step

    def make(self, ask: Ask) -> None:
        from ray.rllib.env.single_agent_episode import SingleAgentEpisode
        from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer

        if ask.prioritised:
            raise CannotDo("no sequences by priority: its prioritised buffer draws single steps")
        self.piece = SingleAgentEpisode
        self.buffer: Any = EpisodeReplayBuffer(ask.capacity)
        self.begun: dict[str, int] = {}  # running episode -> its steps so far

    def _episode(self, steps: Steps, name: str) -> Any:
        """Return steps of one episode as a piece of it."""
        started = self.begun.pop(name, 0)
        if not (steps.terminated[-1] or steps.truncated[-1]):
            self.begun[name] = started + len(steps.reward)
        observations = np.concatenate([steps.obs, steps.next_obs[-1:]])
        return self.piece(
            id_=name,
            observations=list(observations),
            actions=list(steps.action),
            rewards=steps.reward.tolist(),
            terminated=bool(steps.terminated[-1]),
            truncated=bool(steps.truncated[-1]),
            len_lookback_buffer=0,
            t_started=started,
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(self._episode(Steps(*(np.asarray(value)[None] for value in step)), str(step.episode)))

    def add_lanes(self, steps: Steps) -> None:
        self.buffer.add(
            [
                self._episode(steps.part(lane, lane + 1), f"{lane}-{steps.episode[lane]}")
                for lane in range(len(steps.reward))
            ]
        )

    def fill(self, steps: Steps) -> None:
        start = 0
        for end in [*np.flatnonzero(steps.terminated | steps.truncated).tolist(), len(steps.reward) - 1]:
            if end >= start:
                self.buffer.add(self._episode(steps.part(start, end + 1), str(steps.episode[start])))
            start = end + 1

    def sample(self, batch: int, length: int) -> Any:
        return self.buffer.sample(batch_size_B=batch, batch_length_T=length + 1)

    def windows(self, drawn: Any) -> Windows:
        return rows(drawn["obs"], drawn["is_last"], drawn["is_first"])

    def save(self, path: Path) -> None:
        with open(path, "wb") as file:  # as its algorithms' checkpoints do
            pickle.dump(self.buffer.get_state(), file)

    def load(self, path: Path) -> None:
        with open(path, "rb") as file:
            self.buffer.set_state(pickle.load(file))

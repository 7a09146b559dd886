"""The naive twin: a buffer of plain lists that is slow and obviously right, to compare the engine with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.spec import Tree


@dataclass
class NaiveStep:
    """One step as it was added."""

    obs: Tree
    action: Tree
    reward: float
    extras: dict[str, Any]
    episode: int  # counts the episodes of its stream


@dataclass
class NaiveEpisode:
    """One episode: how it ended (None while it runs) and what was seen after its last step, if known."""

    terminated: bool = False
    truncated: bool = False
    ended: bool = False
    final_obs: Tree | None = None


@dataclass
class NaiveStream:
    """All steps of one environment; a list index is a step id."""

    steps: list[NaiveStep] = field(default_factory=list)
    episodes: list[NaiveEpisode] = field(default_factory=list)


@dataclass
class NaiveWindow:
    """What a batch row has to show. Lists run over time; `obs` has one entry more than the others."""

    obs: list[Tree]
    obs_mask: list[bool]
    action: list[Tree]
    reward: list[float]
    terminated: list[bool]
    truncated: list[bool]
    is_first: list[bool]
    extras: dict[str, list[Any]]


class NaiveBuffer:
    """The engine's promises, spelled out step by step. Forgets nothing: being live is a comparison.

    Args:
        capacity: steps kept in all; each stream keeps its newest `capacity // streams`.
        streams: how many streams there are.
    """

    def __init__(self, capacity: int, streams: int = 1) -> None:
        self.stream_capacity = capacity // streams
        self.streams = [NaiveStream() for _ in range(streams)]

    def add(self, *, obs: Tree, action: Tree, reward: float, terminated: bool, truncated: bool, stream: int = 0,
            final_obs: Tree | None = None, **extras: Any) -> None:  # fmt: skip
        """Store one step."""
        record = self.streams[stream]
        if not record.episodes or record.episodes[-1].ended:
            record.episodes.append(NaiveEpisode())
        record.steps.append(NaiveStep(_copy(obs), _copy(action), reward, extras, len(record.episodes) - 1))
        if terminated or truncated:
            record.episodes[-1] = NaiveEpisode(terminated, truncated, True, _copy(final_obs))

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`, if there is one."""
        record = self.streams[stream]
        if record.episodes and not record.episodes[-1].ended:
            record.episodes[-1] = NaiveEpisode(False, False, True, _copy(final_obs))

    def __len__(self) -> int:
        return sum(len(self.live_ids(stream)) for stream in range(len(self.streams)))

    def live_ids(self, stream: int) -> range:
        """Return the ids of the live steps of one stream."""
        head = len(self.streams[stream].steps)
        return range(max(0, head - self.stream_capacity), head)

    def is_settled(self, stream: int, step: int) -> bool:
        """Whether the observation after a step is decided: a next step, or the end of its episode."""
        record = self.streams[stream]
        return step + 1 < len(record.steps) or record.episodes[record.steps[step].episode].ended

    def windows(self, length: int) -> set[tuple[int, int]]:
        """Return (stream, start) of every window of `length` steps that lies inside one episode."""
        found = set()
        for stream, record in enumerate(self.streams):
            live = self.live_ids(stream)
            for start in live[: max(len(live) - length + 1, 0)]:
                last = start + length - 1
                same = record.steps[start].episode == record.steps[last].episode
                if same and self.is_settled(stream, last):
                    found.add((stream, start))
        return found

    def window(self, stream: int, start: int, length: int) -> NaiveWindow:
        """Return what a valid window has to show."""
        record = self.streams[stream]
        steps = record.steps[start : start + length]
        last, episode = start + length - 1, record.episodes[steps[0].episode]
        ends_here = episode.ended and (
            last + 1 == len(record.steps) or record.steps[last + 1].episode != steps[0].episode
        )
        known = True
        if not ends_here:
            successor = record.steps[last + 1].obs
        elif episode.final_obs is not None:
            successor = episode.final_obs
        else:
            successor, known = steps[-1].obs, False
        opens = start == 0 or record.steps[start - 1].episode != steps[0].episode
        quiet = [False] * (length - 1)
        return NaiveWindow(
            obs=[step.obs for step in steps] + [successor],
            obs_mask=[True] * length + [known],
            action=[step.action for step in steps],
            reward=[step.reward for step in steps],
            terminated=[*quiet, ends_here and episode.terminated],
            truncated=[*quiet, ends_here and episode.truncated],
            is_first=[opens] + [False] * length,
            extras={name: [step.extras[name] for step in steps] for name in steps[0].extras},
        )


def _copy(value: Tree) -> Tree:
    if isinstance(value, dict):
        return {key: _copy(child) for key, child in value.items()}
    return value if value is None else np.array(value)

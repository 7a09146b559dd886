"""The naive twin: a buffer of plain lists that is slow and obviously right, to compare the engine with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.values import Tree

Address = tuple[int, int]  # stream, step id
Distribution = dict[Address, float]  # anchor -> probability; they sum to 1


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

    order: int  # counts the episodes of all streams as they began
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
    """What a row of a SequenceBatch has to show. Lists run over time; those of observations have one entry more."""

    obs: list[Tree] = field(default_factory=list)
    obs_mask: list[bool] = field(default_factory=list)
    is_first: list[bool] = field(default_factory=list)
    action: list[Tree] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    train_mask: list[bool] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class NaiveRows:
    """What a row of a RowBatch has to show. Lists run over rows."""

    obs: list[Tree] = field(default_factory=list)
    obs_mask: list[bool] = field(default_factory=list)
    is_first: list[bool] = field(default_factory=list)
    is_last: list[bool] = field(default_factory=list)
    is_terminal: list[bool] = field(default_factory=list)
    action: list[Tree] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    train_mask: list[bool] = field(default_factory=list)
    id: list[int] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)


class NaiveBuffer:
    """The engine's promises, spelled out step by step. Forgets nothing: being live is a comparison.

    Args:
        capacity: steps kept in all; each stream keeps its newest `capacity // streams`.
        streams: how many streams there are.
    """

    def __init__(self, capacity: int, streams: int = 1) -> None:
        self.stream_capacity = capacity // streams
        self.streams = [NaiveStream() for _ in range(streams)]
        self._begun = 0

    # --- writing ---------------------------------------------------------------------------------------

    def add(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: float,
        terminated: bool,
        truncated: bool,
        stream: int = 0,
        final_obs: Tree | None = None,
        **extras: Any,
    ) -> None:
        """Store one step."""
        record = self.streams[stream]
        if not record.episodes or record.episodes[-1].ended:
            record.episodes.append(NaiveEpisode(self._begun))
            self._begun += 1
        record.steps.append(NaiveStep(_copy(obs), _copy(action), reward, extras, len(record.episodes) - 1))
        if terminated or truncated:
            order = record.episodes[-1].order
            record.episodes[-1] = NaiveEpisode(order, terminated, truncated, True, _copy(final_obs))

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`, if there is one."""
        record = self.streams[stream]
        if record.episodes and not record.episodes[-1].ended:
            order = record.episodes[-1].order
            record.episodes[-1] = NaiveEpisode(order, False, False, True, _copy(final_obs))

    def write_back(self, name: str, stream: int, step: int, value: Any) -> None:
        """Store a new value of one extra field of one step, if it is live."""
        if step in self.live_ids(stream):
            self.streams[stream].steps[step].extras[name] = value

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(len(self.live_ids(stream)) for stream in range(len(self.streams)))

    def live_ids(self, stream: int) -> range:
        """Return the ids of the live steps of one stream."""
        head = len(self.streams[stream].steps)
        return range(max(0, head - self.stream_capacity), head)

    def live_steps(self) -> list[Address]:
        """Return every live step."""
        return [(stream, step) for stream in range(len(self.streams)) for step in self.live_ids(stream)]

    def episode_of(self, stream: int, step: int) -> NaiveEpisode:
        """Return the episode that a step belongs to."""
        record = self.streams[stream]
        return record.episodes[record.steps[step].episode]

    def live_episodes(self) -> list[list[Address]]:
        """Return the live steps of each episode that has some, in the order in which the episodes began."""
        found: dict[int, list[Address]] = {}
        for stream, step in self.live_steps():
            found.setdefault(self.episode_of(stream, step).order, []).append((stream, step))
        return [found[order] for order in sorted(found)]

    def follows(self, stream: int, step: int) -> bool:
        """Whether the step after this one exists and belongs to the same episode."""
        steps = self.streams[stream].steps
        return step + 1 < len(steps) and steps[step + 1].episode == steps[step].episode

    def opens(self, stream: int, step: int) -> bool:
        """Whether this is the first step of its episode."""
        return step == 0 or not self.follows(stream, step - 1)

    def is_settled(self, stream: int, step: int) -> bool:
        """Whether the observation after a step is decided: a next step, or the end of its episode."""
        return self.follows(stream, step) or self.episode_of(stream, step).ended

    def successor(self, stream: int, step: int) -> tuple[Tree, bool]:
        """Return the observation after a step, and whether it is known; the step's own is shown if not."""
        steps, episode = self.streams[stream].steps, self.episode_of(stream, step)
        if self.follows(stream, step):
            return steps[step + 1].obs, True
        if episode.final_obs is not None:
            return episode.final_obs, True
        return steps[step].obs, False

    # --- anchors ---------------------------------------------------------------------------------------

    def anchors(self, boundary: str, length: int) -> set[Address]:
        """Return the (stream, id) of every step that may be drawn for windows of `length`."""
        if boundary == "cross":
            return {
                (stream, step)
                for stream in range(len(self.streams))
                for rows in [self.rows(stream)]
                for place, (step, closing) in enumerate(rows)
                if not closing and place + length <= len(rows)
            }
        if boundary == "inside":
            return {address for address in self.live_steps() if self._fits(*address, length)}
        return set(self.live_steps())

    def windows(self, length: int) -> set[Address]:
        """Return (stream, start) of every window of `length` steps that lies inside one episode."""
        return self.anchors("inside", length)

    def _fits(self, stream: int, start: int, length: int) -> bool:
        """Whether `length` steps from `start` belong to one episode and the last one's successor is decided."""
        last = start + length - 1
        return (
            last in self.live_ids(stream)
            and all(self.follows(stream, step) for step in range(start, last))
            and self.is_settled(stream, last)
        )

    def rows(self, stream: int) -> list[tuple[int, bool]]:
        """Return all rows of a stream as (step id, whether it is the row that closes the step's episode).

        A row tells the reward that came with it: a step whose predecessor was evicted is no row.
        """
        found = []
        for step in self.live_ids(stream):
            if self.opens(stream, step) or step - 1 in self.live_ids(stream):
                found.append((step, False))
            if not self.follows(stream, step) and self.episode_of(stream, step).ended:
                found.append((step, True))
        return found

    # --- windows ---------------------------------------------------------------------------------------

    def window(
        self,
        stream: int,
        anchor: int,
        length: int,
        boundary: str = "inside",
        burn_in: int = 0,
        offset: int = 0,
    ) -> NaiveWindow:
        """Return what the window of an anchor has to show.

        Args:
            stream, anchor: the step drawn.
            length: steps of the window, without context.
            boundary: any but "cross".
            burn_in: steps of context before it.
            offset: where in its window the anchor stands; read under "pad_both" only.
        """
        steps = self.streams[stream].steps
        place = {"pad_left": length - 1, "pad_both": offset}.get(boundary, 0)
        begin, stop = anchor - place - burn_in, anchor - place + length
        window = NaiveWindow(extras={name: [] for name in steps[anchor].extras})
        after: tuple[Tree, bool] = (_zeros(steps[anchor].obs), False)  # successor of the step before, if any
        for step in range(begin, stop):
            real = step in self.live_ids(stream) and steps[step].episode == steps[anchor].episode
            here = steps[step] if real else None
            ends = real and not self.follows(stream, step)
            episode = self.episode_of(stream, anchor)
            window.obs.append(here.obs if here else after[0])
            window.obs_mask.append(real or after[1])
            window.is_first.append(real and self.opens(stream, step))
            window.action.append(here.action if here else _zeros(steps[anchor].action))
            window.reward.append(here.reward if here else 0.0)
            window.terminated.append(ends and episode.terminated)
            window.truncated.append(ends and episode.truncated)
            window.mask.append(real)
            window.train_mask.append(real and step >= begin + burn_in)
            for name, value in steps[anchor].extras.items():
                window.extras[name].append(here.extras[name] if here else _zeros(value))
            after = self.successor(stream, step) if real else (_zeros(steps[anchor].obs), False)
        window.obs.append(after[0])
        window.obs_mask.append(after[1])
        window.is_first.append(False)
        return window

    def row_window(self, stream: int, anchor: int, length: int, burn_in: int = 0) -> NaiveRows:
        """Return what the rows of an anchor under "cross" have to show."""
        steps, rows = self.streams[stream].steps, self.rows(stream)
        place = rows.index((anchor, False))
        like = steps[anchor]
        window = NaiveRows(extras={name: [] for name in like.extras})
        for at in range(place - burn_in, place + length):
            # Context comes from the anchor's own episode only.
            real = at >= place or (at >= 0 and steps[rows[at][0]].episode == like.episode)
            step, closing = rows[at] if real else (-1, False)
            acts = real and not closing
            before = step if closing else step - 1  # the step that the row's reward came from
            opens = acts and self.opens(stream, step)
            shown = (_zeros(like.obs), False) if not real else (steps[step].obs, True)
            window.obs.append(self.successor(stream, step)[0] if closing else shown[0])
            window.obs_mask.append(self.successor(stream, step)[1] if closing else shown[1])
            window.is_first.append(opens)
            window.is_last.append(closing)
            window.is_terminal.append(closing and self.episode_of(stream, step).terminated)
            window.action.append(steps[step].action if acts else _zeros(like.action))
            window.reward.append(steps[before].reward if real and not opens else 0.0)
            window.mask.append(real)
            window.train_mask.append(real and at >= place)
            window.id.append(step if acts else -1)
            for name, value in like.extras.items():
                window.extras[name].append(steps[step].extras[name] if acts else _zeros(value))
        return window

    # --- what each sampler draws -----------------------------------------------------------------------

    def uniform(self, boundary: str, length: int) -> Distribution:
        """Return the distribution of `Uniform()`."""
        return normalised(dict.fromkeys(self.anchors(boundary, length), 1.0))

    def episode_uniform(
        self, boundary: str, length: int, weights: Sequence[float] | None = None
    ) -> Distribution:
        """Return the distribution of `EpisodeUniform(weights)`."""
        episodes = self.live_episodes()
        shares = [1.0] * len(episodes)
        if weights is not None and len(episodes) < len(weights):
            shares = [float(len(episode)) for episode in episodes]
        elif weights is not None:
            size = len(episodes) // len(weights)
            parts = [min(number // size, len(weights) - 1) for number in range(len(episodes))]
            shares = [weights[part] / parts.count(part) for part in parts]
        return self._by_episode(boundary, length, shares)

    def recent(
        self, boundary: str, length: int, newest: int | None = None, half_life: float | None = None
    ) -> Distribution:
        """Return the distribution of `Recent(newest, half_life=half_life)`."""
        mass = {}
        for stream, step in self.anchors(boundary, length):
            age = len(self.streams[stream].steps) - 1 - step
            if newest is not None:
                mass[stream, step] = float(age < max(newest // len(self.streams), 1))
            elif half_life is not None:
                mass[stream, step] = 0.5 ** (age / half_life)
        return normalised(mass)

    def prioritized(
        self, boundary: str, length: int, priorities: Mapping[Address, float], alpha: float
    ) -> Distribution:
        """Return the distribution of `Prioritized(alpha)` for these priorities of all live steps."""
        return normalised(
            {address: priorities[address] ** alpha for address in self.anchors(boundary, length)}
        )

    def visit_balanced(
        self, boundary: str, length: int, visits: Mapping[Address, int], alpha: float, by: str = "episode"
    ) -> Distribution:
        """Return the distribution of `VisitBalanced(alpha, by=by)` when steps were anchors `visits` times."""
        if by == "step":
            return normalised(
                {
                    address: (1 + visits.get(address, 0)) ** -alpha
                    for address in self.anchors(boundary, length)
                }
            )
        drawn: dict[int, int] = {}
        for address, times in visits.items():
            order = self.episode_of(*address).order
            drawn[order] = drawn.get(order, 0) + times
        orders = [self.episode_of(*steps[0]).order for steps in self.live_episodes()]
        return self._by_episode(boundary, length, [(1 + drawn.get(order, 0)) ** -alpha for order in orders])

    def shuffled(self, boundary: str, length: int, tiles: bool = False) -> Distribution:
        """Return the distribution of `Shuffled(tiles=tiles)` over one epoch, beginning now."""
        valid = self.anchors(boundary, length)
        chosen: list[Address] = []
        for steps in self.live_episodes():
            own = [address for address in steps if address in valid]
            if tiles:
                own = own[::-length] if boundary == "pad_left" else own[::length]
            chosen += own
        return normalised(dict.fromkeys(chosen, 1.0))

    def _by_episode(self, boundary: str, length: int, shares: Sequence[float]) -> Distribution:
        """Return episodes with an anchor in proportion to `shares`, and their anchors alike."""
        valid = self.anchors(boundary, length)
        mass = {}
        for share, steps in zip(shares, self.live_episodes(), strict=True):
            own = [address for address in steps if address in valid]
            for address in own:
                mass[address] = share / len(own)
        return normalised(mass)


def mixture(parts: Sequence[tuple[Distribution, float]]) -> Distribution:
    """Return the distribution of `Mixture`, from those of its parts and their weights."""
    mass: Distribution = {}
    for distribution, weight in parts:
        for address, probability in distribution.items():
            mass[address] = mass.get(address, 0.0) + weight * probability
    return normalised(mass)


def normalised(mass: Distribution) -> Distribution:
    """Return the anchors that have any mass, as probabilities; none if there is no mass."""
    total = sum(mass.values())
    return {address: value / total for address, value in sorted(mass.items()) if value > 0.0}


def _zeros(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _zeros(child) for key, child in value.items()}
    return np.zeros_like(value)


def _copy(value: Tree) -> Tree:
    if isinstance(value, dict):
        return {key: _copy(child) for key, child in value.items()}
    return value if value is None else np.array(value)

"""The one face that every peer's adapter has, and the list of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.detector import Windows
from benchmarks.peers.world import Steps


class CannotDo(Exception):
    """A peer has no such ability. The cell shows the message."""


class Ask(NamedTuple):
    """What a buffer is made for. Some peers must know it beforehand."""

    capacity: int
    obs_shape: tuple[int, ...]
    dtype: str
    action_size: int
    batch: int = 64
    length: int = 20
    lanes: int = 1
    prioritised: bool = False
    mean: int = 500  # of the episodes' lengths


class Peer:
    """A replay buffer, used as its own documentation recommends. What it cannot do raises CannotDo with the reason.

    Attributes:
        crosses: its windows run across episodes and say so.
        keeps_final: they may end on an episode's final observation.
        whole_episodes: it evicts an episode as a whole once one of its steps has to go.
        most_steps: of small observations, the most that it is asked to hold here.
    """

    crosses = False
    keeps_final = False
    whole_episodes = False
    most_steps = 10_000_000

    def make(self, ask: Ask) -> None:
        """Make an empty buffer for what is asked."""
        raise NotImplementedError

    def add(self, step: Steps) -> None:
        """Store one step."""
        raise NotImplementedError

    def add_lanes(self, steps: Steps) -> None:
        """Store one step of each lane."""
        raise CannotDo("no lanes")

    def fill(self, steps: Steps) -> None:
        """Store many steps of one stream in the fastest way there is; this is not timed."""
        for number in range(len(steps.reward)):
            self.add(steps.at(number))

    def sample(self, batch: int, length: int) -> Any:
        """Return windows of `length` steps and the observation after them, as the peer gives them."""
        raise CannotDo("no sequences")

    def windows(self, drawn: Any) -> Windows:
        """Return what `sample` gave, in the form that the detector reads."""
        raise NotImplementedError

    def update(self, drawn: Any, priorities: Any) -> None:
        """Give the windows that `sample` gave new priorities, one each."""
        raise CannotDo("no priorities")

    def save(self, path: Path) -> None:
        """Write everything to `path`, which does not exist."""
        raise CannotDo("no way to save")

    def load(self, path: Path) -> None:
        """Take back what was saved, in a fresh object that was made for the same."""
        raise CannotDo("no way to reopen")

    def close(self) -> None:
        """Release what would outlive the process."""


Make = Callable[[], Peer]
Cell = dict[str, Any]


class Settings(dict[str, Any]):
    """The settings of a run: `rounds`, `budget_s`, `scratch`, and `scale`, by which sizes are divided."""

    def size(self, count: int) -> int:
        """Return a number of steps at this scale."""
        return max(int(count // self["scale"]), 4000)


def can_draw(peer: Peer, batch: int, length: int) -> None:
    """Ask an empty buffer for windows, so that a peer that has none at all says so before it is filled."""
    try:
        peer.sample(batch, length)
    except CannotDo:
        raise
    except Exception:  # it is empty
        pass


class Variant(NamedTuple):
    """One row of the table: a peer in one way of using it."""

    peer: str  # its environment and its module
    name: str
    adapter: str  # the class
    stores_as: str = ""  # the variant whose storage it has: adding and saving are measured there


VARIANTS = (
    Variant("reverie", "reverie", "Fresh"),
    Variant("reverie", "reverie, out=", "Refilled", "reverie"),
    Variant("torchrl", "TorchRL slice, in memory", "Slice"),
    Variant("torchrl", "TorchRL slice, in memory, cached", "CachedSlice", "TorchRL slice, in memory"),
    Variant("torchrl", "TorchRL slice, memmap", "MemmapSlice"),
    Variant("torchrl", "TorchRL slice, memmap, cached", "CachedMemmapSlice", "TorchRL slice, memmap"),
    Variant("torchrl", "TorchRL prioritised slice", "PrioritisedSlice", "TorchRL slice, in memory"),
    Variant("sheeprl", "sheeprl sequential", "Sequential"),
    Variant("flashbax", "flashbax trajectory (CPU)", "Trajectory"),
    Variant("tianshou", "Tianshou stack_num", "Stacked"),
    Variant("tianshou", "Tianshou stack_num, sample_avail", "Available", "Tianshou stack_num"),
    Variant("rllib", "RLlib EpisodeReplayBuffer", "Episodes"),
    Variant("reverb", "Reverb", "Table"),
    Variant("memmap", "memmap-replay-buffer", "Memmap"),
    Variant("simulusion", "simulusion IRISReplayBuffer", "Iris"),
    Variant("cpprb", "cpprb", "Transitions"),
    Variant("sb3", "stable-baselines3", "Transitions"),
)
# The classes of one name, which trainers of IRIS add to: the same calls for both.
DROP_INS = (
    Variant("reverie", "reverie IRISReplayBuffer", "DropIn"),
    Variant("simulusion", "simulusion IRISReplayBuffer", "Iris"),
)
PEERS = tuple(dict.fromkeys(variant.peer for variant in VARIANTS))


def adapter_of(variant: Variant) -> type[Peer]:
    """Return the class of a variant. Its library is imported only when it makes a buffer."""
    found: type[Peer] = getattr(importlib.import_module(f"benchmarks.peers.{variant.peer}"), variant.adapter)
    return found

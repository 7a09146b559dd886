"""simulusion: IRISReplayBuffer, used as its class says: `add` and `sample_sequence`. It has nothing but uint8 frames.

A truncated step is no `terminal`: it has no other word for it. Saving and reopening are those of its tasks, which put
the filled rows and the counters into one `.npz`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.detector import Windows, sequences
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Iris(Peer):
    """The ring of IRIS."""

    def make(self, ask: Ask) -> None:
        from simulusion.memory.iris_memory import IRISReplayBuffer

        if ask.dtype != "uint8":
            raise CannotDo("uint8 observations only" + ", no priorities" * ask.prioritised)
        if ask.lanes > 1:
            raise CannotDo("no lanes")
        self.buffer: Any = IRISReplayBuffer(
            ask.capacity, ask.obs_shape, ask.action_size, ask.length, ask.batch
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(step.obs, step.action, step.reward, step.terminated)

    def sample(self, batch: int, length: int) -> Any:
        return self.buffer.sample_sequence(length)

    def windows(self, drawn: Any) -> Windows:
        observations, _, _, terminals = drawn
        return sequences(observations, terminals > 0)

    def save(self, path: Path) -> None:
        from simulusion.training.tasks.common import save_replay

        save_replay(self.buffer, path.with_suffix(".npz"))

    def load(self, path: Path) -> None:
        from simulusion.training.tasks.common import load_replay

        load_replay(self.buffer, path.with_suffix(".npz"))

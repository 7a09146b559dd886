"""reverie, installed from this checkout, as its README uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.detector import Windows, sequences
from benchmarks.peers.face import Ask, Peer
from benchmarks.peers.world import Steps


class Fresh(Peer):
    """Every batch owns its memory, as by default."""

    keeps_final = True

    def make(self, ask: Ask) -> None:
        import reverie as rv

        spec = rv.StepSpec(rv.Field(ask.obs_shape, ask.dtype), rv.Field((ask.action_size,), "float32"))
        self.buffer = rv.ReplayBuffer(spec, ask.capacity, streams=ask.lanes, seed=0)
        self.sampler = rv.Prioritized() if ask.prioritised else rv.Uniform()

    def add(self, step: Steps) -> None:
        ends = step.terminated or step.truncated
        self.buffer.add(
            obs=step.obs,
            action=step.action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            final_obs=step.next_obs if ends else None,
        )

    def add_lanes(self, steps: Steps) -> None:
        self.buffer.add_batch(
            obs=steps.obs,
            action=steps.action,
            reward=steps.reward,
            terminated=steps.terminated,
            truncated=steps.truncated,
            final_obs=steps.next_obs,
        )

    def sample(self, batch: int, length: int) -> Any:
        return self.buffer.sample(batch, length, sampler=self.sampler)

    def windows(self, drawn: Any) -> Windows:
        return sequences(drawn.obs, drawn.terminated | drawn.truncated, drawn.obs_mask)

    def update(self, drawn: Any, priorities: Any) -> None:
        self.buffer.update_priorities(drawn, priorities)

    def save(self, path: Path) -> None:
        self.buffer.save_as(path.with_suffix(".replay"))

    def load(self, path: Path) -> None:
        import reverie as rv

        self.buffer = rv.open(path.with_suffix(".replay"))

    def close(self) -> None:
        self.buffer.close()


class Refilled(Fresh):
    """One batch is filled again and again (`out=`)."""

    most_steps = 1_000_000  # the growth to 10 million is measured without out=

    def make(self, ask: Ask) -> None:
        super().make(ask)
        self.out: Any = None

    def sample(self, batch: int, length: int) -> Any:
        self.out = self.buffer.sample(batch, length, sampler=self.sampler, out=self.out)
        return self.out


class DropIn(Peer):
    """The class that takes the place of simulusion's, used as its trainers use that one; truncations are told."""

    def make(self, ask: Ask) -> None:
        from reverie import IRISReplayBuffer

        self.buffer = IRISReplayBuffer(
            ask.capacity, ask.obs_shape, ask.action_size, ask.length, ask.batch, seed=0
        )

    def add(self, step: Steps) -> None:
        self.buffer.add(step.obs, step.action, step.reward, step.terminated, truncated=step.truncated)

"""flashbax: trajectory buffers on the CPU, `add` and `sample` jitted and the state donated, as its README has it.

One row a step, with `first` and `done` stored by the user: windows run across episodes. `period=1` draws every start.
Its results count as drawn once they are ready (`block_until_ready`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Trajectory(Peer):
    """make_trajectory_buffer, or make_prioritised_trajectory_buffer where priorities are asked for."""

    crosses = True

    def make(self, ask: Ask) -> None:
        import flashbax
        import jax

        self.ask = ask
        kind = (
            flashbax.make_prioritised_trajectory_buffer
            if ask.prioritised
            else flashbax.make_trajectory_buffer
        )
        buffer: Any = kind(
            add_batch_size=ask.lanes,
            sample_batch_size=ask.batch,
            sample_sequence_length=ask.length + 1,
            period=1,
            min_length_time_axis=ask.length + 1,
            max_length_time_axis=ask.capacity // ask.lanes,
        )
        example = {
            "obs": np.zeros(ask.obs_shape, ask.dtype),
            "action": np.zeros(ask.action_size, np.float32),
            "reward": np.float32(0),
            "done": np.bool_(False),
            "first": np.bool_(False),
        }
        self.state = buffer.init(jax.tree.map(jax.numpy.asarray, example))
        self.put = jax.jit(buffer.add, donate_argnums=0)
        self.draw = jax.jit(lambda state, key, number: buffer.sample(state, jax.random.fold_in(key, number)))
        self.can_sample = buffer.can_sample
        if ask.prioritised:
            self.set_priorities = jax.jit(buffer.set_priorities, donate_argnums=0)
        self.key, self.number, self.ready = jax.random.PRNGKey(0), 0, False

    def _put(self, steps: Steps, shape: tuple[int, int]) -> None:
        inner = np.ndim(steps.reward)
        record = {
            "obs": steps.obs.reshape(*shape, *steps.obs.shape[inner:]),
            "action": steps.action.reshape(*shape, *steps.action.shape[inner:]),
            "reward": np.reshape(steps.reward, shape),
            "first": np.reshape(steps.first, shape),
            "done": np.reshape(steps.terminated | steps.truncated, shape),
        }
        self.state = self.put(self.state, record)

    def add(self, step: Steps) -> None:
        self._put(step, (1, 1))
        self.state.current_index.block_until_ready()

    def add_lanes(self, steps: Steps) -> None:
        self._put(steps, (self.ask.lanes, 1))
        self.state.current_index.block_until_ready()

    def fill(self, steps: Steps) -> None:
        self._put(steps, (1, len(steps.reward)))

    def sample(self, batch: int, length: int) -> Any:
        import jax

        if not self.ready:  # its README asks before it samples
            self.ready = bool(self.can_sample(self.state))
            if not self.ready:
                raise RuntimeError("not enough steps yet")
        self.number += 1
        return jax.block_until_ready(self.draw(self.state, self.key, self.number))

    def windows(self, drawn: Any) -> Windows:
        shown = drawn.experience
        return rows(np.asarray(shown["obs"]), np.asarray(shown["done"]), np.asarray(shown["first"]))

    def update(self, drawn: Any, priorities: Any) -> None:
        self.state = self.set_priorities(self.state, drawn.indices, priorities.astype(np.float32))
        self.state.current_index.block_until_ready()

    def save(self, path: Path) -> None:
        raise CannotDo("a pytree for the user to save (Vault is for offline data)")

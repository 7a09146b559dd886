"""Reverb: a table of trajectories, one item for each window, written with TrajectoryWriter as its README has it.

The server runs in this process, without a socket in between where that can be had. Items are of one length, which is
known beforehand; episodes end with `end_episode`, and no item crosses one.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers.detector import Windows, rows
from benchmarks.peers.face import Ask, CannotDo, Peer
from benchmarks.peers.world import Steps


class Table(Peer):
    """Items of L + 1 steps, drawn with TrajectoryDataset."""

    most_steps = 100_000  # added one by one

    def make(self, ask: Ask) -> None:
        import reverb
        import tensorflow as tf

        if ask.lanes > 1:
            raise CannotDo("one writer for each lane")
        self.ask, self.reverb = ask, reverb
        select = reverb.selectors.Prioritized(0.6) if ask.prioritised else reverb.selectors.Uniform()
        kinds = {
            "obs": (ask.obs_shape, ask.dtype),
            "action": ((ask.action_size,), "float32"),
            "reward": ((), "float32"),
            "done": ((), "bool"),
        }
        self.names = tuple(kinds)
        count = ask.length + 1
        signature = {name: tf.TensorSpec((count, *shape), dtype) for name, (shape, dtype) in kinds.items()}
        self.folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, self.folder, True)
        self.table = lambda: reverb.Table(
            "steps",
            select,
            reverb.selectors.Fifo(),
            ask.capacity,
            reverb.rate_limiters.MinSize(1),
            signature=signature,
        )
        self._serve(self.folder)

    def _serve(self, folder: Path) -> None:
        """Start a server, with what its last checkpoint in the folder holds."""
        keeper = self.reverb.platform.checkpointers_lib.DefaultCheckpointer(str(folder))
        self.server = self.reverb.Server([self.table()], checkpointer=keeper)
        self.address = f"localhost:{self.server.port}"
        self.client = self.server.localhost_client()
        self.writer = self.client.trajectory_writer(num_keep_alive_refs=self.ask.length + 1)
        self.batches: Any = None
        self.items = self.written = 0

    def add(self, step: Steps) -> None:
        done = step.terminated or step.truncated
        self.writer.append(
            {
                "obs": step.obs,
                "action": step.action,
                "reward": np.float32(step.reward),
                "done": np.bool_(done),
            }
        )
        self.written += 1
        count = self.ask.length + 1
        if self.written >= count:
            self.writer.create_item(
                "steps", 1.0, {name: self.writer.history[name][-count:] for name in self.names}
            )
            self.items += 1
            if self.items % 50 == 0:
                self.writer.flush(block_until_num_items=20)  # regularly, as its README asks
        if done:
            self.writer.end_episode()
            self.written = 0

    def sample(self, batch: int, length: int) -> Any:
        if self.batches is None:
            self.writer.flush()
            if not self.items:
                raise RuntimeError("it would wait for the first item")
            dataset = self.reverb.TrajectoryDataset.from_table_signature(
                self.address, "steps", max_in_flight_samples_per_worker=2 * batch
            )
            self.batches = dataset.batch(batch).as_numpy_iterator()
        return next(self.batches)

    def windows(self, drawn: Any) -> Windows:
        return rows(drawn.data["obs"], drawn.data["done"])

    def update(self, drawn: Any, priorities: Any) -> None:
        keys = drawn.info.key[:, 0] if drawn.info.key.ndim > 1 else drawn.info.key
        self.client.mutate_priorities("steps", dict(zip(keys.tolist(), priorities.tolist(), strict=True)))

    def save(self, path: Path) -> None:
        self.writer.flush()
        path.symlink_to(Path(self.client.checkpoint()))

    def load(self, path: Path) -> None:
        self._serve(path.resolve().parent)
        self.items = 1

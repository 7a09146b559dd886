"""memmap-replay-buffer: files of (episodes, most steps), windows by its ReplayDatasetTimeWindow in its own dataloader.

Room is made for episodes of up to five times the mean; a longer one is stored in pieces. Flushing after every step is
switched off (`flush_every_store_step`), as its README advises for speed. A running episode is not drawn from.
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


class Memmap(Peer):
    """Windows of L + 1 rows, one from each episode drawn."""

    def make(self, ask: Ask) -> None:
        from memmap_replay_buffer import ReplayBuffer

        if ask.prioritised:
            raise CannotDo("no priorities")
        if ask.lanes > 1:
            raise CannotDo("lanes whose episodes begin and end together only")
        self.ask, self.kind = ask, ReplayBuffer
        self.folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, self.folder, True)
        names = {"float32": "float", "uint8": "uint8"}
        self.longest = 5 * ask.mean
        self.buffer: Any = ReplayBuffer(
            self.folder / "buffer",
            max_episodes=max(ask.capacity // ask.mean, 1),
            max_timesteps=self.longest,
            fields={
                "obs": (names[ask.dtype], ask.obs_shape),
                "action": ("float", ask.action_size),
                "reward": "float",
                "done": "bool",
            },
            circular=True,
            flush_every_store_step=0,
        )
        self.running: list[Steps] = []
        self.batches: Any = None

    def add(self, step: Steps) -> None:
        done = step.terminated or step.truncated
        self.buffer.store(obs=step.obs, action=step.action, reward=step.reward, done=done)
        if done or self.buffer.timestep_index == self.longest:
            self.buffer.advance_episode()
        self.batches = None

    def fill(self, steps: Steps) -> None:
        ends = np.flatnonzero(steps.terminated | steps.truncated).tolist()
        start = 0
        for end in ends:
            self.running.append(steps.part(start, end + 1))
            self._store()
            start = end + 1
        self.running.append(steps.part(start, len(steps.reward)))

    def _store(self) -> None:
        whole = Steps(*(np.concatenate(values) for values in zip(*self.running, strict=True)))
        self.running = []
        for start in range(0, len(whole.reward), self.longest):
            piece = whole.part(start, start + self.longest)
            self.buffer.store_episode(
                obs=piece.obs,
                action=piece.action,
                reward=piece.reward,
                done=piece.terminated | piece.truncated,
            )
        self.batches = None

    def sample(self, batch: int, length: int) -> Any:
        from memmap_replay_buffer.replay_buffer import ReplayDatasetTimeWindow

        if self.batches is None:
            windows = ReplayDatasetTimeWindow(self.buffer, window_length=length + 1)
            if not len(windows):
                raise RuntimeError("no whole episode yet")
            if len(windows) < batch:  # an epoch has each episode once: several in a row make up a batch
                from torch.utils.data import ConcatDataset

                windows = ConcatDataset([windows] * -(-batch // len(windows)))
            self.loader = self.buffer.dataloader(batch, dataset=windows, shuffle=True, drop_last=True)
            self.batches = iter(self.loader)
        try:
            return next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            return next(self.batches)

    def windows(self, drawn: Any) -> Windows:
        obs = drawn["obs"].numpy()
        mask = np.arange(obs.shape[1]) < drawn["_lens"].numpy()[:, None]
        return rows(obs, drawn["done"].numpy() > 0, mask=mask)

    def save(self, path: Path) -> None:
        self.buffer.flush()
        path.symlink_to(self.folder / "buffer")

    def load(self, path: Path) -> None:
        self.buffer = self.kind.from_folder(path.resolve())

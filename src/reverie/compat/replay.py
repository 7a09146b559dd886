"""The drop-in for TorchWM's and Simulusion's IRIS replay buffer: a face of the one engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from reverie.buffer import ReplayBuffer, open
from reverie.checks import positive
from reverie.compat.counters import MOST
from reverie.compat.draws import RingDraws
from reverie.compat.transitions import SEAM, TransitionIntake, frame_shape, own_words
from reverie.engine import Step
from reverie.errors import FileError
from reverie.index import CUT, TERMINATED
from reverie.spec import Field, StepSpec


class IRISReplayBuffer(RingDraws):
    """Replay buffer for IRIS: a ring of (observation, action, reward, terminal) with uint8 frames.

    Has the public surface of the class of this name in TorchWM (`world_models.memory.iris_memory`) and
    Simulusion; `docs/drop-in.md` says how to put it there. Sequences never leave an episode, never cross the
    write head, and are drawn exactly uniformly among all there are.

    Args:
        size: transitions kept; the oldest are overwritten first.
        obs_shape: shape of one frame, such as (3, 64, 64).
        action_size: length of an action vector, or the number of discrete actions.
        seq_len: steps of a sequence, unless `sample_sequence` is told otherwise.
        batch_size: sequences of a batch.
        seed: fixes every random choice; None takes one from the operating system.
        path: a new replay file that everything added goes to; `IRISReplayBuffer.open` resumes it. What is
            written into the arrays by hand goes there once a counter is set.

    Attributes:
        observations: (size, *obs_shape) uint8; actions: (size, action_size) float32;
        rewards, terminals: (size,) float32. Real arrays in ring order: row i is slot i, rows 0..len-1 are
        valid; write into them, do not replace them. Setting a counter (`idx`, `full`, `steps`, `episodes`)
        makes the episodes be read again from `terminals`: so trainers restore a checkpoint. What is added
        after `idx` or `full` was set is never joined to what was there. An end that is written into
        `terminals`, or taken out, without setting a counter is seen when a sequence with that step is drawn,
        and the sequence is drawn anew.

    Raises:
        BadSetting: a size, shape or count that is no positive integer.
        TooLarge: the arrays do not fit into memory.
        FileTaken: there is something at `path` already. FileError: the file cannot be made.
    """

    _instead = "write a copy of it for each process with save_as(path), and IRISReplayBuffer.open(path) there"

    def __init__(
        self,
        size: int,
        obs_shape: tuple[int, ...],
        action_size: int,
        seq_len: int = 20,
        batch_size: int = 64,
        *,
        seed: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.size = positive("size", size)
        self.action_size = positive("action_size", action_size)
        self.seq_len = positive("seq_len", seq_len)
        self.batch_size = positive("batch_size", batch_size)
        self.obs_shape = frame_shape(obs_shape)
        spec = _spec_of(self.obs_shape, self.action_size)
        with own_words():
            self._take(ReplayBuffer(spec, self.size, seed=seed, path=path))
        self.engine.memories.note(seq_len=self.seq_len, batch_size=self.batch_size)
        self._note()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the buffer that a replay file keeps: contents, counters and random state.

        The first transition that is added begins a new episode: it is never joined to what was there.

        Args:
            path: of a file that an IRISReplayBuffer wrote, as its own or by `save_as`.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged, in use by another writer, or the file of another kind of buffer.
        """
        with own_words():
            buffer = open(path, "ram")
        notes, index = buffer.engine.memories.notes, buffer.engine.index
        if not _is_iris(buffer.spec, buffer.streams, notes):
            buffer.close()
            raise FileError(
                f"{path}: wanted the file of an IRISReplayBuffer, got another buffer's; "
                f"name one that an IRISReplayBuffer wrote"
            )
        self = cls.__new__(cls)
        self.size, self.obs_shape = buffer.capacity, buffer.spec.obs.shape
        self.action_size = buffer.spec.action.shape[0]
        self.seq_len, self.batch_size = notes["seq_len"], notes["batch_size"]
        self._take(buffer)
        self._steps_before, self._moved = notes["steps_before"], notes["moved"]
        self._ends = notes["episodes"], int(index.head[0])
        rows = index.live_episodes()
        cuts = index.stop[rows[index.ended[rows] == CUT]] - 1
        self.terminals[cuts % self.size] = SEAM
        return self

    def _take(self, buffer: ReplayBuffer) -> None:
        super()._take(buffer)
        self._intake = TransitionIntake(self.obs_shape, self.action_size)

    # --- writing ---------------------------------------------------------------------------------------

    def add(
        self,
        obs: npt.ArrayLike,
        action: npt.ArrayLike,
        reward: float,
        terminal: float,
        *,
        truncated: bool = False,
        final_obs: npt.ArrayLike | None = None,
    ) -> None:
        """Store one transition. On an error nothing is stored.

        Args:
            obs: a frame of `obs_shape`, uint8.
            action: an integer in 0..action_size-1, stored one-hot, or a vector of `action_size` numbers or
                bools; with action_size=1 also one float.
            reward: a finite number.
            terminal: whether the episode ended: a bool, 0 or 1.
            truncated: whether the episode was stopped here without a termination.
            final_obs: the frame after the last step of an episode, if known.

        Raises:
            SpecMismatch: a wrong shape, a dtype that uint8 cannot hold, an action out of range, a number
                that is not finite, a terminal that is neither 0 nor 1.
            BufferClosed: the buffer was closed. FileError: its file cannot be written.
        """
        step = self._intake.step(obs, action, reward, terminal, truncated, final_obs)
        with self.engine.lock:
            self._store(step)

    def _store(self, step: Step) -> None:
        if self._set or self._moved:
            self.engine.check_open()
            self.cut() if self._moved else self._settle()
        index = self.engine.index
        if index.seams and index.open_episode[0] >= 0:  # the step begins an episode: the one before ends here
            self.terminals[self.idx - 1] = SEAM
        try:
            if step[2] & TERMINATED:
                self._store_end(step)
            else:
                self.engine.changes.add(0, step)
        except BaseException:
            with own_words():
                raise

    def _store_end(self, step: Step) -> None:
        """Store the last step of an episode; the file counts it together with the step."""
        count = self._count_ends()
        try:
            self.engine.memories.note(episodes=count + 1)
            self.engine.changes.add(0, step)
        except BaseException:
            self._note()
            raise
        self._count_ends()

    def cut(self) -> None:
        """End the running episode: the recording goes on elsewhere, and nothing joins across this point."""
        with self.engine.lock, own_words():
            self.engine.check_writable()
            self._settle()
            index, slot = self.engine.index, self.idx - 1
            if index.open_episode[0] >= 0:
                before = self.terminals[slot]
                self.terminals[slot] = SEAM
                try:
                    self._buffer.cut()
                finally:
                    if index.open_episode[0] >= 0:
                        self.terminals[slot] = before
            if self._moved:
                self._moved = False
                self._note()

    # --- the file --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power; nothing happens without a path."""
        with self.engine.lock, own_words():
            self._settle()
            self._buffer.flush()

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Write a whole copy as a replay file; one saved there before is brought up to date."""
        with self.engine.lock, own_words():
            self._settle()
            self._buffer.save_as(path)

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine."""
        with self.engine.lock, own_words():
            if not self.engine.closed:
                self._settle()
            self._buffer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"IRISReplayBuffer({len(self):,} of {self.size:,} transitions: {self._buffer!r})"


def _spec_of(obs_shape: tuple[int, ...], action_size: int) -> StepSpec:
    fields = Field(obs_shape, "uint8"), Field((action_size,), "float32")
    return StepSpec(*fields, {"terminals": Field((), "float32")})


def _is_iris(spec: StepSpec, streams: int, notes: Mapping[str, Any]) -> bool:
    """Whether a file is that of an IRISReplayBuffer."""
    if streams != 1 or not all(isinstance(field, Field) and field.shape for field in (spec.obs, spec.action)):
        return False
    lows = {"seq_len": 1, "batch_size": 1, "episodes": 0, "steps_before": -MOST}
    known = all(type(notes.get(name)) is int and low <= notes[name] <= MOST for name, low in lows.items())
    own = _spec_of(spec.obs.shape, spec.action.shape[0])
    return known and type(notes.get("moved")) is bool and spec == own

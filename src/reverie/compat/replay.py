"""The drop-in for TorchWM's and Simulusion's IRIS replay buffer: a face of the one engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.batch import SequenceBatch
from reverie.buffer import ReplayBuffer
from reverie.checks import natural, positive
from reverie.compat.counters import MOST, RingCounters
from reverie.compat.transitions import SEAM, Floats, Frames, TransitionIntake, frame_shape, own_words
from reverie.engine import Step
from reverie.errors import BadSetting, FileError, NotEnoughData
from reverie.index import CUT, TERMINATED, Anchors, Drawn, Ints
from reverie.opening import open
from reverie.samplers import Sampler, Uniform, uniform_steps
from reverie.spec import Field, StepSpec


class SettledSteps(Sampler):
    """Every step whose next frame is known alike, whatever the length of its episode."""

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return `count` of them."""
        return Uniform().draw(Anchors(anchors.index, "inside", 1), rng, count)


class IRISReplayBuffer(RingCounters):
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
        self._engine._keeper.note(seq_len=self.seq_len, batch_size=self.batch_size)
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
            engine = open(path, "ram")
        notes = engine._keeper.notes
        if not _is_iris(engine.spec, engine.streams, notes):
            engine.close()
            raise FileError(
                f"{path}: wanted the file of an IRISReplayBuffer, got another buffer's; "
                f"name one that an IRISReplayBuffer wrote"
            )
        self = cls.__new__(cls)
        self.size, self.obs_shape = engine.capacity, engine.spec.obs.shape
        self.action_size = engine.spec.action.shape[0]
        self.seq_len, self.batch_size = notes["seq_len"], notes["batch_size"]
        self._take(engine)
        self._steps_before, self._moved = notes["steps_before"], notes["moved"]
        self._ends = notes["episodes"], int(engine._index.head[0])
        index = engine._index
        rows = index.live_episodes()
        cuts = index.stop[rows[index.ended[rows] == CUT]] - 1
        self.terminals[cuts % self.size] = SEAM
        return self

    def _take(self, engine: ReplayBuffer) -> None:
        super()._take(engine)
        self._settled_steps = SettledSteps()
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
        with self._engine._lock:
            self._store(step)

    def _store(self, step: Step) -> None:
        if self._set or self._moved:
            self._engine._keeper.check_open()
            self.cut() if self._moved else self._settle()
        index = self._engine._index
        if index.seams and index.open_episode[0] >= 0:  # the step begins an episode: the one before ends here
            self.terminals[self.idx - 1] = SEAM
        try:
            if step[2] & TERMINATED:
                self._store_end(step)
            else:
                self._engine._changes.add(0, step)
        except BaseException:
            with own_words():
                raise

    def _store_end(self, step: Step) -> None:
        """Store the last step of an episode; the file counts it together with the step."""
        count = self._count_ends()
        try:
            self._engine._keeper.note(episodes=count + 1)
            self._engine._changes.add(0, step)
        except BaseException:
            self._note()
            raise
        self._count_ends()

    def cut(self) -> None:
        """End the running episode: the recording goes on elsewhere, and nothing joins across this point."""
        with self._engine._lock, own_words():
            self._engine._keeper.check_writable()
            self._settle()
            index, slot = self._engine._index, self.idx - 1
            if index.open_episode[0] >= 0:
                before = self.terminals[slot]
                self.terminals[slot] = SEAM
                try:
                    self._engine.cut()
                finally:
                    if index.open_episode[0] >= 0:
                        self.terminals[slot] = before
            if self._moved:
                self._moved = False
                self._note()

    # --- sampling --------------------------------------------------------------------------------------

    def sample_sequence(self, seq_len: int | None = None) -> tuple[Frames, Floats, Floats, Floats]:
        """Return `batch_size` sequences, each valid one being equally likely.

        Args:
            seq_len: steps in each; None means the buffer's own `seq_len`.

        Returns:
            observations (B, L+1, *obs_shape) uint8: the last one is what came of the last step; actions
            (B, L, action_size), rewards (B, L) and terminals (B, L) float32.

        Raises:
            NotEnoughData: no episode holds that many steps yet; `sample_padded` takes shorter ones, too.
            BadSetting: a length that is no positive integer or larger than the ring.
        """
        batch = self._sequences(seq_len, "inside", None)
        return batch.obs, batch.action, batch.reward, batch.terminated.astype(np.float32)

    def sample_padded(self, seq_len: int | None = None) -> tuple[Frames, Floats, Floats, Floats, Floats]:
        """Return `batch_size` sequences that zeros fill up where an episode ends sooner, and a mask.

        The first step of each is any step whose next frame is known, all being equally likely. So episodes
        of any length are drawn from.

        Args:
            seq_len: steps in each; None means the buffer's own `seq_len`.

        Returns:
            observations, actions, rewards and terminals as `sample_sequence` returns them, and mask (B, L)
            float32: 1.0 for a step, 0.0 on padding. Where it is 1.0, the frame, the one after it, the action,
            the reward and the terminal are what happened; behind that everything is zero.

        Raises:
            NotEnoughData: no step has a known next frame yet.
            BadSetting: a length that is no positive integer or larger than the ring.
        """
        with self._engine._lock:
            batch = self._sequences(seq_len, "pad_right", self._settled_steps)
            running = self._engine._index.open_episode[0] >= 0
            newest = int(self._engine._index.head[0]) - 1 if running else -1
        if running:  # what comes of the newest step is not known yet
            rows, places = np.nonzero(batch.mask & (batch.step_ids() == newest))
            batch.mask[rows, places] = False
            batch.obs[rows, places + 1] = 0
            batch.action[rows, places], batch.reward[rows, places] = 0.0, 0.0
        terminals, mask = batch.terminated.astype(np.float32), batch.mask.astype(np.float32)
        return batch.obs, batch.action, batch.reward, terminals, mask

    def _sequences(self, seq_len: int | None, boundary: str, sampler: Sampler | None) -> SequenceBatch:
        length = positive("seq_len", self.seq_len if seq_len is None else seq_len)
        if length > self.size:
            raise BadSetting(
                f"seq_len: wanted at most the {self.size} transitions that are kept, got {length}; "
                f"make the buffer larger, or ask for shorter sequences"
            )

        def draw() -> SequenceBatch:
            batch = self._engine.sample(self.batch_size, length, boundary=boundary, sampler=sampler)
            assert isinstance(batch, SequenceBatch)
            return batch

        def agrees(batch: SequenceBatch) -> bool:
            return bool((batch.extras["terminals"] == batch.terminated).all())

        with self._engine._lock, own_words():
            try:
                return self._agreeing(draw, agrees)
            except NotEnoughData:
                if self._was_edited():
                    self._read_ring()
                    return draw()
                raise self._not_enough(length, boundary) from None

    def _not_enough(self, length: int, boundary: str) -> NotEnoughData:
        if boundary != "inside":
            return NotEnoughData(
                f"wanted one step with a known next frame, got none among {len(self)} transitions; add more"
            )
        return NotEnoughData(
            f"wanted a window of {length} steps, got {len(self)} transitions whose longest episode has "
            f"{self._engine._index.longest()} with a known next frame; add more, ask for a shorter seq_len, "
            f"or call sample_padded, which fills up what is short"
        )

    def sample_single(self) -> tuple[Frames, Floats, float, float]:
        """Return a copy of one stored transition, each being equally likely: (obs, action, reward, terminal).

        Raises:
            NotEnoughData: nothing is stored yet.
        """
        with self._engine._lock:
            slot = int(self._draw_steps(1)[1][0]) % self.size
            # abs: a truncated step is marked by -0.0, which is nobody's business outside.
            return (
                self.observations[slot].copy(),
                self.actions[slot].copy(),
                float(self.rewards[slot]),
                abs(float(self.terminals[slot])),
            )

    def sample_frames(self, batch_size: int) -> Frames:
        """Return `batch_size` single frames (B, *obs_shape) uint8, each stored one being equally likely.

        Raises:
            NotEnoughData: nothing is stored yet.
            BadSetting: `batch_size` is no positive integer.
        """
        with self._engine._lock:
            return self._frames(self._draw_steps(positive("batch_size", batch_size))[1])

    def sample_with_burn_in(self, batch_size: int, burn_in: int) -> tuple[Frames, Frames]:
        """Return start frames and the frames before them, from inside one episode.

        Args:
            batch_size: start frames to draw, each stored one being equally likely.
            burn_in: frames before each; 0 gives an empty axis.

        Returns:
            start frames (B, *obs_shape), and (B, burn_in, *obs_shape) the frames before, both uint8. A
            short history is padded on the left by its oldest frame, or by the start frame if it is empty.

        Raises:
            NotEnoughData: nothing is stored yet.
            BadSetting: `batch_size` is no positive integer, or `burn_in` no non-negative one.
        """
        count, before = positive("batch_size", batch_size), natural("burn_in", burn_in)

        def draw() -> tuple[Ints, Ints, Ints]:
            rows, ids = self._draw_steps(count, before + 1)
            history = ids[:, None] - np.arange(before, 0, -1)
            return ids, history, np.maximum(history, self._engine._index.live_start(rows)[:, None])

        def agrees(drawn: tuple[Ints, Ints, Ints]) -> bool:
            _, history, shown = drawn
            ends = self.terminals[shown % self.size]
            return not ends.any() or not ends[history == shown].any()

        with self._engine._lock:
            ids, _, shown = self._agreeing(draw, agrees)
            return self._frames(ids), self._frames(shown)

    def _draw_steps(self, count: int, length: int = 1) -> tuple[Ints, Ints]:
        self._engine._layouts.get(False, count, length)  # refuses what is too large
        self._engine._keeper.check_open()
        self._settle()
        if len(self) == 0:
            raise NotEnoughData("wanted one stored transition, got an empty buffer; add some first")
        self._engine._keeper.drawing()
        return uniform_steps(self._engine._index, self._engine._rng, count)

    def _frames(self, ids: Ints) -> Frames:
        return self._engine._gatherer.values(self._engine.spec.columns()[0], ids % self.size)

    # --- the file --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power; nothing happens without a path."""
        with self._engine._lock, own_words():
            self._settle()
            self._engine.flush()

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Write a whole copy as a replay file; one saved there before is brought up to date."""
        with self._engine._lock, own_words():
            self._settle()
            self._engine.save_as(path)

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine."""
        with self._engine._lock, own_words():
            if not self._engine._keeper.closed:
                self._settle()
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"IRISReplayBuffer({len(self):,} of {self.size:,} transitions: {self._engine!r})"


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

"""The drop-in for TorchWM's and Simulusion's IRIS replay buffer: a face of the one engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.door import (
    action_vector,
    flag,
    natural,
    positive,
    terminal_flag,
)
from reverie.draws import uniform_steps
from reverie.episodes import CUT, NO_FINAL, RUNNING, TERMINATED, Ints
from reverie.errors import BadSetting, FileError, NotEnoughData
from reverie.mending import replace_stream
from reverie.opening import open
from reverie.ring import Ring
from reverie.spec import Field, StepSpec

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# What `terminals` holds for a truncated step, and before a cut. It equals 0.0 for every reader, and still
# tells the seam when a trainer's checkpoint, which saves the four arrays and nothing else, is loaded again.
SEAM = np.float32(-0.0)
MOST = 2**62  # no counter goes beyond: ids are int64
FIXED = frozenset({"size", "obs_shape", "action_size", "observations", "actions", "rewards", "terminals"})


class IRISReplayBuffer:
    """Replay buffer for IRIS: a ring of (observation, action, reward, terminal) with uint8 frames.

    Has the public surface of the class of this name in TorchWM (`world_models.memory.iris_memory`) and
    Simulusion. Sequences never leave an episode, never cross the write head, and are drawn exactly
    uniformly among all there are.

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
        after `idx` or `full` was set is never joined to what was there.

    Raises:
        BadSetting: a size, shape or count that is no positive integer.
        TooLarge: the arrays do not fit into memory.
    """

    def __init__(self, size: int, obs_shape: tuple[int, ...], action_size: int, seq_len: int = 20,
                 batch_size: int = 64, *, seed: int | None = None,
                 path: str | os.PathLike[str] | None = None) -> None:  # fmt: skip
        self.size = positive("size", size)
        self.action_size = positive("action_size", action_size)
        self.seq_len = positive("seq_len", seq_len)
        self.batch_size = positive("batch_size", batch_size)
        frame = Field(obs_shape, "uint8")
        if not frame.shape:
            raise BadSetting("obs_shape: wanted at least one axis, got (); pass for example (3, 64, 64)")
        self.obs_shape = frame.shape
        spec = _spec_of(frame, self.action_size)
        self._take(ReplayBuffer(spec, self.size, seed=seed, path=path))
        self._engine._keeper.note(seq_len=self.seq_len, batch_size=self.batch_size)
        self._note()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the buffer that a replay file keeps: contents, counters and random state.

        Args:
            path: of a file that an IRISReplayBuffer wrote, as its own or by `save_as`.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged, in use by another writer, or the file of another kind of buffer.
        """
        engine = open(path, "ram")
        notes = engine._keeper.notes
        if not _is_iris(engine.spec, engine.streams, notes):
            engine.close()
            raise FileError(
                f"{path}: wanted the file of an IRISReplayBuffer, got another buffer's; use reverie.open"
            )
        self = cls.__new__(cls)
        frame = engine.spec.obs
        self.size, self.obs_shape = engine.capacity, frame.shape
        self.action_size = engine.spec.action.shape[0]
        self.seq_len, self.batch_size = notes["seq_len"], notes["batch_size"]
        self._take(engine)
        self._steps_before, self._episodes = notes["steps_before"], notes["episodes"]
        self._moved = notes["moved"]
        index = engine._index
        rows = index.live_rows()
        cuts = index.stop[rows[index.ended[rows] == CUT]] - 1
        self.terminals[cuts % self.size] = SEAM
        return self

    def _take(self, engine: ReplayBuffer) -> None:
        """Become the face of an engine."""
        self._engine = engine
        ring = self._engine._ring
        assert isinstance(ring, Ring)
        self.observations: Frames = ring.columns["obs"]
        self.actions: Floats = ring.columns["action"]
        self.rewards: Floats = ring.columns["reward"]
        self.terminals: Floats = ring.columns["extras/terminals"]
        self._set: dict[str, int] = {}  # counters that were set from outside and not yet acted upon
        self._steps_before = 0  # steps of an earlier life: `steps` minus the engine's head
        self._episodes = 0
        self._moved = False  # the head was set from outside: what comes next belongs to another recording

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and self.__dict__.get(name, value) is not value:
            raise BadSetting(f"{name}: wanted it kept, got another; write into it, or make a new buffer")
        super().__setattr__(name, value)

    # --- counters --------------------------------------------------------------------------------------

    @property
    def buffer_capacity(self) -> int:
        """Capacity in transitions: another name for `size`."""
        return self.size

    @property
    def idx(self) -> int:
        """The next slot to write."""
        return self._set.get("idx", int(self._engine._index.head[0]) % self.size)

    @idx.setter
    def idx(self, value: int) -> None:
        self._set_counter("idx", value, self.size - 1)

    @property
    def full(self) -> bool:
        """Whether the ring has wrapped."""
        return bool(self._set.get("full", len(self._engine) == self.size))

    @full.setter
    def full(self, value: bool) -> None:
        self._set_counter("full", value, 1)

    @property
    def steps(self) -> int:
        """Transitions ever added."""
        return self._set.get("steps", int(self._engine._index.head[0]) + self._steps_before)

    @steps.setter
    def steps(self, value: int) -> None:
        self._set_counter("steps", value, MOST)

    @property
    def episodes(self) -> int:
        """Terminations ever seen."""
        return self._set.get("episodes", self._episodes)

    @episodes.setter
    def episodes(self, value: int) -> None:
        self._set_counter("episodes", value, MOST)

    def _set_counter(self, name: str, value: Any, limit: int) -> None:
        # A checkpoint helper hands back what it loaded: 0-d arrays and NumPy scalars are counters, too.
        number = np.asarray(value)
        if number.shape or number.dtype.kind not in "biuf" or not 0 <= number <= limit or number % 1:
            raise BadSetting(f"{name}: wanted an integer in 0..{limit}, got {value!r}; check the checkpoint")
        with self._engine._lock:
            self._set[name] = int(number)

    def _read_ring(self) -> None:
        """Act upon counters that were set: find the episodes again in `terminals`."""
        if not self._set:
            return
        idx, full, steps, episodes = self.idx, self.full, self.steps, self.episodes
        count = self.size if full else idx
        # The head must lie at slot idx; when the step counter agrees, ids simply go on from it.
        head = steps if steps % self.size == idx and steps >= count else idx + self.size * full
        tail = head - count
        slots = np.arange(tail, head) % self.size
        terminals, rewards = self.terminals[slots], self.rewards[slots].astype(np.float64)
        if not np.isin(terminals, (0.0, 1.0)).all() or not np.isfinite(rewards).all():
            raise BadSetting("rows: wanted terminals 0 or 1 and finite rewards, got others; check them")
        last = (terminals == 1.0) | np.signbit(terminals)
        last[-1:] = True
        stops = np.flatnonzero(last) + 1
        starts = np.concatenate([[0], stops])[:-1]
        ends = terminals[stops - 1]
        kinds = np.where(ends == 1.0, TERMINATED, np.where(np.signbit(ends), CUT, RUNNING))
        columns = (starts + tail, stops + tail, kinds, np.full_like(stops, NO_FINAL),
                   np.add.reduceat(rewards, starts))  # fmt: skip
        index = self._engine._index
        places = index.final[index.live_rows()]
        replace_stream(index, 0, head, tail, zip(*(column.tolist() for column in columns), strict=True))
        self._engine._finals.release(places[places != NO_FINAL].tolist())
        self._moved = self._moved or bool(self._set.keys() & {"idx", "full"})
        self._steps_before, self._episodes = steps - head, episodes
        self._set.clear()
        self._note()
        self._engine._keeper.replaced()

    def _note(self) -> None:
        """Let the replay file, if there is one, keep what the engine does not know."""
        self._engine._keeper.note(episodes=self._episodes, steps_before=self._steps_before, moved=self._moved)

    # --- writing ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the transitions stored now."""
        with self._engine._lock:
            return self.size if self.full else self.idx

    def add(self, obs: npt.ArrayLike, action: npt.ArrayLike, reward: float, terminal: float, *,
            truncated: bool = False, final_obs: npt.ArrayLike | None = None) -> None:  # fmt: skip
        """Store one transition. On an error nothing is stored.

        Args:
            obs: a frame of `obs_shape`, uint8.
            action: an integer in 0..action_size-1, stored one-hot, or a vector of `action_size` numbers.
            reward: a finite number.
            terminal: whether the episode ended: a bool, 0 or 1.
            truncated: whether the episode was stopped here without a termination.
            final_obs: the frame after the last step of an episode, if known.

        Raises:
            SpecMismatch: a wrong shape, a dtype that uint8 cannot hold, an action out of range, a number
                that is not finite, a terminal that is neither 0 nor 1.
        """
        step = self._prepare(obs, action, reward, terminal, truncated, final_obs)
        with self._engine._lock:
            self._engine._keeper.check_open()
            self._store(step)

    def _prepare(self, obs: Any, action: Any, reward: Any, terminal: Any, truncated: bool, final: Any) -> Any:
        ended = terminal_flag(terminal)
        marker = np.float32(1.0) if ended else SEAM if flag("truncated", truncated) else np.float32(0.0)
        vector = action_vector(action, self.action_size)
        return self._engine._intake.step(obs, vector, reward, ended, truncated, final, {"terminals": marker})

    def _store(self, step: Any) -> None:
        self._read_ring()
        if self._moved:
            self.cut()
        if step[2] & TERMINATED:
            self._engine._keeper.note(episodes=self._episodes + 1)
        try:
            self._engine._store(0, step)
        except BaseException:
            self._note()
            raise
        self._episodes += bool(step[2] & TERMINATED)

    def cut(self) -> None:
        """End the running episode: the recording goes on elsewhere, and nothing joins across this point."""
        with self._engine._lock:
            self._read_ring()
            if self._moved:
                self._moved = False
                self._note()
            if self._engine._index.open_row[0] >= 0:
                self.terminals[self.idx - 1] = SEAM
                self._engine.cut()

    # --- sampling --------------------------------------------------------------------------------------

    def sample_sequence(self, seq_len: int | None = None) -> tuple[Frames, Floats, Floats, Floats]:
        """Return `batch_size` sequences, each valid one being equally likely.

        Args:
            seq_len: steps in each; None means the buffer's own `seq_len`.

        Returns:
            observations (B, L+1, *obs_shape) uint8: the last one is what came of the last step; actions
            (B, L, action_size), rewards (B, L) and terminals (B, L) float32.

        Raises:
            NotEnoughData: no episode holds that many steps yet.
            BadSetting: a length that is no positive integer or larger than the ring.
        """
        length = self.seq_len if seq_len is None else seq_len
        with self._engine._lock:
            self._read_ring()
            batch = self._engine.sample(self.batch_size, length)
        return batch.obs, batch.action, batch.reward, batch.terminated.astype(np.float32)

    def sample_single(self) -> tuple[Frames, Floats, float, float]:
        """Return a copy of one stored transition, each being equally likely: (obs, action, reward, terminal).

        Raises:
            NotEnoughData: nothing is stored yet.
        """
        with self._engine._lock:
            slot = int(self._draw_steps(1)[1][0]) % self.size
            # abs: a truncated step is marked by -0.0, which is nobody's business outside.
            return (self.observations[slot].copy(), self.actions[slot].copy(), float(self.rewards[slot]),
                    abs(float(self.terminals[slot])))  # fmt: skip

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
        with self._engine._lock:
            rows, ids = self._draw_steps(count)
            first = self._engine._index.live_start(rows)[:, None]
            return self._frames(ids), self._frames(np.maximum(ids[:, None] - np.arange(before, 0, -1), first))

    def _draw_steps(self, count: int) -> tuple[Ints, Ints]:
        self._read_ring()
        self._engine._keeper.check_open()
        if len(self) == 0:
            raise NotEnoughData("wanted one stored transition, got an empty buffer; add some first")
        self._engine._keeper.drawing()
        return uniform_steps(self._engine._index, self._engine._rng, count)

    def _frames(self, ids: Ints) -> Frames:
        return self._engine._gatherer.values(self._engine._obs_columns[0], ids % self.size)

    # --- the file --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything survive a loss of power; nothing happens without a path."""
        with self._engine._lock:
            self._read_ring()
            self._engine.flush()

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Write a whole copy as a replay file; one saved there before is brought up to date."""
        with self._engine._lock:
            self._read_ring()
            self._engine.save_as(path)

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine."""
        with self._engine._lock:
            if not self._engine._keeper.closed:
                self._read_ring()
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def __repr__(self) -> str:
        return f"IRISReplayBuffer({len(self):,} of {self.size:,} transitions: {self._engine!r})"


def _spec_of(frame: Field, action_size: int) -> StepSpec:
    return StepSpec(frame, Field((action_size,), "float32"), {"terminals": Field((), "float32")})


def _is_iris(spec: StepSpec, streams: int, notes: Mapping[str, Any]) -> bool:
    """Whether a file is that of an IRISReplayBuffer."""
    if streams != 1 or not all(isinstance(field, Field) and field.shape for field in (spec.obs, spec.action)):
        return False
    lows = {"seq_len": 1, "batch_size": 1, "episodes": 0, "steps_before": -MOST}
    known = all(type(notes.get(name)) is int and low <= notes[name] <= MOST for name, low in lows.items())
    own = _spec_of(Field(spec.obs.shape, "uint8"), spec.action.shape[0])
    return known and type(notes.get("moved")) is bool and spec == own

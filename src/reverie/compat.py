"""Drop-in classes for TorchWM's and Simulusion's IRIS buffers: two faces of the one engine."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.door import (
    action_value,
    action_vector,
    flag,
    natural,
    positive,
    reward_number,
    same_shape,
    stream_number,
    terminal_flag,
)
from reverie.draws import uniform_steps
from reverie.episodes import CUT, NO_FINAL, RUNNING, TERMINATED, Ints
from reverie.errors import BadSetting, BufferFull, NotEnoughData, SpecMismatch
from reverie.mending import replace_stream
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
                 batch_size: int = 64, *, seed: int | None = None) -> None:  # fmt: skip
        self.size = positive("size", size)
        self.action_size = positive("action_size", action_size)
        self.seq_len = positive("seq_len", seq_len)
        self.batch_size = positive("batch_size", batch_size)
        frame = Field(obs_shape, "uint8")
        if not frame.shape:
            raise BadSetting("obs_shape: wanted at least one axis, got (); pass for example (3, 64, 64)")
        self.obs_shape = frame.shape
        spec = StepSpec(frame, Field((self.action_size,), "float32"), {"terminals": Field((), "float32")})
        self._engine = ReplayBuffer(spec, self.size, seed=seed)
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
            self._engine._check_open()
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
        self._engine._store(0, step)
        self._episodes += bool(step[2] & TERMINATED)

    def cut(self) -> None:
        """End the running episode: the recording goes on elsewhere, and nothing joins across this point."""
        with self._engine._lock:
            self._read_ring()
            self._moved = False
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
        self._engine._check_open()
        if len(self) == 0:
            raise NotEnoughData("wanted one stored transition, got an empty buffer; add some first")
        return uniform_steps(self._engine._index, self._engine._rng, count)

    def _frames(self, ids: Ints) -> Frames:
        return self._engine._gatherer.values(self._engine._obs_columns[0], ids % self.size)

    def __repr__(self) -> str:
        return f"IRISReplayBuffer({len(self):,} of {self.size:,} transitions: {self._engine!r})"


class IRISOnPolicyBuffer:
    """Keeps the current trajectory in lists, until it joins the main buffer.

    Args:
        max_steps: steps it takes before it says that it is full.

    Attributes:
        observations: list of uint8 arrays; actions: list of float32 arrays or integers; rewards, terminals:
            lists of floats. One entry per step, each a copy of what was added.
    """

    def __init__(self, max_steps: int = 1000) -> None:
        self.max_steps = positive("max_steps", max_steps)
        self._frame_shape: tuple[int, ...] = (0, 0, 0)  # of the newest step ever: the rank when empty
        self._action_shape: tuple[int, ...] = (0,)
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.observations: list[Frames] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminals: list[float] = []
        self._truncated: list[bool] = []
        self._final_obs: list[Frames | None] = []

    def __len__(self) -> int:
        return len(self.observations)

    def add(self, obs: npt.ArrayLike, action: npt.ArrayLike, reward: float, terminal: float, *,
            truncated: bool = False, final_obs: npt.ArrayLike | None = None) -> None:  # fmt: skip
        """Store a copy of one transition; the arguments are those of `IRISReplayBuffer.add`.

        Raises:
            BufferFull: `max_steps` are held already; they stay.
            SpecMismatch: a value of the wrong kind, or of another shape than those before it.
        """
        if len(self) >= self.max_steps:
            raise BufferFull(f"wanted room for a step, got all {self.max_steps} taken; call move_to or clear")
        field = Field(self._frame_shape if len(self) else np.shape(obs), "uint8")
        frame, taken = np.array(field.validate("obs", obs), np.uint8), action_value(action)
        if len(self):
            same_shape("action", np.shape(taken), self._action_shape)
        ended, stopped, amount = terminal_flag(terminal), flag("truncated", truncated), reward_number(reward)
        if final_obs is not None and not (ended or stopped):
            raise SpecMismatch("final_obs: wanted it only with an end, got it without; leave it out")
        final = None if final_obs is None else np.array(field.validate("final_obs", final_obs), np.uint8)
        self.observations.append(frame)
        self.actions.append(taken)
        self.rewards.append(amount)
        self.terminals.append(float(ended))
        self._truncated.append(stopped)
        self._final_obs.append(final)
        self._frame_shape, self._action_shape = frame.shape, np.shape(taken)

    def get_arrays(self) -> tuple[Frames, Floats, Floats, Floats]:
        """Return (T, *obs_shape) uint8 observations, and float32 actions (T, …), rewards (T,), terminals (T,).

        An empty buffer gives arrays of the same ranks with T = 0.
        """
        observations = np.array(self.observations, np.uint8).reshape(len(self), *self._frame_shape)
        actions = np.array(self.actions, np.float32).reshape(len(self), *self._action_shape)
        return observations, actions, np.array(self.rewards, np.float32), np.array(self.terminals, np.float32)

    def move_to(self, buffer: IRISReplayBuffer | ReplayBuffer, *, stream: int = 0) -> None:
        """Add all steps to `buffer`, then clear. If it refuses a step, nothing is moved.

        The trajectory stands for itself: the target's running episode is cut before it, and after it unless
        it ended by itself, so that it is never joined to what another trajectory brings.

        Raises:
            SpecMismatch: a step does not fit the target, or `stream` does not exist there.
            BufferClosed: the target was closed.
        """
        if not isinstance(buffer, (IRISReplayBuffer, ReplayBuffer)):
            raise BadSetting(f"buffer: wanted a replay buffer, got {type(buffer).__name__}; pass one of ours")
        engine = buffer._engine if isinstance(buffer, IRISReplayBuffer) else buffer
        with engine._lock:
            engine._check_open()
            stream = stream_number(stream, engine.streams)
            records = zip(self.observations, self.actions, self.rewards, self.terminals, self._truncated,
                          self._final_obs, strict=True)  # fmt: skip
            # All are checked before the first is stored.
            if isinstance(buffer, IRISReplayBuffer):
                cut, store = buffer.cut, buffer._store
                steps = [buffer._prepare(*record) for record in records]
            else:
                cut, store = partial(engine.cut, stream), partial(engine._store, stream)
                steps = [
                    engine._intake.step(obs, action, reward, bool(terminal), truncated, final, {})
                    for obs, action, reward, terminal, truncated, final in records
                ]
            if steps:
                cut()
                for step in steps:
                    store(step)
                cut()
        self.clear()

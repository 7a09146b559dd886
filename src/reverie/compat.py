"""Drop-in classes for TorchWM's and Simulusion's IRIS buffers: two faces of the one engine."""

from __future__ import annotations

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
    terminal_flag,
)
from reverie.episodes import CUT, NO_FINAL, RUNNING, TERMINATED, Ints
from reverie.errors import BadSetting, BufferFull, NotEnoughData, SpecMismatch
from reverie.samplers import uniform_steps
from reverie.spec import Field, StepSpec

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# What `terminals` holds for a step after which the recording broke off without a termination (truncated or
# cut). It equals 0.0 for every reader, and still tells the seam when a trainer's checkpoint, which saves the
# four arrays and nothing else, is loaded again.
SEAM = np.float32(-0.0)


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
        valid, and they may be written. Setting one of the counters `idx`, `full`, `steps`, `episodes`
        makes the episodes be read again from `terminals`, which is how trainers restore a checkpoint.

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
            raise BadSetting(
                f"obs_shape: wanted at least one axis, got {obs_shape!r}; pass for example (3, 64, 64)"
            )
        self.obs_shape = frame.shape
        spec = StepSpec(frame, Field((self.action_size,), "float32"), {"terminals": Field((), "float32")})
        self._engine = ReplayBuffer(spec, self.size, seed=seed)
        columns = self._engine._ring.columns
        self.observations: Frames = columns["obs"]
        self.actions: Floats = columns["action"]
        self.rewards: Floats = columns["reward"]
        self.terminals: Floats = columns["extras/terminals"]
        self._frame = frame
        self._set: dict[str, int] = {}  # counters that were set from outside and not yet acted upon
        self._steps_before = 0  # steps of an earlier life: `steps` minus the engine's head
        self._episodes = 0

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
        self._set_counter("full", bool(value), 1)

    @property
    def steps(self) -> int:
        """Transitions ever added."""
        return self._set.get("steps", int(self._engine._index.head[0]) + self._steps_before)

    @steps.setter
    def steps(self, value: int) -> None:
        self._set_counter("steps", value, None)

    @property
    def episodes(self) -> int:
        """Terminations ever seen."""
        return self._set.get("episodes", self._episodes)

    @episodes.setter
    def episodes(self, value: int) -> None:
        self._set_counter("episodes", value, None)

    def _set_counter(self, name: str, value: Any, limit: int | None) -> None:
        # A checkpoint helper hands back what it loaded: 0-d arrays and NumPy scalars are counters, too.
        number = int(value)
        if number != value or number < 0 or (limit is not None and number > limit):
            bound = "a non-negative integer" if limit is None else f"an integer in 0..{limit}"
            raise BadSetting(f"{name}: wanted {bound}, got {value!r}; restore a checkpoint of the same size")
        with self._engine._lock:
            self._set[name] = number

    def _read_ring(self) -> None:
        """Act upon counters that were set: find the episodes again in `terminals`."""
        if not self._set:
            return
        idx, full, steps, episodes = self.idx, self.full, self.steps, self.episodes
        count = self.size if full else idx
        # The head must lie at slot idx; when the step counter agrees, ids simply go on from it.
        head = steps if steps % self.size == idx and steps >= count else idx + self.size * full
        ids = np.arange(head - count, head)
        terminals = self.terminals[ids % self.size]
        if not np.isin(terminals, (0.0, 1.0)).all():
            raise BadSetting(
                "terminals: wanted 0 and 1 only in the restored rows, got others; check the checkpoint"
            )
        seams = np.flatnonzero((terminals == 1.0) | np.signbit(terminals))
        starts = [head - count, *(ids[seams] + 1).tolist()]
        stops = [*(ids[seams] + 1).tolist(), head]
        kinds = [TERMINATED if terminals[seam] == 1.0 else CUT for seam in seams.tolist()] + [RUNNING]
        returns = np.concatenate([[0.0], np.cumsum(self.rewards[ids % self.size], dtype=np.float64)])
        engine = self._engine
        engine._finals.release(
            place for place in engine._index.final[engine._index.live_rows()].tolist() if place != NO_FINAL
        )
        engine._index.restore(
            0,
            head,
            head - count,
            [
                (start, stop, kind, NO_FINAL, float(returns[stop - starts[0]] - returns[start - starts[0]]))
                for start, stop, kind in zip(starts, stops, kinds, strict=True)
                if stop > start
            ],
        )
        self._set.clear()
        self._steps_before, self._episodes = steps - head, episodes

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

    def _prepare(
        self, obs: Any, action: Any, reward: Any, terminal: Any, truncated: bool, final_obs: Any
    ) -> Any:
        ended = terminal_flag(terminal)
        marker = np.float32(1.0) if ended else SEAM if flag("truncated", truncated) else np.float32(0.0)
        vector = action_vector(action, self.action_size)
        return self._engine._prepare(obs, vector, reward, ended, truncated, final_obs, {"terminals": marker})

    def _store(self, step: Any) -> None:
        self._read_ring()
        self._engine._store(0, step)
        self._episodes += bool(step[2] & TERMINATED)

    def cut(self) -> None:
        """End the running episode: the recording goes on elsewhere, and nothing joins across this point."""
        with self._engine._lock:
            self._read_ring()
            head = int(self._engine._index.head[0])
            if self._engine._index.open_row[0] >= 0:
                self.terminals[(head - 1) % self.size] = SEAM
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
            _, ids = self._draw_steps(1)
            slot = int(ids[0]) % self.size
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
            _, ids = self._draw_steps(positive("batch_size", batch_size))
            return self._frames(ids)

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
        count = positive("batch_size", batch_size)
        before = natural("burn_in", burn_in)
        with self._engine._lock:
            rows, ids = self._draw_steps(count)
            wanted = ids[:, None] - np.arange(before, 0, -1)
            history = np.clip(wanted, self._engine._index.live_start(rows)[:, None], ids[:, None])
            return self._frames(ids), self._frames(history)

    def _draw_steps(self, count: int) -> tuple[Ints, Ints]:
        self._read_ring()
        self._engine._check_open()
        if len(self) == 0:
            raise NotEnoughData("wanted one stored transition, got an empty buffer; add some first")
        return uniform_steps(self._engine._index, self._engine._rng, count)

    def _frames(self, ids: Ints) -> Frames:
        column = next(column for column in self._engine._columns if column.name == "obs")
        return self._engine._gatherer.rows(column, ids % self.size)

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
        self._frame_shape: tuple[int, ...] = (0, 0, 0)  # of the last trajectory; IRIS frames are (C, H, W)
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
            raise BufferFull(
                f"wanted room for one step more, got {self.max_steps} of max_steps={self.max_steps}; "
                f"call move_to(buffer) or clear(), or make it with a larger max_steps"
            )
        frame = np.array(Field(np.shape(obs), "uint8").validate("obs", obs), dtype=np.uint8)
        taken = action_value(action)
        if len(self):
            same_shape("obs", frame.shape, self.observations[0].shape)
            same_shape("action", np.shape(taken), np.shape(self.actions[0]))
        ended, stopped, amount = terminal_flag(terminal), flag("truncated", truncated), reward_number(reward)
        final = None
        if final_obs is not None:
            if not (ended or stopped):
                raise SpecMismatch(
                    "final_obs: wanted it only with an end, got it inside an episode; leave it out"
                )
            final = np.array(Field(frame.shape, "uint8").validate("final_obs", final_obs), dtype=np.uint8)
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
        count = len(self)
        return (
            np.array(self.observations, np.uint8).reshape(count, *self._frame_shape),
            np.array(self.actions, np.float32).reshape(count, *self._action_shape),
            np.array(self.rewards, np.float32),
            np.array(self.terminals, np.float32),
        )

    def move_to(self, buffer: IRISReplayBuffer | ReplayBuffer, *, stream: int = 0) -> None:
        """Add all steps to `buffer`, then clear. If it refuses a step, nothing is moved.

        The trajectory stands for itself: the target's running episode is cut before it, and after it unless
        it ended by itself, so that it is never joined to what another trajectory brings.

        Raises:
            SpecMismatch: a step does not fit the target, or `stream` does not exist there.
            BufferClosed: the target was closed.
        """
        engine = buffer._engine if isinstance(buffer, IRISReplayBuffer) else buffer
        with engine._lock:
            engine._check_open()
            stream = engine._stream(stream)
            records = zip(self.observations, self.actions, self.rewards, self.terminals, self._truncated,
                          self._final_obs, strict=True)  # fmt: skip
            if isinstance(buffer, IRISReplayBuffer):
                steps = [buffer._prepare(*record) for record in records]
                buffer.cut()
                for step in steps:
                    buffer._store(step)
                buffer.cut()
            else:
                steps = [
                    engine._prepare(obs, action, reward, bool(terminal), truncated, final, {})
                    for obs, action, reward, terminal, truncated, final in records
                ]
                engine.cut(stream)
                for step in steps:
                    engine._store(stream, step)
                engine.cut(stream)
        self.clear()

"""The replay buffer: the only place where stored bytes and chosen addresses meet."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Literal, Self, overload

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, StepBatch, check_batch
from reverie.chunks import RESIDENCIES
from reverie.door import REWARD, distinct_streams, natural, positive, seed_number, stream_number
from reverie.draws import check_sampler
from reverie.episodes import NO_FINAL, EpisodeIndex, Ints
from reverie.errors import BadSetting, BufferClosed, SpecMismatch
from reverie.gather import Gatherer, Layout, is_obs
from reverie.history import list_episodes
from reverie.intake import Intake, Step
from reverie.memory import Blocks, format_bytes, reserve
from reverie.samplers import Sampler, Uniform
from reverie.spec import Column, StepSpec, Tree
from reverie.windows import BOUNDARIES, Anchors, Windows

KEPT_LAYOUTS = 8  # batch shapes whose layout is remembered; a training loop uses two or three


class ReplayBuffer:
    """A ring of steps for each stream, from which exact sequences are drawn.

    Every method may be called from any thread: a reader never sees a half-written step.

    Args:
        spec: what a step looks like.
        capacity: steps kept in all. Each stream keeps its newest `capacity // streams`.
        streams: environments that write here, one stream each.
        seed: fixes every random choice; None takes one from the operating system.
        residency: where the bytes live: "ram" in plain arrays, "packed" in compressed runs of steps, many
            times smaller for frames of a game and several times slower to draw from. The answers are the
            same, bit for bit.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a capacity that streams do not divide.
        TooLarge: the capacity does not fit into memory. Nothing is allocated then. How small packed runs
            become is not known beforehand: with "packed" only what does not depend on it is counted.
    """

    def __init__(self, spec: StepSpec, capacity: int, *, streams: int = 1, seed: int | None = None,
                 residency: str = "ram") -> None:  # fmt: skip
        if not isinstance(spec, StepSpec):
            raise BadSetting(f"spec: wanted a StepSpec, got {type(spec).__name__}; wrap the fields in one")
        self.spec = spec
        self.capacity = positive("capacity", capacity)
        self.streams = positive("streams", streams)
        if self.capacity % self.streams:
            raise BadSetting(
                f"capacity: wanted a multiple of streams ({self.streams}), got {self.capacity}; "
                f"each stream keeps capacity // streams steps: pass "
                f"{max(self.capacity // self.streams, 1) * self.streams}"
            )
        self._rng = np.random.Generator(np.random.Philox(seed_number(seed)))
        self._columns = spec.columns()
        self._obs_columns = tuple(column for column in self._columns if is_obs(column))
        stored = (*self._columns, Column("reward", REWARD))
        if residency not in RESIDENCIES:
            raise BadSetting(
                f"residency: wanted 'ram' or 'packed', got {residency!r}; choose where the bytes live"
            )
        self.residency = residency
        store, finals = RESIDENCIES[residency]
        row_bytes = store.row_bytes(stored) + np.dtype(np.int32).itemsize  # the index takes an int32 a step
        reserve(
            self, row_bytes * self.capacity, f"capacity of {self.capacity:,} steps of {row_bytes:,} bytes"
        )
        stream_capacity = self.capacity // self.streams
        self._index = EpisodeIndex(self.streams, stream_capacity)
        self._ring = store(stored, self.streams, stream_capacity)
        self._finals = finals(self._obs_columns)
        self._gatherer = Gatherer(self._columns, self._index, self._ring, self._finals)
        self._blocks = Blocks()
        self._intake = Intake(spec, self._columns, self._obs_columns)
        self._layouts: dict[tuple[bool, int, int], Layout] = {}
        self._uniform = Uniform()
        self._lock = threading.RLock()
        self._closed = False

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the live steps of all streams."""
        with self._lock:
            return self._index.live_steps()

    @property
    def nbytes(self) -> int:
        """Bytes of the ring at full capacity (packed: as it is now), of the index, and of final observations."""
        return self._ring.nbytes + self._index.nbytes + self._finals.nbytes

    @property
    def episodes(self) -> npt.NDArray[np.void]:
        """The live episodes now, oldest first, as a structured array.

        Fields: stream; start, stop: ids of its first step and one past its last; length: stop - start;
        live: how many of these steps are still held; return: the sum of all its rewards; ended: "running",
        "terminated" (also when truncated at the same step), "truncated" or "cut".
        """
        with self._lock:
            return list_episodes(self._index)

    def __repr__(self) -> str:
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        fields = ", ".join(
            f"{column.name} {column.field.shape} {column.field.dtype}" for column in self._columns
        )
        packed = ", packed" if self.residency == "packed" else ""
        state = ", closed" if self._closed else ""
        return (f"ReplayBuffer({len(self):,} of {self.capacity:,} steps, {streams}, "
                f"{format_bytes(self.nbytes)} of RAM{packed}: {fields}{state})")  # fmt: skip

    def count_windows(self, length: int, boundary: str = "inside") -> int:
        """Return how many different anchors there are now for windows of `length` steps."""
        length = positive("length", length)
        if not isinstance(boundary, str) or boundary not in BOUNDARIES:
            raise BadSetting(f"boundary: wanted one of {sorted(BOUNDARIES)}, got {boundary!r}; see sample")
        with self._lock:
            return Anchors(self._index, boundary, length).count()

    # --- writing ---------------------------------------------------------------------------------------

    def add(self, *, obs: Tree, action: Tree, reward: float, terminated: bool, truncated: bool,
            stream: int = 0, final_obs: Tree | None = None, **extras: object) -> None:  # fmt: skip
        """Store one step of one stream. On an error nothing is stored.

        Args:
            obs: what was seen before acting; the spec's shape and dtype, or a dict of such.
            action: what was done.
            reward: a finite number that came after it.
            terminated, truncated: whether the episode ended with this step, and how.
            stream: which environment this is, `0 <= stream < streams`.
            final_obs: what the environment showed after the last step of an episode; only with an end.
            **extras: one value for each extra field of the spec.

        Raises:
            SpecMismatch: a value does not fit its field, or a field is missing or unknown.
            BufferClosed: the buffer was closed.
        """
        step = self._intake.step(obs, action, reward, terminated, truncated, final_obs, extras)
        with self._lock:
            self._check_open()
            self._store(stream_number(stream, self.streams), step)

    def add_batch(self, *, obs: Tree, action: Tree, reward: npt.ArrayLike, terminated: npt.ArrayLike,
                  truncated: npt.ArrayLike, final_obs: Tree | None = None, streams: npt.ArrayLike | None = None,
                  **extras: object) -> None:  # fmt: skip
        """Store one step for each of several streams. On an error nothing is stored.

        Args:
            obs, action, **extras: as in `add`, each with a leading axis of one row per lane.
            reward: (lanes,) finite numbers; terminated, truncated: (lanes,) bool.
            final_obs: like `obs`; only the rows of lanes that end are read. None when none is known.
            streams: (lanes,) the stream of each lane, all different; None means all streams in order.

        Raises:
            SpecMismatch: a value does not fit its field, or a field is missing or unknown.
            BufferClosed: the buffer was closed.
        """
        which = np.arange(self.streams) if streams is None else distinct_streams(streams, self.streams)
        values, rewards, ended, final = self._intake.lanes(
            len(which), obs, action, reward, terminated, truncated, final_obs, extras
        )
        with self._lock:
            self._check_open()
            slots, freed = self._index.make_room_many(which)
            self._finals.release(freed)
            places = np.full(len(which), NO_FINAL)
            if final is not None:
                for lane in np.flatnonzero(ended).tolist():
                    places[lane] = self._finals.put({name: rows[lane] for name, rows in final.items()})
            self._ring.write(slots, values)
            self._index.commit_many(which, slots, rewards, ended, places)

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`: the recording stopped here and goes on elsewhere.

        Nothing before the cut is ever joined to what comes after. Without a running episode this does
        nothing. `final_obs` is what the environment showed last, if that is known.

        Raises:
            SpecMismatch: `stream` or `final_obs` does not fit.
            BufferClosed: the buffer was closed.
        """
        final = None if final_obs is None else self._intake.final(final_obs)
        with self._lock:
            self._check_open()
            stream = stream_number(stream, self.streams)
            if self._index.open_row[stream] >= 0:
                self._index.cut(stream, NO_FINAL if final is None else self._finals.put(final))

    # --- sampling --------------------------------------------------------------------------------------

    @overload
    def sample(self, batch_size: int, length: int, *, boundary: Literal["cross"], sampler: Sampler | None = None,
               burn_in: int = 0, out: RowBatch | None = None) -> RowBatch: ...  # fmt: skip

    @overload
    def sample(self, batch_size: int, length: int, *,
               boundary: Literal["inside", "pad_right", "pad_left", "pad_both"] = "inside",
               sampler: Sampler | None = None, burn_in: int = 0,
               out: SequenceBatch | None = None) -> SequenceBatch: ...  # fmt: skip

    @overload
    def sample(self, batch_size: int, length: int, *, boundary: str, sampler: Sampler | None = None,
               burn_in: int = 0, out: Batch | None = None) -> Batch: ...  # fmt: skip

    def sample(self, batch_size: int, length: int, *, boundary: str = "inside", sampler: Sampler | None = None,
               burn_in: int = 0, out: Batch | None = None) -> Batch:  # fmt: skip
        """Return `batch_size` windows of `length` steps. `docs/semantics.md` defines every word of this.

        Args:
            batch_size: windows to draw, with replacement, at least 1.
            length: steps in each, at least 1.
            boundary: "inside": a window never leaves its episode; "pad_right", "pad_left", "pad_both": it
                may, and is zero and masked there; "cross": it runs on into the stream's next episodes.
            sampler: chooses the anchors of the windows; None takes every valid one with equal probability.
            burn_in: steps of context put before each window; never from another episode, masked where there
                are none, and left out of `train_mask`.
            out: a batch returned earlier for the same sizes; it is filled again and returned. Without it
                the batch owns its memory, and no later call changes it.

        Returns:
            A SequenceBatch of `burn_in + length` steps, or a RowBatch of as many rows for "cross".

        Raises:
            NotEnoughData: there is no valid window yet.
            BadSetting: an argument of the wrong kind or range.
            BufferClosed: the buffer was closed.
        """
        batch_size, length = positive("batch_size", batch_size), positive("length", length)
        burn_in = natural("burn_in", burn_in)
        sampler = self._uniform if sampler is None else check_sampler("sampler", sampler)
        with self._lock:
            anchors = self._anchors(boundary, length)
            layout = self._layout(boundary == "cross", batch_size, burn_in + length)
            if out is not None:
                layout.check(out)
            batch = layout.allocate(self._blocks) if out is None else out
            self._gatherer.draw(anchors, sampler, self._rng, burn_in, batch)
        return batch

    def sample_steps(self, batch_size: int) -> StepBatch:
        """Return `batch_size` single steps with their successors, every settled step being equally likely.

        Raises:
            NotEnoughData: no step has a known successor yet.
            BadSetting: `batch_size` is no positive integer.
            BufferClosed: the buffer was closed.
        """
        batch_size = positive("batch_size", batch_size)
        with self._lock:
            anchors = self._anchors("inside", 1)
            windows = anchors.windows(self._uniform.draw(anchors, self._rng, batch_size), 0, self._rng)
            assert isinstance(windows, Windows)
            return self._gatherer.steps(windows, self.spec)

    # --- learning from a batch -------------------------------------------------------------------------

    def update_priorities(self, batch: Batch, td_errors: npt.ArrayLike) -> None:
        """Give the windows of a batch new priorities; those whose anchor was evicted meanwhile are ignored.

        Args:
            batch: as `sample` returned it.
            td_errors: (B, L) TD errors of the steps, of which those outside `train_mask` are left out, or
                (B,) one for each window.

        Raises:
            SpecMismatch: errors of another shape, or one that is not finite.
            BadSetting: the batch was drawn by a sampler that keeps no priorities.
        """
        sampler = check_batch(batch)._sampler
        assert isinstance(sampler, Sampler)
        errors = np.asarray(td_errors)
        mask = batch.train_mask if errors.ndim == 2 else np.ones((len(batch), 1), np.bool_)
        if errors.ndim == 1:
            errors = errors[:, None]
        if errors.shape != mask.shape or errors.dtype.kind not in "biuf":
            raise SpecMismatch(
                f"td_errors: wanted numbers of shape {batch.train_mask.shape} or ({len(batch)},), got "
                f"{errors.dtype} of shape {np.shape(td_errors)}; pass one per step, or one per window"
            )
        priorities = sampler.window_priorities(errors, mask)
        if not (np.abs(priorities) <= np.finfo(np.float32).max).all():
            raise SpecMismatch(
                "td_errors: wanted finite float32 numbers, got NaN or infinity; find out where they came from"
            )
        with self._lock:
            self._check_open()
            live = self._live(batch.stream, batch.anchor)
            sampler.update(self._index, batch.stream[live], batch.anchor[live], priorities[live])

    def write_back(self, batch: Batch, **values: npt.ArrayLike) -> None:
        """Store new values of extra fields for the steps of a batch, such as recurrent states or latents.

        Steps that were evicted meanwhile are ignored, and so are padding and closing rows. Where windows
        overlap, the later row of the batch counts.

        Args:
            batch: as `sample` returned it.
            **values: for each extra field to be written, an array (B, L, …) of the field's dtype.

        Raises:
            SpecMismatch: an unknown field, or a value that does not fit it.
        """
        ids = check_batch(batch).step_ids()
        real = batch.mask & (ids >= 0)
        checked = {}
        for name, value in values.items():
            if name not in self.spec.extras:
                raise SpecMismatch(
                    f"write_back: wanted one of the extra fields {sorted(self.spec.extras)}, got {name!r}; "
                    f"declare it in the spec's extras"
                )
            checked[f"extras/{name}"] = self.spec.extras[name].validate(name, value, ids.shape)
        stream = np.broadcast_to(batch.stream[:, None], ids.shape)
        with self._lock:
            self._check_open()
            real &= self._live(stream, ids)
            slots = stream[real] * self._index.capacity + ids[real] % self._index.capacity
            self._ring.rewrite(slots, {name: np.asarray(value)[real] for name, value in checked.items()})

    def _live(self, stream: Ints, ids: Ints) -> npt.NDArray[np.bool_]:
        return (ids >= self._index.tail[stream]) & (ids < self._index.head[stream])

    # --- closing ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take and give nothing any more. Closing twice is fine."""
        with self._lock:
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    # --- at the door -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise BufferClosed("wanted an open buffer, got a closed one; make a new one, or close it later")

    def _store(self, stream: int, step: Step) -> None:
        """Store a prepared step; the caller holds the lock."""
        values, amount, ended, final = step
        slot, freed = self._index.make_room(stream)
        self._finals.release(freed)
        place = NO_FINAL if final is None else self._finals.put(final)
        self._ring.write(slot, values)
        self._index.commit(stream, slot, amount, ended, place)

    def _layout(self, cross: bool, batch_size: int, length: int) -> Layout:
        key = (cross, batch_size, length)
        layout = self._layouts.get(key)
        if layout is None:
            layout = Layout(self.spec, RowBatch if cross else SequenceBatch, batch_size, length)
            if len(self._layouts) >= KEPT_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout

    def _anchors(self, boundary: str, length: int) -> Anchors:
        self._check_open()
        if not isinstance(boundary, str) or boundary not in BOUNDARIES:
            raise BadSetting(
                f"boundary: wanted one of {sorted(BOUNDARIES)}, got {boundary!r}; see the docstring of sample"
            )
        if boundary == "inside" and length > self._index.capacity:
            raise BadSetting(
                f"length: wanted at most the {self._index.capacity} steps that a stream keeps, got {length}; "
                f"make the buffer larger, ask for shorter windows, or use a boundary that pads"
            )
        anchors = Anchors(self._index, boundary, length)
        if self._index.live_steps() == 0:
            raise anchors.not_enough()
        return anchors

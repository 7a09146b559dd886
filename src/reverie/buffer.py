"""The replay buffer: the only place where stored bytes and chosen addresses meet."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.batch import SequenceBatch, StepBatch
from reverie.door import (
    REWARD,
    distinct_streams,
    flag,
    flags,
    positive,
    reward_number,
    reward_numbers,
    seed_number,
)
from reverie.episodes import NO_FINAL, TERMINATED, TRUNCATED, EpisodeIndex
from reverie.errors import BadSetting, BufferClosed, SpecMismatch
from reverie.gather import Gatherer, Layout, is_obs
from reverie.memory import Blocks, format_bytes, reserve
from reverie.ring import Finals, Ring
from reverie.samplers import Uniform
from reverie.spec import Column, StepSpec, Tree, flatten_value
from reverie.windows import BOUNDARIES, Anchors

# A step that was checked: the value of every column, the reward, how it ended, and the final observation.
_Step = tuple[dict[str, Any], float, int, dict[str, Any] | None]

KEPT_LAYOUTS = 8  # batch shapes whose layout is remembered; a training loop uses two or three


class ReplayBuffer:
    """A ring of steps for each stream, from which exact sequences are drawn.

    Every method may be called from any thread: a reader never sees a half-written step.

    Args:
        spec: what a step looks like.
        capacity: steps kept in all. Each stream keeps its newest `capacity // streams`.
        streams: environments that write here, one stream each.
        seed: fixes every random choice; None takes one from the operating system.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a capacity that streams do not divide.
        TooLarge: the capacity does not fit into memory. Nothing is allocated then.
    """

    def __init__(self, spec: StepSpec, capacity: int, *, streams: int = 1, seed: int | None = None) -> None:
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
        row_bytes = sum(column.field.nbytes for column in stored) + np.dtype(np.int32).itemsize
        reserve(
            self, row_bytes * self.capacity, f"capacity of {self.capacity:,} steps of {row_bytes:,} bytes"
        )
        self._index = EpisodeIndex(self.streams, self.capacity // self.streams)
        self._ring = Ring(stored, self.capacity)
        self._finals = Finals(self._obs_columns)
        self._gatherer = Gatherer(self._columns, self._index, self._ring, self._finals)
        self._blocks = Blocks()
        self._layouts: dict[tuple[int, int], Layout] = {}
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
        """Bytes of the ring at full capacity, of the index, and of the final observations held now."""
        return self._ring.nbytes + self._index.nbytes + self._finals.nbytes

    @property
    def episodes(self) -> npt.NDArray[np.void]:
        """The live episodes now, oldest first, as a structured array.

        Fields: stream; start, stop: ids of its first step and one past its last; length: stop - start;
        live: how many of these steps are still held; return: the sum of all its rewards; ended: "running",
        "terminated" (also when truncated at the same step), "truncated" or "cut".
        """
        with self._lock:
            return self._index.table()

    def __repr__(self) -> str:
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        fields = ", ".join(
            f"{column.name} {column.field.shape} {column.field.dtype}" for column in self._columns
        )
        state = ", closed" if self._closed else ""
        return (f"ReplayBuffer({len(self):,} of {self.capacity:,} steps, {streams}, "
                f"{format_bytes(self.nbytes)} of RAM: {fields}{state})")  # fmt: skip

    def count_windows(self, length: int) -> int:
        """Return how many different windows of `length` steps can be drawn inside one episode now."""
        length = positive("length", length)
        with self._lock:
            return self._index.count_windows(length)

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
        step = self._prepare(obs, action, reward, terminated, truncated, final_obs, extras)
        with self._lock:
            self._check_open()
            self._store(self._stream(stream), step)

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
        lanes = (len(which),)
        rewards = reward_numbers(reward, lanes)
        ends = TERMINATED * flags("terminated", terminated, lanes) + TRUNCATED * flags(
            "truncated", truncated, lanes
        )
        values = self._values(obs, action, extras, lanes)
        final: dict[str, Any] = {}
        if final_obs is not None:
            flatten_value("obs", self.spec.obs, final_obs, final)
            for column in self._obs_columns:
                final[column.name] = column.field.validate(f"final_{column.name}", final[column.name], lanes)
        values["reward"] = rewards
        with self._lock:
            self._check_open()
            slots, freed = self._index.make_room_many(which)
            self._finals.release(freed)
            places = np.full(lanes, NO_FINAL)
            if final:
                for lane in np.flatnonzero(ends).tolist():
                    places[lane] = self._finals.put({name: rows[lane] for name, rows in final.items()})
            self._ring.write(slots, values)
            self._index.commit_many(which, slots, rewards, ends, places)

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`: the recording stopped here and goes on elsewhere.

        Nothing before the cut is ever joined to what comes after. Without a running episode this does
        nothing. `final_obs` is what the environment showed last, if that is known.

        Raises:
            SpecMismatch: `stream` or `final_obs` does not fit.
            BufferClosed: the buffer was closed.
        """
        final = None if final_obs is None else self._final(final_obs, TRUNCATED)
        with self._lock:
            self._check_open()
            stream = self._stream(stream)
            if self._index.open_row[stream] >= 0:
                self._index.cut(stream, NO_FINAL if final is None else self._finals.put(final))

    # --- sampling --------------------------------------------------------------------------------------

    def sample(self, batch_size: int, length: int, *, boundary: str = "inside",
               out: SequenceBatch | None = None) -> SequenceBatch:  # fmt: skip
        """Return `batch_size` windows of `length` steps, every valid window being equally likely.

        Args:
            batch_size: windows to draw, with replacement, at least 1.
            length: steps in each, at least 1 and at most what a stream keeps.
            boundary: "inside": a window never leaves its episode.
            out: a batch returned earlier for the same sizes; it is filled again and returned. Without it
                the batch owns its memory, and no later call changes it.

        Raises:
            NotEnoughData: no episode holds `length` steps with a known successor yet.
            BadSetting: an argument of the wrong kind or range.
            BufferClosed: the buffer was closed.
        """
        batch_size, length = positive("batch_size", batch_size), positive("length", length)
        layout = self._layout(batch_size, length)
        if out is not None:
            layout.check(out)
        with self._lock:
            anchors = self._anchors(boundary, length)
            rows, ids = self._uniform.draw(anchors, self._rng, batch_size)
            windows = anchors.windows(rows, ids, self._rng)
            batch = layout.allocate(self._blocks) if out is None else out
            self._gatherer.sequences(windows, batch)
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
            rows, ids = self._uniform.draw(anchors, self._rng, batch_size)
            return self._gatherer.steps(anchors.windows(rows, ids, self._rng), self.spec)

    # --- closing ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the memory. The buffer takes and gives nothing any more; closing twice is fine."""
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

    def _prepare(self, obs: Tree, action: Tree, reward: float, terminated: bool, truncated: bool,
                 final_obs: Tree | None, extras: Mapping[str, object]) -> _Step:  # fmt: skip
        """Return a step that is sure to fit, or raise SpecMismatch."""
        ended = TERMINATED * flag("terminated", terminated) + TRUNCATED * flag("truncated", truncated)
        amount = reward_number(reward)
        values = self._values(obs, action, extras, ())
        values["reward"] = amount
        return values, amount, ended, None if final_obs is None else self._final(final_obs, ended)

    def _store(self, stream: int, step: _Step) -> None:
        """Store a prepared step; the caller holds the lock."""
        values, amount, ended, final = step
        slot, freed = self._index.make_room(stream)
        self._finals.release(freed)
        place = NO_FINAL if final is None else self._finals.put(final)
        self._ring.write(slot, values)
        self._index.commit(stream, slot, amount, ended, place)

    def _values(
        self, obs: Tree, action: Tree, extras: Mapping[str, object], lead: tuple[int, ...]
    ) -> dict[str, Any]:
        """Return every column's validated value by flat name."""
        values: dict[str, Any] = {}
        flatten_value("obs", self.spec.obs, obs, values)
        flatten_value("action", self.spec.action, action, values)
        if (extras or self.spec.extras) and extras.keys() != self.spec.extras.keys():
            unknown, missing = (
                extras.keys() - self.spec.extras.keys(),
                self.spec.extras.keys() - extras.keys(),
            )
            what = f"unknown {sorted(unknown)}" if unknown else f"none for {sorted(missing)}"
            raise SpecMismatch(
                f"extra fields: wanted {sorted(self.spec.extras) or 'none'}, got {what}; "
                f"pass exactly the extras that the spec declares"
            )
        for name, value in extras.items():
            values[f"extras/{name}"] = value
        for column in self._columns:
            values[column.name] = column.field.validate(column.name, values[column.name], lead)
        return values

    def _final(self, final_obs: Tree, ended: int) -> dict[str, Any]:
        if not ended:
            raise SpecMismatch(
                "final_obs: wanted it only with an end, got it with terminated=False and truncated=False; "
                "leave it out, or pass truncated=True if the episode stops here"
            )
        final: dict[str, Any] = {}
        flatten_value("obs", self.spec.obs, final_obs, final)
        for column in self._obs_columns:
            final[column.name] = column.field.validate(f"final_{column.name}", final[column.name])
        return final

    def _stream(self, stream: int) -> int:
        if (
            isinstance(stream, bool)
            or not isinstance(stream, (int, np.integer))
            or not 0 <= stream < self.streams
        ):
            raise SpecMismatch(
                f"stream: wanted an integer in 0..{self.streams - 1}, got {stream!r}; "
                f"make the buffer with more streams if there are more environments"
            )
        return int(stream)

    def _layout(self, batch_size: int, length: int) -> Layout:
        layout = self._layouts.get((batch_size, length))
        if layout is None:
            if length > self._index.capacity:
                raise BadSetting(
                    f"length: wanted at most the {self._index.capacity} steps that a stream keeps, got {length}; "
                    f"make the buffer larger, or ask for shorter windows"
                )
            layout = Layout(self.spec, batch_size, length)
            if len(self._layouts) >= KEPT_LAYOUTS:
                self._layouts.clear()
            self._layouts[batch_size, length] = layout
        return layout

    def _anchors(self, boundary: str, length: int) -> Anchors:
        self._check_open()
        rule = BOUNDARIES.get(boundary) if isinstance(boundary, str) else None
        if rule is None:
            raise BadSetting(
                f"boundary: wanted one of {sorted(BOUNDARIES)}, got {boundary!r}; see the docstring of sample"
            )
        anchors = Anchors(self._index, rule, length)
        if self._index.live_steps() == 0:
            raise anchors.not_enough()
        return anchors

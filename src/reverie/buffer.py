"""The replay buffer: the only place where stored bytes and chosen addresses meet."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, StepBatch, check_batch
from reverie.budget import Budget
from reverie.door import distinct_streams, natural, positive, seed_number, stream_number
from reverie.draws import check_sampler
from reverie.episodes import NO_FINAL, EpisodeIndex, Ints
from reverie.errors import BadSetting, BufferClosed, FileError
from reverie.feedback import checked_extras, checked_priorities
from reverie.file import ReplayFile
from reverie.following import Follower
from reverie.gather import Gatherer, Layout, is_obs
from reverie.history import list_episodes
from reverie.intake import Intake, Step
from reverie.journal import Journal
from reverie.loading import Loader
from reverie.memory import Blocks, format_bytes, reserve
from reverie.resuming import close_at_exit, generator, make_file, read_settings, recall, remember
from reverie.runs import Runs
from reverie.samplers import Sampler, Uniform
from reverie.saving import copy_file, copy_memory, snapshot
from reverie.settings import Settings, check_settings
from reverie.spec import StepSpec, Tree
from reverie.states import Remembered, SamplerStates, generator_state
from reverie.stores import make_stores
from reverie.windows import BOUNDARIES, Anchors, Windows

KEPT_LAYOUTS = 8  # batch shapes whose layout is remembered; a training loop uses two or three


class ReplayBuffer:
    """A ring of steps for each stream, from which exact sequences are drawn.

    Every method may be called from any thread: a reader never sees a half-written step.

    Args:
        spec: what a step looks like.
        capacity: steps kept in all. Each stream keeps its newest `capacity // streams`. With `max_bytes` it
            may be left out.
        streams: environments that write here, one stream each.
        seed: fixes every random choice; None takes one from the operating system.
        residency: where the bytes live: "ram" in plain arrays; "packed" in compressed runs of steps, many
            times smaller for frames of a game and several times slower to draw from; "disk" in the replay
            file alone, with only the index in memory. The answers are the same, bit for bit.
        path: a new replay file that everything added goes to, whatever the residency; `reverie.open` resumes it.
        durability: what survives a killed process: "step" (None means that) every step whose `add` has
            returned; "chunk" the runs of steps that are sealed, and what was flushed, at less cost a step.
            What survives a loss of power is what was there at the last `flush`, or more.
        max_bytes: bytes that may be taken, of memory ("packed", by `nbytes`) or of the file ("disk"): the
            oldest steps go when it is reached. Without `capacity` there is room for the steps that would fit
            if they became 32 times smaller.

    Raises:
        BadSetting: an argument of the wrong kind or range, or a capacity that streams do not divide.
        TooLarge: the capacity does not fit into memory. Nothing is allocated then. How small packed runs
            become is not known beforehand: with "packed" only what does not depend on it is counted.
        FileTaken: there is something at `path` already.
        FileError: the file cannot be made.
    """

    def __init__(self, spec: StepSpec, capacity: int | None = None, *, streams: int = 1, seed: int | None = None,
                 residency: str = "ram", path: str | os.PathLike[str] | None = None,
                 durability: str | None = None, max_bytes: int | None = None) -> None:  # fmt: skip
        settings = check_settings(spec, capacity, streams, residency, path, durability, max_bytes)
        rng = generator(seed_number(seed))
        self._reserve(settings)
        file = None if path is None else make_file(Path(path), settings, rng)
        self._set_up(settings, rng, file)
        if file is not None:
            self._write_to(file, self._journal_of(file))

    @classmethod
    def _resume(cls, file: ReplayFile, residency: str | None) -> Self:
        """Return the buffer that a file keeps; see `reverie.open`."""
        settings, rng = read_settings(file, residency)
        self = cls.__new__(cls)
        self._reserve(settings)
        self._set_up(settings, rng, file)
        loader = Loader(file, self._stored, self._index, self._ring, self._finals)
        self._notes, rows = recall(file, self._samplers)
        if file.db.mode == "r":
            self._file = file
            self._turn = Follower(file, loader, rows, self._lock)
            with self._turn:
                return self
        loader.load(rows)
        journal = self._journal_of(file)
        journal.go_on_from(loader)
        self._write_to(file, journal)
        return self

    def _reserve(self, settings: Settings) -> None:
        each = settings.row_bytes
        reserve(self, each * settings.capacity, f"capacity of {settings.capacity:,} steps of {each:,} bytes")

    def _set_up(self, settings: Settings, rng: np.random.Generator, file: ReplayFile | None) -> None:
        """Make the memory of an empty buffer; `file` is what it may read its bytes from."""
        self._settings = settings
        self.spec, self.capacity, self.streams = settings.spec, settings.capacity, settings.streams
        self.residency, self.max_bytes = settings.residency, settings.max_bytes
        self._rng = rng
        self._columns, self._stored = self.spec.columns(), settings.stored
        self._obs_columns = tuple(column for column in self._columns if is_obs(column))
        each = self.capacity // self.streams
        self._index = EpisodeIndex(self.streams, each)
        self._ring, self._finals = make_stores(
            self.residency, self._stored, self._obs_columns, Runs(self.streams, each), file
        )
        self._gatherer = Gatherer(self._columns, self._index, self._ring, self._finals)
        self._blocks = Blocks()
        self._intake = Intake(self.spec, self._columns, self._obs_columns)
        self._layouts: dict[tuple[bool, int, int], Layout] = {}
        self._uniform = Uniform()
        self._samplers = SamplerStates()
        self._notes: dict[str, Any] = {}  # what a class around this one wants to find again after a resume
        self._lock = threading.RLock()
        # What a reader enters. A follower looks into the file for news first.
        self._turn: AbstractContextManager[Any] = self._lock
        self._identity = uuid.uuid4().hex  # by which copies know whose they are
        self._file: ReplayFile | None = None
        self._journal: Journal | None = None
        self._drawn = False  # whether random numbers were drawn that the file does not know of
        self._closed = False
        self._budget = None if settings.max_bytes is None else Budget(
            settings.max_bytes, self._used_bytes, settings.raw_run_bytes, self._drop_run, self._index,
            self._ring, self._finals,
        )  # fmt: skip

    def _journal_of(self, file: ReplayFile) -> Journal:
        durability = self._settings.durability
        return Journal(file, self._stored, self._index, self._ring, self._finals, durability)

    def _write_to(self, file: ReplayFile, journal: Journal) -> None:
        """Go on with a file that holds what memory holds."""
        self._file, self._journal = file, journal
        weakref.finalize(self, file.close).atexit = False
        close_at_exit(self)
        if not file.meta("clean"):  # the process that wrote it was killed: its episodes ended there
            for stream in np.flatnonzero(self._index.open_row >= 0).tolist():
                self.cut(stream)
        journal.begin()

    def _used_bytes(self) -> int:
        return self._file.db.used_bytes if self.residency == "disk" and self._file else self.nbytes

    def _drop_run(self, number: int) -> None:
        if self._journal is not None:
            self._journal.drop_run(number)

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the live steps of all streams."""
        with self._turn:
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
        with self._turn:
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
        with self._turn:
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
            self._check_writable()
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
            self._check_writable()
            if self._budget is not None:
                self._budget.make_room(which.tolist())
            if self._journal is not None:
                self._journal.lanes(which, values, ended, final, self._news())
                self._drawn = False
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
            self._check_writable()
            stream = stream_number(stream, self.streams)
            if self._index.open_row[stream] >= 0:
                if self._journal is not None:
                    self._journal.cut(stream, final, self._news())
                    self._drawn = False
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
        with self._turn:
            anchors = self._anchors(boundary, length)
            layout = self._layout(boundary == "cross", batch_size, burn_in + length)
            if out is not None:
                layout.check(out)
            self._samplers.meet(sampler)
            drawn = sampler.draw(anchors, self._rng, batch_size)
            self._drawn = True
            batch = layout.allocate(self._blocks) if out is None else out
            self._gatherer.fill(anchors.windows(drawn, burn_in, self._rng), batch)
            if drawn.weight is None:
                batch.weight.fill(1.0)
            else:
                batch.weight[...] = drawn.weight
            # Frozen for users; a batch that is filled again may come from another sampler than before.
            object.__setattr__(batch, "_sampler", sampler)
        return batch

    def sample_steps(self, batch_size: int) -> StepBatch:
        """Return `batch_size` single steps with their successors, every settled step being equally likely.

        Raises:
            NotEnoughData: no step has a known successor yet.
            BadSetting: `batch_size` is no positive integer.
            BufferClosed: the buffer was closed.
        """
        batch_size = positive("batch_size", batch_size)
        with self._turn:
            anchors = self._anchors("inside", 1)
            windows = anchors.windows(self._uniform.draw(anchors, self._rng, batch_size), 0, self._rng)
            assert isinstance(windows, Windows)
            self._drawn = True
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
        priorities = checked_priorities(sampler, batch, td_errors)
        with self._turn:
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
        checked = checked_extras(self.spec.extras, ids, values)
        stream = np.broadcast_to(batch.stream[:, None], ids.shape)
        with self._lock:
            self._check_writable()
            real &= self._live(stream, ids)
            slots = stream[real] * self._index.capacity + ids[real] % self._index.capacity
            chosen = {name: np.asarray(value)[real] for name, value in checked.items()}
            if self._journal is not None and len(slots):
                self._journal.rewrite(slots, chosen)
            self._ring.rewrite(slots, chosen)

    def _live(self, stream: Ints, ids: Ints) -> npt.NDArray[np.bool_]:
        return (ids >= self._index.tail[stream]) & (ids < self._index.head[stream])

    # --- the file --------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Where the replay file is; None without one."""
        return None if self._file is None else self._file.db.path

    def flush(self) -> None:
        """Make everything survive a loss of power: steps, episodes, samplers, random state. Nothing without a path.

        Raises:
            FileError: the file cannot be written; it is as it was, and so is the buffer.
            BufferClosed: the buffer was closed.
        """
        with self._lock:
            self._check_open()
            if self._journal is not None:
                self._journal.flush(self._remember())
                self._drawn = False

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Write a whole copy of the buffer as a replay file, while others go on using the buffer.

        A copy that this buffer has saved there before is brought up to date; what has not changed since is not
        written again. On an error the copy stays as it was.

        Raises:
            FileTaken: there is something else at `path`.
            FileError: it cannot be written.
            BufferClosed: the buffer was closed.
        """
        with ExitStack() as stack:
            with self._turn:
                self._check_open()
                if self._file is None:
                    copy_memory(Path(path), self._identity, self._settings, self._index, self._ring,
                                self._remember(), self._journal_of)  # fmt: skip
                    return
                self.flush()
                source = stack.enter_context(snapshot(self._file.db.path))
            copy_file(source, Path(path))

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine.

        Raises:
            FileError: the file cannot be written; the buffer is closed all the same, and what `durability`
                promises is in the file.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._turn = self._lock
            if self._file is not None:
                try:
                    if self._journal is not None:
                        self._journal.flush(self._remember(), clean=True)
                finally:
                    self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def _remember(self) -> Remembered:
        return remember(self._rng, self._samplers, self._index, self._notes)

    def _news(self) -> dict[str, Any]:
        """Return what the next write into the file has to bring with it."""
        return {"rng": generator_state(self._rng)} if self._drawn else {}

    # --- at the door -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise BufferClosed("wanted an open buffer, got a closed one; make a new one, or close it later")

    def _check_writable(self) -> None:
        self._check_open()
        if self._file is not None and self._journal is None:
            raise FileError(
                f"{self._file.db.path}: wanted a buffer open for writing, got one open for reading; "
                f"open it with mode='r+'"
            )

    def _store(self, stream: int, step: Step) -> None:
        """Store a prepared step; the caller holds the lock."""
        values, amount, ended, final = step
        if self._budget is not None:
            self._budget.make_room([stream])
        if self._journal is not None:
            self._journal.step(stream, values, ended, final, self._news())
            self._drawn = False
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

"""The replay buffer: the only place where stored bytes and chosen addresses meet."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, overload

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, Origins, RowBatch, SequenceBatch, StepBatch, check_batch
from reverie.checks import distinct_streams, natural, positive, seed_number, stream_number
from reverie.engine import (
    EpisodeTable,
    Gatherer,
    Intake,
    Keeper,
    Layouts,
    checked_extras,
    checked_priorities,
    describe,
    sampler_of,
)
from reverie.file import (
    Follower,
    Reader,
    ReplayFile,
    Settings,
    check_settings,
    close_at_exit,
    generator,
    make_file,
    make_stores,
    read_settings,
    removed_on_error,
    reserve_for,
)
from reverie.index import Anchors, EpisodeIndex, Windows, anchors_of, check_boundary
from reverie.process import Shared
from reverie.samplers import Sampler, Uniform, check_sampler
from reverie.spec import StepSpec, Tree
from reverie.store import Blocks


class ReplayBuffer(Shared):
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
        TooLarge: the capacity does not fit into memory; nothing is allocated then. How small packed runs
            become is not known beforehand: with "packed" only what does not depend on it is counted.
        FileTaken: there is something at `path` already. FileError: the file cannot be made.
    """

    _instead = "pass its path, or that of a copy made by save_as, and reverie.open(path, mode='r') there"

    def __init__(
        self,
        spec: StepSpec,
        capacity: int | None = None,
        *,
        streams: int = 1,
        seed: int | None = None,
        residency: str = "ram",
        path: str | os.PathLike[str] | None = None,
        durability: str | None = None,
        max_bytes: int | None = None,
    ) -> None:
        settings = check_settings(spec, capacity, streams, residency, path, durability, max_bytes)
        rng = generator(seed_number(seed))
        reserve_for(self, settings)
        file = None if path is None else make_file(Path(path), settings, rng)
        with removed_on_error(file):
            self._set_up(settings, rng, file)
            if file is not None:
                self._write()

    @classmethod
    def _resume(cls, file: ReplayFile, residency: str | None, seed: int | None, episodes: str) -> Self:
        """Return the buffer that a file keeps; see `reverie.open`."""
        settings, rng = read_settings(file, residency, seed)
        self = cls.__new__(cls)
        reserve_for(self, settings)
        self._set_up(settings, rng, file)
        loader = self._keeper.loader()
        if file.db.mode == "r":
            self._turn = Follower(file, loader, self._lock)
            with self._turn:
                return self
        loader.load()
        self._write(loader)
        if episodes == "new":
            self._index.seams.update(np.flatnonzero(self._index.open_episode >= 0).tolist())
        return self

    def _set_up(self, settings: Settings, rng: np.random.Generator, file: ReplayFile | None) -> None:
        """Make the memory of an empty buffer; `file` is where its bytes may be instead."""
        self.spec, self.capacity, self.streams = settings.spec, settings.capacity, settings.streams
        self.residency, self.max_bytes = settings.residency, settings.max_bytes
        self._rng, self._columns = rng, self.spec.columns()
        self._index = EpisodeIndex(self.streams, self.capacity // self.streams)
        self._ring, self._finals = make_stores(self.residency, settings.stored, self._index.runs, file)
        self._keeper = Keeper(settings, rng, self._index, self._ring, self._finals, file)
        self._changes = self._keeper.changes
        self._gatherer = Gatherer(self._columns, self._index, self._ring, self._finals)
        self._blocks, self._layouts, self._origins = Blocks(), Layouts(self.spec), Origins()
        self._intake = Intake(self.spec)
        self._uniform, self._all_streams = Uniform(), np.arange(self.streams)
        self._share()  # from here on there is a lock, and a turn to read
        self._keeper.turns = threading.Condition(self._lock)

    def _write(self, loader: Reader | None = None) -> None:
        """Begin to write to the file."""
        assert self._keeper.file is not None
        close_at_exit(self, self._keeper.file)
        self._keeper.write(loader)
        if self._keeper.was_killed():  # its episodes ended there
            for stream in np.flatnonzero(self._index.open_episode >= 0).tolist():
                self.cut(stream)

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the live steps of all streams."""
        with self._turn:
            self._keeper.settle()
            return self._index.live_steps()

    @property
    def nbytes(self) -> int:
        """Bytes of the ring at full capacity (packed: as it is now), of the index, and of final observations."""
        return self._ring.nbytes + self._index.nbytes + self._finals.nbytes

    @property
    def episodes(self) -> EpisodeTable:
        """The live episodes now, oldest first; read like a structured array, whose fields EpisodeTable names."""
        with self._turn:
            self._keeper.settle()
            return EpisodeTable(self._index, self._lock)

    def __repr__(self) -> str:
        what = describe(self._columns, self._index, self.capacity, self.nbytes)
        where = f", {self.residency}" * (self.residency != "ram") + (f", {self.path}" if self.path else "")
        return f"ReplayBuffer({what}{where}{', closed' if self._keeper.closed else ''})"

    def count_windows(self, length: int, boundary: str = "inside") -> int:
        """Return how many different anchors there are now for windows of `length` steps."""
        length = positive("length", length)
        with self._turn:
            self._keeper.settle()
            return Anchors(self._index, check_boundary(boundary), length).count()

    # --- writing ---------------------------------------------------------------------------------------

    def add(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: float,
        terminated: bool,
        truncated: bool,
        stream: int = 0,
        final_obs: Tree | None = None,
        **extras: object,
    ) -> None:
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
            self._changes.add(stream_number(stream, self.streams), step)

    def add_batch(
        self,
        *,
        obs: Tree,
        action: Tree,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        final_obs: Tree | None = None,
        streams: npt.ArrayLike | None = None,
        **extras: object,
    ) -> None:
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
        which = self._all_streams if streams is None else distinct_streams(streams, self.streams)
        lanes = self._intake.lanes(len(which), obs, action, reward, terminated, truncated, final_obs, extras)
        with self._lock:
            self._changes.add_lanes(which, lanes)

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
            self._keeper.check_writable()
            self._changes.cut(stream_number(stream, self.streams), final)

    # --- sampling --------------------------------------------------------------------------------------

    @overload
    def sample(
        self,
        batch_size: int,
        length: int,
        *,
        boundary: Literal["cross"],
        sampler: Sampler | None = None,
        burn_in: int = 0,
        out: RowBatch | None = None,
    ) -> RowBatch: ...

    @overload
    def sample(
        self,
        batch_size: int,
        length: int,
        *,
        boundary: Literal["inside", "pad_right", "pad_left", "pad_both"] = "inside",
        sampler: Sampler | None = None,
        burn_in: int = 0,
        out: SequenceBatch | None = None,
    ) -> SequenceBatch: ...

    @overload
    def sample(
        self,
        batch_size: int,
        length: int,
        *,
        boundary: str,
        sampler: Sampler | None = None,
        burn_in: int = 0,
        out: Batch | None = None,
    ) -> Batch: ...

    def sample(
        self,
        batch_size: int,
        length: int,
        *,
        boundary: str = "inside",
        sampler: Sampler | None = None,
        burn_in: int = 0,
        out: Batch | None = None,
    ) -> Batch:
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
            BadSetting: an argument of the wrong kind or range. TooLarge: memory cannot hold the batch.
            BufferClosed: the buffer was closed.
        """
        batch_size, length = positive("batch_size", batch_size), positive("length", length)
        burn_in = natural("burn_in", burn_in)
        sampler = self._uniform if sampler is None else check_sampler("sampler", sampler)
        with self._turn:
            self._keeper.check_open()
            anchors = anchors_of(self._index, boundary, length)
            layout = self._layouts.get(boundary == "cross", batch_size, burn_in + length, out)
            self._keeper.drawing(sampler)
            drawn = sampler.draw(anchors, self._rng, batch_size)
            batch = layout.allocate(self._blocks) if out is None else out
            windows = anchors.windows(drawn, burn_in, self._rng)
            self._gatherer.fill(windows, layout, batch, drawn.weight, self._origins.of(sampler))
            self._keeper.used()
        return batch

    def sample_steps(self, batch_size: int) -> StepBatch:
        """Return `batch_size` single steps with their successors, every settled step being equally likely.

        Raises:
            NotEnoughData: no step has a known successor yet.
            BadSetting: `batch_size` is no positive integer. TooLarge: memory cannot hold the batch.
            BufferClosed: the buffer was closed.
        """
        batch_size = positive("batch_size", batch_size)
        with self._turn:
            self._keeper.check_open()
            anchors = anchors_of(self._index, "inside", 1)
            self._layouts.get(False, batch_size, 1)  # refuses what is too large
            self._keeper.drawing()
            windows = anchors.windows(self._uniform.draw(anchors, self._rng, batch_size), 0, self._rng)
            assert isinstance(windows, Windows)
            return self._gatherer.steps(windows, self.spec)

    # --- learning from a batch -------------------------------------------------------------------------

    def update_priorities(self, batch: Batch, td_errors: npt.ArrayLike) -> None:
        """Give the windows of a batch new priorities; those whose anchor was evicted meanwhile are ignored.

        Args:
            batch: as `sample` of this buffer returned it, or a copy, from another process too.
            td_errors: (B, L), of which those outside `train_mask` are left out, or (B,) one for each window.

        Raises:
            SpecMismatch: errors of another shape, or one that is not finite.
            BadSetting: a batch of another buffer, or drawn by a sampler that keeps no priorities.
            WrongProcess: this is a fork's copy of the buffer.
        """
        sampler = sampler_of(check_batch(batch, self._origins.buffer))
        priorities = checked_priorities(sampler, batch, td_errors)
        with self._turn:
            self._keeper.check_own()
            live = self._index.are_live(batch.stream, batch.anchor)
            self._keeper.using(sampler)
            sampler.update(self._index, batch.stream[live], batch.anchor[live], priorities[live])
            self._keeper.used()

    def write_back(self, batch: Batch, **values: npt.ArrayLike) -> None:
        """Store new values of extra fields for the steps of a batch, such as recurrent states or latents.

        Steps that were evicted meanwhile are ignored, and so are padding and closing rows. Where windows
        overlap, the later row of the batch counts.

        Args:
            batch: as `sample` of this buffer returned it, or a copy, from another process too.
            **values: for each extra field to be written, an array (B, L, …) of the field's dtype.

        Raises:
            SpecMismatch: an unknown field, or a value that does not fit it. BadSetting: a batch of another buffer.
        """
        ids = check_batch(batch, self._origins.buffer).step_ids()
        real = batch.mask & (ids >= 0)
        checked = checked_extras(self.spec.extras, ids, values)
        with self._lock:
            self._keeper.check_writable()
            real &= self._index.are_live(batch.stream[:, None], ids)
            slots = self._index.slots(batch.stream[:, None], ids)[real]
            chosen = {name: np.asarray(value)[real] for name, value in checked.items()}
            self._changes.rewrite(slots, chosen)

    # --- the file --------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Where the replay file is, if there is one."""
        return self._keeper.path

    def flush(self) -> None:
        """Make everything survive a loss of power, in the file alone: steps, episodes, samplers, random state.

        Raises:
            FileError: the file cannot be written, and is as it was; or a reader keeps its log from being emptied.
        """
        with self._lock:
            self._keeper.check_open()
            self._keeper.flush()

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Write a whole copy of the buffer as a replay file, while others go on using the buffer.

        A copy that this buffer saved there before is brought up to date: what has not changed is not written
        again. Where the buffer has no file of its own, or it has gone, others wait.

        Raises:
            FileError: it cannot be written, or something else is there; what was there is as it was.
        """
        with ExitStack() as turn:
            turn.enter_context(self._turn)
            self._keeper.check_open()
            self._keeper.save_as(Path(path), turn)

    def close(self) -> None:
        """Flush, and take and give nothing any more. Closing twice is fine.

        Raises:
            FileError: the file cannot be flushed; the buffer is closed all the same.
        """
        with self._lock:
            self._turn = self._lock
            self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""The replay buffer and `reverie.open`: what users call. It checks, documents, and has the engine do it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self, overload

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, StepBatch, check_batch
from reverie.checks import distinct_streams, natural, positive, seed_number, stream_number
from reverie.engine import (
    Engine,
    EpisodeTable,
    Face,
    Intake,
    checked_extras,
    checked_priorities,
    describe,
    sampler_of,
)
from reverie.errors import BadSetting, TooLarge
from reverie.file import (
    ReplayFile,
    Settings,
    check_residency,
    check_settings,
    generator,
    read_settings,
)
from reverie.index import Anchors, check_boundary
from reverie.samplers import Sampler, check_sampler
from reverie.spec import StepSpec
from reverie.values import Tree


class ReplayBuffer(Face):
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

    Attributes:
        engine: memory, file and samplers, for what is built around a buffer; not part of the public interface.

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
        self._prepare(settings)
        self.engine = Engine.create(self, settings, rng, None if path is None else Path(path))

    @classmethod
    def of_file(cls, file: ReplayFile, residency: str | None, seed: int | None, episodes: str) -> Self:
        """Return the buffer that an open file keeps; see `reverie.open`, which checks the arguments."""
        settings, rng = read_settings(file, residency, seed)
        self = cls.__new__(cls)
        self._prepare(settings)
        if file.db.mode == "r":
            self._again = open, (file.db.path.absolute(), residency, "r")
        self.engine = Engine.of_file(self, settings, rng, file)
        self.engine.resume(episodes)
        return self

    def _prepare(self, settings: Settings) -> None:
        self.spec, self.capacity, self.streams = settings.spec, settings.capacity, settings.streams
        self.residency, self.max_bytes = settings.residency, settings.max_bytes
        self._intake, self._all_streams = Intake(self.spec), np.arange(self.streams)

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the live steps of all streams."""
        with self.engine.reading() as index:
            return index.live_steps()

    @property
    def nbytes(self) -> int:
        """Bytes of the ring at full capacity (packed: as it is now), of the index, and of final observations."""
        return self.engine.nbytes

    @property
    def episodes(self) -> EpisodeTable:
        """The live episodes now, oldest first; read like a structured array, whose fields EpisodeTable names."""
        with self.engine.reading() as index:
            return EpisodeTable(index, self.engine.lock)

    def __repr__(self) -> str:
        what = describe(self.engine.columns, self.engine.index, self.capacity, self.nbytes)
        where = f", {self.residency}" * (self.residency != "ram") + (f", {self.path}" if self.path else "")
        return f"ReplayBuffer({what}{where}{', closed' if self.engine.closed else ''})"

    def count_windows(self, length: int, boundary: str = "inside") -> int:
        """Return how many different anchors there are now for windows of `length` steps."""
        length = positive("length", length)
        with self.engine.reading() as index:
            return Anchors(index, check_boundary(boundary), length).count()

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
        engine = self.engine
        with engine.lock:
            engine.changes.add(stream_number(stream, self.streams), step)

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
        with self.engine.lock:
            self.engine.changes.add_lanes(which, lanes)

    def cut(self, stream: int = 0, *, final_obs: Tree | None = None) -> None:
        """End the running episode of `stream`: the recording stopped here and goes on elsewhere.

        Nothing before the cut is ever joined to what comes after. Without a running episode this does
        nothing. `final_obs` is what the environment showed last, if that is known.

        Raises:
            SpecMismatch: `stream` or `final_obs` does not fit.
            BufferClosed: the buffer was closed.
        """
        final = None if final_obs is None else self._intake.final(final_obs)
        with self.engine.lock:
            self.engine.check_writable()
            self.engine.changes.cut(stream_number(stream, self.streams), final)

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
        if sampler is not None:
            check_sampler("sampler", sampler)
        return self.engine.draw(batch_size, length, boundary, sampler, burn_in, out)

    def sample_steps(self, batch_size: int) -> StepBatch:
        """Return `batch_size` single steps with their successors, every settled step being equally likely.

        Raises:
            NotEnoughData: no step has a known successor yet.
            BadSetting: `batch_size` is no positive integer. TooLarge: memory cannot hold the batch.
            BufferClosed: the buffer was closed.
        """
        return self.engine.draw_steps(positive("batch_size", batch_size))

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
        sampler = sampler_of(check_batch(batch, self.engine.origins.buffer))
        self.engine.update(sampler, batch, checked_priorities(sampler, batch, td_errors))

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
        ids = check_batch(batch, self.engine.origins.buffer).step_ids()
        self.engine.rewrite(batch, ids, checked_extras(self.spec.extras, ids, values))


def open(
    path: str | os.PathLike[str],
    residency: str | None = None,
    mode: str = "r+",
    *,
    episodes: str = "new",
    seed: int | None = None,
) -> ReplayBuffer:
    """Return the buffer that a replay file keeps, with everything in it.

    Data, episodes, priorities, visit counts and random state come back: the next batch is the one that would
    have come, if the samplers are made again in the order in which they were first used.

    The environments begin anew when a program does. So the first step that is added to a stream begins a new
    episode, and an episode that ran when the buffer was closed ends before it, as a cut: no window ever joins two
    recordings. An episode that ran when the writing process was killed ends as a cut at once.

    A reader draws with random numbers of its own: any number of them draw differently. It may be pickled and
    copied: it travels as its path, and is opened there as one more reader.

    Args:
        path: of the file.
        residency: where the bytes are to live; None means as before.
        mode: "r+" to go on writing; "r" to read, also while another process writes: every call sees what
            was written up to then. What a reader draws changes nothing in the file.
        episodes: "new", or "continue" if the program puts the environments back to where they were when the file was
            closed: the next step of a stream then belongs to the episode that was running there.
        seed: fixes every random choice from here on. None means with "r+" that the file's random state goes on,
            with "r" that the operating system gives one.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is no replay file, a newer one, damaged, or another process writes to it (with "r+").
        TooLarge: its content does not fit into memory; try residency="packed" or "disk".
    """
    if mode not in ("r", "r+"):
        raise BadSetting(f"mode: wanted 'r+' to write or 'r' to read, got {mode!r}; choose one")
    if not isinstance(path, (str, os.PathLike)):
        raise BadSetting(f"path: wanted a path, got {path!r}; pass a name such as 'pong.replay'")
    if episodes not in ("new", "continue"):
        raise BadSetting(f"episodes: wanted 'new' or 'continue', got {episodes!r}; choose one")
    if episodes == "continue" and mode == "r":
        raise BadSetting("episodes: wanted 'continue' only to write, got it with mode='r'; leave it out")
    if residency is not None:
        check_residency(residency, True)
    if seed is not None:
        seed = seed_number(seed)
    file = ReplayFile.open(Path(path), mode)
    try:
        return ReplayBuffer.of_file(file, residency, seed, episodes)
    except MemoryError as error:
        file.close()
        if isinstance(error, TooLarge):
            raise
        raise TooLarge(
            f"{path}: wanted memory for what it holds, got none; open it with residency='packed' or 'disk', or close "
            f"something"
        ) from error
    except BaseException:
        file.close()
        raise

"""What is got out of a buffer: counts, episodes and batches, and what a learner gives back for a batch."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Literal, overload

import numpy.typing as npt

from reverie.batch import Batch, RowBatch, SequenceBatch, StepBatch, check_batch
from reverie.checks import positive
from reverie.engine import (
    Face,
    checked_extras,
    checked_fields,
    checked_priorities,
    checked_rank,
    checked_stride,
    drawing,
    sampler_of,
    span_of,
)
from reverie.episode import Episode
from reverie.index import Anchors, EpisodeTable, check_boundary, kept_steps
from reverie.samplers import Sampler
from reverie.spec import StepSpec


class Reading(Face):
    """The part of a buffer that is read and drawn from. Each method checks, and has the engine do it in its turn."""

    spec: StepSpec

    def __len__(self) -> int:
        """Return the live steps of all streams, those of discarded episodes left out."""
        with self.engine.reading() as index:
            return kept_steps(index)

    @property
    def nbytes(self) -> int:
        """Bytes of the ring at full capacity (packed: as it is now), of the index, and of final observations."""
        return self.engine.nbytes

    @property
    def episodes(self) -> EpisodeTable:
        """The live episodes now, oldest first; read like a structured array, whose fields EpisodeTable names."""
        with self.engine.reading() as index:
            return EpisodeTable(index, self.engine.lock)

    def episode(self, number: int) -> Episode:
        """Return the live steps of one episode, as arrays that are yours.

        Args:
            number: as in `episodes`: 0 is the oldest, -1 the newest.

        Raises:
            IndexError: there is no such episode. BufferClosed: the buffer was closed.
        """
        number = operator.index(number)
        while True:
            # Between two turns it may have been evicted; then another one has its number.
            found = self.engine.read_episode(*self.engine.episode_place(number))
            if found is not None:
                return found

    def read_episodes(self, numbers: Iterable[int] | None = None) -> Iterator[Episode]:
        """Read episodes one at a time, however large the buffer or its file is. Others may go on meanwhile.

        Args:
            numbers: which ones, as in `episodes`, in the order in which they are to come; None means all of them
                that are live now, oldest first. One that was evicted before its turn came is left out.

        Raises:
            IndexError: there is no such episode. BufferClosed: the buffer was closed.
        """
        places = self._places(numbers)
        return (episode for place in places if (episode := self.engine.read_episode(*place)) is not None)

    def _places(self, numbers: Iterable[int] | None) -> list[tuple[int, int]]:
        """Return stream and ordinal of live episodes, by their numbers."""
        streams, ordinals = self.engine.episode_places()
        count = len(streams)
        if numbers is None:
            return list(zip(streams.tolist(), ordinals.tolist(), strict=True))
        ranks = [checked_rank(operator.index(number), count) for number in numbers]
        return [(streams.item(rank), ordinals.item(rank)) for rank in ranks]

    def count_windows(self, length: int, boundary: str = "inside", *, stride: int = 1) -> int:
        """Return how many different anchors there are now for windows of `length` steps, `stride` steps apart."""
        length = positive("length", length)
        span = span_of(length, checked_stride(length, stride))
        with self.engine.reading() as index:
            return Anchors(index, check_boundary(boundary), span).count()

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
        fields: Iterable[str] | None = None,
        stride: int = 1,
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
        fields: Iterable[str] | None = None,
        stride: int = 1,
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
        fields: Iterable[str] | None = None,
        stride: int = 1,
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
        fields: Iterable[str] | None = None,
        stride: int = 1,
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
            fields: names of what is to be read, such as `("obs/camera", "action", "extras/latent")`; nothing else is,
                and the batch has nothing else but flags, masks and addresses. None reads all fields.
            stride: steps from one step of a window, or of its context, to the next; those between are not shown.
            out: a batch returned earlier for the same sizes; it is filled again and returned. Without it
                the batch owns its memory, and no later call changes it.

        Returns:
            A SequenceBatch of `burn_in + length` steps, or a RowBatch of as many rows for "cross".

        Raises:
            NotEnoughData: there is no valid window yet.
            BadSetting: an argument of the wrong kind or range, or a name that no field has.
            TooLarge: memory cannot hold the batch.
            BufferClosed: the buffer was closed.
            RateLimited: the buffer's rate limit held the batch up for too long.
        """
        engine = self.engine
        asked = engine.plans.wanted(batch_size, length, boundary, sampler, burn_in, fields, stride)
        if engine.gate is None:
            return engine.draw(asked, out)
        with drawing(engine, asked.batch_size * asked.length):
            return engine.draw(asked, out)

    def sample_steps(self, batch_size: int, *, fields: Iterable[str] | None = None) -> StepBatch:
        """Return `batch_size` single steps with their successors, every settled step being equally likely.

        Args:
            batch_size: steps to draw, with replacement, at least 1.
            fields: as for `sample`; "obs" reads successors, too.

        Raises:
            NotEnoughData: no step has a known successor yet.
            BadSetting: `batch_size` is no positive integer, or no such field. TooLarge: memory cannot hold the batch.
            BufferClosed: the buffer was closed. RateLimited: its rate limit held the batch up for too long.
        """
        batch_size = positive("batch_size", batch_size)
        engine, checked = self.engine, checked_fields(self.spec, fields)
        if engine.gate is None:
            return engine.draw_steps(batch_size, checked)
        with drawing(engine, batch_size):
            return engine.draw_steps(batch_size, checked)

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
        priorities = checked_priorities(sampler, batch, td_errors)
        self.engine.update(sampler, batch.stream, batch.anchor, priorities)

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
        self.engine.rewrite(batch.stream, batch.mask, ids, checked_extras(self.spec.extras, ids, values))

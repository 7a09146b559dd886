"""A union of buffers: what is drawn from it, what it shows, and what is given back to it."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, Origins, StepBatch, check_batch, contents, from_contents, note_origin
from reverie.buffer import ReplayBuffer
from reverie.buffer import open as open_file
from reverie.checks import seed_number
from reverie.engine import (
    Layout,
    Layouts,
    Wanted,
    checked_extras,
    checked_priorities,
    checked_rank,
    sampler_of,
    wanted,
)
from reverie.episode import Episode
from reverie.errors import counted
from reverie.process import Bound
from reverie.samplers import Sampler, Uniform
from reverie.spec import StepSpec
from reverie.store import Blocks
from reverie.union.draws import Draws
from reverie.union.given import PartLike, checked_parts, checked_weights, common_spec
from reverie.union.part import Later, LocalPart, Part, Request, all_said
from reverie.union.pieces import Piece, put_together
from reverie.values import tree_map


class Union(Bound):
    """Several buffers drawn from as one: offline and online data, many data sets, one file for each game.

    A union has the reading face of a buffer, and feeds take it. What it draws is the parts' data of that moment; other
    threads and processes may add to them. Streams are numbered through: those of the second part follow those of the
    first, in `batch.stream` and `episodes`.

    Each part has a copy of every sampler that is drawn with, which remembers what it drew from that part and is kept by
    that part's file. Settings such as `Prioritized.beta` are taken from the sampler that the user holds. The union has
    random numbers of its own, which no file keeps.

    Args:
        parts: buffers, and paths of replay files, which are opened for reading; at least one, each of them once.
        weights: one number for each part, which need not sum to 1: a row comes from a part with this probability, and
            there from what the sampler draws of it alone, importance weights included. (0.5, 0.5) is RLPD's half and
            half (Ball et al., 2023). A part with a weight above 0 must have a window. None: the parts are one; every
            sampler draws from all their windows, episodes and steps with the distribution that it documents.
        seed: fixes every random choice; None draws one from the operating system.

    Attributes:
        parts: the buffers, in order. spec: the fields, which all of them share.
        streams, capacity: of all parts together.
        layouts: what a batch of it is laid out by.

    Raises:
        BadSetting: no part, one that is given twice, or weights of another number or sum.
        SpecMismatch: parts whose fields differ; the message names the field.
        FileError: a path that cannot be opened.
    """

    _instead = "make a union there, of the paths of the files"
    in_flight = 1  # draws that a feed begins before it waits for the first

    def __init__(
        self,
        parts: Sequence[PartLike],
        weights: Sequence[float] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        given = checked_parts(parts)
        shares = None if weights is None else checked_weights(weights, len(given))
        rng = np.random.default_rng(None if seed is None else seed_number(seed))
        parts_here: list[LocalPart] = []
        try:
            for part in given:
                if isinstance(part, ReplayBuffer):
                    parts_here.append(LocalPart(part, owned=False))
                else:
                    parts_here.append(LocalPart(open_file(part, mode="r"), owned=True))
            spec = common_spec([part.spec for part in parts_here])
        except BaseException:
            for opened in parts_here:
                opened.close()
            raise
        self._buffers = tuple(part.buffer for part in parts_here)
        self._begin(spec, parts_here, shares, rng)

    def _begin(
        self,
        spec: StepSpec,
        parts: Sequence[Part],
        shares: npt.NDArray[np.float64] | None,
        rng: np.random.Generator,
        far: bool = False,
    ) -> None:
        self.spec, self._parts = spec, list(parts)
        self.streams = sum(part.streams for part in self._parts)
        self.capacity = sum(part.capacity for part in self._parts)
        self._firsts = np.cumsum(
            [0, *(part.streams for part in self._parts)]
        )  # a part's first stream, and the end
        self._rng, self._lock = rng, threading.RLock()
        self._draws = Draws(self._parts, shares, rng, far)
        self.layouts, self._blocks, self._origins = Layouts(self.spec), Blocks(), Origins()
        self._keys: weakref.WeakKeyDictionary[Sampler, int] = weakref.WeakKeyDictionary()
        self._next_key = 0
        self._uniform = Uniform()

    @property
    def parts(self) -> tuple[ReplayBuffer, ...]:
        """The buffers, in order."""
        return self._buffers

    @property
    def missing(self) -> tuple[int, ...]:
        """The parts without which the last draw went on: none, but those of shards that do not answer."""
        return ()

    # --- what there is ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the live steps of all parts."""
        return sum(steps for steps, _ in all_said(part.sizes() for part in self._parts))

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all parts."""
        return sum(size for _, size in all_said(part.sizes() for part in self._parts))

    @property
    def episodes(self) -> npt.NDArray[np.void]:
        """The live episodes of all parts, those of the first part first, as a structured array."""
        tables = all_said(part.episodes() for part in self._parts)
        for first, table in zip(self._firsts.tolist(), tables, strict=False):
            table["stream"] += first
        return np.concatenate(tables)

    def episode(self, number: int) -> Episode:
        """Read one episode by its number, as in `episodes`; -1 is the newest of the last part.

        Raises:
            IndexError: there is no such episode.
        """
        return next(self.read_episodes([number]))

    def read_episodes(self, numbers: Iterable[int] | None = None) -> Iterator[Episode]:
        """Read live episodes of all parts one at a time.

        Args:
            numbers: which ones, as in `episodes`, in the order in which they are to come; None means all of them, those
                of the first part first. One that was evicted before its turn came is left out.

        Raises:
            IndexError: there is no such episode.
        """
        if numbers is None:
            asked: list[tuple[int, list[int] | None]] = [(which, None) for which in range(len(self._parts))]
        else:
            tables = all_said(part.episodes() for part in self._parts)
            places = [(which, rank) for which, table in enumerate(tables) for rank in range(len(table))]
            chosen = [places[checked_rank(operator.index(number), len(places))] for number in numbers]
            asked = [(which, [rank for _, rank in run]) for which, run in groupby(chosen, itemgetter(0))]
        # Every part is asked at once, so that what is evicted later does not shift its numbers.
        found = [
            (int(self._firsts[which]), self._parts[which].read_episodes(ranks)) for which, ranks in asked
        ]
        return (replace(episode, stream=episode.stream + first) for first, part in found for episode in part)

    def count_windows(self, length: int, boundary: str = "inside", *, stride: int = 1) -> int:
        """Return how many different anchors there are now for such windows, in all parts."""
        return sum(all_said(part.count_windows(length, boundary, stride) for part in self._parts))

    def __repr__(self) -> str:
        parts = "\n  ".join(repr(part) for part in self.parts)
        return f"Union({counted(len(self), 'step')} of {counted(len(self._parts), 'part')}:\n  {parts})"

    # --- sampling --------------------------------------------------------------------------------------

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
        """Return `batch_size` windows of `length` steps; see `ReplayBuffer.sample`.

        Rows of different parts stand in random order. `VisitBalanced` counts what it drew between the rounds of a
        batch, of which there is one as a rule. `Recent(newest=n)` takes `n // streams` steps of each stream of all
        parts.

        Args:
            batch_size, length, boundary, sampler, burn_in, fields, stride, out: as for `ReplayBuffer.sample`. The
                sampler has not drawn from a buffer before.

        Raises:
            NotEnoughData: there is no valid window yet.
            BadSetting: an argument of the wrong kind or range; or a sampler whose draws from several buffers have no
                meaning: `EpisodeUniform(weights)`, and one of your own without `mass`.
            TooLarge: memory cannot hold the batch. BufferClosed: a part was closed.
        """
        asked = wanted(self.spec, batch_size, length, boundary, sampler, burn_in, fields, stride)
        self._layout(asked, out)  # what is wrong with `out` is said before anything is drawn
        return self.begin(asked)(out)

    def begin(self, asked: Wanted) -> Callable[[Batch | None], Batch]:
        """Begin to draw a batch; return what waits for it and fills `out`, or a new one."""
        chosen = self._uniform if asked.sampler is None else asked.sampler
        with self._lock:
            request = Request(
                asked.length,
                asked.boundary,
                asked.burn_in,
                self._key(chosen),
                fields=asked.fields,
                stride=asked.stride,
            )
            return partial(self._end, asked, chosen, self._draws.begin(request, chosen, asked.batch_size))

    def _end(
        self, asked: Wanted, chosen: Sampler, drawing: Later[list[Piece]], out: Batch | None = None
    ) -> Batch:
        with self._lock:
            pieces = drawing()
            number, answer, rows = pieces[0]
            layout = self._layout(asked, out)
            if len(pieces) == 1 and out is None and answer.own and answer.batch is not None and rows is None:
                batch = answer.batch
                batch.stream[...] += self._firsts[number]
            else:
                batch = layout.allocate(self._blocks) if out is None else out
                put_together(pieces, self._rng, self._firsts, layout.arrays(batch), layout.arrays)
            note_origin(batch, self._origins.of(chosen, self.missing), asked.stride)
            return batch

    def _layout(self, asked: Wanted, out: Batch | None) -> Layout:
        return self.layouts.get(asked.cross, asked.batch_size, asked.shown, out, asked.fields)

    def sample_steps(self, batch_size: int, *, fields: Iterable[str] | None = None) -> StepBatch:
        """Return `batch_size` single steps with their successors; see `ReplayBuffer.sample_steps`."""
        there = contents(self.sample(batch_size, 1, fields=fields))

        def at(place: int, name: str) -> Any:
            return tree_map(lambda array: array[:, place].copy(), there[name])

        names = {"obs", "action", "reward", "terminated", "truncated", "extras"} & there.keys()
        values = {name: at(0, name) for name in names}
        if "obs" in there:
            values["next_obs"] = at(1, "obs")
        values |= {"next_obs_mask": at(1, "obs_mask"), "stream": there["stream"], "id": there["start"]}
        batch: StepBatch = from_contents(StepBatch, values)
        return batch

    def _key(self, sampler: Sampler) -> int:
        """Return the key of a sampler that is drawn with; the first time, every part gets one of its own."""
        key = self._keys.get(sampler)
        if key is None:
            key, self._next_key = self._next_key, self._next_key + 1
            for part in self._parts:
                part.learn(key, deepcopy(sampler).for_part(part.streams, self.streams))
            self._keys[sampler] = key
            forgetting = [part.forgetting() for part in self._parts]
            weakref.finalize(sampler, _forget, forgetting, key).atexit = False
        for part in self._parts:
            part.imitate(key, sampler)
        return key

    # --- learning from a batch -------------------------------------------------------------------------

    def update_priorities(self, batch: Batch, td_errors: npt.ArrayLike) -> None:
        """Give the windows of a batch new priorities, each in its part; see `ReplayBuffer.update_priorities`."""
        sampler = sampler_of(check_batch(batch, self._origins.buffer))
        priorities = checked_priorities(sampler, batch, td_errors)
        with self._lock:
            key = self._key(sampler)
            all_said(
                self._parts[number].update(
                    key, batch.stream[rows] - self._firsts[number], batch.anchor[rows], priorities[rows]
                )
                for number, rows in self._rows(batch)
            )
            found = all_said(part.common(key) for part in self._parts)
            commons = [common for common in found if common is not None]
            if commons:
                all_said(part.agree(key, commons) for part in self._parts)

    def write_back(self, batch: Batch, **values: npt.ArrayLike) -> None:
        """Store new values of extra fields for the steps of a batch, each in its part.

        See `ReplayBuffer.write_back`. Parts that are open for reading refuse it; those before them have taken theirs.
        """
        ids = check_batch(batch, self._origins.buffer).step_ids()
        checked = checked_extras(self.spec.extras, ids, values)
        with self._lock:
            for number, rows in self._rows(batch):
                stream = batch.stream[rows] - self._firsts[number]
                chosen = {name: np.asarray(value)[rows] for name, value in checked.items()}
                self._parts[number].rewrite(stream, batch.mask[rows], ids[rows], chosen)()

    def _rows(self, batch: Batch) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """Return the parts that a batch shows, and which of its rows belong to each."""
        owner = np.searchsorted(self._firsts, batch.stream, side="right") - 1
        return [(number, np.flatnonzero(owner == number)) for number in np.unique(owner).tolist()]

    # --- the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the files that the union opened; buffers that were given to it stay open. Twice is fine."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _forget(forgetting: list[Callable[[int], Any]], key: int) -> None:
    """Let the parts' copies of a sampler go that nobody holds any more."""
    for forget in forgetting:
        forget(key)

"""Fills batches: copies what the drawn addresses name out of the stores."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.batch import Batch, Origin, RowBatch, SequenceBatch, StepBatch, from_contents, note_origin
from reverie.engine.layout import OFF, ON, Layout, Parts, partial_tree, read_trees
from reverie.engine.selection import Fields, is_read
from reverie.file import FinalStore, Store
from reverie.index import (
    NO_FINAL,
    TERMINATED,
    TRUNCATED,
    CrossWindows,
    EpisodeIndex,
    Ints,
    Windows,
    native,
)
from reverie.spec import Column, StepSpec
from reverie.store import Finals, Ring

Array = npt.NDArray[Any]
# What a batch of sequences says beside its fields, in the order of the kernel.
pick_beside = itemgetter(*OFF, *ON, "stream", "start", "anchor", "weight")


class Chosen(NamedTuple):
    """What a batch will show."""

    windows: Windows | CrossWindows
    weight: npt.NDArray[Any] | None  # (B,) importance weights; None for ones
    origin: Origin  # whose they are and who drew them, for what a learner gives back later


class Gatherer:
    """Fills batches from a store, its final observations and the episode index."""

    __slots__ = ("_columns", "_finals", "_index", "_plain", "_raw", "_store")

    def __init__(
        self, columns: tuple[Column, ...], index: EpisodeIndex, store: Store, finals: FinalStore
    ) -> None:
        self._columns = columns
        self._index = index
        self._store = store
        self._finals = finals
        self._plain = store if isinstance(store, Ring) else None
        self._raw: tuple[Mapping[str, Array], Mapping[str, Array]] | None = None
        if isinstance(store, Ring) and isinstance(finals, Finals):
            self._raw = store.columns, finals.columns

    def fill(self, chosen: Chosen, layout: Layout, batch: Batch) -> None:
        """Fill every array of `batch`, which was laid out so for such windows."""
        windows, weight, origin = chosen
        if isinstance(windows, Windows):
            assert isinstance(batch, SequenceBatch)
            self._sequences(windows, batch, layout.parts(batch))
        else:
            assert isinstance(batch, RowBatch)
            self._rows(windows, batch, layout.parts(batch))
        if weight is not None:
            batch.weight[...] = weight
        note_origin(batch, origin, windows.stride)

    # --- sequences inside one episode ------------------------------------------------------------------

    def _sequences(self, windows: Windows, batch: SequenceBatch, parts: Parts) -> None:
        index = self._index
        if native is not None and self._raw is not None and windows.whole and windows.stride == 1:
            self._whole(windows, parts, *self._raw)
            return
        batch.weight.fill(1.0)
        # An end inside the window can only be its last real step; its successor lies beside the ring.
        at_end = (windows.stop == index.stop.take(windows.episode)).nonzero()[0]
        self._fields(windows, at_end, parts)
        for flags in parts.off:
            flags.fill(0)
        batch.stream[...] = windows.stream
        batch.start[...] = windows.start
        batch.anchor[...] = windows.anchor
        opens = (windows.first == index.start.take(windows.episode)).nonzero()[0]
        if len(opens):
            offset = windows.first[opens] - windows.start[opens]
            if windows.stride > 1:
                offset = -(-offset // windows.stride)  # it may lie before the first position that is real
            batch.is_first[opens, offset] = True
        if windows.whole:
            for flags in parts.on:
                flags.fill(1)
        else:
            self._blank_padding(windows, batch, parts)
            batch.train_mask[...] = batch.mask
        if windows.burn_in:
            batch.train_mask[:, : windows.burn_in] = False
        if len(at_end):
            self._ends(windows, at_end, batch, parts)

    def _whole(
        self, windows: Windows, parts: Parts, columns: Mapping[str, Array], finals: Mapping[str, Array]
    ) -> None:
        """Do the same for whole windows, in C."""
        index, arrays = self._index, parts.arrays
        table = index.start, index.stop, index.final_slot, index.ended
        addresses = windows.stream, windows.start, windows.anchor, windows.episode
        sizes = windows.length, windows.burn_in, len(index.episode_of_slot), index.capacity
        copied: list[Array | None] = []
        for name, is_obs in parts.layout.reads:
            copied += columns[name], arrays[name], finals[name] if is_obs else None
        beside = pick_beside(arrays)
        try:
            native.fill(*beside, *addresses, *table, *sizes, *copied)
        except (TypeError, ValueError, BufferError):
            # A sampler of a user's own may draw other kinds of integers. Nothing was written yet.
            whole = [np.ascontiguousarray(each, np.int64) for each in addresses]
            native.fill(*beside, *whole, *table, *sizes, *copied)

    def _fields(self, windows: Windows, at_end: Ints, parts: Parts) -> None:
        """Copy the stored values; `_ends` fills in what follows an episode's last step."""
        length, capacity = windows.length, self._index.capacity
        layout, arrays = parts.layout, parts.arrays
        if windows.stride > 1 or not windows.whole:
            slots = self._clipped_slots(windows, at_end)
        else:
            first = windows.start % capacity
            wraps = np.count_nonzero(first >= capacity - length)
            if self._index.streams > 1:
                first += windows.stream * capacity
            if self._plain is not None and not wraps:
                for name, _ in layout.reads:
                    self._plain.gather_spans(name, first, arrays[name])
                return
            slots = self._slots(windows)
            if len(at_end):
                slots[at_end, length] = slots[at_end, length - 1]
        step_slots = np.ascontiguousarray(slots[:, :length])
        for name, is_obs in layout.reads:
            self._store.gather(name, slots if is_obs else step_slots, arrays[name])

    def _slots(self, windows: Windows) -> Ints:
        """Return the slot of every step and of the id after the last one, (B, L+1), of whole windows."""
        capacity = self._index.capacity
        slots: Ints = (windows.start % capacity)[:, None] + np.arange(windows.length + 1)
        slots[slots >= capacity] -= capacity
        if self._index.streams > 1:
            slots += (windows.stream * capacity)[:, None]
        return slots

    def _clipped_slots(self, windows: Windows, at_end: Ints) -> Ints:
        """Return slots (B, L+1) of all positions; on padding, and where no successor is stored, some live step's.

        Behind the last position stands the step after it, whatever the stride is.
        """
        ids = windows.start[:, None] + windows.offsets()
        last = windows.stop.copy()
        last[at_end] -= 1
        np.clip(ids, windows.first[:, None], last[:, None], out=ids)
        return ids % self._index.capacity + (windows.stream * self._index.capacity)[:, None]

    def _blank_padding(self, windows: Windows, batch: SequenceBatch, parts: Parts) -> None:
        """Set the masks, and zero what they leave out."""
        ids = windows.start[:, None] + windows.offsets()
        begun = ids >= windows.first[:, None]
        np.logical_and(begun[:, :-1], ids[:, :-1] < windows.stop[:, None], out=batch.mask)
        # The position behind the last real one shows the observation that followed.
        shown = ids if windows.stride == 1 else np.arange(windows.length + 1)
        behind = windows.stop if windows.stride == 1 else windows.behind()
        np.logical_and(begun, shown <= behind[:, None], out=batch.obs_mask)
        no_step, no_obs = ~batch.mask, ~batch.obs_mask
        for name, is_obs in parts.layout.reads:
            parts.arrays[name][no_obs if is_obs else no_step] = 0

    def _ends(self, windows: Windows, at_end: Ints, batch: SequenceBatch, parts: Parts) -> None:
        """Mark the ends and put the final observations in their places."""
        index, arrays, names = self._index, parts.arrays, parts.layout.obs_names
        rows, last = windows.episode[at_end], windows.behind(at_end)
        ended = index.ended[rows]
        batch.terminated[at_end, last - 1] = ended & TERMINATED != 0
        batch.truncated[at_end, last - 1] = ended & TRUNCATED != 0
        places = index.final_slot[rows]
        known = places != NO_FINAL
        batch.obs_mask[at_end, last] = known
        if np.count_nonzero(known) < len(known):
            shown, where = at_end[~known], last[~known]
            for name in names:
                arrays[name][shown, where] = arrays[name][shown, where - 1]
            at_end, last, places = at_end[known], last[known], places[known]
        if len(places):
            for name in names:
                arrays[name][at_end, last] = self._finals.gather(name, places)

    # --- rows that cross episodes ----------------------------------------------------------------------

    def _rows(self, windows: CrossWindows, batch: RowBatch, parts: Parts) -> None:
        batch.weight.fill(1.0)
        index, layout, arrays = self._index, parts.layout, parts.arrays
        row, closing, mask = windows.episode, windows.closing, windows.mask
        base = (windows.stream * index.capacity)[:, None]
        anchor = windows.anchor[:, None]  # stands in where there is nothing to read
        # A closing row shows its episode's last frame until a final observation is put there.
        slots = base + np.where(mask, windows.id - closing, anchor) % index.capacity
        opens = windows.opens(index.start)
        for name, is_obs in layout.reads:
            out = arrays[name]
            if name == "reward":
                # The reward that came with a row is that of the step before.
                nothing = opens | ~mask
                came = base + np.where(nothing, anchor, windows.id - 1) % index.capacity
                self._store.gather(name, came, out)
            else:
                nothing = ~mask if is_obs else ~mask | closing
                self._store.gather(name, slots, out)
            out[nothing] = 0
        begins, closes = (opens, closing) if windows.marks is None else windows.marks
        batch.is_first[...] = begins
        batch.is_last[...] = closes
        batch.is_terminal[...] = closes & (index.ended[row] & TERMINATED != 0)
        batch.mask[...] = mask
        batch.train_mask[...] = mask
        batch.train_mask[:, : windows.burn_in] = False
        batch.stream[...] = windows.stream
        batch.anchor[...] = windows.anchor
        batch.id[...] = np.where(mask & ~closing, windows.id, -1)
        batch.obs_mask[...] = mask
        places = index.final_slot[row]
        known = closing & (places != NO_FINAL)
        batch.obs_mask[closing & ~known] = False
        if known.any():
            for name in layout.obs_names:
                arrays[name][known] = self._finals.gather(name, places[known])

    # --- single steps ----------------------------------------------------------------------------------

    def steps(self, windows: Windows, spec: StepSpec, fields: Fields = None) -> StepBatch:
        """Return single steps with their successors; the windows are of length 1."""
        index = self._index
        slots = self._slots(windows)
        at_end = np.flatnonzero(windows.stop == index.stop.take(windows.episode))
        slots[at_end, 1] = slots[at_end, 0]
        here, after = np.ascontiguousarray(slots[:, 0]), np.ascontiguousarray(slots[:, 1])
        values: dict[str, Array] = {}
        following: dict[str, Array] = {}
        for column in self._columns:
            if not is_read(column.name, fields):
                continue
            values[column.name] = self.values(column, here)
            if column.is_obs:
                following[column.name] = self.values(column, after)
        ended = np.zeros(len(here), np.int8)
        ended[at_end] = index.ended[windows.episode[at_end]]
        places = index.final_slot[windows.episode[at_end]]
        known = places != NO_FINAL
        next_obs_mask = np.ones(len(here), np.bool_)
        next_obs_mask[at_end] = known
        for name, rows in following.items():
            rows[at_end[known]] = self._finals.gather(name, places[known])
        contents: dict[str, Any] = {
            "terminated": ended & TERMINATED != 0,
            "truncated": ended & TRUNCATED != 0,
            "next_obs_mask": next_obs_mask,
            "stream": windows.stream.copy(),
            "id": windows.start.copy(),
        }
        if is_read("reward", fields):
            contents["reward"] = self.rewards(here)
        contents |= read_trees(spec, values)
        if following:
            contents["next_obs"] = partial_tree("obs", spec.obs, following)
        batch: StepBatch = from_contents(StepBatch, contents)
        return batch

    def rewards(self, slots: Ints) -> npt.NDArray[np.float32]:
        """Return the rewards of the steps at `slots`, as a fresh array."""
        out = np.empty(slots.shape, np.float32)
        self._store.gather("reward", slots, out)
        return out

    def values(self, column: Column, slots: Ints) -> Array:
        """Return the column's values at `slots`, as a fresh array."""
        out = np.empty((*slots.shape, *column.field.shape), column.field.dtype)
        self._store.gather(column.name, slots, out)
        return out

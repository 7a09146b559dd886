"""A mirror: the frames of a buffer on the device, from which windows are gathered there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reverie.batch import Batch, without_fields
from reverie.buffer import ReplayBuffer
from reverie.engine import (
    Engine,
    Fields,
    Gatherer,
    Layout,
    Layouts,
    build,
    build_partial,
    drawing,
    is_read,
    wanted,
)
from reverie.errors import BadSetting
from reverie.feeds import check_buffer
from reverie.index import NO_FINAL, RUNNING, EpisodeIndex, Ints, anchors_of
from reverie.process import Bound, Refused, watch
from reverie.samplers import Sampler, Uniform
from reverie.spec import Field, StepSpec
from reverie.torch.columns import PADDING, Derived, DeviceColumn, Plan
from reverie.torch.tensors import TensorBatch, as_device, check_dtypes, tensor_dtype, views
from reverie.values import Tree, tree_build, tree_leaves

UPLOAD_BYTES = 32_000_000  # staged on the host at a time while the mirror catches up
ADDRESS = Field((), "int64")


class DeviceMirror(Bound):
    """A copy of a buffer's observations on a device, which follows the buffer by uploading only what is new.

    Windows are planned on the CPU as integers and gathered on the device: a batch costs the device one
    gather, and the host nothing but its addresses, flags and unmirrored fields. The batches are those that
    `buffer.sample` gives, bit for bit, and they take part in the buffer's randomness as those do. Steps are
    uploaded when a batch is drawn, on the stream that is current then; call it from one stream.

    Args:
        buffer: what is mirrored; other threads may add to it meanwhile.
        device: where the copy lies; it takes `capacity` rows of the mirrored fields there.
        fields: some of "obs" and "action". Extra fields may be written back, so they stay with the buffer.

    Attributes:
        uploaded: steps uploaded so far.

    Raises:
        BadSetting: another field, or a device that is not there.
    """

    _instead = "make one there, of a buffer of that process"

    def __init__(
        self, buffer: ReplayBuffer, device: torch.device | str, fields: Sequence[str] = ("obs",)
    ) -> None:
        self._buffer = check_dtypes(check_buffer(buffer))
        self._device = as_device(device)
        if isinstance(fields, str) or not fields or not set(fields) <= {"obs", "action"}:
            raise BadSetting(
                f"fields: wanted some of ('obs', 'action'), got {fields!r}; extra fields may be written back, "
                f"so they are drawn from the buffer"
            )
        self._engine = buffer.engine
        spec, index = buffer.spec, buffer.engine.index
        self._slots = len(index.episode_of_slot)
        self._columns = {
            column.name: DeviceColumn(
                self._slots, column.field.shape, tensor_dtype(column.field.dtype), self._device
            )
            for column in spec.columns()
            if column.name.split("/")[0] in fields
        }
        self._obs_names = [name for name, _ in tree_leaves("obs", spec.obs) if name in self._columns]
        # In the buffer's own gathering an address stands for each mirrored field: where boundaries put
        # padding, ends and final observations is written once, in Gatherer.
        self._planned = tuple(fields)
        self._spec = StepSpec(
            ADDRESS if "obs" in fields else spec.obs,
            ADDRESS if "action" in fields else spec.action,
            spec.extras,
        )
        addresses: Any = _Addresses(self._planned, self._slots, buffer.engine)
        self._gatherer = Gatherer(self._spec.columns(), index, addresses, addresses.finals)
        self._derived: dict[str, Derived] = {}
        self._head = np.zeros(index.streams, np.int64)  # stream -> one past the last id that is here
        self._ended = np.zeros(index.streams, np.int64)  # stream -> how many of its episodes' ends are here
        self._room = 0  # places for final observations
        self._layouts = Layouts(self._spec)
        self._uniform = Uniform()
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self.uploaded = 0
        watch(self._forked)

    def _forked(self, at_rest: bool) -> None:
        # CUDA does not survive a fork, and torch's threads on the CPU need not.
        self._lock = Refused(
            "wanted a mirror of this process, got one made before the process was forked; make it after forking"
        )

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        derived = sum(derived.column.nbytes for derived in self._derived.values())
        return sum(column.nbytes for column in self._columns.values()) + derived

    # --- drawing ---------------------------------------------------------------------------------------

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
        obs: str = "obs",
    ) -> TensorBatch:
        """Return `batch_size` windows of `length` steps on the device, as `buffer.sample` would draw them.

        Args:
            batch_size, length, boundary, sampler, burn_in, fields, stride: as for `buffer.sample`.
            obs: what stands in `batch.obs`: the observations, or the derived column of this name in their
                place, (B, L+1, *its shape), of final observations too and zero on padding, whatever `fields` are.

        Raises:
            NotEnoughData: there is no valid window yet.
            BadSetting: an argument of the wrong kind or range.
            BufferClosed: the buffer was closed.
            WrongProcess: the mirror was made before this process was forked.
        """
        asked = wanted(self._buffer.spec, batch_size, length, boundary, sampler, burn_in, fields, stride)
        chooser = self._uniform if asked.sampler is None else asked.sampler
        derived = None if obs == "obs" else self._named(obs)
        engine = self._engine
        with self._lock:
            with drawing(engine, asked.batch_size * asked.length), engine.turn:
                engine.check_open()
                anchors = anchors_of(engine.index, asked.boundary, asked.span, asked.stride)
                self._follow()
                own = own_names(asked.fields, self._planned, derived is not None)
                layout = self._layouts.get(asked.cross, asked.batch_size, asked.shown, fields=own)
                block = self._host_block(layout.nbytes)
                batch = layout.over(block.numpy())
                chosen = engine.choose(anchors, asked.batch_size, asked.burn_in, chooser)
                self._gatherer.fill(chosen, layout, batch)
                engine.memories.used()
            # The buffer may go on: what lies here changes only in _follow.
            return self._gather(layout, block, batch, derived, asked.fields)

    def update(self, name: str | None = None) -> None:
        """Upload what is new; then make the values of derived column `name`, where one is given, for all live steps.

        Nobody has to call this: `sample` does as much of it as its batch needs.
        """
        derived = None if name is None else self._named(name)
        with self._lock:
            with self._engine.turn:
                self._engine.check_open()
                self._follow()
                index = self._engine.index
                rows, places = _live_rows(index), _live_finals(index)
            if derived is not None:
                derived.make(rows, places, self._look)

    # --- derived columns -------------------------------------------------------------------------------

    def derive(
        self, name: str, fn: Callable[[Any], torch.Tensor], *, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """Keep a value derived from each observation, such as a tokenizer's tokens; `sample(obs=name)` gives it.

        A value is made when a batch first needs it, and kept until its step is evicted or `touch` is called.

        Args:
            name: a name of your choice but "obs".
            fn: maps observations on the device, (N, …) or a dict of such, to values (N, *shape); it is
                called under `torch.no_grad`, for at most 1024 observations at a time.
            shape, dtype: of one value.

        Raises:
            BadSetting: the name is taken, or observations are not mirrored.
        """
        if not isinstance(name, str) or name == "obs" or name in self._derived:
            raise BadSetting(f"name: wanted a new name but 'obs', got {name!r}; choose another")
        if "obs" not in self._planned:
            raise BadSetting(
                f"derive: wanted a mirror of the observations, got one of {self._planned}; add 'obs' to its fields"
            )
        with self._lock:
            derived = Derived(name, fn, DeviceColumn(self._slots, shape, dtype, self._device), self._slots)
            derived.forget_finals(np.zeros(0, np.int64), self._room)
            self._derived[name] = derived

    def touch(self, name: str) -> None:
        """Mark every value of a derived column as stale: its function's weights have changed."""
        with self._lock:
            self._named(name).version += 1

    def _named(self, name: str) -> Derived:
        if name not in self._derived:
            raise BadSetting(
                f"obs: wanted 'obs' or a derived column of {sorted(self._derived)}, got {name!r}; call derive first"
            )
        return self._derived[name]

    # --- following the buffer --------------------------------------------------------------------------

    def _follow(self) -> None:
        """Upload the steps and ends that came since the last time; the caller holds both locks."""
        index = self._engine.index
        slots = [
            stream * index.capacity
            + np.arange(max(self._head.item(stream), index.tail.item(stream)), index.head.item(stream))
            % index.capacity
            for stream in np.flatnonzero(index.head > self._head).tolist()
        ]
        if slots:
            self._upload(np.concatenate(slots))
            self._head[:] = index.head
        ended = index.begun - (index.open_episode >= 0)
        places: list[int] = []
        for stream in np.flatnonzero(ended > self._ended).tolist():
            ordinals = np.arange(max(self._ended[stream], index.dropped[stream]), ended[stream])
            places += index.final_slot[index.episodes_of(np.full(len(ordinals), stream), ordinals)].tolist()
        if "obs" in self._planned and places:
            self._upload_finals(np.array([place for place in places if place != NO_FINAL], np.int64))
        self._ended[:] = ended

    def _upload(self, slots: Ints) -> None:
        columns = [column for column in self._engine.columns if column.name in self._columns]
        at_once = max(UPLOAD_BYTES // sum(column.field.nbytes for column in columns), 1)
        for first in range(0, len(slots), at_once):
            part = slots[first : first + at_once]
            rows = self._to_device(part + 1)
            for column in columns:
                shape = (len(part), *column.field.shape)
                staged = self._host_block(len(part) * column.field.nbytes)
                values = staged.numpy().view(column.field.dtype).reshape(shape)
                self._engine.store.gather(column.name, part, values)
                self._columns[column.name].put(rows, self._staged(staged, column.field, len(part)))
            for derived in self._derived.values():
                derived.forget(part + 1)
        self.uploaded += len(slots)

    def _upload_finals(self, places: Ints) -> None:
        if not len(places):
            return
        self._room = max(self._room, int(places.max()) + 1)
        on_device = self._to_device(places)
        for name in self._obs_names:
            column = self._columns[name]
            values = self._engine.finals.gather(name, places)
            column.make_room(self._room)
            column.put_finals(on_device, torch.from_numpy(values).to(self._device))
        for derived in self._derived.values():
            derived.forget_finals(places, self._room)

    def _host_block(self, nbytes: int) -> torch.Tensor:
        # Pinned blocks come from torch's own cache, which hands one out again only once its copy is done.
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda")

    def _staged(self, block: torch.Tensor, field: Field, count: int) -> torch.Tensor:
        there = block.to(self._device, non_blocking=True)
        return there.view(tensor_dtype(field.dtype)).view(count, *field.shape)

    def _to_device(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    # --- gathering -------------------------------------------------------------------------------------

    def _gather(
        self, layout: Layout, block: torch.Tensor, batch: Batch, derived: Derived | None, fields: Fields
    ) -> TensorBatch:
        """Return the planned batch; the caller holds the mirror's lock."""
        rows = places = np.zeros(0, np.int64)
        at: Ints | None = None
        host = without_fields(batch)
        planned_names = [name for name in self._planned if hasattr(batch, name)]
        if "obs" in planned_names:
            rows, at, places = self._split(batch.obs)
        arrays = views(layout, block.to(self._device, non_blocking=True))
        for name in planned_names:
            planned = arrays.pop(name)
            plan = Plan(planned.flatten(), None, None)
            columns = self._columns_of(name, fields)
            if name == "obs":
                if at is not None:
                    plan = plan._replace(at=self._to_device(at), places=self._to_device(places))
                if derived is not None:
                    derived.make(rows, places, self._look)
                    columns = {"obs": derived.column}
            for leaf, column in columns.items():
                arrays[leaf] = column.gather(plan).view(*planned.shape, *column.shape)
        spec = self._buffer.spec
        if derived is not None:
            spec = StepSpec(ADDRESS, spec.action, spec.extras)  # one leaf stands for the whole observation
        make = build if fields is None else build_partial
        return make(type(host), spec, arrays, host)

    def _columns_of(self, name: str, fields: Fields) -> dict[str, DeviceColumn]:
        """Return the columns of a mirrored field that are read."""
        return {
            leaf: column
            for leaf, column in self._columns.items()
            if leaf.split("/")[0] == name and is_read(leaf, fields)
        }

    def _split(self, addresses: npt.NDArray[Any]) -> tuple[Ints, Ints | None, Ints]:
        """Take the final observations out of a plan: return (rows, where, places); where is None for none."""
        flat = addresses.reshape(-1)
        at = np.flatnonzero(flat > self._slots)
        places = flat[at] - (self._slots + 1)
        flat[at] = PADDING
        return flat[flat != PADDING], at if len(at) else None, places

    def _look(self, rows: Ints | None, places: Ints | None) -> Tree:
        """Return observations on the device, those of `rows` or the final ones in `places`."""
        leaves: dict[str, torch.Tensor] = {}
        for name in self._obs_names:
            if rows is not None:
                leaves[name] = self._columns[name].gather(Plan(self._to_device(rows), None, None))
            elif places is not None:
                leaves[name] = self._columns[name].gather_finals(self._to_device(places))
        return tree_build("obs", self._buffer.spec.obs, leaves)


def _live_rows(index: EpisodeIndex) -> Ints:
    """Return the rows of all live steps."""
    parts = [
        stream * index.capacity + np.arange(index.tail.item(stream), index.head.item(stream)) % index.capacity
        for stream in range(index.streams)
    ]
    return np.concatenate(parts) + 1


def _live_finals(index: EpisodeIndex) -> Ints:
    """Return the places of all live final observations."""
    rows = index.live_episodes()
    places = index.final_slot[rows[index.ended[rows] != RUNNING]]
    known: Ints = places[places != NO_FINAL]
    return known


def own_names(fields: Fields, planned: Sequence[str], derives: bool) -> Fields:
    """Return the names, in a mirror's own spec, of what is read: a mirrored field is one address there.

    Args:
        fields: names in the buffer's spec; planned: what is mirrored; derives: whether a derived column is asked for.
    """
    if fields is None:
        return None
    tops = {name: name.split("/")[0] for name in fields}
    own = {top if top in planned else name for name, top in tops.items()}
    return frozenset(own | ({"obs"} if derives else set()))


class _Addresses:
    """Stands for a store whose mirrored fields hold their own addresses, and for its final observations."""

    def __init__(self, planned: tuple[str, ...], slots: int, engine: Engine) -> None:
        self._planned = planned
        self._ring = engine.store
        self.finals = _FinalAddresses(planned, slots, engine)

    def gather(self, name: str, slots: Ints, out: npt.NDArray[Any]) -> None:
        if name in self._planned:
            np.add(slots, 1, out=out)
        else:
            self._ring.gather(name, slots, out)


class _FinalAddresses:
    def __init__(self, planned: tuple[str, ...], slots: int, engine: Engine) -> None:
        self._planned = planned
        self._first = slots + 1
        self._finals = engine.finals

    def gather(self, name: str, places: Ints) -> npt.NDArray[Any]:
        return places + self._first if name in self._planned else self._finals.gather(name, places)

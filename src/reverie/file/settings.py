"""The settings of a buffer: checked when it is made, and read from its replay file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reverie.checks import REWARD, positive
from reverie.errors import BadSetting
from reverie.file.records import MOST_COLUMNS
from reverie.file.stores import check_residency, step_bytes
from reverie.index import RUN
from reverie.spec import Column, StepSpec
from reverie.store import reserve
from reverie.values import most_array_bytes

# A budget of bytes becomes a number of steps: frames are taken to pack so many times smaller.
ASSUMED_PACKING = 32
LEAST_RUNS = 12  # of each stream that a budget must have room for, not packed
INDEX_BYTES = np.dtype(np.int32).itemsize  # what the index takes for a step
STREAM_BYTES = 512  # what the index, the stores, and whoever goes through them, take for a stream
MOST_STREAMS = 1 << 16
# Under which names the file keeps them.
SETTINGS = ("spec", "capacity", "streams", "run", "residency", "durability", "max_bytes")


class Settings(NamedTuple):
    """A buffer's settings."""

    spec: StepSpec
    capacity: int
    streams: int
    residency: str
    durability: str
    max_bytes: int | None

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are stored."""
        return stored_columns(self.spec)

    @property
    def each(self) -> int:
        """Steps that each stream keeps."""
        return self.capacity // self.streams

    @property
    def raw_run_bytes(self) -> int:
        """Most bytes that a run may come to take, final observations included, from when it begins to its seal."""
        # In the file it lies there twice, as steps and as a run, and pages are not filled to the last byte.
        times = 4 if self.residency == "disk" else 2
        return times * RUN * sum(column.field.nbytes for column in self.stored)

    @property
    def step_bytes(self) -> int:
        """Bytes of memory that one step takes, as far as that is known beforehand."""
        return step_bytes(self.residency, self.stored) + INDEX_BYTES

    @property
    def stream_bytes(self) -> int:
        """Bytes of memory that one stream takes beside its steps: where they are packed, its run being written."""
        run = 0 if self.residency == "ram" else RUN * sum(column.field.nbytes for column in self.stored)
        return STREAM_BYTES + run

    @property
    def most_record_bytes(self) -> int:
        """Bytes that a record of the replay file has at most: a run that does not pack, or an array of a sampler."""
        columns = self.stored
        # A compressor that does not give up adds an eighth of a thousandth; here it is allowed more.
        raw = RUN * sum(column.field.nbytes for column in columns)
        return max(raw + raw // 64 + 1_000 * len(columns), most_array_bytes(self.capacity))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as named JSON values."""
        return {**self._asdict(), "spec": self.spec.to_json(), "run": RUN}


def stored_columns(spec: StepSpec) -> tuple[Column, ...]:
    """Return the columns that are stored: those of the spec, and the reward."""
    return (*spec.columns(), Column("reward", REWARD))


def check_settings(
    spec: StepSpec,
    capacity: int | None,
    streams: int,
    residency: str,
    path: str | os.PathLike[str] | None,
    durability: str | None,
    max_bytes: int | None,
) -> Settings:
    """Return settings that fit together.

    Raises:
        BadSetting: one of a wrong kind or range, or that does not go with another.
    """
    if not isinstance(spec, StepSpec):
        raise BadSetting(f"spec: wanted a StepSpec, got {type(spec).__name__}; wrap the fields in one")
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise BadSetting(f"path: wanted a path, got {path!r}; pass a name such as 'pong.replay'")
    residency = check_residency(residency, path is not None)
    if durability is not None and path is None:
        raise BadSetting(f"durability: wanted it only with a path, got {durability!r} without; pass a path")
    if durability not in (None, "step", "chunk"):
        raise BadSetting(f"durability: wanted 'step' or 'chunk', got {durability!r}; choose what survives")
    streams = positive("streams", streams)
    if streams > MOST_STREAMS:
        raise BadSetting(
            f"streams: wanted at most {MOST_STREAMS:,}, got {streams:,}; share them among several buffers"
        )
    if path is not None:
        _check_columns(stored_columns(spec))
    if capacity is not None:
        capacity = positive("capacity", capacity)
    if max_bytes is not None:
        max_bytes = positive("max_bytes", max_bytes)
        if residency == "ram":
            raise BadSetting(
                f"max_bytes: wanted it with residency 'packed' or 'disk', got {max_bytes} with 'ram'; "
                f"plain arrays are counted in steps: pass capacity"
            )
        capacity = _fit(spec, capacity, streams, residency, max_bytes)
    if capacity is None:
        raise BadSetting("capacity: wanted a number of steps, got None; pass it, or max_bytes")
    if capacity % streams:
        raise BadSetting(
            f"capacity: wanted a multiple of streams ({streams}), got {capacity}; "
            f"each stream keeps capacity // streams steps: pass {max(capacity // streams, 1) * streams}"
        )
    return Settings(spec, capacity, streams, residency, durability or "step", max_bytes)


def _check_columns(columns: Sequence[Column]) -> None:
    """Refuse more columns than a replay file has room for."""
    count = len(columns) + sum(column.is_obs for column in columns)
    if count > MOST_COLUMNS:
        raise BadSetting(
            f"spec: wanted at most {MOST_COLUMNS:,} columns in a replay file, those of an observation twice, got "
            f"{count:,}; put several values into one array"
        )


def _fit(spec: StepSpec, capacity: int | None, streams: int, residency: str, max_bytes: int) -> int:
    """Return the capacity for a budget of bytes, which must leave each stream room for some runs."""
    columns = stored_columns(spec)
    raw = sum(column.field.nbytes for column in columns)
    least = LEAST_RUNS * RUN * raw * streams
    if max_bytes < least:
        raise BadSetting(
            f"max_bytes: wanted at least {least:,}, {LEAST_RUNS} runs of {RUN} steps for each of {streams} streams, "
            f"got {max_bytes:,}; pass more, or store smaller observations"
        )
    if capacity is not None:
        return capacity
    each = step_bytes(residency, columns) + INDEX_BYTES + raw // ASSUMED_PACKING
    return max_bytes // each // streams * streams


def settings_from(meta: Mapping[str, Any], residency: str | None) -> Settings:
    """Return the settings that a file keeps, with another residency if one is given, checked like anybody's.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    if meta["run"] != RUN:
        raise ValueError(f"its runs have {meta['run']} steps, not {RUN}")
    told = meta["residency"], meta["durability"], meta["max_bytes"]
    # The file's own first: what it says has to be right even where something else is asked for.
    own = check_settings(
        StepSpec.from_json(meta["spec"]), meta["capacity"], meta["streams"], told[0], "", *told[1:]
    )
    if residency in (None, own.residency):
        return own
    # Plain arrays cannot be held to a budget of bytes: there the steps that fitted so far are all there will be.
    return own._replace(residency=residency, max_bytes=None if residency == "ram" else own.max_bytes)


def reserve_for(owner: object, settings: Settings) -> None:
    """Note that `owner` will come to need the memory that such a buffer takes.

    Raises:
        TooLarge: there is not so much.
    """
    each, count = settings.step_bytes, settings.capacity
    more, streams = settings.stream_bytes, settings.streams
    what = (
        f"capacity of {count:,} steps of {each:,} bytes, and {more:,} bytes for each of {streams:,} streams"
    )
    reserve(owner, each * count + more * streams, what)

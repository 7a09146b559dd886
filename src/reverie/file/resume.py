"""What a buffer tells its file beside steps and episodes, and finds there again."""

from __future__ import annotations

import atexit
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reverie.checks import seed_number
from reverie.errors import BadSetting
from reverie.file.settings import Settings, settings_from
from reverie.file.state import (
    Arrays,
    Remembered,
    SamplerStates,
    from_json,
    generator_from,
    generator_state,
    pack_arrays,
    sampler_entries,
    to_json,
    unpack_arrays,
)
from reverie.file.tables import ReplayFile
from reverie.index import EpisodeIndex, TableRows, table_rows
from reverie.process import watch
from reverie.values import most_array_bytes

SETTINGS = ("spec", "capacity", "streams", "run", "residency", "durability", "max_bytes")


def generator(seed: int | None) -> np.random.Generator:
    """Return a new generator: of a counter and a key, so that its state is small."""
    return np.random.Generator(np.random.Philox(seed))


def make_file(path: Path, settings: Settings, rng: np.random.Generator, copy_of: str = "") -> ReplayFile:
    """Return a new replay file of an empty buffer, open for writing.

    Args:
        path: where.
        settings: of the buffer.
        rng: its generator.
        copy_of: the identity of the buffer that the file is to be a copy of.
    """
    # Narrow columns first: SQLite has to walk through what stands before the one that is read.
    columns = [column.name for column in sorted(settings.stored, key=lambda column: column.field.nbytes)]
    meta = {
        **settings.to_json(),
        "identity": uuid.uuid4().hex,
        "copy_of": copy_of,
        "clean": True,
        "synced": 0,
        "rng": generator_state(rng),
        "samplers": [],
        "notes": {},
        "ends": [],
    }
    file = ReplayFile.create(path, meta, columns)
    file.db.limit_row(settings.most_row_bytes)
    return file


@contextmanager
def removed_on_error(file: ReplayFile | None) -> Iterator[None]:
    """Remove a new file again if the buffer that it was made for cannot be made."""
    try:
        yield
    except BaseException:
        if file is not None:
            file.remove()
        raise


def read_settings(
    file: ReplayFile, residency: str | None, seed: int | None = None
) -> tuple[Settings, np.random.Generator]:
    """Return a file's settings, and its generator to a writer.

    Args:
        file: the file. A reader's generator is not the file's: any number of them would draw alike.
        residency: replaces the file's unless None.
        seed: of another generator; None means the file's for a writer, and a random one for a reader.

    Raises:
        FileError: the settings are none, or do not go with the tables.
    """
    meta = {name: file.meta(name) for name in (*SETTINGS, "rng")}
    with file.db.reading():
        settings = settings_from(meta, residency)
        if not fits_tables(settings, file):
            raise ValueError("its spec has other columns than its tables")
        rng = generator_from(meta["rng"])
    file.db.limit_row(settings.most_row_bytes)
    if seed is not None or file.db.mode == "r":
        rng = generator(seed_number(seed))
    return settings, rng


def fits_tables(settings: Settings, file: ReplayFile) -> bool:
    """Whether the tables of a file have the columns of a spec."""
    return sorted(column.name for column in settings.stored) == sorted(file.columns)


def remember(
    rng: np.random.Generator, samplers: SamplerStates, index: EpisodeIndex, notes: Mapping[str, Any]
) -> Remembered:
    """Return all that a buffer knows beside its steps and episodes.

    Args:
        rng: its generator.
        samplers: those it drew with.
        index: in whose rows samplers keep their weights.
        notes: what a class around it wants kept: JSON values by name.
    """
    arrays: Arrays = {f"index/{name}": array for name, array in table_rows(index)._asdict().items()}
    states = [
        [kind, to_json(f"samplers/{place}", state, arrays)]
        for place, (kind, state) in enumerate(samplers.save())
    ]
    size, most = sum(array.nbytes for array in arrays.values()), most_array_bytes(len(index.episode_of_slot))
    if size > most:
        raise BadSetting(
            f"samplers: wanted at most {most:,} bytes to remember, got {size:,}; let Sampler.save return less"
        )
    return remember_rest(rng, index, notes) | {"samplers": states}, pack_arrays(arrays)


def remember_rest(rng: np.random.Generator, index: EpisodeIndex, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `remember` does, but what samplers remember and where episodes lie."""
    ends = [index.tail.tolist(), index.head.tolist()]
    return {"rng": generator_state(rng), "notes": dict(notes), "ends": ends}


def recall(file: ReplayFile, samplers: SamplerStates) -> tuple[dict[str, Any], TableRows | None]:
    """Give `samplers` back what was remembered; return the notes, and the rows of the index if known."""
    notes: dict[str, Any] = file.meta("notes")
    with file.db.reading():
        arrays = unpack_arrays(file.arrays(), most_array_bytes(file.meta("capacity")))
        states = [(kind, from_json(state, arrays)) for kind, state in sampler_entries(file.meta("samplers"))]
        samplers.load(states, f"{file.db.path}: ")
        if "index/row" not in arrays:
            return notes, None
        return notes, TableRows(*(arrays[f"index/{name}"] for name in TableRows._fields))


class Closable(Protocol):
    """What has to be closed before the process ends."""

    def close(self) -> None:
        """Close it."""


class _AtExit:
    """Closes the buffers of this process when the interpreter ends."""

    def __init__(self) -> None:
        watch(self)
        self._forked(at_rest=True)

    def _forked(self, at_rest: bool) -> None:
        # A fork has copies of them, which are not its own to close; and multiprocessing clears what is registered.
        self._buffers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_registered = False

    def add(self, buffer: Closable) -> None:
        if not self._is_registered:
            atexit.register(self._close_all)
            self._is_registered = True
        self._buffers.add(buffer)

    def _close_all(self) -> None:
        with ExitStack() as closing:  # closes the others, too, when one of them cannot be flushed
            for buffer in list(self._buffers):
                closing.callback(buffer.close)


_at_exit = _AtExit()


def close_at_exit(buffer: Closable, file: ReplayFile) -> None:
    """Close `buffer` when the interpreter ends, and its file alone if it is gone before."""
    weakref.finalize(buffer, file.close).atexit = False
    _at_exit.add(buffer)

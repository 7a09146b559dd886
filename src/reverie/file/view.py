"""A replay file looked at without a buffer: its settings, its index, bytes on request, and how much it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reverie.file.lock import writing_process
from reverie.file.place import log_bytes
from reverie.file.reader import Reader
from reverie.file.records import final_names, sql_names
from reverie.file.replay import ReplayFile, read_settings
from reverie.file.settings import Settings, reserve_for
from reverie.file.state import sampler_entries
from reverie.file.stores import FinalStore, Store, make_stores
from reverie.index import EpisodeIndex


class Packed(NamedTuple):
    """What one column takes in the file, in bytes."""

    runs: int  # in sealed runs
    steps: int  # in rows of newest steps, those that a sealed run holds by now included
    finals: int  # in final observations


class Sums(NamedTuple):
    """How much of everything a replay file holds."""

    run_steps: int
    step_rows: int
    finals: int
    columns: dict[str, Packed]
    arrays_bytes: int


@dataclass(frozen=True, slots=True)
class View:
    """What a replay file holds at one moment."""

    file: ReplayFile
    settings: Settings  # with the residency that the file asks for
    index: EpisodeIndex
    store: Store
    finals: FinalStore

    @property
    def writer(self) -> str | None:
        """The process that writes to the file now, by name; None if there is none."""
        return writing_process(self.file.db.place)

    @property
    def log_bytes(self) -> int:
        """Bytes of the log beside the file."""
        return log_bytes(self.file.db.place) or 0

    def samplers(self) -> list[tuple[str, Any]]:
        """Return kind and state of each sampler that the file remembers; arrays stay where they are."""
        return sampler_entries(self.file.meta("samplers"))

    def sums(self) -> Sums:
        """Return how much the file holds. SQLite knows the length of a blob without reading it, so this is fast."""
        file = self.file
        names = dict(zip(file.columns, sql_names(file.columns), strict=True))
        ends = dict(zip(file.obs_columns, final_names(file.columns), strict=True))

        def one(sql: str) -> tuple[Any, ...]:
            return tuple(next(file.db.each(sql)))

        def lengths(table: str, columns: list[str]) -> tuple[Any, ...]:
            wanted = ", ".join(f"total(length({column}))" for column in columns)
            return tuple(int(value) for value in one(f"SELECT {wanted} FROM {table}"))

        runs = dict(zip(names, lengths("runs", list(names.values())), strict=True))
        steps = dict(zip(names, lengths("steps", list(names.values())), strict=True))
        finals = dict(zip(ends, lengths("episodes", list(ends.values())), strict=True))
        one_end = next(iter(ends.values()))  # a final observation has all of its columns, or there is none
        return Sums(
            int(one("SELECT total(steps) FROM runs")[0]),
            int(one("SELECT total(1) FROM steps")[0]),
            int(one(f"SELECT count({one_end}) FROM episodes")[0]),
            {name: Packed(runs[name], steps[name], finals.get(name, 0)) for name in names},
            int(one("SELECT total(length(data)) FROM arrays")[0]),
        )


@contextmanager
def viewing(path: Path) -> Iterator[View]:
    """Look at a replay file as it is at this moment, whatever a writer does meanwhile.

    Raises:
        FileError: it cannot be opened, or is damaged.
    """
    file = ReplayFile.open(path, "r")
    try:
        file.db.begin()
        settings, _ = read_settings(file, None)
        index_alone = settings._replace(residency="disk", max_bytes=None)
        reserve_for(file, index_alone)
        with file.db.reading():
            index = EpisodeIndex(settings.streams, settings.each)
            store, finals = make_stores("disk", settings.stored, index.runs, file)
        Reader(file, settings.stored, index, store, finals).load()
        yield View(file, settings, index, store, finals)
        file.db.roll_back()
    finally:
        file.close()

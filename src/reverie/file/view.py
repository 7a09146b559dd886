"""A replay file looked at without a buffer: its settings, its index, and bytes on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reverie.file.reader import Reader
from reverie.file.resume import read_settings
from reverie.file.settings import Settings, reserve_for
from reverie.file.stores import FinalStore, Store, make_stores
from reverie.file.tables import ReplayFile
from reverie.index import EpisodeIndex


@dataclass(frozen=True, slots=True)
class View:
    """What a replay file holds at one moment."""

    file: ReplayFile
    settings: Settings  # with the residency that the file asks for
    index: EpisodeIndex
    store: Store
    finals: FinalStore


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
            index = EpisodeIndex(settings.streams, settings.capacity // settings.streams)
            store, finals = make_stores("disk", settings.stored, index.runs, file)
        Reader(file, settings.stored, index, store, finals).load()
        yield View(file, settings, index, store, finals)
        file.db.roll_back()
    finally:
        file.close()

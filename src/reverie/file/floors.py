"""Where a ring that was made larger begins: the oldest live step of each stream, which its runs do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.file.records import RunRecord
from reverie.file.tables import Tables
from reverie.index import EpisodeIndex, Runs
from reverie.spec import Field
from reverie.store import pack
from reverie.values import MOST_ID, integers


def read_floors(file: Tables, streams: int) -> list[int]:
    """Return of each stream an id that no live step lies before; 0 where the file notes none.

    Raises:
        FileError: what it notes is no such list.
    """
    with file.db.reading():
        return checked_floors(file.meta("floors", []), streams)


def checked_floors(value: Any, streams: int) -> list[int]:
    """Return what a file has under "floors", which may be nothing.

    Raises:
        ValueError: it is no list of ids, one for each stream.
    """
    return integers(value, streams, MOST_ID) if value else [0] * streams


def put_floors(file: Tables, floors: Sequence[int]) -> None:
    """Note the floors of all streams, inside of a transaction; the file is of format 3 from then on.

    A file that never had any, and needs none, stays of the version that it is of.
    """
    if any(floors):
        file.make_labels()
        file.db.do("PRAGMA user_version = 3")
    if any(floors) or file.meta("floors", []):
        file.put_meta("floors", list(floors))


def floors_of(index: EpisodeIndex) -> list[int]:
    """Return the floors of all streams."""
    ends = zip(index.tail.tolist(), index.head.tolist(), strict=True)
    return [floor_of(index.runs, tail, head) for tail, head in ends]


def floor_of(runs: Runs, tail: int, head: int) -> int:
    """Return the oldest live id of a stream if its runs alone would tell of an older one; else 0."""
    first, newest = runs.first_of(tail), runs.first_of(head - 1)
    told = max(head - runs.capacity, first if first < newest else 0)
    return tail if told < tail < head else 0


def put_filler(file: Tables, fields: Mapping[str, Field], runs: Runs, stream: int, stop: int) -> int:
    """Put a run of zeros that ends where the newest run of a stream begins, and return its number.

    A reader takes a stream to begin at id 0 unless a sealed run says where. Where all live steps are those of the
    newest run, this one says so.
    """
    first = runs.first_of(stop - 1)
    run = RunRecord(runs.of_id(stream, first)[0], stream, first, stop - first)
    packed = {
        name: pack(np.zeros((run.steps, *field.shape), field.dtype))  # time ...
        for name, field in fields.items()
    }
    file.put_run(run, packed)
    return run.number

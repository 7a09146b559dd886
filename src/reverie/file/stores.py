"""The residencies: which store keeps the bytes of a buffer, in memory or in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting
from reverie.file.tables import Tables
from reverie.index import Runs
from reverie.spec import Column
from reverie.store import Chunks, Finals, PackedFinals, PackedRing, Ring
from reverie.values import shown

Ints = npt.NDArray[np.int64]

RESIDENCIES = ("ram", "packed", "disk")

Store = Ring | PackedRing
FinalStore = Finals | PackedFinals


class FileChunks:
    """Sealed runs in the replay file: all columns of them. Memory keeps each stream's newest sealed run.

    The writer puts a run into the file inside of a transaction. Until that is through, the run is read from memory.

    Args:
        file: where the runs are.
        each: runs of each stream.
    """

    __slots__ = ("_each", "_file", "_newest", "nbytes")
    in_file = True

    def __init__(self, file: Tables, each: int) -> None:
        self._file = file
        self._each = each
        self._newest: dict[int, tuple[int, Mapping[str, bytes]]] = {}  # stream -> number, packed columns
        self.nbytes = 0

    def packs(self, column: Column) -> bool:
        """Every column is kept here."""
        return True

    def put(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep the columns of a run until the stream's next one."""
        stream = number // self._each
        newest = self._newest.get(stream, (-1, {}))
        self._newest[stream] = number, packed  # at no time there is none
        self.nbytes += self.size(number) - sum(map(len, newest[1].values()))

    def change(self, number: int, packed: Mapping[str, bytes]) -> None:
        """Keep new columns of a run if memory has it; what it has may not be in the file yet."""
        if self._newest.get(number // self._each, (-1, {}))[0] == number:
            self.put(number, packed)

    def get(self, name: str, numbers: Sequence[int]) -> list[bytes]:
        """Return one column of these runs."""
        found = []
        for number in numbers:
            newest = self._newest.get(number // self._each)
            newer = newest is not None and newest[0] == number
            found.append(newest[1][name] if newer and newest else self._file.chunk(name, number))
        return found

    def drop(self, number: int) -> None:
        """Forget a run that memory holds."""
        stream = number // self._each
        newest = self._newest.get(stream)
        if newest is not None and newest[0] == number:
            self.nbytes -= self.size(number)
            del self._newest[stream]

    def size(self, number: int) -> int:
        """Return how many bytes of memory a run takes."""
        newest, packed = self._newest.get(number // self._each, (-1, {}))
        return sum(map(len, packed.values())) if newest == number else 0

    def recount(self) -> None:
        """Count the bytes anew."""
        self.nbytes = sum(self.size(number) for number, _ in self._newest.values())


def check_residency(residency: object, path: bool) -> str:
    """Return a residency's name, or raise BadSetting."""
    if not isinstance(residency, str) or residency not in RESIDENCIES:
        raise BadSetting(
            f"residency: wanted one of {list(RESIDENCIES)}, got {shown(residency)}; choose where the bytes live"
        )
    if residency == "disk" and not path:
        raise BadSetting("residency: wanted 'disk' only with a path, got no path; pass path='name.replay'")
    return residency


def step_bytes(residency: str, columns: Sequence[Column]) -> int:
    """Return what one step takes in memory, as far as that is known beforehand."""
    if residency == "disk":
        return 0
    return Ring.step_bytes(columns) if residency == "ram" else PackedRing.step_bytes(columns)


def make_stores(
    residency: str, columns: Sequence[Column], runs: Runs, file: Tables | None
) -> tuple[Store, FinalStore]:
    """Return the store of steps and that of final observations.

    Args:
        residency: one of RESIDENCIES.
        columns: name and field of every stored column.
        runs: how the streams are cut.
        file: the replay file, if there is one.
    """
    obs = [column for column in columns if column.is_obs]
    if residency == "ram":
        return Ring(columns, runs), Finals(obs, runs.streams * (runs.capacity + 1))
    if residency == "packed":
        return PackedRing(columns, runs), PackedFinals(obs)
    assert file is not None
    chunks: Chunks = FileChunks(file, runs.each)
    return PackedRing(columns, runs, chunks), PackedFinals(obs, file.final)


def put_ended(finals: FinalStore, ended: Ints, final: Mapping[str, Any]) -> Ints:
    """Store the final observation of every lane that ended; return the places, -1 for none."""
    places = np.empty(len(ended), np.int64)
    places.fill(-1)
    for lane in ended.nonzero()[0].tolist():
        places[lane] = finals.put({name: rows[lane] for name, rows in final.items()})
    return places

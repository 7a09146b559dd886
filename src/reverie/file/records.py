"""The records of a replay file, which are the rows of three of its tables, and their checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from reverie.index import RUN

Blobs = Mapping[str, bytes]  # packed values by column

# How the numbers of a record are laid out for its checksum: little-endian int64, and a float64 for the return.
RUN_FORM, STEP_FORM, EPISODE_FORM = "<4q", "<4q", "<6qd"


class RunRecord(NamedTuple):
    """The numbers of a sealed run."""

    number: int
    stream: int
    first: int  # id of its first step
    steps: int

    @property
    def stop(self) -> int:
        """One past the id of its last step."""
        return self.first + self.steps


class StepRecord(NamedTuple):
    """A step of a run that is not sealed yet."""

    stream: int
    id: int
    ended: int
    values: Blobs
    final: Blobs | None

    @property
    def number(self) -> int:
        """The key of the record: it takes the place of a step that a sealed run holds by now."""
        return self.stream * RUN + self.id % RUN


class EpisodeRecord(NamedTuple):
    """An episode that has live steps."""

    number: int  # counts the episodes of all streams as they began
    stream: int
    ordinal: int  # counts those of its stream
    start: int
    stop: int
    ended: int
    total: float
    final: Blobs | None


def checksums(form: str, numbers: Sequence[float], blobs: Iterable[bytes | None]) -> bytes:
    """Return the checksums of a record as little-endian uint32: of its numbers, then of each of its blobs.

    They are CRC-32, as zlib has it. That of a blob continues that of the numbers, so that a blob in a wrong record is
    noticed. NULL has the complement of the numbers' own.
    """
    first = crc32(struct.pack(form, *numbers))
    crcs = [first]
    for blob in blobs:
        crcs.append(first ^ 0xFFFFFFFF if blob is None else crc32(blob, first))
    return struct.pack(f"<{len(crcs)}I", *crcs)


def wrong_checksums(
    form: str,
    numbers: Sequence[Any],
    crcs: Any,
    blobs: Sequence[Any] = (),
    required: int = 0,
    places: Sequence[int] | None = None,
) -> set[int] | None:
    """Return which checksums of a record are wrong: 0 for that of its numbers, 1 + n for that of its blob n.

    Args:
        form: of the numbers.
        numbers, crcs, blobs: what the file has; any of them may be of another kind than it should be.
        required: how many of the blobs cannot be NULL.
        places: where among the record's blobs these are; None means that these are all.

    Returns:
        None if it is no such record.
    """
    try:
        if None in blobs[:required]:
            return None
        wanted = checksums(form, numbers, blobs)
        if places is not None:
            crcs = b"".join([crcs[4 * at : 4 * at + 4] for at in (0, *(1 + place for place in places))])
        if wanted == crcs:
            return set()
        if len(wanted) != len(crcs):
            return None
        return {at for at in range(len(wanted) // 4) if wanted[4 * at :][:4] != crcs[4 * at :][:4]}
    except (struct.error, TypeError):
        return None


def text_checksum(name: str, value: str) -> int:
    """Return the CRC-32 of a named text."""
    return crc32(f"{name}\0{value}".encode())


def array_checksum(name: str, form: str, data: bytes) -> int:
    """Return the CRC-32 of a named array: that of its form as a named text, continued over its bytes."""
    return crc32(data, text_checksum(name, form))

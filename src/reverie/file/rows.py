"""The checksums of a replay file's rows: CRC-32, as zlib has it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from zlib import crc32

# How the numbers of a row are laid out for its checksum: little-endian int64, and a float64 for the return.
RUN_FORM, STEP_FORM, EPISODE_FORM = "<4q", "<4q", "<6qd"


def checksums(form: str, numbers: Sequence[float], blobs: Iterable[bytes | None]) -> bytes:
    """Return the checksums of a row as little-endian uint32: of its numbers, then of each of its blobs.

    The CRC-32 of a blob continues that of the numbers, so that a blob in a wrong row is noticed. NULL has the
    complement of the numbers' own.
    """
    first = crc32(struct.pack(form, *numbers))
    crcs = [first]
    for blob in blobs:
        crcs.append(first ^ 0xFFFFFFFF if blob is None else crc32(blob, first))
    return struct.pack(_UINTS[len(crcs)], *crcs)


_UINTS = [f"<{count}I" for count in range(2000)]  # SQLite has no more columns


def text_checksum(name: str, value: str) -> int:
    """Return the CRC-32 of a named text."""
    return crc32(f"{name}\0{value}".encode())


def array_checksum(name: str, form: str, data: bytes) -> int:
    """Return the CRC-32 of a named array: that of its form as a named text, continued over its bytes."""
    return crc32(data, text_checksum(name, form))

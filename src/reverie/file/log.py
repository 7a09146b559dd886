"""SQLite's log beside a replay file: whether it belongs to that file, and whether it is missing.

A log holds pages that are to replace pages of its file, and says nothing about the file that they are made for.
So a number in the head of the first page, SQLite's `schema_version`, tells. Before a log is emptied into its file
the number becomes a new *base*, drawn at random, and even. The first transaction of the next log, its *mark*,
adds one to it: the first page in that log names the base on which it is built.
"""

from __future__ import annotations

import os
import secrets
import struct
from pathlib import Path
from typing import IO

from reverie.file.place import borrow, give_back

MAGIC = b"SQLite format 3\0"
COOKIE = slice(40, 44)  # where schema_version stands in the first page
LEAST_BASE = 2**16  # smaller numbers count changes of tables, as SQLite means them
HEADER, FRAME = 32, 24  # bytes at the beginning of a log, and in front of each page in it


def new_base() -> int:
    """Return a number for a file whose log is about to be empty."""
    return LEAST_BASE + 2 * secrets.randbelow((2**31 - LEAST_BASE) // 2)


def mark_on(base: int) -> int | None:
    """Return the number that a log begins with which is built on `base`, or None if it has begun already."""
    return base + 1 if base % 2 == 0 else None


def is_base(number: int) -> bool:
    """Whether no log has begun since the number was drawn, or what began is not there."""
    return number >= LEAST_BASE and number % 2 == 0


def is_foreign(place: Path) -> bool:
    """Whether the log beside a file was written for another file, such as one that lay there before.

    Only a log that is sure to be another's counts: a file that a killed process has left, at whatever instant, or
    that lost power, has its own. The caller sees to it that nobody writes.
    """
    try:
        with open(f"{place}-wal", "rb", buffering=0) as log:
            header = log.read(HEADER)
            if len(header) < HEADER:
                return False
            magic, _, size, _, *salts, _, _ = struct.unpack(">8I", header)
            if magic & ~1 != 0x377F0682 or size not in {1 << bit for bit in range(9, 17)}:
                return False
            first = log.read(FRAME + size)
            number = _number_of(place)
            if number is None or len(first) < FRAME + size or not _begins_with(header, first):
                return False
            begun = int.from_bytes(first[FRAME:][COOKIE], "big")
            # Of these numbers the file may have any: pages move into it one by one, and stay in the log meanwhile.
            return number not in (begun, begun - 1) and not _later(log, size, salts, number)
    except OSError:
        return False


def _begins_with(header: bytes, frame: bytes) -> bool:
    """Whether SQLite takes the first frame of a log for valid, and it holds a whole transaction on the first page."""
    page, committed = struct.unpack(">2I", frame[:8])
    if page != 1 or not committed or frame[8:16] != header[16:24]:
        return False
    order = "<" if header[3] % 2 == 0 else ">"
    sums = _sums(header[:24], order, (0, 0))
    if struct.pack(">2I", *sums) != header[24:32]:
        return False
    return struct.pack(">2I", *_sums(frame[:8] + frame[FRAME:], order, sums)) == frame[16:24]


def _sums(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of SQLite's logs, going on from `sums`."""
    one, two = sums
    for left, right in struct.iter_unpack(f"{order}2I", data):
        one = (one + left + two) & 0xFFFFFFFF
        two = (two + right + one) & 0xFFFFFFFF
    return one, two


def _later(log: IO[bytes], size: int, salts: list[int], number: int) -> bool:
    """Whether a version of the first page, in a frame of this log, has a number."""
    wanted = struct.pack(">2I", *salts)
    at = log.seek(HEADER)
    while len(frame := log.read(FRAME)) == FRAME and frame[8:16] == wanted:
        if frame[:4] == b"\0\0\0\1" and int.from_bytes(log.read(COOKIE.stop)[COOKIE], "big") == number:
            return True
        at = log.seek(at + FRAME + size)
    return False


def _number_of(place: Path) -> int | None:
    """Return the number in the first page of a file as it is without its log, or None if it is no database."""
    handle = borrow(place, write=False)
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        head = os.read(handle, 100)
    finally:
        give_back(handle, write=False)
    return int.from_bytes(head[COOKIE], "big") if head.startswith(MAGIC) and len(head) == 100 else None

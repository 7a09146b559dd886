"""Bytes in memory: plain arrays in ring order, packed runs, final observations.

A store knows slots and bytes; which steps are live, and which episode they belong to, is the index's business. It
promises:

- `Ring` and `PackedRing` answer alike: what was written last to a slot is what is read.
- Packed bytes unpack to the array that was asked for, or raise ValueError: never to more.
- `reserve` refuses what memory cannot hold before any array is made.
"""

from reverie.store.codec import DELTA, LEAST_STEP_BYTES, PLAIN, Helpers, pack, pack_step, unpack, unpack_step
from reverie.store.finals import PackedFinals
from reverie.store.memory import ALIGNMENT, RECYCLE_FROM, Blocks, check_room, format_bytes, leased, reserve
from reverie.store.packed import Chunks, PackedRing
from reverie.store.plain import Finals, Ring

__all__ = [
    "ALIGNMENT",
    "DELTA",
    "LEAST_STEP_BYTES",
    "PLAIN",
    "RECYCLE_FROM",
    "Blocks",
    "Chunks",
    "Finals",
    "Helpers",
    "PackedFinals",
    "PackedRing",
    "Ring",
    "check_room",
    "format_bytes",
    "leased",
    "pack",
    "pack_step",
    "reserve",
    "unpack",
    "unpack_step",
]

"""Bytes in memory: plain arrays in ring order, packed runs, final observations."""

from reverie.store.codec import DELTA, LEAST_STEP_BYTES, PLAIN, pack, pack_step, unpack, unpack_step
from reverie.store.finals import PackedFinals
from reverie.store.memory import ALIGNMENT, RECYCLE_FROM, Blocks, check_room, format_bytes, reserve
from reverie.store.packed import Chunks, PackedRing
from reverie.store.parallel import Helpers
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
    "pack",
    "pack_step",
    "reserve",
    "unpack",
    "unpack_step",
]

"""The replay file: one SQLite database that holds a buffer whole. `docs/format.md` says what is in it.

This room knows the file and the memory that is made from it; it never decides what a buffer does. It promises:

- Every change is one transaction, written before memory changes: the file is always as it was after one of them.
- After a flush the file alone, without its log, holds everything and survives a loss of power.
- One process writes, whatever names the file has; any number read along, each call of one moment.
- Nothing is believed: what a file holds is checked against checksums, limits and the recovery rule, which stands in
  `recovery` alone. Whatever is wrong is a FileError that names a remedy.
- A copy is whole or not there. A file of another size takes the place of the old one as a whole.
"""

from reverie.file.contents import Told
from reverie.file.copies import copy_file, copy_memory, snapshot
from reverie.file.labels import label_text
from reverie.file.reader import Follower, Reader
from reverie.file.replay import (
    FORMATS,
    Closable,
    ReplayFile,
    close_at_exit,
    make_file,
    read_settings,
    removed_on_error,
)
from reverie.file.rings import compact_file, resize_file, resized, save_resized
from reverie.file.settings import Settings, check_settings, reserve_for
from reverie.file.state import (
    Remembered,
    SamplerStates,
    generator,
    generator_state,
    kind_of,
    recall,
    remember,
    remember_rest,
)
from reverie.file.stores import FinalStore, Store, check_residency, make_stores, put_ended
from reverie.file.stretches import Shown, StretchFiler, StretchRuns, write_stretches
from reverie.file.verdict import Verdict, verdict_on
from reverie.file.verify import LACKS_LOG, verify_file
from reverie.file.view import Sums, View, viewing
from reverie.file.writer import Writer

__all__ = [
    "FORMATS",
    "LACKS_LOG",
    "Closable",
    "FinalStore",
    "Follower",
    "Reader",
    "Remembered",
    "ReplayFile",
    "SamplerStates",
    "Settings",
    "Shown",
    "Store",
    "StretchFiler",
    "StretchRuns",
    "Sums",
    "Told",
    "Verdict",
    "View",
    "Writer",
    "check_residency",
    "check_settings",
    "close_at_exit",
    "compact_file",
    "copy_file",
    "copy_memory",
    "generator",
    "generator_state",
    "kind_of",
    "label_text",
    "make_file",
    "make_stores",
    "put_ended",
    "read_settings",
    "recall",
    "remember",
    "remember_rest",
    "removed_on_error",
    "reserve_for",
    "resize_file",
    "resized",
    "save_resized",
    "snapshot",
    "verdict_on",
    "verify_file",
    "viewing",
    "write_stretches",
]

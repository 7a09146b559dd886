"""The replay file: SQLite, its tables, its one writer, its readers, copies, and whether it is whole."""

from reverie.file.contents import Told
from reverie.file.copies import copy_file, copy_memory, snapshot
from reverie.file.lock import writing_process
from reverie.file.place import log_bytes
from reverie.file.reader import Follower, Reader
from reverie.file.replay import (
    FORMAT,
    Closable,
    ReplayFile,
    close_at_exit,
    make_file,
    read_settings,
    removed_on_error,
)
from reverie.file.settings import Settings, check_settings, reserve_for
from reverie.file.state import (
    Remembered,
    SamplerStates,
    generator,
    generator_state,
    recall,
    remember,
    remember_rest,
    sampler_entries,
)
from reverie.file.stores import FinalStore, Store, check_residency, make_stores, put_ended
from reverie.file.verify import LACKS_LOG, verify_file
from reverie.file.view import Sums, View, sums, viewing
from reverie.file.writer import Writer

__all__ = [
    "FORMAT",
    "LACKS_LOG",
    "Closable",
    "FinalStore",
    "Follower",
    "Reader",
    "Remembered",
    "ReplayFile",
    "SamplerStates",
    "Settings",
    "Store",
    "Sums",
    "Told",
    "View",
    "Writer",
    "check_residency",
    "check_settings",
    "close_at_exit",
    "copy_file",
    "copy_memory",
    "generator",
    "generator_state",
    "log_bytes",
    "make_file",
    "make_stores",
    "put_ended",
    "read_settings",
    "recall",
    "remember",
    "remember_rest",
    "removed_on_error",
    "reserve_for",
    "sampler_entries",
    "snapshot",
    "sums",
    "verify_file",
    "viewing",
    "writing_process",
]

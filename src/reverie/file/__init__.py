"""The replay file: SQLite, its tables, its one writer, its readers, copies, and whether it is whole."""

from reverie.file.copies import copy_file, copy_memory, snapshot
from reverie.file.following import Follower
from reverie.file.lock import writing_process
from reverie.file.place import log_bytes
from reverie.file.reader import Reader
from reverie.file.resume import (
    close_at_exit,
    generator,
    make_file,
    read_settings,
    recall,
    remember,
    remember_rest,
    removed_on_error,
)
from reverie.file.settings import Settings, check_settings, reserve_for
from reverie.file.state import Remembered, SamplerStates, generator_state, sampler_entries
from reverie.file.stores import FinalStore, Store, check_residency, make_stores, put_ended
from reverie.file.survey import LACKS_LOG, Sums, sums
from reverie.file.tables import FORMAT, ReplayFile
from reverie.file.verify import verify_file
from reverie.file.view import View, viewing
from reverie.file.writer import Told, Writer

__all__ = [
    "FORMAT",
    "LACKS_LOG",
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

"""A replay file: made, opened for its one writer or for reading, its settings, and closed when the program ends."""

from __future__ import annotations

import atexit
import os
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reverie.checks import seed_number
from reverie.errors import FileError, FileTaken
from reverie.file.lock import NEW, WriterLock, discard_left, put_in_place, writing_process
from reverie.file.log import is_foreign
from reverie.file.place import discard, existing, sync_folder, vacant
from reverie.file.records import check_names, is_schema
from reverie.file.settings import SETTINGS, Settings, settings_from
from reverie.file.sqlite import Database
from reverie.file.state import generator, generator_from, generator_state
from reverie.file.tables import Tables
from reverie.process import watch

APPLICATION_ID = 0x72657665  # "reve" in ASCII
FORMATS = 1, 2, 3  # the second has a table of metadata, the third also notes where streams begin


class ReplayFile(Tables):
    """An open replay file.

    Args:
        db: the connection.
        columns: flat names of the stored columns in the order of the tables'.
        lock: held by its writer.
    """

    def __init__(self, db: Database, columns: Sequence[str], lock: WriterLock | None = None) -> None:
        super().__init__(db, columns)
        self._lock = lock
        self.closed = False

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any], columns: Sequence[str]) -> ReplayFile:
        """Make a new file and open it for writing.

        Raises:
            FileTaken: there is something at `path` already.
            FileError: it cannot be made.
        """
        place = vacant(path)
        # Made whole beside its place, then linked there: a process killed meanwhile leaves nothing half made.
        draft = place.with_name(f"{place.name}{NEW}{os.getpid()}")
        try:
            discard(draft)  # of a process that had this number and was killed
            discard_left(place.parent, f"{place.name}{NEW}")
            db = Database(path, "new", draft)
            try:
                file = cls(db, columns)
                db.do(f"PRAGMA application_id = {APPLICATION_ID}")
                db.do(f"PRAGMA user_version = {FORMATS[0]}")
                with db.writing():
                    list(map(db.do, file.schema))
                    db.name_base()
                    names = {"columns": list(file.columns), "obs_columns": list(file.obs_columns)}
                    for name, value in {**meta, **names}.items():
                        file.put_meta(name, value)
                db.do("PRAGMA journal_mode = WAL")
            finally:
                db.close()
            lock = put_in_place(draft, path, place)
        except FileError:
            raise
        except FileExistsError as error:
            raise FileTaken(
                f"{path}: wanted a path that is free, got one taken meanwhile; choose another path"
            ) from error
        except OSError as error:
            raise FileError(
                f"{path}: wanted to make a file, got {error.strerror}; choose another place"
            ) from error
        finally:
            discard(draft)
        try:
            sync_folder(place.parent)
            return cls._open(Database(path, "r+", place), lock)
        except BaseException:
            discard(place)
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path, mode: str) -> ReplayFile:
        """Open an existing file and check that it is one.

        Raises:
            FileMissing: there is none.
            FileError: it is none, a newer one, or damaged; its log belongs to another file; or it cannot be
                reached or locked.
        """
        place = existing(path)
        lock = WriterLock(path, place) if mode == "r+" else None
        try:
            if _has_foreign_log(place, lock is not None):
                raise FileError(
                    f"{path}: wanted the log of this file, got that of another file at {place.name}-wal; "
                    f"remove {place.name}-wal if this file is what you want, such as one restored from a copy"
                )
            return cls._open(Database(path, mode, place), lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _open(cls, db: Database, lock: WriterLock | None) -> ReplayFile:
        path = db.path
        try:
            if db.one("PRAGMA application_id") != APPLICATION_ID:
                raise FileError(f"{path}: wanted a replay file, got another kind of file; check the path")
            version = db.one("PRAGMA user_version")
            if version not in FORMATS:
                raise FileError(
                    f"{path}: wanted format version 1, 2 or 3, got {version}; "
                    f"open it with the version of reverie that wrote it, or a newer one"
                )
            # Not a row is read of what may be a view without an end, nor a name used in SQL that is none.
            tables = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid LIMIT 20"
            found = db.rows(tables)
            labelled = any(row[1] == "labels" for row in found)
            if labelled != (version >= FORMATS[1]):  # a writer may have made the table between the two looks
                found, labelled = db.rows(tables), db.one("PRAGMA user_version") >= FORMATS[1]
            bare = cls(db, ["obs", "reward"])
            known = is_schema(found, bare.schema[:2], labelled)
            with db.reading():
                names = check_names(bare.meta("columns"), bare.meta("obs_columns")) if known else None
            file = bare if names is None else cls(db, names, lock)
            if not is_schema(found, file.schema, labelled):
                raise db.damaged("its tables are not those of a replay file")
            if db.mode == "r+":
                db.keep_log()
        except BaseException:
            db.close()
            raise
        return file

    def close(self) -> None:
        """Close it, and let others write. Closing twice is fine."""
        self.db.close()
        if self._lock is not None:
            self._lock.release()
        self.closed = True

    def lacks_log(self) -> bool:
        """Whether the log of a file that was not closed is missing: newest steps may be missing with it."""
        return self.db.lacks_log and writing_process(self.db.place) is None

    def remove(self) -> None:
        """Remove it: it was made for a buffer that came to nothing."""
        discard(self.db.place)
        self.close()


def _has_foreign_log(place: Path, is_alone: bool) -> bool:
    """Whether the log beside a file is another's; while somebody writes, nobody but the one who does can tell."""
    # Looked at twice: a writer may come and go between two looks.
    return all(is_foreign(place) and (is_alone or writing_process(place) is None) for _ in range(2))


# --- settings ------------------------------------------------------------------------------------------------


def make_file(path: Path, settings: Settings, rng: np.random.Generator, copy_of: str = "") -> ReplayFile:
    """Return a new replay file of an empty buffer, open for writing.

    Args:
        path: where.
        settings: of the buffer.
        rng: its generator.
        copy_of: the identity of the buffer that the file is to be a copy of.
    """
    # Narrow columns first: SQLite has to walk through what stands before the one that is read.
    columns = [column.name for column in sorted(settings.stored, key=lambda column: column.field.nbytes)]
    meta = {
        **settings.to_json(),
        "identity": uuid.uuid4().hex,
        "copy_of": copy_of,
        "clean": True,
        "synced": 0,
        "rng": generator_state(rng),
        "samplers": [],
        "notes": {},
        "ends": [],
    }
    file = ReplayFile.create(path, meta, columns)
    file.db.limit_row(settings.most_record_bytes)
    return file


@contextmanager
def removed_on_error(file: ReplayFile | None) -> Iterator[None]:
    """Remove a new file again if the buffer that it was made for cannot be made."""
    try:
        yield
    except BaseException:
        if file is not None:
            file.remove()
        raise


def read_settings(
    file: ReplayFile, residency: str | None, seed: int | None = None
) -> tuple[Settings, np.random.Generator]:
    """Return a file's settings, and its generator to a writer.

    Args:
        file: the file. A reader's generator is not the file's: any number of them would draw alike.
        residency: replaces the file's unless None.
        seed: of another generator; None means the file's for a writer, and a random one for a reader.

    Raises:
        FileError: the settings are none, or do not go with the tables.
    """
    meta = {name: file.meta(name) for name in (*SETTINGS, "rng")}
    with file.db.reading():
        settings = settings_from(meta, residency)
        if not fits_tables(settings, file):
            raise ValueError("its spec has other columns than its tables")
        rng = generator_from(meta["rng"])
    file.db.limit_row(settings.most_record_bytes)
    if seed is not None or file.db.mode == "r":
        rng = generator(seed_number(seed))
    return settings, rng


def fits_tables(settings: Settings, file: ReplayFile) -> bool:
    """Whether the tables of a file have the columns of a spec."""
    return sorted(column.name for column in settings.stored) == sorted(file.columns)


# --- the end of the program ----------------------------------------------------------------------------------


class Closable(Protocol):
    """What has to be closed before the process ends."""

    def close(self) -> None:
        """Close it."""


class _AtExit:
    """Closes the buffers of this process when the interpreter ends."""

    def __init__(self) -> None:
        watch(self._forked)
        self._forked(at_rest=True)

    def _forked(self, at_rest: bool) -> None:
        # A fork has copies of them, which are not its own to close; and multiprocessing clears what is registered.
        self._buffers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_registered = False

    def add(self, buffer: Closable) -> None:
        if not self._is_registered:
            atexit.register(self._close_all)
            self._is_registered = True
        self._buffers.add(buffer)

    def _close_all(self) -> None:
        with ExitStack() as closing:  # closes the others, too, when one of them cannot be flushed
            for buffer in list(self._buffers):
                closing.callback(buffer.close)


_at_exit = _AtExit()


def close_at_exit(buffer: Closable, file: ReplayFile) -> None:
    """Close `buffer` when the interpreter ends, and its file alone if it is gone before."""
    weakref.finalize(buffer, file.close).atexit = False
    _at_exit.add(buffer)

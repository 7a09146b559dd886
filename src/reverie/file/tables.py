"""The replay file: its tables, and the checksum of every row. `docs/format.md` is the promise kept here."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from reverie.errors import FileError, FileTaken
from reverie.file.lock import WriterLock, put_in_place, writing_process
from reverie.file.log import is_foreign
from reverie.file.named import named_arrays, named_value, put_named_arrays, put_named_value
from reverie.file.place import discard, existing, sync_folder, vacant
from reverie.file.rows import EPISODE_FORM, RUN_FORM, STEP_FORM, checksums
from reverie.file.schema import check_names, final_names, is_schema, schema_of, sql_names
from reverie.file.sqlite import Database
from reverie.index import RUN
from reverie.spec import is_obs_name

APPLICATION_ID = 0x72657665  # "reve" in ASCII
FORMAT = 1

Blobs = Mapping[str, bytes]


class Run(NamedTuple):
    """The numbers of a sealed run."""

    number: int
    stream: int
    first: int  # id of its first step
    steps: int


class StepRow(NamedTuple):
    """A step of a run that is not sealed yet."""

    stream: int
    id: int
    ended: int
    values: Blobs
    final: Blobs | None


class EpisodeRow(NamedTuple):
    """An episode that has live steps."""

    number: int  # counts the episodes of all streams as they began
    stream: int
    ordinal: int  # counts those of its stream
    start: int
    stop: int
    ended: int
    total: float
    final: Blobs | None


class ReplayFile:
    """An open replay file. Whatever is read has been checked against its checksum.

    Args:
        db: the connection.
        columns: flat names of the stored columns in the order of the tables'.
    """

    def __init__(self, db: Database, columns: Sequence[str]) -> None:
        self.db = db
        self._lock: WriterLock | None = None
        self.closed = False
        self.columns = tuple(columns)
        self.obs_columns = tuple(filter(is_obs_name, columns))
        quoted = sql_names(columns)
        self._quoted = dict(zip(self.columns, quoted, strict=True))
        finals = final_names(columns)
        self._all_values, self._all_finals = ", ".join(quoted), ", ".join(finals)
        self.schema = schema_of(columns)
        self._put_run = _insert("runs", 5 + len(quoted))
        self._put_step = _insert("steps", 5 + len(quoted) + len(finals))
        self._put_episode = _insert("episodes", 8 + len(finals))

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any], columns: Sequence[str]) -> ReplayFile:
        """Make a new file and open it for writing.

        Raises:
            FileTaken: there is something at `path` already.
            FileError: it cannot be made.
        """
        place = vacant(path)
        # Made whole beside its place, then linked there: a process killed meanwhile leaves nothing half made.
        draft = place.with_name(f"{place.name}.new-{os.getpid()}")
        try:
            discard(draft)  # of a process that had this number and was killed
            db = Database(path, "new", draft)
            try:
                file = cls(db, columns)
                db.do(f"PRAGMA application_id = {APPLICATION_ID}")
                db.do(f"PRAGMA user_version = {FORMAT}")
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
            file = cls._open(Database(path, "r+", place))
        except BaseException:
            discard(place)
            lock.release()
            raise
        file._lock = lock
        return file

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
            file = cls._open(Database(path, mode, place))
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        file._lock = lock
        return file

    @classmethod
    def _open(cls, db: Database) -> ReplayFile:
        path = db.path
        try:
            if db.one("PRAGMA application_id") != APPLICATION_ID:
                raise FileError(f"{path}: wanted a replay file, got another kind of file; check the path")
            version = db.one("PRAGMA user_version")
            if version != FORMAT:
                raise FileError(
                    f"{path}: wanted format version {FORMAT}, got {version}; "
                    f"open it with the version of reverie that wrote it, or a newer one"
                )
            # Not a row is read of what may be a view without an end, nor a name used in SQL that is none.
            found = db.rows("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid LIMIT 20")
            bare = cls(db, ["obs", "reward"])
            known = is_schema(found, bare.schema[:2])
            with db.reading():
                names = check_names(bare.meta("columns"), bare.meta("obs_columns")) if known else None
            file = bare if names is None else cls(db, names)
            if not is_schema(found, file.schema):
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

    # --- named values and arrays -----------------------------------------------------------------------

    def meta(self, name: str, default: Any = None) -> Any:
        """Return a named JSON value, or `default` if that is given and there is none."""
        return named_value(self.db, name, default)

    def put_meta(self, name: str, value: Any) -> None:
        """Set a named JSON value.

        Raises:
            BadSetting: it is too long to be read again.
        """
        put_named_value(self.db, name, value)

    def names(self) -> list[str]:
        """Return the names of all JSON values."""
        return [name for (name,) in self.db.each("SELECT name FROM meta ORDER BY name")]

    def arrays(self) -> dict[str, tuple[str, bytes]]:
        """Return all named arrays: for each its dtype and shape as a text, and its packed bytes."""
        return named_arrays(self.db)

    def put_arrays(self, arrays: Mapping[str, tuple[str, bytes]]) -> None:
        """Replace all named arrays."""
        put_named_arrays(self.db, arrays)

    # --- runs ------------------------------------------------------------------------------------------

    def put_run(self, run: Run, packed: Blobs) -> None:
        """Put a sealed run in place of the one that had its number."""
        blobs = [packed[name] for name in self.columns]
        self.db.do(self._put_run, (*run, self.checksums_of(run, packed), *blobs))

    def checksums_of(self, run: Run, packed: Blobs) -> bytes:
        """Return the checksums that a run will have."""
        return checksums(RUN_FORM, run, [packed[name] for name in self.columns])

    def runs(self) -> list[tuple[Run, bytes]]:
        """Return the numbers of all runs, in order, and their checksums."""
        found = []
        for row in self._ascending(
            "SELECT number, stream, first, steps, checksums FROM runs ORDER BY number"
        ):
            self._check("run", RUN_FORM, row[:4], row[4])
            found.append((Run(*row[:4]), row[4]))
        return found

    def run(self, number: int) -> tuple[Run, Blobs]:
        """Return a run with all its columns."""
        row = self._row_of_run(number, self._all_values)
        run, crcs, blobs = Run(*row[:4]), row[4], row[5:]
        self._check("run", RUN_FORM, run, crcs, dict(enumerate(blobs)), len(blobs))
        return run, dict(zip(self.columns, blobs, strict=True))

    def chunk(self, name: str, number: int) -> bytes:
        """Return one column of a run."""
        *numbers, crcs, packed = self._row_of_run(number, self._quoted[name])
        place = self.columns.index(name)
        self._check("run", RUN_FORM, numbers, crcs, {place: packed}, place + 1)
        return bytes(packed)

    def drop_run(self, number: int) -> None:
        """Forget a run."""
        self.db.do("DELETE FROM runs WHERE number = ?", (number,))

    def has_run(self, number: int) -> bool:
        """Whether there is a run of this number."""
        return bool(self.db.rows("SELECT 1 FROM runs WHERE number = ?", (number,)))

    def _row_of_run(self, number: int, more: str) -> Any:
        found = self.db.rows(
            f"SELECT number, stream, first, steps, checksums, {more} FROM runs WHERE number = ?", (number,)
        )
        if not found:
            raise self.db.damaged(f"run {number} is missing")
        return found[0]

    # --- newest steps ----------------------------------------------------------------------------------

    def put_step(self, row: StepRow) -> None:
        """Put a step in place of one that a sealed run holds by now."""
        numbers = (row.stream * RUN + row.id % RUN, row.stream, row.id, row.ended)
        blobs = [*[row.values[name] for name in self.columns], *self._final_blobs(row.final)]
        self.db.do(self._put_step, (*numbers, checksums(STEP_FORM, numbers, blobs), *blobs))

    def steps(self) -> list[StepRow]:
        """Return the rows of newest steps by stream and id, those that a sealed run holds by now included."""
        found = []
        sql = (
            f"SELECT number, stream, id, ended, checksums, {self._all_values}, {self._all_finals} FROM steps"
            " ORDER BY number"
        )
        for row in self._ascending(sql):
            (number, stream, step, ended), crcs, blobs = row[:4], row[4], row[5:]
            self._check(
                "step",
                STEP_FORM,
                (number, stream, step, ended),
                crcs,
                dict(enumerate(blobs)),
                len(self.columns),
            )
            if number != stream * RUN + step % RUN:
                raise self.db.damaged(f"step {step} of stream {stream} lies where it cannot")
            values = dict(zip(self.columns, blobs, strict=False))
            found.append(StepRow(stream, step, ended, values, self._final(blobs[len(self.columns) :])))
        return sorted(found, key=lambda row: row[:2])

    def drop_steps(self, stream: int) -> None:
        """Forget the newest steps of a stream."""
        self.db.do("DELETE FROM steps WHERE number BETWEEN ? AND ?", (stream * RUN, (stream + 1) * RUN - 1))

    def stops(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return one past the last id of each stream's runs, and of its newest steps, where there are any."""
        runs = self.db.each("SELECT stream, max(first + steps) FROM runs GROUP BY stream")
        steps = self.db.each("SELECT stream, max(id) + 1 FROM steps GROUP BY stream")
        return dict(runs), dict(steps)

    # --- episodes --------------------------------------------------------------------------------------

    def put_episode(self, row: EpisodeRow) -> None:
        """Put an episode, in place of what was known of it."""
        blobs = self._final_blobs(row.final)
        self.db.do(self._put_episode, (*row[:7], checksums(EPISODE_FORM, row[:7], blobs), *blobs))

    def episodes(self) -> list[EpisodeRow]:
        """Return the episodes of all streams as they began."""
        found = []
        sql = (
            "SELECT number, stream, ordinal, start, stop, ended, total, checksums,"
            f" {self._all_finals} FROM episodes ORDER BY number"
        )
        for row in self._ascending(sql):
            self._check("episode", EPISODE_FORM, row[:7], row[7], dict(enumerate(row[8:])))
            found.append(EpisodeRow._make((*row[:7], self._final(row[8:]))))
        return found

    def final(self, name: str, number: int) -> bytes:
        """Return one column of the final observation of an episode."""
        for row in self.db.rows(
            "SELECT number, stream, ordinal, start, stop, ended, total, checksums,"
            f" {self._all_finals} FROM episodes WHERE number = ?",
            (number,),
        ):
            self._check("episode", EPISODE_FORM, row[:7], row[7], dict(enumerate(row[8:])))
            packed = row[8 + self.obs_columns.index(name)]
            if packed is not None:
                return bytes(packed)
        raise self.db.damaged(f"the final observation of episode {number} is missing")

    def drop_episodes(self, stream: int, stop: int) -> None:
        """Forget the episodes of a stream before that with the ordinal `stop`."""
        self.db.do("DELETE FROM episodes WHERE stream = ? AND ordinal < ?", (stream, stop))

    def has_ended(self, number: int) -> bool:
        """Whether there is an episode of this number, and it does not run."""
        return bool(self.db.rows("SELECT 1 FROM episodes WHERE number = ? AND ended != 0", (number,)))

    def drop_other_episodes(self, numbers: Set[int]) -> None:
        """Forget all episodes but these."""
        for (number,) in self.db.rows("SELECT number FROM episodes"):
            if number not in numbers:
                self.db.do("DELETE FROM episodes WHERE number = ?", (number,))

    def _final_blobs(self, final: Blobs | None) -> list[bytes | None]:
        return [None if final is None else final[name] for name in self.obs_columns]

    def _final(self, blobs: Sequence[bytes | None]) -> Blobs | None:
        return None if None in blobs else dict(zip(self.obs_columns, blobs, strict=True))  # type: ignore[arg-type]

    def _ascending(self, sql: str) -> Iterator[Any]:
        """Yield the rows of a table, which come in the order of the number that they begin with."""
        last = -1
        for row in self.db.each(sql):
            if type(row[0]) is not int or row[0] <= last:
                raise self.db.damaged(f"row {row[0]} follows row {last}")
            last = row[0]
            yield row

    def _check(
        self,
        kind: str,
        form: str,
        numbers: Sequence[float],
        crcs: Any,
        blobs: Mapping[int, bytes | None] | None = None,
        values: int = 0,
    ) -> None:
        """Refuse a row unless its numbers, and the blobs at these places of it, are as they were put.

        The blobs before the place `values` cannot be NULL.
        """
        places = [0, *[1 + place for place in blobs or ()]]
        try:
            if blobs and any(blob is None and place < values for place, blob in blobs.items()):
                raise TypeError("NULL")
            wanted = checksums(form, numbers, (blobs or {}).values())
            got = b"".join(crcs[4 * place : 4 * place + 4] for place in places)
        except (struct.error, TypeError) as error:
            raise self.db.damaged(f"{kind} {numbers[0]} holds values of another kind") from error
        if wanted != got:
            raise self.db.damaged(f"the checksum of {kind} {numbers[0]} is wrong")


def _has_foreign_log(place: Path, is_alone: bool) -> bool:
    """Whether the log beside a file is another's; while somebody writes, nobody but the one who does can tell."""
    # Looked at twice: a writer may come and go between two looks.
    return all(is_foreign(place) and (is_alone or writing_process(place) is None) for _ in range(2))


def _insert(table: str, columns: int) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})"

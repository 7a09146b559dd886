"""The tables of a replay file: named values, arrays, and the records of runs, steps and episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from reverie.errors import BadSetting, FileError
from reverie.file.labels import LabelTable
from reverie.file.records import (
    EPISODE_FORM,
    RUN_FORM,
    STEP_FORM,
    Blobs,
    EpisodeRecord,
    RunRecord,
    StepRecord,
    array_checksum,
    checksums,
    final_names,
    schema_of,
    sql_names,
    text_checksum,
    wrong_checksums,
)
from reverie.file.sqlite import Database
from reverie.index import RUN
from reverie.spec import is_obs_name
from reverie.values import MOST_ID, MOST_JSON, integer, parse_json

# What a named value has to be, at the least; an integer counts something.
KINDS = {"columns": list, "obs_columns": list, "identity": str, "copy_of": str, "clean": bool, "synced": int,
         "rewrites": int, "ends": list, "floors": list, "rng": dict, "samplers": list, "notes": dict}  # fmt: skip


class Tables(LabelTable):
    """The tables of a replay file. Whatever is read has been checked against its checksum.

    Args:
        db: the connection.
        columns: flat names of the stored columns in the order of the tables'.
    """

    def __init__(self, db: Database, columns: Sequence[str]) -> None:
        self.db = db
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

    # --- named values and arrays -----------------------------------------------------------------------

    def meta(self, name: str, default: Any = None) -> Any:
        """Return a named JSON value, or `default` unless that is None, if there is none."""
        found = self.db.rows("SELECT value, checksum FROM meta WHERE name = ? LIMIT 1", (name,))
        for text, checksum in found:
            with self.db.reading():
                if type(text) is not str or text_checksum(name, text) != checksum:
                    raise self.db.damaged(f"the checksum of meta {name!r} is wrong")
                value = parse_json(text)
                check_kind(name, value)
                return value
        if default is None:
            raise self.db.damaged(f"meta {name!r} is missing")
        return default

    def put_meta(self, name: str, value: Any) -> None:
        """Set a named JSON value.

        Raises:
            BadSetting: it is too long to be read again.
        """
        text = json.dumps(value)
        if len(text) > MOST_JSON:
            raise BadSetting(
                f"meta {name!r}: wanted at most {MOST_JSON:,} characters of JSON, got {len(text):,}; "
                f"let what is long be arrays"
            )
        self.db.do("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, text, text_checksum(name, text)))

    def names(self) -> list[str]:
        """Return the names of all JSON values."""
        return [name for (name,) in self.db.each("SELECT name FROM meta ORDER BY name")]

    def arrays(self) -> dict[str, tuple[str, bytes]]:
        """Return all named arrays: for each its dtype and shape as a text, and its packed bytes."""
        found: dict[str, tuple[str, bytes]] = {}
        for name, form, checksum, data in self.db.each("SELECT name, form, checksum, data FROM arrays"):
            if (type(name), type(form), type(data)) != (str, str, bytes) or name in found:
                raise self.db.damaged("an array has lost its name")
            if array_checksum(name, form, data) != checksum:
                raise self.db.damaged(f"the checksum of array {name!r} is wrong")
            found[name] = form, data
        return found

    def put_arrays(self, arrays: Mapping[str, tuple[str, bytes]]) -> None:
        """Replace all named arrays."""
        self.db.do("DELETE FROM arrays")
        for name, (form, data) in arrays.items():
            record = name, form, array_checksum(name, form, data), data
            self.db.do("INSERT INTO arrays VALUES (?, ?, ?, ?)", record)

    # --- rows as they lie there -------------------------------------------------------------------------

    def scan(self, table: str) -> Iterator[tuple[int, tuple[Any, ...] | FileError]]:
        """Yield (row number, values) of all rows of a table, and what went wrong in place of those unreadable.

        Each row is asked for by itself, so that a damaged page hides no more than what lies on it.
        """
        numbers: list[int] = []
        stopped: FileError | None = None
        try:
            for (number,) in self.db.each(f"SELECT rowid FROM {table} ORDER BY rowid"):
                if numbers and number <= numbers[-1]:
                    raise self.db.damaged(f"row {number} follows row {numbers[-1]}")
                numbers.append(number)
        except FileError as error:
            stopped = error
        for number in numbers:
            try:
                found = self.db.rows(f"SELECT * FROM {table} WHERE rowid = ?", (number,))
            except FileError as error:
                yield number, error
            else:
                yield number, found[0] if found else self.db.damaged("it cannot be found by its number")
        if stopped is not None:
            yield (numbers[-1] + 1 if numbers else 0), stopped

    # --- runs ------------------------------------------------------------------------------------------

    def put_run(self, run: RunRecord, packed: Blobs, crcs: bytes | None = None) -> None:
        """Put a sealed run in place of the one that had its number; `crcs` are its checksums if they are known."""
        blobs = [packed[name] for name in self.columns]
        self.db.do(self._put_run, (*run, crcs or self.checksums_of(run, packed), *blobs))

    def checksums_of(self, run: RunRecord, packed: Blobs) -> bytes:
        """Return the checksums that a run will have."""
        return checksums(RUN_FORM, run, [packed[name] for name in self.columns])

    def runs(self) -> list[tuple[RunRecord, bytes]]:
        """Return the numbers of all runs, in order, and their checksums."""
        found = []
        for row in self._ascending(
            "SELECT number, stream, first, steps, checksums FROM runs ORDER BY number"
        ):
            self._check("run", RUN_FORM, row[:4], row[4], places=())
            found.append((RunRecord(*row[:4]), row[4]))
        return found

    def run(self, number: int) -> tuple[RunRecord, Blobs]:
        """Return a run with all its columns."""
        return self.checked_run(self.run_row(number))

    def run_row(self, number: int) -> Any:
        """Return a run as it lies there, which only `checked_run` can read."""
        return self._row_of_run(number, self._all_values)

    def checked_run(self, row: Any) -> tuple[RunRecord, Blobs]:
        """Return a run of which this is the row. It asks nothing of the connection: any thread may do it."""
        run, crcs, blobs = RunRecord(*row[:4]), row[4], row[5:]
        self._check("run", RUN_FORM, run, crcs, blobs, len(blobs))
        return run, dict(zip(self.columns, blobs, strict=True))

    def chunk(self, name: str, number: int) -> bytes:
        """Return one column of a run."""
        *numbers, crcs, packed = self._row_of_run(number, self._quoted[name])
        place = self.columns.index(name)
        self._check("run", RUN_FORM, numbers, crcs, [packed], 1, [place])
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

    def put_step(self, step: StepRecord) -> None:
        """Put a step in place of one that a sealed run holds by now."""
        numbers = (step.number, step.stream, step.id, step.ended)
        blobs = [*[step.values[name] for name in self.columns], *self._final_blobs(step.final)]
        self.db.do(self._put_step, (*numbers, checksums(STEP_FORM, numbers, blobs), *blobs))

    def steps(self) -> list[StepRecord]:
        """Return the records of newest steps by stream and id, those that a sealed run holds by now included."""
        found = []
        sql = (
            f"SELECT number, stream, id, ended, checksums, {self._all_values}, {self._all_finals} FROM steps"
            " ORDER BY number"
        )
        for row in self._ascending(sql):
            blobs, count = row[5:], len(self.columns)
            self._check("step", STEP_FORM, row[:4], row[4], blobs, count)
            values = dict(zip(self.columns, blobs, strict=False))
            stream, step_id, ended = row[1:4]
            step = StepRecord(stream, step_id, ended, values, self._final(blobs[count:]))
            found.append(step)
            if row[0] != step.number:
                raise self.db.damaged(f"step {step.id} of stream {step.stream} lies where it cannot")
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

    def put_episode(self, episode: EpisodeRecord) -> None:
        """Put an episode, in place of what was known of it."""
        numbers, blobs = episode[:7], self._final_blobs(episode.final)
        self.db.do(self._put_episode, (*numbers, checksums(EPISODE_FORM, numbers, blobs), *blobs))

    def episodes(self) -> list[EpisodeRecord]:
        """Return the episodes of all streams as they began."""
        found = []
        sql = (
            "SELECT number, stream, ordinal, start, stop, ended, total, checksums,"
            f" {self._all_finals} FROM episodes ORDER BY number"
        )
        for row in self._ascending(sql):
            self._check("episode", EPISODE_FORM, row[:7], row[7], row[8:])
            found.append(EpisodeRecord._make((*row[:7], self._final(row[8:]))))
        return found

    def final(self, name: str, number: int) -> bytes:
        """Return one column of the final observation of an episode."""
        for row in self.db.rows(
            "SELECT number, stream, ordinal, start, stop, ended, total, checksums,"
            f" {self._all_finals} FROM episodes WHERE number = ?",
            (number,),
        ):
            self._check("episode", EPISODE_FORM, row[:7], row[7], row[8:])
            packed = row[8 + self.obs_columns.index(name)]
            if packed is not None:
                return bytes(packed)
        raise self.db.damaged(f"the final observation of episode {number} is missing")

    def drop_episodes(self, stream: int, stop: int) -> None:
        """Forget the episodes of a stream before that with the ordinal `stop`."""
        gone = "FROM episodes WHERE stream = ? AND ordinal < ?"
        if self.has_labels():
            self.db.do(f"DELETE FROM labels WHERE number IN (SELECT number {gone})", (stream, stop))
        self.db.do(f"DELETE {gone}", (stream, stop))

    def has_ended(self, number: int) -> bool:
        """Whether there is an episode of this number, and it does not run."""
        return bool(self.db.rows("SELECT 1 FROM episodes WHERE number = ? AND ended != 0", (number,)))

    def drop_other_episodes(self, numbers: Set[int]) -> None:
        """Forget all episodes but these."""
        for (number,) in self.db.rows("SELECT number FROM episodes"):
            if number not in numbers:
                self.db.do("DELETE FROM episodes WHERE number = ?", (number,))
        if self.has_labels():
            self.db.do("DELETE FROM labels WHERE number NOT IN (SELECT number FROM episodes)")

    def label_all(self, texts: Mapping[int, str]) -> None:
        """Set the metadata of episodes that the file has; that of any other comes with the episode."""
        known = {number: text for number, text in texts.items() if self.has_episode(number)}
        if known:
            with self.db.writing():
                for number, text in known.items():
                    self.put_label(number, text)

    def has_labelled(self, texts: Mapping[int, str]) -> bool:
        """Whether these episodes have this metadata, those apart that the file does not have."""
        return all(
            not self.has_episode(number) or self.label(number) == text for number, text in texts.items()
        )

    def has_episode(self, number: int) -> bool:
        """Whether there is an episode of this number."""
        return bool(self.db.rows("SELECT 1 FROM episodes WHERE number = ?", (number,)))

    def _final_blobs(self, final: Blobs | None) -> list[bytes | None]:
        return [None if final is None else final[name] for name in self.obs_columns]

    def _final(self, blobs: Sequence[bytes | None]) -> Blobs | None:
        given = {name: blob for name, blob in zip(self.obs_columns, blobs, strict=True) if blob is not None}
        return given if len(given) == len(blobs) else None

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
        numbers: Sequence[Any],
        crcs: Any,
        blobs: Sequence[Any] = (),
        required: int = 0,
        places: Sequence[int] | None = None,
    ) -> None:
        """Refuse a record unless its numbers and blobs are as they were put; see `wrong_checksums`."""
        wrong = wrong_checksums(form, numbers, crcs, blobs, required, places)
        if wrong is None:
            raise self.db.damaged(f"{kind} {numbers[0]} holds values of another kind")
        if wrong:
            raise self.db.damaged(f"the checksum of {kind} {numbers[0]} is wrong")


def check_kind(name: str, value: Any) -> None:
    """Refuse a value that is not what its name promises.

    Raises:
        ValueError: it is not.
    """
    kind = KINDS.get(name)
    if kind is not None and type(value) is not kind:
        raise ValueError(f"meta {name!r}: wanted a JSON {kind.__name__}, got {str(value)[:80]}")
    if kind is int:
        try:
            integer(value, MOST_ID)
        except ValueError as error:
            raise ValueError(f"meta {name!r}: {error}") from error


def _insert(table: str, columns: int) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})"

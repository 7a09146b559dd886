"""Everything that can be checked about a replay file, without trusting it. `docs/format.md` says what must hold."""

from __future__ import annotations

import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reverie.errors import FileError, printable
from reverie.file.failures import DOUBTS
from reverie.file.floors import checked_floors
from reverie.file.labels import checked_label
from reverie.file.records import (
    EPISODE_FORM,
    RUN_FORM,
    STEP_FORM,
    EpisodeRecord,
    RunRecord,
    StepRecord,
    array_checksum,
    text_checksum,
    wrong_checksums,
)
from reverie.file.recovery import (
    Noted,
    Rewards,
    StreamRecords,
    noted_ends,
    odd_episode,
    stray_episode,
    stray_run,
    stray_step,
    wrong_newest,
    wrong_total,
    wrong_values,
)
from reverie.file.replay import ReplayFile, fits_tables
from reverie.file.settings import SETTINGS, Settings, settings_from
from reverie.file.state import generator_from, is_sampler_entry, unpack_arrays, wrong_sampler
from reverie.file.tables import check_kind
from reverie.index import Runs
from reverie.spec import Field
from reverie.store import unpack
from reverie.values import most_array_bytes, parse_json

META = (
    *SETTINGS,
    "identity",
    "copy_of",
    "columns",
    "obs_columns",
    "rng",
    "samplers",
    "notes",
    "clean",
    "synced",
)
LACKS_LOG = "it was not closed, and its log is missing: what came after the last flush may be missing, too"

MOST_FINDING = 1_000  # characters
Array = npt.NDArray[Any]


def verify_file(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield lines that tell what is wrong with a file and what was checked, and whether each is a finding.

    Raises:
        FileError: it cannot be opened.
    """
    file = ReplayFile.open(path, "r")
    try:
        audit, found = Audit(file), 0
        for finding in audit.findings():
            found += 1
            yield printable(finding, MOST_FINDING), True
        if audit.lacks_log():
            yield LACKS_LOG, False
        looked = ", ".join(f"{count:,} {name}" for name, count in audit.counts.items())
        yield f"checked {path}: SQLite's own structures, {looked}", False
        yield (f"{found:,} {'finding' if found == 1 else 'findings'}" if found else "nothing is wrong"), False
    finally:
        file.close()


class Audit:
    """One look through a replay file.

    Attributes:
        counts: what was looked at so far, by name.
    """

    def __init__(self, file: ReplayFile) -> None:
        self.counts: Counter[str] = Counter()
        self._file = file
        self._final_names = tuple(f"final_{name}" for name in file.obs_columns)
        self._settings: Settings | None = None
        self._cut: Runs | None = None  # how the streams are cut
        self._fields: dict[str, Field] = {}
        self._meta: dict[str, Any] = {}
        self._arrays: dict[str, Array] = {}
        # By stream: its records, those left out that are damaged or stray; and the rewards of its steps.
        self._runs: defaultdict[int, list[RunRecord]] = defaultdict(list)
        self._steps: defaultdict[int, list[StepRecord]] = defaultdict(list)
        self._episodes: defaultdict[int, list[EpisodeRecord]] = defaultdict(list)
        self._rewards: defaultdict[int, Rewards] = defaultdict(dict)

    def findings(self) -> Iterator[str]:
        """Yield what is wrong, one text for each finding, with its place. Nothing at all: the file is whole."""
        self._file.db.begin()
        try:
            yield from self._check_sqlite()
            yield from self._check_meta()
            yield from self._check_settings()
            yield from self._check_runs()
            yield from self._check_steps()
            yield from self._check_episodes()
            yield from self._check_labels()
            yield from self._check_streams()
            yield from self._check_arrays()
            yield from self._check_samplers()
        finally:
            self._file.db.roll_back()

    def lacks_log(self) -> bool:
        """Whether the file was not closed, and its log is missing."""
        return self._meta.get("clean") is False and self._file.lacks_log()

    # --- streams ---------------------------------------------------------------------------------------

    def _check_streams(self) -> Iterator[str]:
        """Check that the records of each stream fit together."""
        if self._settings is None or self._cut is None:
            return
        streams, noted, floors = self._settings.streams, None, [0] * self._settings.streams
        try:
            noted = noted_ends(self._meta.get("ends"), self._meta.get("clean") is True, streams)
        except DOUBTS:
            yield f"meta 'ends': wanted a tail and a head for each stream, got {str(self._meta['ends'])[:80]}"
        try:
            floors = checked_floors(self._meta.get("floors"), streams)
        except DOUBTS:
            yield f"meta 'floors': wanted an id for each stream, got {str(self._meta['floors'])[:80]}"
        for stream, floor in enumerate(floors):
            yield from self._check_stream(stream, self._cut, noted[stream] if noted else None, floor)

    def _check_stream(self, number: int, cut: Runs, noted: Noted | None, floor: int) -> Iterator[str]:
        records = self._runs[number], self._steps[number], self._episodes[number]
        stream = StreamRecords(number, cut, *records, noted, floor)
        self.counts["live steps"] += stream.head - stream.tail
        rewards = self._rewards[number]
        yield from wrong_newest(f"stream {number}", stream, self._fields, rewards)

        def reward(step: StepRecord) -> float:
            return float(rewards[step.id][0]) if step.id in rewards else math.nan

        for finding in stream.findings(reward):
            yield finding.text
        starts = sorted(rewards)
        for episode in stream.episodes:
            if stream.tail <= episode.start:
                yield from wrong_total(f"stream {number}", episode, starts, rewards)

    # --- tables, row by row ----------------------------------------------------------------------------

    def _check_sqlite(self) -> Iterator[str]:
        try:
            for text in self._file.db.integrity():
                yield f"SQLite: {text}"
        except FileError as error:
            yield f"SQLite: {cause(error)}"

    def _check_meta(self) -> Iterator[str]:
        for number, row in self._file.scan("meta"):
            if isinstance(row, FileError):
                yield f"meta, row {number}: {cause(row)}"
                continue
            self.counts["named values"] += 1
            name, value, checksum = row
            try:
                if text_checksum(name, value) != checksum:
                    yield f"meta {name!r}: its checksum is wrong"
                    continue
                self._meta[name] = parse_json(value)
            except (TypeError, ValueError) as error:
                yield f"meta {name!r}: it is no JSON ({error})"
        for name in META:
            if name not in self._meta:
                yield f"meta {name!r}: it is missing, or damaged"

    def _check_settings(self) -> Iterator[str]:
        meta = self._meta
        if all(name in meta for name in SETTINGS):
            try:
                settings = settings_from(meta, None)
            except DOUBTS as error:
                yield f"settings: they are none ({error})"
            else:
                fields = {column.name: column.field for column in settings.stored}
                if fits_tables(settings, self._file):
                    self._settings, self._fields = settings, fields
                    self._cut = Runs(settings.streams, settings.each)
                    self._file.db.limit_row(settings.most_record_bytes)
                else:
                    tables = sorted(self._file.columns)
                    yield f"settings: the spec has the columns {sorted(fields)}, the tables {tables}"
        if "rng" in meta:
            try:
                generator_from(meta["rng"])
            except DOUBTS as error:
                yield f"meta 'rng': it is no state of a generator ({error!r})"
        for name, value in meta.items():
            try:
                check_kind(name, value)
            except ValueError as error:
                yield str(error)

    def _records(
        self, table: str, kind: str, plural: str, form: str, names: Sequence[str], required: int = 0
    ) -> Iterator[tuple[int, tuple[Any, ...] | None, set[int], list[str]]]:
        """Yield the records of a table as far as their checksums go.

        Args:
            table: its name; kind, plural: what a record is called, and many of them.
            form: of the numbers.
            names: of the blobs, of which the first `required` cannot be NULL.

        Yields:
            Its number; its values, or None if they are of no use; which checksums are wrong; what is wrong, in words.
        """
        width = struct.calcsize(form) // 8  # each number takes 8 bytes
        for number, row in self._file.scan(table):
            place = f"{kind} {number}"
            if isinstance(row, FileError):
                yield number, None, set(), [f"{place}: {cause(row)}"]
                continue
            self.counts[plural] += 1
            bad = wrong_checksums(form, row[:width], row[width], row[width + 1 :], required)
            if bad is None:
                yield number, None, set(), [f"{place}: it holds values of another kind"]
            elif 0 in bad:
                yield number, None, set(), [f"{place}: the checksum of its numbers is wrong"]
            else:
                said = [f"{place}, column {names[at - 1]!r}: its checksum is wrong" for at in sorted(bad)]
                yield number, None if self._cut is None else row, bad, said

    def _check_runs(self) -> Iterator[str]:
        columns = self._file.columns
        for number, row, bad, said in self._records(
            "runs", "run", "sealed runs", RUN_FORM, columns, len(columns)
        ):
            yield from said
            if row is None or self._cut is None:
                continue
            run = RunRecord(*row[:4])
            if stray := list(stray_run(run, self._cut)):
                yield stray[0].text
                continue
            self._runs[run.stream].append(run)
            self.counts["steps in them"] += run.steps
            place = f"run {number} (stream {run.stream}, steps {run.first} to {run.stop - 1})"
            for at, (name, packed) in enumerate(zip(columns, row[5:], strict=True)):
                if 1 + at in bad:
                    continue
                values = self._unpacked(name, packed, run.steps)
                if isinstance(values, str):
                    yield f"{place}, column {name!r}: {values}"
                elif name == "reward":
                    self._rewards[run.stream][run.first] = values

    def _check_steps(self) -> Iterator[str]:
        columns = self._file.columns
        names, count = (*columns, *self._final_names), len(columns)
        for number, row, bad, said in self._records(
            "steps", "step row", "rows of newest steps", STEP_FORM, names, count
        ):
            yield from said
            if row is None or self._cut is None:
                continue
            _, stream, step_id, ended, _, *blobs = row
            whole = {
                name: blob
                for at, (name, blob) in enumerate(zip(names, blobs, strict=True))
                if 1 + at not in bad
            }
            values = {name: whole[name] for name in columns if name in whole}
            step = StepRecord(stream, step_id, ended, values, None)
            if stray := list(stray_step(number, step, self._cut.streams)):
                yield stray[0].text
                continue
            if all(name in whole for name in self._final_names):
                final, finding = self._final(blobs[count:])
                if finding:
                    yield f"step {step.id} of stream {step.stream}: {finding}"
                step = step._replace(final=final)
            self._steps[step.stream].append(step)

    def _check_episodes(self) -> Iterator[str]:
        for number, row, bad, said in self._records(
            "episodes", "episode", "episodes", EPISODE_FORM, self._final_names
        ):
            yield from said
            if row is None or self._cut is None:
                continue
            final, finding = (None, "") if bad else self._final(row[8:])
            if finding:
                yield f"episode {number}: {finding}"
            self.counts["final observations"] += final is not None
            episode = EpisodeRecord._make((*row[:7], final))
            if stray := list(stray_episode(episode, self._cut.streams)):
                yield stray[0].text
                continue
            for odd in odd_episode(episode):
                yield odd.text
            self._episodes[episode.stream].append(episode)

    def _check_labels(self) -> Iterator[str]:
        known = {episode.number for stream in self._episodes.values() for episode in stream}
        for number, row in self._file.scan("labels") if self._file.has_labels() else ():
            if isinstance(row, FileError):
                yield f"metadata of episode {number}: {cause(row)}"
                continue
            self.counts["episodes with metadata"] += 1
            try:
                checked_label(number, *row[1:])
            except ValueError as error:
                yield f"metadata of episode {number}: {error}"
            if self._cut is not None and number not in known:
                yield f"metadata of episode {number}: there is no such episode"

    # --- what samplers remember ------------------------------------------------------------------------

    def _check_arrays(self) -> Iterator[str]:
        most = most_array_bytes(0 if self._settings is None else self._settings.capacity)
        for number, row in self._file.scan("arrays"):
            if isinstance(row, FileError):
                yield f"arrays, row {number}: {cause(row)}"
                continue
            self.counts["arrays"] += 1
            name, form, checksum, data = row
            try:
                if array_checksum(name, form, data) != checksum:
                    yield f"array {name!r}: its checksum is wrong"
                    continue
                left = most - sum(array.nbytes for array in self._arrays.values())
                self._arrays |= unpack_arrays({name: (form, data)}, left)
            except (*DOUBTS, MemoryError) as error:
                yield f"array {name!r}: it does not unpack ({error})"

    def _check_samplers(self) -> Iterator[str]:
        samplers = self._meta.get("samplers", [])
        if not isinstance(samplers, list):
            return  # that was said before
        settings = self._settings
        size = None if settings is None else (settings.streams, settings.each)
        for number, entry in enumerate(samplers):
            self.counts["samplers"] += 1
            if not is_sampler_entry(entry):
                yield f"sampler {number}: wanted its kind and state, got {str(entry)[:80]}"
                continue
            for finding in wrong_sampler(entry[1], self._arrays, size):
                yield f"sampler {number}, {entry[0]}: {finding}"

    # --- blobs -----------------------------------------------------------------------------------------

    def _unpacked(self, name: str, packed: bytes, *lead: int) -> Array | str:
        """Return values of a column, or what is wrong with them."""
        field = self._fields[name]
        try:
            values = unpack(packed, (*lead, *field.shape), field.dtype)
        except (*DOUBTS, MemoryError) as error:
            return f"it does not unpack ({error})"
        return wrong_values(name, values) or values

    def _final(self, blobs: Sequence[bytes | None]) -> tuple[dict[str, bytes] | None, str]:
        """Return a final observation, or None and what is wrong with it, if anything is."""
        given = {
            name: blob for name, blob in zip(self._file.obs_columns, blobs, strict=True) if blob is not None
        }
        if 0 < len(given) < len(blobs):
            return None, "its final observation lacks some of its columns"
        for name, packed in given.items():
            if isinstance(wrong := self._unpacked(name, packed), str):
                return None, f"its final observation, column {name!r}: {wrong}"
        return given or None, ""


def cause(error: FileError) -> str:
    """Return why a row cannot be read, without the path and the remedy."""
    return f"it cannot be read ({error.__cause__ or error})"

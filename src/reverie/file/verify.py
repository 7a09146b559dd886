"""Everything that can be checked about a replay file, without trusting it. `docs/format.md` says what must hold."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import BadSetting, FileError, printable
from reverie.file.failures import DOUBTS
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
    StreamRecords,
    noted_ends,
    odd_episode,
    stray_episode,
    stray_run,
    stray_step,
)
from reverie.file.replay import ReplayFile, fits_tables
from reverie.file.settings import SETTINGS, Settings, settings_from
from reverie.file.state import from_json, generator_from, unpack_arrays
from reverie.file.tables import check_kind
from reverie.index import Runs, most_rows
from reverie.samplers import checked_episode_weights, checked_step_weights
from reverie.spec import Field
from reverie.store import DELTA, unpack, unpack_step
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
# What belongs to what a sampler may keep: these names in one dict, each an array of so many entries.
STEP_WEIGHTS, EPISODE_WEIGHTS = {"weights", "barred", "seen", "kind"}, {"weights", "begun"}

LACKS_LOG = "it was not closed, and its log is missing: what came after the last flush may be missing, too"

MOST_FINDING = 1_000  # characters
# How far a return may lie from the sum of the stored, rounded rewards, as a part of their sizes.
CLOSE = 1e-6

Array = npt.NDArray[Any]
Rewards = dict[int, Array]  # id of the first of some steps -> their rewards


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
        streams, noted = self._settings.streams, None
        try:
            noted = noted_ends(self._meta.get("ends"), self._meta.get("clean") is True, streams)
        except DOUBTS:
            ends = str(self._meta["ends"])[:80]
            yield f"meta 'ends': wanted a tail and a head for each stream, got {ends}"
        for stream in range(streams):
            yield from self._check_stream(stream, self._cut, noted[stream] if noted else None)

    def _check_stream(self, number: int, cut: Runs, noted: Noted | None) -> Iterator[str]:
        stream = StreamRecords(
            number, cut, self._runs[number], self._steps[number], self._episodes[number], noted
        )
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
                    self._cut = Runs(settings.streams, settings.capacity // settings.streams)
                    self._file.db.limit_row(settings.most_row_bytes)
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

    def _check_runs(self) -> Iterator[str]:
        for number, row in self._file.scan("runs"):
            place = f"run {number}"
            if isinstance(row, FileError):
                yield f"{place}: {cause(row)}"
                continue
            self.counts["sealed runs"] += 1
            bad = wrong_checksums(RUN_FORM, row[:4], row[4], row[5:], len(self._file.columns))
            yield from told(place, bad, self._file.columns)
            if bad is None or 0 in bad or self._cut is None:
                continue
            run = RunRecord(*row[:4])
            if stray := list(stray_run(run, self._cut)):
                yield stray[0].text
                continue
            self._runs[run.stream].append(run)
            self.counts["steps in them"] += run.steps
            for spot, (name, packed) in enumerate(zip(self._file.columns, row[5:], strict=True)):
                if 1 + spot in bad:
                    continue
                values = self._unpacked(name, packed, run.steps)
                if isinstance(values, str):
                    yield (
                        f"{place} (stream {run.stream}, steps {run.first} to {run.first + run.steps - 1}), "
                        f"column {name!r}: {values}"
                    )
                elif name == "reward":
                    self._rewards[run.stream][run.first] = values

    def _check_steps(self) -> Iterator[str]:
        for number, row in self._file.scan("steps"):
            if isinstance(row, FileError):
                yield f"step row {number}: {cause(row)}"
                continue
            self.counts["rows of newest steps"] += 1
            blobs, count = row[5:], len(self._file.columns)
            names = [*self._file.columns, *(f"final_{name}" for name in self._file.obs_columns)]
            bad = wrong_checksums(STEP_FORM, row[:4], row[4], blobs, count)
            yield from told(f"step row {number}", bad, names)
            if bad is None or 0 in bad or self._settings is None:
                continue
            values = {
                name: blob
                for at, (name, blob) in enumerate(zip(names, blobs, strict=True))
                if 1 + at not in bad
            }
            of_step = {name: values[name] for name in self._file.columns if name in values}
            _, stream, step_id, ended = row[:4]
            step = StepRecord(stream, step_id, ended, of_step, None)
            if stray := list(stray_step(number, step, self._settings.streams)):
                yield stray[0].text
                continue
            if len(values) - len(step.values) == len(blobs) - count:
                final, finding = self._final(blobs[count:])
                if finding:
                    yield f"step {step.id} of stream {step.stream}: {finding}"
                step = step._replace(final=final)
            self._steps[step.stream].append(step)

    def _check_episodes(self) -> Iterator[str]:
        for number, row in self._file.scan("episodes"):
            place = f"episode {number}"
            if isinstance(row, FileError):
                yield f"{place}: {cause(row)}"
                continue
            self.counts["episodes"] += 1
            names = [f"final_{name}" for name in self._file.obs_columns]
            bad = wrong_checksums(EPISODE_FORM, row[:7], row[7], row[8:])
            yield from told(place, bad, names)
            if bad is None or 0 in bad or self._settings is None:
                continue
            final, finding = (None, "") if bad else self._final(row[8:])
            if finding:
                yield f"{place}: {finding}"
            self.counts["final observations"] += final is not None
            episode = EpisodeRecord._make((*row[:7], final))
            if stray := list(stray_episode(episode, self._settings.streams)):
                yield stray[0].text
                continue
            for odd in odd_episode(episode):
                yield odd.text
            self._episodes[episode.stream].append(episode)

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
        for number, entry in enumerate(samplers):
            self.counts["samplers"] += 1
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                yield f"sampler {number}: wanted its kind and state, got {str(entry)[:80]}"
                continue
            try:
                state = from_json(entry[1], self._arrays)
            except DOUBTS as error:
                yield f"sampler {number}, {entry[0]}: its array {error} is missing, or damaged"
                continue
            for finding in self._wrong_state(state):
                yield f"sampler {number}, {entry[0]}: {finding}"

    def _wrong_state(self, state: Any) -> Iterator[str]:
        """Yield what is wrong with the weights that a sampler keeps, wherever they stand in its state."""
        if isinstance(state, list):
            for child in state:
                yield from self._wrong_state(child)
        if not isinstance(state, dict) or self._settings is None:
            return
        streams, each = self._settings.streams, self._settings.capacity // self._settings.streams
        try:
            if state.keys() == STEP_WEIGHTS:
                checked_step_weights(state, streams, each)
            elif state.keys() == EPISODE_WEIGHTS:
                checked_episode_weights(state, streams, most_rows(streams, each))
        except BadSetting as error:
            yield str(error)
        for child in state.values():
            yield from self._wrong_state(child)

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


# --- the values of a stream's steps --------------------------------------------------------------------------


def wrong_newest(
    place: str, stream: StreamRecords, fields: Mapping[str, Field], rewards: Rewards
) -> Iterator[str]:
    """Unpack the newest steps one after the other, since each may be packed as a change of the one before.

    Their rewards are put into `rewards`.
    """
    last = -1
    before: dict[str, Array] = {}
    for step in stream.newest:
        known = before if step.id == last + 1 else {}
        before, last = {}, step.id
        for name, field in fields.items():
            packed = step.values.get(name)
            if packed is None or (packed[:1] == DELTA and step.id > stream.sealed and name not in known):
                continue  # its checksum, or that of the step that it tells changes from, was wrong
            try:
                before[name] = unpack_step(packed, known.get(name), field.shape, field.dtype)
            except (ValueError, MemoryError) as error:
                yield f"{place}, step {step.id}, column {name!r}: it does not unpack ({error})"
                continue
            if (wrong := wrong_values(name, before[name])) is not None:
                yield f"{place}, step {step.id}, column {name!r}: {wrong}"
        if "reward" in before:
            rewards[step.id] = before["reward"].reshape(1)


def wrong_values(name: str, values: Array) -> str | None:
    """Return what is wrong with the values of a column, if anything is."""
    if name == "reward" and not np.isfinite(values).all():
        return "not every reward is finite"
    return None


def wrong_total(place: str, episode: EpisodeRecord, starts: Sequence[int], rewards: Rewards) -> Iterator[str]:
    """Compare an episode's return with its rewards; `starts` are the keys of `rewards` in order."""
    pieces, step = [], episode.start
    while step < episode.stop:
        at = bisect_right(starts, step) - 1
        if at < 0:
            return  # missing or damaged: that was said before
        piece = rewards[starts[at]][step - starts[at] : episode.stop - starts[at]]
        if not len(piece):
            return
        pieces.append(piece.astype(np.float64))
        step += len(piece)
    found = np.concatenate(pieces) if pieces else np.zeros(1)
    if abs(found.sum() - episode.total) > CLOSE * np.abs(found).sum():
        yield (
            f"{place}: the return of episode {episode.number} is {episode.total:g}, "
            f"the sum of its rewards {found.sum():g}"
        )


# --- words ---------------------------------------------------------------------------------------------------


def told(place: str, bad: set[int] | None, names: Sequence[str]) -> Iterator[str]:
    """Yield what `wrong_checksums` found, in words."""
    if bad is None:
        yield f"{place}: it holds values of another kind"
    elif 0 in bad:
        yield f"{place}: the checksum of its numbers is wrong"
    else:
        for spot in sorted(bad):
            yield f"{place}, column {names[spot - 1]!r}: its checksum is wrong"


def cause(error: FileError) -> str:
    """Return why a row cannot be read, without the path and the remedy."""
    return f"it cannot be read ({error.__cause__ or error})"

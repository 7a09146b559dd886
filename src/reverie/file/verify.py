"""Everything that can be checked about a replay file, without trusting it. `docs/format.md` says what must hold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reverie.errors import BadSetting, FileError, printable
from reverie.file.coverage import Coverage, Rewards, wrong_values
from reverie.file.failures import DOUBTS
from reverie.file.named import check_kind
from reverie.file.resume import SETTINGS, fits_tables
from reverie.file.rows import EPISODE_FORM, RUN_FORM, STEP_FORM, array_checksum, text_checksum
from reverie.file.settings import Settings, settings_from
from reverie.file.state import from_json, generator_from, unpack_arrays
from reverie.file.survey import LACKS_LOG, broken, cause, scan, told
from reverie.file.tables import EpisodeRow, ReplayFile, Run, StepRow
from reverie.index import ENDS, RUN, RUNNING, Runs, most_episodes
from reverie.samplers import checked_episode_weights, checked_step_weights
from reverie.spec import Field
from reverie.store import unpack
from reverie.values import MOST_ID, integers, most_array_bytes, parse_json

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
        self._settings: Settings | None = None
        self._fields: dict[str, Field] = {}
        self._meta: dict[str, Any] = {}
        self._arrays: dict[str, Array] = {}
        self._ends: tuple[list[int], list[int]] | None = None  # tails and heads, as they were noted
        self._runs: defaultdict[int, list[Run]] = defaultdict(list)  # stream -> its runs, oldest first
        self._steps: defaultdict[int, list[StepRow]] = defaultdict(list)  # stream -> its rows of newest steps
        self._episodes: defaultdict[int, list[EpisodeRow]] = defaultdict(list)  # stream -> its episodes
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
            if self._settings is not None:
                each = self._settings.capacity // self._settings.streams
                yield from self._read_ends(self._settings.streams)
                for stream in range(self._settings.streams):
                    coverage = Coverage(
                        stream,
                        each,
                        self._fields,
                        self._runs[stream],
                        self._steps[stream],
                        self._episodes[stream],
                        self._rewards[stream],
                    )
                    yield from coverage.findings(self.counts)
                    yield from self._check_ends(stream, coverage)
            yield from self._check_arrays()
            yield from self._check_samplers()
        finally:
            self._file.db.roll_back()

    def lacks_log(self) -> bool:
        """Whether the file was not closed, and its log is missing."""
        return self._meta.get("clean") is False and self._file.lacks_log()

    def _read_ends(self, streams: int) -> Iterator[str]:
        """Read the note of where the streams stood, if there is one."""
        ends = self._meta.get("ends")
        try:
            if ends:
                tails, heads = (integers(one, streams, MOST_ID) for one in ends)
                self._ends = tails, heads
        except DOUBTS:
            yield f"meta 'ends': wanted a tail and a head for each stream, got {str(ends)[:80]}"

    def _check_ends(self, stream: int, coverage: Coverage) -> Iterator[str]:
        """Compare where a stream stands with the note of where it stood at the last flush."""
        if self._ends is None:
            return
        tail, head = (one[stream] for one in self._ends)
        clean = self._meta.get("clean") is True
        if coverage.head < head or (clean and coverage.head != head):
            yield f"stream {stream}: its steps stop at {coverage.head}, at the last flush at {head}"
        if clean and coverage.tail > tail:
            yield f"stream {stream}: its steps begin at {coverage.tail}, at the last flush at {tail}"

    # --- tables, row by row ----------------------------------------------------------------------------

    def _check_sqlite(self) -> Iterator[str]:
        try:
            for text in self._file.db.integrity():
                yield f"SQLite: {text}"
        except FileError as error:
            yield f"SQLite: {cause(error)}"

    def _check_meta(self) -> Iterator[str]:
        for number, row in scan(self._file, "meta"):
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
        settings = self._settings
        runs = None if settings is None else Runs(settings.streams, settings.capacity // settings.streams)
        for number, row in scan(self._file, "runs"):
            place = f"run {number}"
            if isinstance(row, FileError):
                yield f"{place}: {cause(row)}"
                continue
            self.counts["sealed runs"] += 1
            bad = broken(RUN_FORM, row[:4], row[4], row[5:], len(self._file.columns))
            yield from told(place, bad, self._file.columns)
            if bad is None or 0 in bad or runs is None:
                continue
            run = Run(*row[:4])
            if not (
                0 <= run.stream < runs.streams
                and run.first >= 0
                and 0 <= run.number < runs.count
                and runs.of_id(run.stream, run.first) == (run.number, 0)
                and run.steps == runs.steps(run.number)
            ):
                yield f"{place}: {run.steps} steps of stream {run.stream} from step {run.first} cannot lie there"
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
        for number, row in scan(self._file, "steps"):
            if isinstance(row, FileError):
                yield f"step row {number}: {cause(row)}"
                continue
            self.counts["rows of newest steps"] += 1
            blobs = row[5:]
            names = [*self._file.columns, *(f"final_{name}" for name in self._file.obs_columns)]
            bad = broken(STEP_FORM, row[:4], row[4], blobs, len(self._file.columns))
            yield from told(f"step row {number}", bad, names)
            if bad is None or 0 in bad or self._settings is None:
                continue
            _, stream, step, ended = row[:4]
            if not (
                0 <= stream < self._settings.streams
                and step >= 0
                and number == stream * RUN + step % RUN
                and ended in ENDS
            ):
                yield f"step row {number}: step {step} of stream {stream}, ended {ended}, cannot lie there"
                continue
            count = len(self._file.columns)
            values = {
                name: blob
                for spot, (name, blob) in enumerate(zip(self._file.columns, blobs, strict=False))
                if 1 + spot not in bad
            }
            whole = not any(1 + spot in bad for spot in range(count, len(blobs)))
            final, finding = self._final(blobs[count:]) if whole else (None, "")
            if finding:
                yield f"step {step} of stream {stream}: {finding}"
            self._steps[stream].append(StepRow(stream, step, ended, values, final))

    def _check_episodes(self) -> Iterator[str]:
        for number, row in scan(self._file, "episodes"):
            place = f"episode {number}"
            if isinstance(row, FileError):
                yield f"{place}: {cause(row)}"
                continue
            self.counts["episodes"] += 1
            names = [f"final_{name}" for name in self._file.obs_columns]
            bad = broken(EPISODE_FORM, row[:7], row[7], row[8:])
            yield from told(place, bad, names)
            if bad is None or 0 in bad or self._settings is None:
                continue
            final, finding = (None, "") if bad else self._final(row[8:])
            if finding:
                yield f"{place}: {finding}"
            self.counts["final observations"] += final is not None
            episode = EpisodeRow._make((*row[:7], final))
            if not (
                0 <= episode.stream < self._settings.streams
                and episode.ordinal >= 0
                and 0 <= episode.start <= episode.stop
                and episode.number >= 0
            ):
                yield f"{place}: steps {episode.start} to {episode.stop} of stream {episode.stream} cannot be"
                continue
            if episode.ended not in ENDS:
                yield f"{place}: ended is {episode.ended}, which means nothing"
            if final is not None and episode.ended == RUNNING:
                yield f"{place}: it runs, and yet it has a final observation"
            if not math.isfinite(episode.total):
                yield f"{place}: its return is {episode.total}"
            self._episodes[episode.stream].append(episode)

    # --- what samplers remember ------------------------------------------------------------------------

    def _check_arrays(self) -> Iterator[str]:
        most = most_array_bytes(0 if self._settings is None else self._settings.capacity)
        for number, row in scan(self._file, "arrays"):
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
                checked_episode_weights(state, streams, most_episodes(streams, each))
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

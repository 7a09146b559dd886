"""Makes a buffer's memory from a replay file, and again when a writer has gone on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import REWARD
from reverie.file.floors import read_floors
from reverie.file.records import EpisodeRecord, RunRecord, StepRecord
from reverie.file.recovery import (
    Finding,
    StreamRecords,
    noted_ends,
    odd_episode,
    stray_episode,
    stray_run,
    stray_step,
)
from reverie.file.stores import FinalStore, Store
from reverie.file.tables import Tables
from reverie.index import (
    NO_FINAL,
    EpisodeColumns,
    EpisodeIndex,
    Ints,
    Runs,
    TableRows,
    check_table_rows,
    rebuild,
    table_rows,
)
from reverie.process import watch
from reverie.spec import Column, Field
from reverie.store import Helpers, PackedRing, Ring, unpack, unpack_step

Array = npt.NDArray[Any]


class Reader:
    """Reads a replay file into the memory of a buffer.

    Args:
        file: the file.
        columns: name and field of every stored column.
        index, store, finals: the memory.
        rows: those of the index that the episodes had.

    Attributes:
        sealed: stream -> one past the last id that a sealed run holds.
        kept: stream -> the first episode that the file may not know to its end.
    """

    def __init__(
        self,
        file: Tables,
        columns: Sequence[Column],
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        rows: TableRows | None = None,
    ) -> None:
        self._file = file
        self._rows = rows
        self._fields: dict[str, Field] = {column.name: column.field for column in columns}
        self._index, self._store, self._finals = index, store, finals
        self._helpers = Helpers()
        self._loaded: dict[
            int, tuple[RunRecord, bytes]
        ] = {}  # number -> what the store holds, and its checksums
        self._final_slots: dict[int, int] = {}  # episode number -> where its final observation lies
        self.sealed: Ints = np.zeros(index.streams, np.int64)
        self.kept: Ints = np.zeros(index.streams, np.int64)

    def load(self) -> None:
        """Make memory hold what the file holds now.

        Raises:
            FileError: the file is damaged.
        """
        with self._file.db.reading():
            if self._rows is not None:
                check_table_rows(self._rows, self._index)
            self._load(self._rows)
            self._rows = table_rows(self._index)

    def _load(self, before: TableRows | None) -> None:
        crcs = dict(self._file.runs())
        steps, episodes = self._file.steps(), self._file.episodes()
        streams = read_streams(self._file, self._index.runs, crcs, steps, episodes)
        self.sealed = np.array([stream.sealed for stream in streams], np.int64)
        self.kept = np.array([stream.kept for stream in streams], np.int64)
        self._load_runs([(run, crcs[run]) for stream in streams for run in stream.runs])
        self._set_index(streams, {one.number for one in episodes if one.final is not None}, before)
        live = {episode.number for stream in streams for episode in stream.live}
        self._index.relabel(
            {number: label for number, label in self._file.labels().items() if number in live}
        )
        self._load_steps(step for stream in streams for step in stream.newest)

    def _load_runs(self, wanted: list[tuple[RunRecord, bytes]]) -> None:
        """Bring the runs with these checksums into the store, but those that it has."""
        known = self._loaded
        fresh = [run.number for run, crcs in wanted if known.get(run.number) != (run, crcs)]
        # Whoever interrupts this finds the store without them, and has them loaded the next time.
        stale = set(fresh)
        self._loaded = {run.number: (run, crcs) for run, crcs in wanted if run.number not in stale}
        if self._store.reads_file:
            return
        rows = map(self._file.run_row, fresh)
        if isinstance(self._store, Ring):  # each run goes from hand to hand, and never lies in memory twice
            self._helpers.spread(self._put_run, rows)
        else:
            for run, packed in self._helpers.ahead(self._file.checked_run, rows):
                self._store.load_run(run.number, packed)
        self._loaded = {run.number: (run, crcs) for run, crcs in wanted}

    def _put_run(self, row: Any) -> None:
        run, packed = self._file.checked_run(row)
        self._store.load_run(run.number, packed)

    def _load_steps(self, newest: Iterable[StepRecord]) -> None:
        """Write the steps that no sealed run holds yet, as they were added."""
        if isinstance(self._store, PackedRing):
            self._store.forget_open()
        before: dict[str, Array] = {}
        stream = -1
        for step in newest:
            if step.stream != stream:
                stream, before = step.stream, {}
            before = {
                name: unpack_step(
                    packed, before.get(name), self._fields[name].shape, self._fields[name].dtype
                )
                for name, packed in step.values.items()
            }
            self._store.write(stream * self._index.capacity + step.id % self._index.capacity, before)

    def _set_index(self, streams: list[StreamRecords], filed: set[int], before: TableRows | None) -> None:
        """Rebuild the index; `filed` are the episodes whose records in the file have their final observations."""
        live = sorted(
            (episode for stream in streams for episode in stream.live), key=lambda episode: episode.number
        )
        finals = [self._final_slot(episode, episode.number in filed) for episode in live]
        gone = self._final_slots.keys() - {episode.number for episode in live}
        self._finals.release([self._final_slots.pop(number) for number in gone])
        columns = list(zip(*live, strict=True)) if live else [()] * len(EpisodeRecord._fields)
        number, stream, ordinal, start, stop = (np.array(column, np.int64) for column in columns[:5])
        ended, total = np.array(columns[5], np.int8), np.array(columns[6], np.float64)
        listed = EpisodeColumns(
            stream, ordinal, start, stop, ended, np.array(finals, np.int64), total, number
        )
        head, tail, begun = (
            np.array([getattr(one, name) for one in streams], np.int64) for name in ("head", "tail", "begun")
        )
        self._index.begun[:] = begun
        rebuild(self._index, head, tail, listed, before)

    def _final_slot(self, episode: EpisodeRecord, is_filed: bool) -> int:
        if episode.final is None:
            return NO_FINAL
        if episode.number not in self._final_slots:
            number = episode.number if is_filed else None
            self._final_slots[episode.number] = self._finals.load(number, episode.final)
        return self._final_slots[episode.number]


def read_streams(
    file: Tables,
    cut: Runs,
    runs: Iterable[RunRecord],
    steps: Iterable[StepRecord],
    episodes: Iterable[EpisodeRecord],
) -> list[StreamRecords]:
    """Return the records of a file by stream, once it is sure that they may be there and fit together.

    Raises:
        FileError: one cannot be there, or is missing.
    """

    def refuse(findings: Iterator[Finding]) -> None:
        for finding in findings:
            if finding.damage:
                raise file.db.damaged(finding.damage)

    noted = noted_ends(file.meta("ends", []), file.meta("clean"), cut.streams)
    floors = read_floors(file, cut.streams)
    runs_of: defaultdict[int, list[RunRecord]] = defaultdict(list)
    steps_of: defaultdict[int, list[StepRecord]] = defaultdict(list)
    episodes_of: defaultdict[int, list[EpisodeRecord]] = defaultdict(list)
    for run in runs:
        refuse(stray_run(run, cut))
        runs_of[run.stream].append(run)
    for step in steps:
        refuse(stray_step(step.number, step, cut.streams))
        steps_of[step.stream].append(step)
    for episode in episodes:
        refuse(stray_episode(episode, cut.streams))
        refuse(odd_episode(episode))
        episodes_of[episode.stream].append(episode)
    streams = []
    for number, floor in enumerate(floors):
        records = runs_of[number], steps_of[number], episodes_of[number]
        streams.append(StreamRecords(number, cut, *records, noted[number] if noted else None, floor))
        refuse(streams[-1].findings(partial(_reward, file)))
    return streams


def _reward(file: Tables, step: StepRecord) -> float:
    reward = float(unpack(step.values["reward"], REWARD.shape, REWARD.dtype))
    if not math.isfinite(reward):
        raise file.db.damaged(f"the reward of step {step.id} of stream {step.stream} is {reward}")
    return reward


class Follower:
    """A turn at reading a file that another process may be writing: enter it, read, leave.

    All that is read inside is of one moment: the moment of entering.

    Args:
        file: open for reading.
        reader: brings it into memory.
        lock: of the buffer.
    """

    def __init__(self, file: Tables, reader: Reader, lock: AbstractContextManager[Any]) -> None:
        self._file = file
        self._reader = reader
        self._lock = lock
        self._depth = 0
        self._version = -1  # nothing was loaded yet
        watch(self._forked)

    def guard(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock

    def _forked(self, at_rest: bool) -> None:
        self._version = -1  # the numbers of another connection mean nothing

    def __enter__(self) -> None:
        self._lock.__enter__()
        try:
            if not self._depth:
                self._file.db.begin()
                version = self._file.db.version
                if version != self._version:
                    self._reader.load()
                    self._version = version
            self._depth += 1
        except BaseException:
            self._file.db.roll_back()
            self._lock.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._file.db.roll_back()
        self._lock.__exit__(None, None, None)

"""Makes a buffer's memory from a replay file, and again when a writer has gone on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import REWARD
from reverie.file.stores import FinalStore, Store
from reverie.file.tables import Blobs, EpisodeRow, ReplayFile, Run, StepRow
from reverie.index import (
    ENDS,
    NO_FINAL,
    RUNNING,
    EpisodeColumns,
    EpisodeIndex,
    Ints,
    TableRows,
    check_table_rows,
    rebuild,
    table_rows,
)
from reverie.spec import Column, Field
from reverie.store import Helpers, Ring, unpack, unpack_step
from reverie.values import MOST_ID, integers

Array = npt.NDArray[Any]


class Reader:
    """Reads a replay file into the memory of a buffer.

    Args:
        file: the file.
        columns: name and field of every stored column.
        index, store, finals: the memory.
        rows: those of the index that the episodes had.
    """

    def __init__(
        self,
        file: ReplayFile,
        columns: Sequence[Column],
        index: EpisodeIndex,
        store: Store,
        finals: FinalStore,
        rows: TableRows | None = None,
    ) -> None:
        self._file = file
        self._rows = rows
        self._fields: dict[str, Field] = {column.name: column.field for column in columns}
        self.index = index
        self._store = store
        self._finals = finals
        self._runs = index.runs
        self._helpers = Helpers()
        self._loaded: dict[int, tuple[Run, bytes]] = {}  # number -> what the store holds, and its checksums
        self._final_places: dict[int, int] = {}  # episode number -> place of its final observation
        self.sealed: Ints = np.zeros(index.streams, np.int64)
        self.kept: Ints = np.zeros(index.streams, np.int64)

    def load(self) -> None:
        """Make memory hold what the file holds now.

        Raises:
            FileError: the file is damaged.
        """
        with self._file.db.reading():
            if self._rows is not None:
                check_table_rows(self._rows, self.index)
            self._load(self._rows)
            self._rows = table_rows(self.index)

    def _load(self, before: TableRows | None) -> None:
        index, file = self.index, self._file
        runs = file.runs()
        steps = file.steps()
        episodes = file.episodes()
        check_numbers(index.streams, [run for run, _ in runs], steps, episodes)
        head, tail = np.zeros(index.streams, np.int64), np.zeros(index.streams, np.int64)
        newest: list[StepRow] = []
        sealed = np.zeros(index.streams, np.int64)
        wanted = []
        of_stream: list[list[tuple[Run, bytes]]] = [[] for _ in range(index.streams)]
        for run, crcs in runs:
            if self._runs.of_id(run.stream, run.first) != (run.number, 0) or run.steps != self._runs.steps(
                run.number
            ):
                raise file.db.damaged(f"run {run.number} lies where it cannot")
            of_stream[run.stream].append((run, crcs))
        steps_of: list[list[StepRow]] = [[] for _ in range(index.streams)]
        for row in steps:
            steps_of[row.stream].append(row)
        for stream in range(index.streams):
            mine = sorted(of_stream[stream], key=lambda one: one[0].first)
            sealed[stream] = mine[-1][0].first + mine[-1][0].steps if mine else 0
            stop = sealed.item(stream)
            rows = [row for row in steps_of[stream] if row.id >= stop]
            # They are those of one run: it is sealed when the next one begins.
            most = self._runs.steps(self._runs.of_id(stream, stop)[0])
            if [row.id for row in rows] != list(range(stop, stop + len(rows))) or len(rows) > most:
                raise file.db.damaged(f"a newest step of stream {stream} is missing")
            newest += rows
            head[stream] = sealed[stream] + len(rows)
            oldest = mine[0][0].first if mine else 0
            tail[stream] = max(head.item(stream) - index.capacity, oldest)
            mine = [one for one in mine if one[0].first + one[0].steps > tail[stream]]
            if mine and mine[0][0].first > tail[stream]:
                raise file.db.damaged(f"the oldest run of stream {stream} is missing")
            for one, after in pairwise(mine):
                if one[0].first + one[0].steps != after[0].first:
                    raise file.db.damaged(f"a run of stream {stream} is missing")
            wanted += mine
        self._check_ends(head, tail)
        self._load_runs(wanted)
        self._set_index(head, tail, episodes, newest, before)
        self._load_steps(newest)
        self.sealed = sealed

    def _check_ends(self, head: Ints, tail: Ints) -> None:
        """Refuse a file whose first or last rows are gone: there is a note of where its streams stood."""
        ends = self._file.meta("ends", [])
        if ends:
            clean = self._file.meta("clean")
            tails, heads = (np.array(integers(one, len(head), MOST_ID), np.int64) for one in ends)
            # An interrupted add may have let a step go in memory alone: a tail may be older here, never newer.
            if (head < heads).any() or (clean and ((head != heads) | (tail > tails)).any()):
                raise self._file.db.damaged("its first or last steps are missing")

    def _load_runs(self, wanted: list[tuple[Run, bytes]]) -> None:
        """Bring the runs into the store that it has not, or has otherwise."""
        fresh = [one for one in wanted if self._loaded.get(one[0].number) != one]
        # Whoever interrupts this finds the store without them, and has them loaded the next time.
        stale = {run.number for run, _ in fresh}
        self._loaded = {run.number: (run, crcs) for run, crcs in wanted if run.number not in stale}
        if self._store.reads_file:
            return
        for first in range(0, len(fresh), 256):  # so that not the whole file is in memory twice
            some = {run.number: self._file.run(run.number)[1] for run, _ in fresh[first : first + 256]}
            if isinstance(self._store, Ring):  # unpacking is what takes the time
                self._helpers.share(partial(self._put_runs, some), list(some))
            else:
                self._put_runs(some, list(some))
        self._loaded |= {run.number: (run, crcs) for run, crcs in fresh}

    def _put_runs(self, packed: Mapping[int, Blobs], numbers: Sequence[int]) -> None:
        for number in numbers:
            self._store.load_run(number, packed[number])

    def _load_steps(self, newest: list[StepRow]) -> None:
        """Write the steps that no sealed run holds yet, as they were added."""
        self._store.forget_open()
        before: dict[str, Array] = {}
        stream = -1
        for row in newest:
            if row.stream != stream:
                stream, before = row.stream, {}
            values = {
                name: unpack_step(
                    packed, before.get(name), self._fields[name].shape, self._fields[name].dtype
                )
                for name, packed in row.values.items()
            }
            self._store.write(stream * self.index.capacity + row.id % self.index.capacity, values)
            before = values

    def _set_index(
        self,
        head: Ints,
        tail: Ints,
        episodes: list[EpisodeRow],
        newest: list[StepRow],
        before: TableRows | None,
    ) -> None:
        """Rebuild the index from the episodes' rows and the steps that came after them."""
        streams = self.index.streams
        table: list[list[EpisodeRow]] = [[] for _ in range(streams)]
        for episode in episodes:
            table[episode.stream].append(episode)
        self.kept = np.zeros(streams, np.int64)
        begun = np.zeros(streams, np.int64)
        for stream in range(streams):
            ended = [episode.ordinal + 1 for episode in table[stream] if episode.ended != RUNNING]
            self.kept[stream] = max(ended, default=table[stream][0].ordinal if table[stream] else 0)
            begun[stream] = table[stream][-1].ordinal + 1 if table[stream] else 0
        # A row was put when an episode began; what the steps since then made of it follows from them.
        for row in newest:
            mine = table[row.stream]
            place = len(mine) - 1
            while place >= 0 and mine[place].start > row.id:
                place -= 1
            if place >= 0 and mine[place].stop > row.id:
                continue
            if place < 0 or mine[place].stop < row.id or mine[place].ended != RUNNING:
                raise self._file.db.damaged(f"step {row.id} of stream {row.stream} belongs to no episode")
            last = mine[place]
            reward = float(unpack(row.values["reward"], REWARD.shape, REWARD.dtype))
            if not math.isfinite(reward):
                raise self._file.db.damaged(f"the reward of step {row.id} of stream {row.stream} is {reward}")
            mine[place] = last._replace(
                stop=row.id + 1, total=last.total + reward, ended=row.ended, final=row.final
            )
        live = [
            episode
            for stream in range(streams)
            for episode in table[stream]
            if max(episode.start, tail[stream]) < episode.stop
        ]
        for stream in range(streams):
            self._check_episodes(
                [one for one in live if one.stream == stream], head.item(stream), tail.item(stream)
            )
        live.sort(key=lambda episode: episode.number)
        filed = {episode.number for episode in episodes if episode.final is not None}
        finals = [self._final_place(episode, filed) for episode in live]
        gone = self._final_places.keys() - {episode.number for episode in live}
        self._finals.release([self._final_places.pop(number) for number in gone])
        columns = list(zip(*live, strict=True)) if live else [()] * len(EpisodeRow._fields)
        numbers, stream_of, ordinal, start, stop = (np.array(column, np.int64) for column in columns[:5])
        listed = EpisodeColumns(
            stream_of,
            ordinal,
            start,
            stop,
            np.array(columns[5], np.int8),
            np.array(finals, np.int64),
            np.array(columns[6], np.float64),
            numbers,
        )
        self.index.begun[:] = begun
        rebuild(self.index, head, tail, listed, before)

    def _check_episodes(self, mine: list[EpisodeRow], head: int, tail: int) -> None:
        """Refuse episodes that do not cover a stream's live steps one after the other."""
        whole = bool(mine) or head == tail
        if mine:
            whole = mine[0].start <= tail and mine[-1].stop == head
            for one, after in pairwise(mine):
                whole = whole and one.stop == after.start and one.ordinal + 1 == after.ordinal
                whole = whole and one.ended != RUNNING
        if not whole:
            raise self._file.db.damaged("its episodes do not cover its steps")

    def _final_place(self, episode: EpisodeRow, filed: Set[int]) -> int:
        if episode.final is None:
            return NO_FINAL
        if episode.number not in self._final_places:
            number = episode.number if episode.number in filed else None
            self._final_places[episode.number] = self._finals.load(number, episode.final)
        return self._final_places[episode.number]


def check_numbers(
    streams: int, runs: Sequence[Run], steps: Sequence[StepRow], episodes: Sequence[EpisodeRow]
) -> None:
    """Refuse rows with numbers that no buffer of so many streams has, before anything is computed from them.

    Raises:
        ValueError: there is one.
    """
    for run in runs:
        if not (0 <= run.stream < streams and 0 <= run.first < MOST_ID):
            raise ValueError(f"run {run.number} cannot be")
    for row in steps:
        if not (0 <= row.stream < streams and 0 <= row.id < MOST_ID and row.ended in ENDS):
            raise ValueError(f"step {row.id} of stream {row.stream} cannot be")
    for one in episodes:
        placed = 0 <= one.stream < streams and 0 <= one.start <= one.stop < MOST_ID
        counted = 0 <= one.number < MOST_ID and 0 <= one.ordinal < MOST_ID
        if not (placed and counted and one.ended in ENDS and math.isfinite(one.total)):
            raise ValueError(f"episode {one.number} cannot be")

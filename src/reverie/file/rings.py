"""A replay file written anew: for a larger or smaller ring, and without what was discarded.

The runs of a stream begin at multiples of 32 of `id mod E`, where E is what the stream keeps. Another E cuts the same
steps into other runs, so the file is written anew, beside its place, a run at a time. What belongs to a discarded
episode becomes zeros on the way, which take no room, and its metadata goes: steps keep their ids, and the format is the
same. Only its rewards stay, because the return in its record is checked against them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.checks import positive
from reverie.errors import BadSetting, FileError, FileTaken
from reverie.file.floors import floor_of, put_filler, put_floors
from reverie.file.labels import label_text
from reverie.file.lock import discard_left, put_in_place, replace_in_place
from reverie.file.place import BESIDE_COPY, discard, path_errors, sync_folder, vacant
from reverie.file.reader import read_streams
from reverie.file.records import Blobs, EpisodeRecord, RunRecord, StepRecord
from reverie.file.recovery import StreamRecords
from reverie.file.recut import StreamSteps
from reverie.file.replay import ReplayFile, make_file, read_settings
from reverie.file.settings import SETTINGS, Settings, check_settings
from reverie.file.state import from_json, pack_arrays, sampler_entries, to_json, unpack_arrays
from reverie.index import CUT, DISCARDED, RUNNING, Ints, Runs, most_episodes
from reverie.samplers import Move, moved
from reverie.store import pack, pack_step
from reverie.values import most_array_bytes

Array = npt.NDArray[Any]
OTHERS = (
    "samplers",
    "ends",
    "floors",
    "clean",
    "columns",
    "obs_columns",
)  # named values that are not taken over as they are
PLAIN_NOTES = {
    "exchange",
    "rate_limit",
}  # where steps were imported from, who waits; others are of a class around the buffer
LEAST_ROWS = 64  # that a table of episodes has


def compact_file(path: Path) -> int:
    """Write a replay file anew, without what was discarded and without pages that hold nothing; see `resize_file`.

    Returns:
        How many bytes less the file takes now.

    Raises:
        FileError: as `resize_file`; but a class around the buffer is in the way only where something was discarded.
    """
    with closing(ReplayFile.open(path, "r+")) as source:
        settings, rng = read_settings(source, None)
        if any(DISCARDED in label for label in source.labels().values()):
            _check_plain(
                source, "which finds its episodes by what their steps hold; add the others to a new one"
            )
        before = _rewrite(source, path, settings, settings, rng)
    return before - os.stat(path).st_size


def resize_file(
    path: Path, capacity: int | None, streams: int | None, check: Callable[[Settings], None]
) -> None:
    """Make a replay file one of a larger or smaller ring. Nothing happens where it has that size.

    The new file is written beside the old one and takes its place when it is whole: whatever goes wrong before, a full
    disk or the end of the process, leaves the old one as it was. A reader that has the old one open raises FileError
    when it is asked the next time.

    Args:
        path: of the file.
        capacity: steps kept in all; None means that each stream keeps as many as before.
        streams: how many; None means as many as before.
        check: is asked about the new settings before anything is written, and raises what it has against them.

    Raises:
        BadSetting: such a ring cannot be, or would lose a whole stream.
        FileError: the file cannot be read or written, another process writes to it, a reader holds an older moment
            of it, or it is that of a class around the buffer.
    """
    with closing(ReplayFile.open(path, "r+")) as source:
        old, rng = read_settings(source, None)
        new = resized(old, capacity, streams)
        if (new.capacity, new.streams) == (old.capacity, old.streams):
            return
        _check_plain(
            source, "whose places count from its first step on; add its episodes to a new one of that size"
        )
        check(new)
        _rewrite(source, path, old, new, rng)


def _check_plain(source: ReplayFile, why: str) -> None:
    """Refuse the file of a class around a buffer."""
    if source.meta("notes").keys() - PLAIN_NOTES:
        raise FileError(
            f"{source.db.path}: wanted the file of a ReplayBuffer, got that of a class around one, such as "
            f"IRISReplayBuffer, {why}"
        )


def _rewrite(source: ReplayFile, path: Path, old: Settings, new: Settings, rng: Any) -> int:
    """Put a file with these settings in the place of one that is open to write, which is closed then.

    Returns:
        The size of the old file, in bytes, with all of it in the file itself.
    """
    place = source.db.place
    draft = place.with_name(f"{place.name}.saving-{os.getpid()}")
    try:
        with path_errors(path, "to write it anew"):
            discard_left(place.parent, f"{place.name}.saving-")
            with closing(make_file(draft, new, rng)) as target:
                _Recut(source, target, old, new).write()
            with source.db.syncing():  # so that the old file needs no log, which would be the new one's
                source.put_meta("synced", source.meta("synced") + 1)
            before = os.stat(place).st_size
            source.db.close()
            replace_in_place(draft, path, place).release()
            return before
    finally:
        discard(draft)


def save_resized(path: Path, capacity: int | None, streams: int | None, save: Callable[[Path], None]) -> None:
    """Make a copy of another size at a free path: `save` writes one of the same size beside it.

    Raises:
        BadSetting, FileError: as `resize_file`. FileTaken: there is something at `path`.
    """
    place = vacant(path, f".saving-4194304{BESIDE_COPY}")  # the draft is copied to, and has a draft itself
    draft = place.with_name(f"{place.name}.saving-{os.getpid()}")
    try:
        with path_errors(path, "to write a copy of another size"):
            discard_left(place.parent, f"{place.name}.saving-")
            save(draft)
            resize_file(draft, capacity, streams, lambda settings: None)
            put_in_place(draft, path, place).release()
            sync_folder(place.parent)
    except FileExistsError as error:
        raise FileTaken(
            f"{path}: wanted a free path, got one taken meanwhile; choose another path"
        ) from error
    finally:
        discard(draft)


def resized(old: Settings, capacity: int | None, streams: int | None) -> Settings:
    """Return settings with another capacity, or other streams; without a capacity each stream keeps what it kept.

    Raises:
        BadSetting: they do not fit together.
    """
    count = old.streams if streams is None else positive("streams", streams)
    size = old.each * count if capacity is None else positive("capacity", capacity)
    return check_settings(old.spec, size, count, old.residency, "", old.durability, old.max_bytes)


class _Recut:
    """Writes what one file holds into an empty one for a ring of another size, or of the same.

    Nobody has the empty one open. So each run is a transaction: one for all would be a log as large as the file.

    Args:
        source: its only writer is this process.
        target: of the same columns.
        old, new: their settings.
    """

    def __init__(self, source: ReplayFile, target: ReplayFile, old: Settings, new: Settings) -> None:
        self._source, self._target = source, target
        self._old, self._new = old, new
        self._fields = {column.name: column.field for column in old.stored}
        self._runs = Runs(new.streams, new.each)
        self._gone = {number for number, label in source.labels().items() if DISCARDED in label}
        self._was_closed = source.meta("clean")

    def write(self) -> None:
        """Write all of it."""
        source, target = self._source, self._target
        cut = Runs(self._old.streams, self._old.each)
        streams = read_streams(
            source, cut, [run for run, _ in source.runs()], source.steps(), source.episodes()
        )
        used = max((number + 1 for number, stream in enumerate(streams) if stream.head), default=0)
        if used > self._new.streams:
            raise BadSetting(
                f"streams: wanted at least {used}, since stream {used - 1} has steps, got {self._new.streams}; keep "
                f"them, or copy the episodes of the others into a new buffer"
            )
        streams = streams[: self._new.streams]
        tails = [max(stream.tail, stream.head - self._new.each) for stream in streams]
        more = [0] * (self._new.streams - len(streams))
        floors = [self._put_stream(*one) for one in zip(streams, tails, strict=True)]
        with target.db.syncing():
            self._put_labels()
            for name in source.names():
                if name not in (*SETTINGS, *OTHERS):
                    target.put_meta(name, source.meta(name))
            target.put_meta("ends", [tails + more, [stream.head for stream in streams] + more])
            put_floors(target, floors + more)
            self._put_samplers(streams, tails)

    # --- steps and episodes ----------------------------------------------------------------------------

    def _put_stream(self, stream: StreamRecords, tail: int) -> int:
        """Put the live steps and episodes of a stream; return its floor, or 0 if its runs tell where it begins."""
        number, runs = stream.number, self._runs
        if not stream.head:
            return 0
        newest = runs.first_of(stream.head - 1)  # of the run that is being written
        first = runs.first_of(tail)
        live = [self._ended(one) for one in stream.episodes if max(one.start, tail) < one.stop]
        gone = [(episode.start, episode.stop) for episode in live if episode.number in self._gone]
        steps = StreamSteps(self._source, self._fields, stream, tail, gone)
        if first == newest > 0:
            with self._target.db.writing():
                put_filler(self._target, self._fields, runs, number, newest)
        while first < newest:
            place, _ = runs.of_id(number, first)
            run = RunRecord(place, number, first, runs.steps(place))
            with self._target.db.writing():
                self._target.put_run(run, steps.run(run))
            first = run.stop
        with self._target.db.writing():
            self._put_newest(number, live, enumerate(steps.each(newest, stream.head), newest))
        return floor_of(runs, tail, stream.head)

    def _put_newest(
        self, number: int, live: list[EpisodeRecord], steps: Iterable[tuple[int, dict[str, Array]]]
    ) -> None:
        """Put the newest steps of a stream, and its live episodes."""
        last = {episode.stop - 1: episode for episode in live if episode.ended != RUNNING}
        before: dict[str, Array] = {}
        for step, values in steps:
            end = last.get(step)
            packed = {name: pack_step(value, before.get(name)) for name, value in values.items()}
            ended, final = (RUNNING, None) if end is None else (end.ended, self._final(end))
            self._target.put_step(StepRecord(number, step, ended, packed, final))
            before = values
        for episode in live:
            self._target.put_episode(episode._replace(final=self._final(episode)))

    def _ended(self, episode: EpisodeRecord) -> EpisodeRecord:
        """Return an episode as whoever goes on writing has to leave it: where the writer was killed, none runs."""
        cut = not self._was_closed and episode.ended == RUNNING
        return episode._replace(ended=CUT) if cut else episode

    def _final(self, episode: EpisodeRecord) -> Blobs | None:
        """Return the final observation of an episode, packed; zeros for one that was discarded."""
        if episode.final is None or episode.number not in self._gone:
            return episode.final
        fields = {name: self._fields[name] for name in episode.final}
        return {name: pack(np.zeros(field.shape, field.dtype)) for name, field in fields.items()}

    def _put_labels(self) -> None:
        for number, label in self._source.labels().items():
            if self._target.has_episode(number):
                kept = {DISCARDED: label[DISCARDED]} if DISCARDED in label else label
                self._target.put_label(number, label_text(kept))

    # --- what samplers remember ------------------------------------------------------------------------

    def _put_samplers(self, streams: list[StreamRecords], tails: list[int]) -> None:
        """Put what samplers remember, for where steps and episodes lie now."""
        if (self._new.capacity, self._new.streams) == (self._old.capacity, self._old.streams):
            self._target.put_meta("samplers", self._source.meta("samplers"))
            self._target.put_arrays(self._source.arrays())
            return
        with self._source.db.reading():
            arrays = unpack_arrays(self._source.arrays(), most_array_bytes(self._old.capacity))
            states = [
                (kind, from_json(state, arrays))
                for kind, state in sampler_entries(self._source.meta("samplers"))
            ]
            index = {name: array for name, array in arrays.items() if name.startswith("index/")}
            rows = self._rows(index, streams, tails)
            move = Move(
                self._slots(streams, tails),
                rows,
                self._new.capacity,
                max(LEAST_ROWS, 0 if rows is None else rows.shape[1]),
                self._new.streams,
            )
            if rows is not None:
                index = self._index_of(index, rows)
            entries = [
                [kind, to_json(f"samplers/{place}", moved(state, move), index)]
                for place, (kind, state) in enumerate(states)
            ]
        size, most = sum(array.nbytes for array in index.values()), most_array_bytes(self._new.capacity)
        if size > most:
            raise BadSetting(
                f"capacity: wanted room for what samplers remember, {size:,} bytes, got {most:,} with a capacity of "
                f"{self._new.capacity:,}; pass more"
            )
        self._target.put_meta("samplers", entries)
        self._target.put_arrays(pack_arrays(index))

    def _slots(self, streams: list[StreamRecords], tails: list[int]) -> Ints:
        """Return the slots of all live steps, (2, steps): before and now."""
        ids = [np.arange(tail, stream.head) for stream, tail in zip(streams, tails, strict=True)]
        pairs = [
            np.stack([number * each + of % each for each in (self._old.each, self._new.each)])
            for number, of in enumerate(ids)
        ]
        return np.concatenate(pairs, axis=1)

    def _rows(self, index: dict[str, Array], streams: list[StreamRecords], tails: list[int]) -> Ints | None:
        """Return the rows of live episodes before and now, (2, episodes); None where they can stay as they are.

        They cannot where the table has more rows than that of so small a ring ever gets.
        """
        if "index/row" not in index:
            return None
        size = len(index["index/row"]) + len(index["index/free"])
        if size <= most_episodes(self._new.streams, self._new.each):
            return None
        live = {
            (stream.number, episode.ordinal)
            for stream, tail in zip(streams, tails, strict=True)
            for episode in stream.episodes
            if max(episode.start, tail) < episode.stop
        }
        names = zip(index["index/stream"].tolist(), index["index/ordinal"].tolist(), strict=True)
        here = np.array([name in live for name in names], np.bool_)
        before = np.sort(index["index/row"][here])
        return np.stack([before, np.arange(len(before))])

    def _index_of(self, index: dict[str, Array], rows: Ints) -> dict[str, Array]:
        """Return the rows of the writer's table of episodes as they are now."""
        now = dict(rows.T.tolist())
        here = np.isin(index["index/row"], rows[0])
        kept = {name: array[here] for name, array in index.items() if name != "index/free"}
        kept["index/row"] = np.array([now[row] for row in kept["index/row"].tolist()], np.int64)
        return {**kept, "index/free": np.zeros(0, np.int64)}

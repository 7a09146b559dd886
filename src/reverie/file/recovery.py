"""The rule by which the records of a stream become its steps and episodes, and everything that can be wrong with them.

`docs/format.md` has the rule in words: sealed runs follow each other, the newest steps follow the last of them, newest
steps complete the episodes that were written before them, and episodes cover the live steps. A reader refuses a file at
the first finding; `verify` reports all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.file.records import EpisodeRecord, RunRecord, StepRecord
from reverie.index import CUT, ENDS, RUNNING, Runs
from reverie.spec import Field
from reverie.store import DELTA, unpack_step
from reverie.values import MOST_ID, integers

# How far a return may lie from the sum of the stored, rounded rewards, as a part of their sizes.
CLOSE = 1e-6

Array = npt.NDArray[Any]
Rewards = dict[int, Array]  # id of the first of some steps -> their rewards


class Finding(NamedTuple):
    """Something that is wrong with a file."""

    text: str  # with its place, for a report
    damage: str  # for the error that refuses to load the file; empty where loading does not depend on it


# --- one record by itself ------------------------------------------------------------------------------------


def stray_run(run: RunRecord, runs: Runs) -> Iterator[Finding]:
    """Yield why no stream that is cut like this has such a run, if none has."""
    if not (
        0 <= run.stream < runs.streams
        and 0 <= run.first < MOST_ID
        and runs.of_id(run.stream, run.first) == (run.number, 0)
        and run.steps == runs.steps(run.number)
    ):
        yield Finding(
            f"run {run.number}: {run.steps} steps of stream {run.stream} from step {run.first} cannot lie there",
            f"run {run.number} lies where it cannot",
        )


def stray_step(number: int, step: StepRecord, streams: int) -> Iterator[Finding]:
    """Yield why no stream has such a step under this number, if none has."""
    placed = 0 <= step.stream < streams and 0 <= step.id < MOST_ID and number == step.number
    if not (placed and step.ended in ENDS):
        yield Finding(
            f"step row {number}: step {step.id} of stream {step.stream}, ended {step.ended}, cannot lie there",
            f"step {step.id} of stream {step.stream} cannot be",
        )


def stray_episode(episode: EpisodeRecord, streams: int) -> Iterator[Finding]:
    """Yield why no stream has an episode of such numbers, if none has."""
    placed = 0 <= episode.stream < streams and 0 <= episode.start <= episode.stop < MOST_ID
    if not (placed and 0 <= episode.number < MOST_ID and 0 <= episode.ordinal < MOST_ID):
        yield Finding(
            f"episode {episode.number}: steps {episode.start} to {episode.stop} of stream {episode.stream} cannot be",
            f"episode {episode.number} cannot be",
        )


def odd_episode(episode: EpisodeRecord) -> Iterator[Finding]:
    """Yield what cannot be about how an episode ended and what it returned."""
    place, refused = f"episode {episode.number}", f"episode {episode.number} cannot be"
    if episode.ended not in ENDS:
        yield Finding(f"{place}: ended is {episode.ended}, which means nothing", refused)
    if episode.final is not None and episode.ended == RUNNING:
        yield Finding(f"{place}: it runs, and yet it has a final observation", "")
    if not math.isfinite(episode.total):
        yield Finding(f"{place}: its return is {episode.total}", refused)


# --- the records of a stream ---------------------------------------------------------------------------------


class Noted(NamedTuple):
    """Where a stream stood at the last flush, as the file notes it."""

    tail: int
    head: int
    is_exact: bool  # whether the file was closed with it


def noted_ends(value: Any, clean: bool, streams: int) -> list[Noted] | None:
    """Return where the streams stood, from what a file has under "ends"; None if it has nothing.

    Raises:
        TypeError, ValueError: it is no such note.
    """
    if not value:
        return None
    tails, heads = (integers(one, streams, MOST_ID) for one in value)
    return [Noted(tail, head, clean) for tail, head in zip(tails, heads, strict=True)]


class StreamRecords:
    """The records of one stream, and what they come to.

    Args:
        number: of the stream.
        runs: how streams are cut.
        sealed, steps, episodes: its records, in any order, none of which is stray.
        noted: where it stood at the last flush, if that is known.
        floor: an id before which no step is live.

    Attributes:
        number: of the stream.
        sealed: one past the last id that a sealed run holds.
        head: one past the id of its last step; tail: its oldest live id.
        runs: the sealed runs that have live steps, oldest first.
        newest: the steps that no sealed run holds, oldest first.
        begun: episodes that ever began.
        kept: the first episode whose record may not have its end yet.
        episodes: oldest first; once all findings were asked for, with what the newest steps made of them.
    """

    def __init__(
        self,
        number: int,
        runs: Runs,
        sealed: Sequence[RunRecord],
        steps: Sequence[StepRecord],
        episodes: Sequence[EpisodeRecord],
        noted: Noted | None,
        floor: int = 0,
    ) -> None:
        self.number, self._name = number, f"stream {number}"
        self._noted, self._floor = noted, floor
        oldest_first = sorted(sealed, key=lambda run: run.first)
        self.sealed = oldest_first[-1].stop if sealed else 0
        # The newest steps are those of one run: it is sealed when the next one begins.
        self._most_newest = runs.steps(runs.of_id(number, self.sealed)[0])
        self.newest = sorted((step for step in steps if step.id >= self.sealed), key=lambda step: step.id)
        self.head = self.newest[-1].id + 1 if self.newest else self.sealed
        oldest = oldest_first[0].first if sealed else 0
        self.tail = max(self.head - runs.capacity, oldest, min(floor, self.head))
        self.runs = [run for run in oldest_first if run.stop > self.tail]
        self.episodes = sorted(episodes, key=lambda episode: episode.number)
        self.begun = self.episodes[-1].ordinal + 1 if episodes else 0
        ended = [episode.ordinal + 1 for episode in episodes if episode.ended != RUNNING]
        self.kept = max(ended, default=self.episodes[0].ordinal if episodes else 0)

    @property
    def live(self) -> list[EpisodeRecord]:
        """The episodes that have live steps, oldest first."""
        return [episode for episode in self.episodes if max(episode.start, self.tail) < episode.stop]

    def findings(self, reward: Callable[[StepRecord], float]) -> Iterator[Finding]:
        """Yield what does not fit together, and complete `episodes` meanwhile; `reward` unpacks that of a step."""
        yield from self._gaps()
        yield from self._lost_ends()
        for step in self.newest:
            if step.id >= self.tail:
                yield from self._complete(step, reward)
        yield from self._uncovered()

    def _gaps(self) -> Iterator[Finding]:
        """Check that runs and newest steps follow each other."""
        following = min(self.tail, self.runs[0].first) if self.runs else self.sealed
        for run in self.runs:
            if run.first != following:
                which = "the oldest run" if run is self.runs[0] else "a run"
                yield self._gap(following, run.first, f"{which} of {self._name} is missing")
            following = run.stop
        for step in self.newest:
            if step.id != following:
                yield self._gap(following, step.id, f"a newest step of {self._name} is missing")
            following = step.id + 1
        if len(self.newest) > self._most_newest:
            text = (
                f"its last sealed run is followed by {len(self.newest)} steps, of at most {self._most_newest}"
            )
            yield Finding(f"{self._name}: {text}", f"a run of {self._name} is missing")

    def _gap(self, first: int, stop: int, damage: str) -> Finding:
        return Finding(f"{self._name}: steps {first} to {stop - 1} are missing", damage)

    def _lost_ends(self) -> Iterator[Finding]:
        """Compare the stream with where it stood: its first or last records may be gone without a gap."""
        damage = "its first or last steps are missing"
        if self._floor > self.head:
            text = f"its steps stop at {self.head}, and begin at {self._floor}"
            yield Finding(f"{self._name}: {text}", damage)
        if self._noted is None:
            return
        tail, head, is_exact = self._noted
        if self.head < head or (is_exact and self.head != head):
            yield Finding(f"{self._name}: its steps stop at {self.head}, at the last flush at {head}", damage)
        # An interrupted add may have let a step go in memory alone: a tail may be older here, never newer.
        if is_exact and self.tail > tail:
            yield Finding(
                f"{self._name}: its steps begin at {self.tail}, at the last flush at {tail}", damage
            )

    def _complete(self, step: StepRecord, reward: Callable[[StepRecord], float]) -> Iterator[Finding]:
        """Complete the episode of a newest step, which may have come after the episode's record was put."""
        place = len(self.episodes) - 1
        while place >= 0 and self.episodes[place].start > step.id:
            place -= 1
        found = self.episodes[place] if place >= 0 else None
        if found is None or found.stop < step.id or (found.stop == step.id and found.ended != RUNNING):
            yield Finding(
                f"{self._name}, step {step.id}: it belongs to no episode",
                f"step {step.id} of {self._name} belongs to no episode",
            )
        elif found.stop > step.id:
            # A cut may be known to the step alone, with durability "chunk": it would be made after a crash, too.
            ended = step.ended if found.ended == RUNNING and step.ended == CUT else found.ended
            if step.ended and (found.stop, ended) != (step.id + 1, step.ended):
                text = f"it ends an episode, and episode {found.number} goes on"
                yield Finding(f"{self._name}, step {step.id}: {text}", "")
        else:
            self.episodes[place] = found._replace(
                stop=step.id + 1, total=found.total + reward(step), ended=step.ended, final=step.final
            )

    def _uncovered(self) -> Iterator[Finding]:
        """Check that the episodes cover the live steps, one after the other."""
        live, damage = self.live, "its episodes do not cover its steps"
        for one, after in pairwise(live):
            if (one.stop, one.ordinal + 1) != (after.start, after.ordinal):
                text = f"episode {after.number} does not begin where episode {one.number} stopped"
                yield Finding(f"{self._name}: {text}", damage)
            if one.ended == RUNNING:
                text = f"episode {one.number} runs, and yet episode {after.number} came after it"
                yield Finding(f"{self._name}: {text}", damage)
        first, last = (live[0].start, live[-1].stop) if live else (self.head, self.head)
        if first > self.tail:
            text = f"steps {self.tail} to {first - 1} belong to no episode"
            yield Finding(f"{self._name}: {text}", damage)
        if last != self.head:
            yield Finding(f"{self._name}: its episodes stop at step {last}, its steps at {self.head}", damage)


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

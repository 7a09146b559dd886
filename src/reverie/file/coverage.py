"""Whether what a replay file has of one stream fits together: runs, newest steps, episodes, returns."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.file.tables import EpisodeRow, Run, StepRow
from reverie.index import CUT, RUNNING
from reverie.spec import Field
from reverie.store import DELTA, unpack_step

# How far a return may lie from the sum of the stored, rounded rewards, as a part of their sizes.
CLOSE = 1e-6

Array = npt.NDArray[Any]
Rewards = dict[int, Array]  # id of the first of some steps -> their rewards


class Coverage:
    """One stream of a replay file.

    Args:
        stream: its number.
        capacity: steps that it keeps.
        fields: of every stored column.
        runs, steps, episodes: its rows, in any order, those left out whose numbers are damaged.
        rewards: those of the runs.

    Attributes:
        head: one past the id of its last step; tail: the oldest live id.
    """

    def __init__(
        self,
        stream: int,
        capacity: int,
        fields: Mapping[str, Field],
        runs: Sequence[Run],
        steps: Sequence[StepRow],
        episodes: Sequence[EpisodeRow],
        rewards: Rewards,
    ) -> None:
        self._name = f"stream {stream}"
        self._fields = fields
        self._runs = sorted(runs, key=lambda run: run.first)
        self._sealed = self._runs[-1].first + self._runs[-1].steps if runs else 0
        self._newest = sorted((row for row in steps if row.id >= self._sealed), key=lambda row: row.id)
        self.head = self._newest[-1].id + 1 if self._newest else self._sealed
        self.tail = max(self.head - capacity, self._runs[0].first if runs else 0)
        self._episodes = sorted(episodes, key=lambda episode: episode.ordinal)
        self._rewards = rewards

    def findings(self, counts: Counter[str]) -> Iterator[str]:
        """Yield what does not fit; count live steps in `counts`."""
        counts["live steps"] += self.head - self.tail
        yield from self._check_steps()
        yield from self._check_newest()
        yield from self._check_ends()
        yield from self._check_episodes()
        starts = sorted(self._rewards)
        for episode in self._episodes:
            if self.tail <= episode.start:
                yield from self._check_total(episode, starts)

    def _check_steps(self) -> Iterator[str]:
        spans = [
            (run.first, run.first + run.steps) for run in self._runs if run.first + run.steps > self.tail
        ]
        spans += [(row.id, row.id + 1) for row in self._newest]
        first = min(self.tail, spans[0][0]) if spans else 0  # of the oldest run some steps may be evicted
        for one, after in pairwise([(first, first), *spans]):
            if one[1] != after[0]:
                yield f"{self._name}: steps {one[1]} to {after[0] - 1} are missing"

    def _check_newest(self) -> Iterator[str]:
        """Unpack the newest steps one after the other: each may be packed as a change of the one before."""
        last = -1
        before: dict[str, Array] = {}
        for row in self._newest:
            known = before if row.id == last + 1 else {}
            before, last = {}, row.id
            for name, field in self._fields.items():
                packed = row.values.get(name)
                if packed is None or (packed[:1] == DELTA and row.id > self._sealed and name not in known):
                    continue  # its checksum, or that of the step that it tells changes from, was wrong
                try:
                    before[name] = unpack_step(packed, known.get(name), field.shape, field.dtype)
                except (ValueError, MemoryError) as error:
                    yield f"{self._name}, step {row.id}, column {name!r}: it does not unpack ({error})"
                    continue
                if (wrong := wrong_values(name, before[name])) is not None:
                    yield f"{self._name}, step {row.id}, column {name!r}: {wrong}"
            if "reward" in before:
                self._rewards[row.id] = before["reward"].reshape(1)

    def _check_ends(self) -> Iterator[str]:
        """Bring the episodes' rows up to date: a newest step may have come after its episode's row was put."""
        table = self._episodes
        for row in self._newest:
            place = bisect_right(table, row.id, key=lambda episode: episode.start) - 1
            found = table[place] if place >= 0 else None
            if found is None or found.stop < row.id or (found.stop == row.id and found.ended != RUNNING):
                yield f"{self._name}, step {row.id}: it belongs to no episode"
            elif found.stop > row.id:
                # A cut may be known to the step alone, with durability "chunk": it would be made after a crash, too.
                ended = row.ended if found.ended == RUNNING and row.ended == CUT else found.ended
                if row.ended and (found.stop, ended) != (row.id + 1, row.ended):
                    yield f"{self._name}, step {row.id}: it ends an episode, and episode {found.number} goes on"
            else:
                reward = self._rewards.get(row.id)
                total = math.nan if reward is None else found.total + float(reward[0])
                table[place] = found._replace(stop=row.id + 1, total=total, ended=row.ended, final=row.final)

    def _check_episodes(self) -> Iterator[str]:
        """Check that the episodes cover the live steps, one after the other."""
        live = [episode for episode in self._episodes if max(episode.start, self.tail) < episode.stop]
        for one, after in pairwise(live):
            if (one.stop, one.ordinal + 1) != (after.start, after.ordinal) or one.number >= after.number:
                yield f"{self._name}: episode {after.number} does not begin where episode {one.number} stopped"
            if one.ended == RUNNING:
                yield f"{self._name}: episode {one.number} runs, and yet episode {after.number} came after it"
        first, last = (live[0].start, live[-1].stop) if live else (self.head, self.head)
        if first > self.tail:
            yield f"{self._name}: steps {self.tail} to {first - 1} belong to no episode"
        if last != self.head:
            yield f"{self._name}: its episodes stop at step {last}, its steps at {self.head}"

    def _check_total(self, episode: EpisodeRow, starts: Sequence[int]) -> Iterator[str]:
        """Compare an episode's return with its rewards."""
        pieces, step = [], episode.start
        while step < episode.stop:
            place = bisect_right(starts, step) - 1
            if place < 0:
                return  # missing or damaged: that was said before
            piece = self._rewards[starts[place]][step - starts[place] : episode.stop - starts[place]]
            if not len(piece):
                return
            pieces.append(piece.astype(np.float64))
            step += len(piece)
        rewards = np.concatenate(pieces) if pieces else np.zeros(1)
        if abs(rewards.sum() - episode.total) > CLOSE * np.abs(rewards).sum():
            yield (
                f"{self._name}: the return of episode {episode.number} is {episode.total:g}, "
                f"the sum of its rewards {rewards.sum():g}"
            )


def wrong_values(name: str, values: Array) -> str | None:
    """Return what is wrong with the values of a column, if anything is."""
    if name == "reward" and not np.isfinite(values).all():
        return "not every reward is finite"
    return None

"""The naive twin, which may be copied and stopped anywhere, and all that a buffer like it has to show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from reverie.index import RUN
from reverie.testing import Address, NaiveBuffer, NaiveEpisode, NaiveStep, NaiveStream

MOST = 2048  # steps that a stream may come to have
LENGTHS = (1, 2, 5, 33)  # windows are counted at each
SHOWN = 3  # windows of this length are listed

Table = dict[str, np.ndarray]


class Twin(NaiveBuffer):
    """The naive twin, which may be copied, and can be told what a budget let go of.

    Attributes:
        floor: stream -> the first id that a budget left.
        labels: metadata of episodes, by their order.
        gone: the order of every episode that was discarded.
        promised: stream -> one past the last id that the file must have whatever happens, durability "chunk".
    """

    def __init__(self, capacity: int, streams: int) -> None:
        super().__init__(capacity, streams)
        self.floor = [0] * streams
        self.promised = [0] * streams
        self.labels: dict[int, dict[str, Any]] = {}  # by the order of its episode
        self.gone: frozenset[int] = frozenset()

    @property
    def heads(self) -> list[int]:
        """The next id of each stream."""
        return [len(record.steps) for record in self.streams]

    @property
    def tails(self) -> list[int]:
        """The oldest live id of each stream."""
        return [self.live_ids(stream).start for stream in range(len(self.streams))]

    def live_ids(self, stream: int) -> range:
        """Return the ids of the live steps of one stream."""
        live = super().live_ids(stream)
        return range(max(live.start, self.floor[stream]), live.stop)

    def __len__(self) -> int:
        return len(self.live_steps())

    def live_steps(self) -> list[Address]:
        """Return every live step, those of discarded episodes left out."""
        return [one for one in super().live_steps() if self.episode_of(*one).order not in self.gone]

    def anchors(self, boundary: str, length: int) -> set[Address]:
        """Return the steps that may be drawn; no window of rows shows a discarded episode."""
        found = super().anchors(boundary, length)
        if boundary != "cross" or not self.gone:
            return found
        return {(stream, step) for stream, step in found if self._shows_none_gone(stream, step, length)}

    def _shows_none_gone(self, stream: int, step: int, length: int) -> bool:
        rows = self.rows(stream)
        place = rows.index((step, False))
        return not {self.episode_of(stream, one).order for one, _ in rows[place : place + length]} & self.gone

    def discard(self, orders: Iterable[int]) -> None:
        """Take episodes out for good."""
        self.gone |= frozenset(orders)

    def add(self, **step: Any) -> None:
        """Store one step; the run before it is promised when it begins another."""
        stream = step["stream"]
        head = len(self.streams[stream].steps)
        if head % self.stream_capacity % RUN == 0:
            self.promised[stream] = head
        super().add(**step)

    def add_batch(self, *, streams: np.ndarray, **columns: Any) -> None:
        """Store a step for each of several streams."""
        for lane, stream in enumerate(streams.tolist()):
            row = {
                name: {key: rows[lane] for key, rows in column.items()} if isinstance(column, dict) else
                None if column is None else column[lane]
                for name, column in columns.items()
            }  # fmt: skip
            ends = bool(row["terminated"]) or bool(row["truncated"])
            self.add(**{**row, "stream": stream, "reward": float(row["reward"]), "terminated": bool(row["terminated"]),
                        "truncated": bool(row["truncated"]), "final_obs": row["final_obs"] if ends else None})  # fmt: skip

    def write_back(self, name: str, stream: int, step: int, value: Any) -> None:
        """Store a new value of one extra field of one step, if it is live."""
        if step in self.live_ids(stream):
            old = self.streams[stream].steps[step]
            extras = {**old.extras, name: np.array(value)}
            self.streams[stream].steps[step] = NaiveStep(old.obs, old.action, old.reward, extras, old.episode)

    def annotate(self, stream: int, **values: Any) -> None:
        """Set metadata of the running episode of a stream."""
        order = self.streams[stream].episodes[-1].order
        self.labels = {**self.labels, order: {**self.labels.get(order, {}), **values}}

    def flush(self) -> None:
        """Everything is promised now."""
        self.promised = self.heads

    def copy(self) -> Twin:
        """Return a twin that goes its own way."""
        other = Twin(self.stream_capacity * len(self.streams), len(self.streams))
        other.streams = [NaiveStream(list(record.steps), list(record.episodes)) for record in self.streams]
        other.labels, other.gone = self.labels, self.gone
        other._begun, other.floor, other.promised = self._begun, list(self.floor), list(self.promised)
        return other

    def all_cut(self) -> Twin:
        """Return a twin whose recordings have stopped."""
        other = self.copy()
        for stream in range(len(self.streams)):
            other.cut(stream)
        return other

    def up_to(self, heads: list[int], finals: bool) -> Twin:
        """Return a twin that was stopped at these heads; `finals` is whether it had seen cuts made right there."""
        other = self.copy()
        for record, head in zip(other.streams, heads, strict=True):
            whole = len(record.steps) == head or record.steps[head].episode != record.steps[head - 1].episode
            del record.steps[head:]
            del record.episodes[record.steps[-1].episode + 1 if record.steps else 0 :]
            if record.episodes:
                last = record.episodes[-1]
                was_cut = last.ended and not last.terminated and not last.truncated
                if not whole or (was_cut and not finals):
                    record.episodes[-1] = NaiveEpisode(last.order)
        return other.all_cut()

    def episodes(self) -> list[tuple[Any, ...]]:
        """Return what `ReplayBuffer.episodes` has to show."""
        found = []
        for steps in self.live_episodes():
            stream, first = steps[0]
            record, episode = self.streams[stream], self.episode_of(stream, first)
            number = record.steps[first].episode
            start, stop = first, steps[-1][1] + 1
            while start and record.steps[start - 1].episode == number:
                start -= 1
            total = sum(step.reward for step in record.steps[start:stop])
            ended = (
                "terminated" if episode.terminated else "truncated" if episode.truncated else "cut"
            ) * episode.ended
            found.append((stream, start, stop, stop - start, len(steps), total, ended or "running"))
        return found


def expected(twin: Twin) -> Table:
    """Return what `look` has to see of a buffer that is as its twin."""
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for stream, step in twin.live_steps():
        here, (after, known) = twin.streams[stream].steps[step], twin.successor(stream, step)
        follows, episode = twin.follows(stream, step), twin.episode_of(stream, step)
        for name, value in zip(COLUMNS, (
            stream, step, here.obs["frame"], here.obs["wide"], after["frame"], after["wide"], known,
            twin.opens(stream, step), here.action, here.reward, not follows and episode.terminated,
            not follows and episode.truncated, here.extras["latent"], here.extras["state"],
        ), strict=True):  # fmt: skip
            rows[name].append(value)
    table = {name: np.array(values) for name, values in rows.items()}
    episodes = twin.episodes()
    fits = [(stream, stop - live, stop - (ended == "running"))
            for stream, _, stop, _, live, _, ended in episodes]  # fmt: skip
    table["episodes"] = np.array([repr(episode) for episode in episodes])
    orders = [twin.episode_of(*steps[0]).order for steps in twin.live_episodes()]
    table["metadata"] = np.array([repr(twin.labels.get(order, {})) for order in orders])
    table["counts"] = np.array(
        [sum(max(0, stop - first - length + 1) for _, first, stop in fits) for length in LENGTHS]
    )
    table["windows"] = np.array(sorted(
        stream * MOST + start for stream, first, stop in fits for start in range(first, stop - SHOWN + 1)
    ))  # fmt: skip
    return table


COLUMNS = ("stream", "id", "frame", "wide", "next frame", "next wide", "next known", "opens", "action", "reward",
           "terminated", "truncated", "latent", "state")  # fmt: skip

"""Buffers in every state worth a fault, the naive twin beside each, and what all of a buffer looks like."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import reverie as rv
from reverie.index import RUN, Anchors, Drawn
from support.twin import COLUMNS, LENGTHS, MOST, SHOWN, Table, Twin

WIDE = 128  # bytes: in runs of 32 steps wide enough to be packed
_frames = np.random.default_rng(7).integers(0, 256, (4, MOST, WIDE), np.uint8)


def spec() -> rv.StepSpec:
    """A narrow and a wide observation, and a narrow and a wide field to be written back."""
    return rv.StepSpec(
        obs={"frame": rv.Field((4,), "uint8"), "wide": rv.Field((WIDE,), "uint8")},
        action=rv.Field((), "int64"),
        extras={"latent": rv.Field((2,), "float32"), "state": rv.Field((WIDE // 4,), "float32")},
    )


RAW = 4 + WIDE + 8 + 4 + 8 + WIDE  # bytes of a step, reward included
BUDGET = 12 * RUN * RAW  # the least that one stream may be held to


def observation(stream: int, step: int) -> dict[str, np.ndarray]:
    """What this step saw, in arrays of its own."""
    wide = _frames[stream, step % MOST]
    return {"frame": wide[:4] + np.uint8(1), "wide": wide.copy()}


def arguments(stream: int, step: int, ended: str = "") -> dict[str, Any]:
    """The arguments of `add` for one step; `ended` is of "terminated", "truncated", "both", "shown" or ""."""
    return {
        "obs": observation(stream, step), "action": np.array(step * 4 + stream), "stream": stream,
        "reward": float((step * 31 + stream) % 11 - 5),
        "terminated": ended in ("terminated", "both", "shown"), "truncated": ended in ("truncated", "both"),
        "final_obs": observation(stream, step + 1000) if ended in ("shown", "both") else None,
        "latent": np.array([step, stream], np.float32), "state": np.arange(WIDE // 4, dtype=np.float32) * step,
    }  # fmt: skip


def lanes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of `add_batch` for these steps of different streams. Ends show their final observations."""
    blank = observation(3, 0)
    joined: dict[str, Any] = {
        name: np.array([row[name] for row in rows])
        for name in ("action", "reward", "terminated", "truncated", "latent", "state")
    }
    joined["streams"] = np.array([row["stream"] for row in rows])
    joined["reward"] = joined["reward"].astype(np.float32)
    for name in ("obs", "final_obs"):
        joined[name] = {key: np.array([(row[name] or blank)[key] for row in rows]) for key in blank}
    if all(row["final_obs"] is None for row in rows):
        joined["final_obs"] = None
    return joined


def fate(stream: int, step: int, period: int) -> str:
    """How a step of the story ends its episode, if it does."""
    if (step + stream) % period != min(5, period - 1):
        return ""
    return ("shown", "both", "truncated", "terminated")[(step // period + stream) % 4]


# --- the buffer --------------------------------------------------------------------------------------------


class Chosen(rv.Sampler):
    """Draws the anchors with these ranks or addresses; all there are, if neither is given."""

    def __init__(
        self, ranks: Callable[[int], np.ndarray] = np.arange, addresses: list[tuple[int, int]] | None = None
    ) -> None:
        self._ranks, self._addresses = ranks, addresses

    def draw(self, anchors: Anchors, rng: np.random.Generator, count: int) -> Drawn:
        """Return them, as many as were asked for."""
        if self._addresses is None:
            return Drawn(*anchors.at_rank(self._ranks(count)))
        rows, ids = anchors.at_rank(np.arange(anchors.require()))
        streams = anchors.index.streams_of(rows)
        places = [
            int(np.flatnonzero((streams == stream) & (ids == step))[0]) for stream, step in self._addresses
        ]
        return Drawn(rows[places], ids[places])


_all = Chosen()


def look(buffer: rv.ReplayBuffer) -> Table:
    """Return everything that a buffer shows, in order."""
    count = len(buffer)
    table = {name: np.zeros(0) for name in COLUMNS}
    table["windows"] = np.zeros(0)
    if count:
        batch = buffer.sample(count, 1, boundary="pad_right", sampler=_all)
        order = np.lexsort((batch.anchor, batch.stream))
        assert batch.mask.all()
        assert batch.obs_mask[:, 0].all()
        for name, column in zip(COLUMNS, (
            batch.stream, batch.anchor, batch.obs["frame"][:, 0], batch.obs["wide"][:, 0], batch.obs["frame"][:, 1],
            batch.obs["wide"][:, 1], batch.obs_mask[:, 1], batch.is_first[:, 0], batch.action[:, 0], batch.reward[:, 0],
            batch.terminated[:, 0], batch.truncated[:, 0], batch.extras["latent"][:, 0], batch.extras["state"][:, 0],
        ), strict=True):  # fmt: skip
            table[name] = column[order]
    episodes = buffer.episodes
    table["episodes"] = np.array([repr(tuple(episode)) for episode in episodes.tolist()])
    table["metadata"] = np.array([repr(label) for label in episodes.metadata])
    table["counts"] = np.array([buffer.count_windows(length) for length in LENGTHS])
    many = buffer.count_windows(SHOWN)
    if many:
        batch = buffer.sample(many, SHOWN, sampler=_all)
        table["windows"] = np.sort(batch.stream * MOST + batch.start)
    return table


def difference(got: Table, wanted: Table) -> str:
    """Return in a few words where two tables differ; nothing if they do not."""
    if len(got["id"]) != len(wanted["id"]):
        return f"{len(got['id'])} steps, not {len(wanted['id'])}"
    for name, values in wanted.items():
        seen = got[name]
        if seen.shape != values.shape and (seen.size or values.size):
            return f"{name}: {seen.shape}, not {values.shape}"
        if seen.size and not np.array_equal(seen, values):
            place = int(np.flatnonzero((seen != values).reshape(len(values), -1).any(axis=1))[0])
            where = (
                f" of step {wanted['id'][place]} of stream {wanted['stream'][place]}"
                if name in COLUMNS
                else ""
            )
            return f"{name}{where}: {str(seen[place].tolist())[:60]}, not {str(values[place].tolist())[:60]}"
    return ""


# --- homes and states --------------------------------------------------------------------------------------


class Home(NamedTuple):
    """Where a buffer's bytes live."""

    residency: str
    durability: str | None  # None: without a path


HOMES = {
    "ram": Home("ram", None), "packed": Home("packed", None),
    "ram-step": Home("ram", "step"), "packed-step": Home("packed", "step"), "disk-step": Home("disk", "step"),
    "ram-chunk": Home("ram", "chunk"), "packed-chunk": Home("packed", "chunk"), "disk-chunk": Home("disk", "chunk"),
}  # fmt: skip


class State(NamedTuple):
    """What a buffer has lived through.

    Attributes:
        heads: steps of each stream; empty for a budget's: as many as bring it to its limit.
        streams: how many there are then.
        each: steps that a stream keeps.
        period: an episode ends every so many steps.
        drawn: whether batches were drawn right before.
        budget, reopened: whether there is one; whether the file was closed and opened again.
    """

    heads: tuple[int, ...]
    each: int = 64
    period: int = 7
    drawn: bool = False
    budget: bool = False
    reopened: bool = False
    streams: int = 1

    def allows(self, home: Home) -> bool:
        """Whether a buffer that lives there can be in this state."""
        if self.budget and home.residency == "ram":
            return False
        return not (self.reopened and home.durability is None)


STATES = {
    "empty": State((0,)),
    "filling": State((45,), drawn=True),
    "run-boundary": State((32,)),
    "full": State((85,), drawn=True),
    "full-run-boundary": State((96,)),  # the run that begins takes the slots of one that is there
    "full-short-run": State((160,), each=80),  # the last run of a round has 16 steps
    "full-episode-boundary": State((83,)),
    "one-step-episodes": State((85,), period=1),
    "one-step-run-boundary": State((96,), period=1, drawn=True),
    "streams": State((85, 64, 81), drawn=True),  # the second at a run's boundary, the third at an end
    "streams-run-boundary": State((64, 64, 64)),
    "budget": State((), each=640, budget=True),
    "budget-streams": State((), each=640, budget=True, streams=2),
    "budget-reopened": State((), each=640, budget=True, reopened=True),
    "reopened": State((85,), reopened=True),
    "reopened-run-boundary": State((96,), reopened=True),
}  # fmt: skip

SAMPLERS: dict[str, Callable[[], rv.Sampler]] = {
    "Fresh": rv.Fresh, "VisitBalanced": rv.VisitBalanced, "Prioritized": rv.Prioritized, "Shuffled": rv.Shuffled,
}  # fmt: skip


@dataclass
class World:
    """A buffer in a state, and where it is.

    Attributes:
        samplers: name -> a sampler that the buffer drew with, in the order of SAMPLERS.
        batch: for an operation that needs one.
    """

    folder: Path
    home: Home
    state: State
    buffer: rv.ReplayBuffer = field(init=False)
    samplers: dict[str, rv.Sampler] = field(
        default_factory=lambda: {name: make() for name, make in SAMPLERS.items()}
    )
    batch: Any = None

    @property
    def path(self) -> Path | None:
        """Where the replay file is, if there is one."""
        return None if self.home.durability is None else self.folder / "a.replay"

    def draw(
        self, buffer: rv.ReplayBuffer | None = None, samplers: dict[str, rv.Sampler] | None = None
    ) -> list[Any]:
        """Draw with every sampler; return what came."""
        buffer = self.buffer if buffer is None else buffer
        if not len(buffer):
            return []
        batches = [buffer.sample(4, 2, boundary="pad_right", sampler=sampler)
                   for sampler in (samplers or self.samplers).values()]  # fmt: skip
        return [(batch.stream.tolist(), batch.anchor.tolist()) for batch in batches]

    def build(self) -> World:
        """Bring the buffer into its state."""
        state, home = self.state, self.home
        heads = state.heads or budget_heads(home, state.streams)
        self.buffer = rv.ReplayBuffer(
            spec(), state.each * len(heads), streams=len(heads), seed=0, residency=home.residency, path=self.path,
            durability=home.durability, max_bytes=BUDGET * len(heads) if state.budget else None,
        )  # fmt: skip
        for kind, what in story(heads, state.period):
            if kind == "draw":
                self.draw()
            else:
                getattr(self.buffer, kind)(**what)
        if state.reopened:
            self.buffer.close()
            self.samplers = {name: make() for name, make in SAMPLERS.items()}
            self.buffer = rv.open(self.path)
            for stream in range(len(heads)):
                self.buffer.cut(stream)
        if state.drawn:
            self.draw()
        return self

    def twin(self) -> Twin:
        """Return what the buffer has to be like after `build`; of what a budget let go it asks the buffer."""
        state = self.state
        heads = state.heads or budget_heads(self.home, state.streams)
        twin = Twin(state.each * len(heads), len(heads))
        for kind, what in story(heads, state.period):
            if kind != "draw":
                getattr(twin, kind)(**what)
        if state.reopened:
            twin = twin.all_cut()
            twin.flush()
        if state.budget:
            twin.floor = tails(self.buffer)
        return twin


@cache
def story(heads: tuple[int, ...], period: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls of a state; nobody changes their arrays."""
    return list(_story(heads, period))


def _story(heads: tuple[int, ...], period: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls that bring streams to these heads: adds in all streams at once, then in some, and a cut."""
    together = max(min(heads) - 4, 0) if len(heads) > 1 else 0

    def step(stream: int, number: int) -> dict[str, Any]:
        ended = fate(stream, number, period)
        return arguments(stream, number, "shown" if ended and number < together else ended)

    for number in range(max(heads)):
        if number < together:
            yield "add_batch", lanes([step(stream, number) for stream in range(len(heads))])
        else:
            for stream, head in enumerate(heads):
                if number < head:
                    yield "add", step(stream, number)
        if number == max(heads) - 30:
            yield "draw", {}
        if number % 23 == 11:
            yield "cut", {"stream": 0, "final_obs": observation(0, number + 1500) if number % 2 else None}


@cache
def budget_heads(home: Home, streams: int) -> tuple[int, ...]:
    """Return how many steps streams have when the next ones make a budget let go of runs for the second time."""
    with tempfile.TemporaryDirectory(dir=ROOM) as folder:
        path = None if home.durability is None else Path(folder) / "a.replay"
        buffer = rv.ReplayBuffer(
            spec(), 640 * streams, seed=0, streams=streams, residency=home.residency, path=path,
            durability=home.durability, max_bytes=BUDGET * streams,
        )  # fmt: skip
        moved = 0
        for number in range(640):
            before = len(buffer)
            for stream in range(streams):
                buffer.add(**arguments(stream, number, fate(stream, number, 7)))
            moved += len(buffer) < before
            if moved == 2:
                buffer.close()
                return (number,) * streams
    raise AssertionError("wanted a budget that is reached, got one that never is")


def tails(buffer: rv.ReplayBuffer) -> list[int]:
    """Return the oldest live id of each stream; one past the last where there is none."""
    found = [0] * buffer.streams
    table = look(buffer)
    for stream in range(buffer.streams):
        ids = table["id"][table["stream"] == stream]
        found[stream] = int(ids.min()) if len(ids) else 0
    return found


# --- files -------------------------------------------------------------------------------------------------

# Where there is a disk in memory, a thousand files are made and removed in no time.
ROOM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

_COPY = """
import json, os, shutil, sys
for line in sys.stdin:
    for source, target in json.loads(line):
        if os.path.exists(source):
            shutil.copyfile(source, target)
    print(flush=True)
"""
_copiers: dict[int, subprocess.Popen[str]] = {}  # process -> its own


def copy_aside(path: Path, target: Path, log: bool = True) -> Path:
    """Copy a replay file, with its log or alone, by another process: were we to close it, our locks would go."""
    if os.getpid() not in _copiers:
        atexit.register(stop_copying)
        _copiers[os.getpid()] = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _COPY],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    copier = _copiers[os.getpid()]
    assert copier.stdin is not None
    assert copier.stdout is not None
    pairs = [(f"{path}{suffix}", f"{target}{suffix}") for suffix in (("", "-wal") if log else ("",))]
    copier.stdin.write(json.dumps(pairs) + "\n")
    copier.stdin.flush()
    if copier.stdout.readline() != "\n":
        stop_copying()
        raise OSError(f"{path}: wanted a copy, got a copier that ended with status {copier.returncode}")
    return target


def stop_copying() -> None:
    """End the process that copies."""
    copier = _copiers.pop(os.getpid(), None)
    if copier is not None:
        copier.communicate()

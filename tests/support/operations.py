"""The operations that may be interrupted, and what comes of each when nothing goes wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import reverie as rv
from support.faults import ERRORS, Lines, SystemCalls
from support.twin import Table, Twin, expected
from support.worlds import (
    HOMES,
    ROOM,
    SAMPLERS,
    STATES,
    Chosen,
    Home,
    State,
    World,
    arguments,
    copy_aside,
    fate,
    lanes,
    observation,
    tails,
)


class Operation(NamedTuple):
    """Something that may be interrupted.

    Attributes:
        run: does it, with what `prepare` returned.
        tell: does the same to the twin.
        prepare: comes before it, undisturbed: to both, unless the twin is None.
        needs_path, needs_steps: whether it makes sense only then.
    """

    run: Callable[[World, Any], object]
    tell: Callable[[Twin, Any], object] = lambda twin, given: None
    prepare: Callable[[World, Twin | None], Any] = lambda world, twin: None
    needs_path: bool = False
    needs_steps: bool = False


def _step(ended: str, begins: bool = False) -> Operation:
    def prepare(world: World, twin: Twin | None) -> dict[str, Any]:
        head = _heads(world.buffer)[0]
        if begins:
            for target in (world.buffer,) if twin is None else (world.buffer, twin):
                target.cut(0)
        return arguments(0, head, ended)

    return Operation(
        lambda world, step: world.buffer.add(**step), lambda twin, step: twin.add(**step), prepare
    )


def _lanes(world: World, twin: Twin | None) -> dict[str, Any]:
    heads = _heads(world.buffer)
    last = len(heads) - 1
    return lanes(
        [arguments(stream, head, "shown" if stream == last else "") for stream, head in enumerate(heads)]
    )


def _stretch(count: int) -> Operation:
    """So many steps of the first stream at once."""

    def prepare(world: World, twin: Twin | None) -> dict[str, Any]:
        head, period = _heads(world.buffer)[0], world.state.period
        steps = lanes([arguments(0, head + step, fate(0, head + step, period)) for step in range(count)])
        return {name: value for name, value in steps.items() if name != "streams"}

    def tell(twin: Twin, steps: dict[str, Any]) -> None:
        for place in range(count):
            part = {name: _rows(value, place) for name, value in steps.items()}
            twin.add_batch(**part, streams=np.array([0]))

    return Operation(lambda world, steps: world.buffer.extend(**steps), tell, prepare)


def _stretches(world: World, twin: Twin | None) -> list[dict[str, Any]]:
    """Rows of all streams that end, begin a run and go on."""
    heads, period = _heads(world.buffer), world.state.period
    rows = [
        lanes([arguments(stream, head + step, "shown" if fate(stream, head + step, period) else "")
               for stream, head in enumerate(heads)]) for step in range(36)
    ]  # fmt: skip
    blank = {name: np.stack([value] * len(heads)) for name, value in observation(3, 0).items()}
    return [{**row, "final_obs": row["final_obs"] or blank} for row in rows]


def _stacked(rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {name: _stacked([row[name] for row in rows]) for name in rows[0]}
    return np.stack(rows)


def _extend_lanes(world: World, rows: list[dict[str, Any]]) -> None:
    world.buffer.extend(**{**_stacked(rows), "streams": rows[0]["streams"]})


def _tell_lanes(twin: Twin, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        twin.add_batch(**row)


def _rows(value: Any, place: int) -> Any:
    if isinstance(value, dict):
        return {name: _rows(child, place) for name, child in value.items()}
    return None if value is None else value[place : place + 1]


def _labels(world: World, twin: Twin | None) -> dict[str, Any]:
    """Metadata for the running episode of the first stream, which has some already; none if no episode runs."""
    episodes = world.buffer.episodes
    if not ((episodes["stream"] == 0) & (episodes["ended"] == "running")).any():
        return {}
    world.buffer.annotate(seed=1, task="fetch")
    if twin is not None:
        twin.annotate(0, seed=1, task="fetch")
    return {"task": "carry", "marks": [1, 2.5, None]}


def _discarded(world: World, twin: Twin | None) -> list[int]:
    """The oldest episode that has ended and the newest one, as far as there are any."""
    episodes = world.buffer.episodes
    ended = episodes.ids[episodes["ended"] != "running"].tolist()
    return sorted({*ended[:1], *ended[-1:]})


def _chosen(count: int) -> np.ndarray:
    """Ranks of steps all over a buffer of so many."""
    return np.array([0, count // 5, count // 2, count - 40, count - 2, count - 1]).clip(0, count - 1)


def _write(world: World, twin: Twin | None) -> tuple[list[tuple[int, int]], dict[str, np.ndarray]]:
    count = len(world.buffer)
    sampler = Chosen(lambda wanted: _chosen(count)[:wanted])
    world.batch = batch = world.buffer.sample(6, 3, boundary="pad_right", sampler=sampler)
    ids = batch.step_ids()
    values = {"latent": np.stack([-ids - 1, ids * 2], -1).astype(np.float32),
              "state": np.repeat((ids * 3)[..., None], 32, -1).astype(np.float32)}  # fmt: skip
    return [(stream, step, row, place) for row, stream in enumerate(batch.stream.tolist())
            for place, step in enumerate(ids[row].tolist()) if batch.mask[row, place]], values  # fmt: skip


def _tell_write(twin: Twin, given: Any) -> None:
    for stream, step, row, place in given[0]:
        for name, value in given[1].items():
            twin.write_back(name, stream, step, value[row, place])


def _drawn(world: World, twin: Twin | None) -> np.ndarray:
    world.batch = world.buffer.sample(6, 2, boundary="pad_right", sampler=world.samplers["Prioritized"])
    return np.linspace(0.5, 9, 12).reshape(6, 2)


def _sample(name: str) -> Operation:
    return Operation(lambda world, _: world.buffer.sample(5, 2, boundary="pad_right", sampler=world.samplers[name]),
                     needs_steps=True)  # fmt: skip


def _copy_first(world: World, twin: Twin | None) -> None:
    world.buffer.save_as(world.folder / "copy.replay")
    more = lanes([arguments(stream, int(head), "") for stream, head in enumerate(_heads(world.buffer))])
    for target in (world.buffer,) if twin is None else (world.buffer, twin):
        target.add_batch(**more)


def _heads(buffer: rv.ReplayBuffer) -> list[int]:
    episodes = buffer.episodes
    return [
        int(episodes["stop"][episodes["stream"] == stream].max(initial=0)) for stream in range(buffer.streams)
    ]


def _close_first(world: World, twin: Twin | None) -> None:
    world.buffer.close()
    world.samplers = {name: make() for name, make in SAMPLERS.items()}
    if twin is not None:
        twin.flush()


def _killed_first(world: World, twin: Twin | None) -> None:
    """Leave the file as a kill would: a copy of it as it is takes its place."""
    world.buffer.flush()
    aside = copy_aside(world.path, world.folder / "aside.replay")
    world.buffer.close()
    for suffix in ("", "-wal"):
        if Path(f"{aside}{suffix}").exists():
            os.replace(f"{aside}{suffix}", f"{world.path}{suffix}")
    world.samplers = {name: make() for name, make in SAMPLERS.items()}
    if twin is not None:
        twin.flush()


def _open(world: World, _: Any) -> None:
    world.buffer = rv.open(world.path)


def _tell_flush(twin: Twin, _: Any) -> None:
    twin.flush()


OPERATIONS = {
    "add": _step(""),
    "add-beginning": _step("", begins=True),
    "add-ending": _step("shown"),
    "add-whole": _step("both", begins=True),  # an episode of one step
    "add_batch": Operation(lambda world, batch: world.buffer.add_batch(**batch), lambda twin, batch: twin.add_batch(**batch),
                           _lanes),
    "extend": _stretch(40),  # it seals a run, and in most states two
    "extend-few": _stretch(5),
    "extend-lanes": Operation(_extend_lanes, _tell_lanes, _stretches),
    "cut": Operation(lambda world, _: world.buffer.cut(0), lambda twin, _: twin.cut(0)),
    "cut-shown": Operation(lambda world, final: world.buffer.cut(0, final_obs=final), lambda twin, final: twin.cut(0, final_obs=final),
                           lambda world, twin: observation(0, 1999)),
    "annotate": Operation(lambda world, values: values and world.buffer.annotate(**values),
                          lambda twin, values: values and twin.annotate(0, **values), _labels, needs_steps=True),
    "discard": Operation(lambda world, numbers: world.buffer.discard(numbers),
                         lambda twin, numbers: twin.discard(numbers), _discarded, needs_steps=True),
    "write_back": Operation(lambda world, given: world.buffer.write_back(world.batch, **given[1]), _tell_write, _write, needs_steps=True),
    "update_priorities": Operation(lambda world, errors: world.buffer.update_priorities(world.batch, errors), prepare=_drawn,
                                   needs_steps=True),
    "sample-Fresh": _sample("Fresh"),
    "sample-VisitBalanced": _sample("VisitBalanced"),
    "sample-Shuffled": _sample("Shuffled"),
    "flush": Operation(lambda world, _: world.buffer.flush(), _tell_flush),
    "save_as": Operation(lambda world, _: world.buffer.save_as(world.folder / "copy.replay")),
    "save_as-again": Operation(lambda world, _: world.buffer.save_as(world.folder / "copy.replay"), prepare=_copy_first),
    "close": Operation(lambda world, _: world.buffer.close(), _tell_flush, needs_path=True),
    "open": Operation(_open, prepare=_close_first, needs_path=True),
    "open-killed": Operation(_open, prepare=_killed_first, needs_path=True),
}  # fmt: skip

# How many lines after a first interrupt the second one comes.
FAR = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 28, 36, 46, 60, 80, 105, 140, 190, 250)
LINES = ("interrupt", "memory", "twice", "arrays")
FAULTS = (*LINES, *ERRORS, "kill")


def faults_of(operation: str, home: Home) -> list[str]:
    """Return the faults that can come to an operation there."""
    calls = home.durability is not None or operation.startswith("save_as")
    takes_arrays = (
        operation.startswith(("add", "extend", "cut-", "write", "update")) and operation != "extend-lanes"
    )
    return [fault for fault in FAULTS if (fault != "arrays" or takes_arrays) and (calls or fault in LINES)]


def scenes() -> list[tuple[str, str, str]]:
    """Return every (operation, state, home) that can be."""
    return [
        (operation, state, home)
        for operation, what in OPERATIONS.items() for state, lived in STATES.items() for home, place in HOMES.items()
        if lived.allows(place) and not (what.needs_path and place.durability is None)
        and not (what.needs_steps and state == "empty")
        and not (lived.budget and operation.startswith("extend"))  # which takes them one by one
    ]  # fmt: skip


# --- what comes of a scene when nothing goes wrong ---------------------------------------------------------


class Scene:
    """An operation in a state and a home: what is so before it and after it.

    Attributes:
        twins: the twin before and after; tables: what they show; cut: what they show when all is cut.
        samplers: what the samplers have saved before and after.
        lines: how many lines of reverie the operation runs; calls: fault -> to how many system calls it can come.
    """

    def __init__(self, operation: str, state: str, home: str) -> None:
        self.operation, self.state, self.home = OPERATIONS[operation], STATES[state], HOMES[home]
        self.name = operation
        with self.folder() as folder:
            calls = SystemCalls(folder)
            with calls.watching():
                world = World(folder, self.home, self.state).build()
            before = world.twin()
            self.old_copy = expected(before.all_cut())  # what a copy saved now has to show
            given = self.operation.prepare(world, before)
            if self.state.budget and not operation.startswith("open"):
                before.floor = tails(world.buffer)
            saved = self.remembered(world)
            with calls.watching():
                self.lines, self.calls = self._count(calls, lambda: self.operation.run(world, given))
            after = before.copy()
            self.operation.tell(after, given)
            self.closes = operation == "close"
            if self.state.budget and not self.closes:
                after.floor = tails(world.buffer)
            self.samplers = saved, self.remembered(world)
            world.buffer.close()
        self.twins = before, after
        self.tables = expected(before), expected(after)
        self.cut = expected(before.all_cut()), expected(after.all_cut())
        self._plans: dict[int, list[tuple[str, Any]]] = {}
        self._gone_on: dict[int, tuple[Twin, Table, Table]] = {}

    def gone_on(self, which: int) -> tuple[Twin, Table, Table]:
        """Return the twin, before or after, that went on; what it shows, and what it shows when all is cut."""
        if which not in self._gone_on:
            twin = self.twins[which].copy()
            go_on(twin, self.plan(which))
            self._gone_on[which] = twin, expected(twin), expected(twin.all_cut())
        return self._gone_on[which]

    @staticmethod
    def _count(calls: SystemCalls, call: Callable[[], object]) -> tuple[int, dict[str, int]]:
        lines = Lines(lambda: None)
        made = calls.count(lambda: lines.run(call))
        return lines.seen, made

    @staticmethod
    def folder() -> tempfile.TemporaryDirectory[str]:
        """Return a folder that goes when it is left."""
        return _Folder(dir=ROOM, prefix="reverie-")

    @staticmethod
    def remembered(world: World) -> str:
        """Return what the samplers would save."""
        return repr({name: _plain(sampler.save()) for name, sampler in world.samplers.items()})

    def plan(self, which: int) -> list[tuple[str, Any]]:
        """Return the calls by which a buffer goes on from before or after."""
        if which not in self._plans:
            self._plans[which] = plan(self.twins[which].heads, self.state)
        return self._plans[which]

    def count(self, fault: str) -> int:
        """Return at how many places a fault can come."""
        if fault in LINES:
            return self.lines
        return self.calls[fault]


class _Folder(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    def __enter__(self) -> Path:
        return Path(super().__enter__())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@cache
def scene(operation: str, state: str, home: str) -> Scene:
    """Return a scene, made once."""
    return Scene(operation, state, home)


# --- going on ----------------------------------------------------------------------------------------------


def plan(heads: list[int], state: State) -> list[tuple[str, Any]]:
    """Return calls that end and cut episodes, begin a run in each state, evict, and write back."""
    heads, calls = list(heads), []

    def add(stream: int, ended: str) -> None:
        calls.append(("add", arguments(stream, heads[stream], ended)))
        heads[stream] += 1

    for ended in ("", "", "shown", "", "truncated"):
        add(0, ended)
    add(len(heads) - 1, "")
    calls.append(("cut", {"stream": 0, "final_obs": observation(0, 1900)}))
    for number in range(8):
        ended = "shown" if number % 5 == 3 else ""
        calls.append(
            ("add_batch", lanes([arguments(stream, head, ended) for stream, head in enumerate(heads)]))
        )
        heads = [head + 1 for head in heads]
    addresses = [
        (stream, head - back) for stream, head in enumerate(heads) for back in (2, 12) if head >= back
    ]
    calls.append(("write", addresses))
    for number in range(22):
        add(0, fate(0, number, state.period))
    calls.append(("cut", {"stream": len(heads) - 1}))
    add(0, "")
    return calls


def go_on(target: rv.ReplayBuffer | Twin, calls: list[tuple[str, Any]]) -> None:
    """Make these calls."""
    for kind, what in calls:
        if kind != "write":
            getattr(target, kind)(**what)
            continue
        if not isinstance(
            target, Twin
        ):  # what was discarded cannot be drawn, and the twin does not show it either
            rows = target.episodes
            what = [
                (stream, step) for stream, step in what
                if ((rows["stream"] == stream) & (rows["start"] <= step) & (step < rows["stop"])).any()
            ]  # fmt: skip
        values = [np.array([-step, stream + 0.5], np.float32) for stream, step in what]
        if isinstance(target, Twin):
            for (stream, step), value in zip(what, values, strict=True):
                target.write_back("latent", stream, step, value)
                target.write_back("state", stream, step, np.repeat(value, 16))
        else:
            batch = target.sample(len(what), 1, boundary="pad_right", sampler=Chosen(addresses=what))
            target.write_back(
                batch, latent=np.array(values)[:, None], state=np.repeat(np.array(values), 16, 1)[:, None]
            )

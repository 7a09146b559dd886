"""Every operation, with every fault, in every state, wherever the bytes live: it has happened or it has not.

A cell is named `operation/state/home/fault/k`: the fault comes at the k-th line, or the k-th system call, of the
operation. `python tests/durability/product.py CELL ...` runs some again; `--share 0.01 --seed 3` a part of them all.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faults import ERRORS, SystemCalls, Twice, run_lines
from worlds import (
    HOMES,
    ROOM,
    SAMPLERS,
    STATES,
    Chosen,
    Home,
    State,
    Table,
    Twin,
    World,
    arguments,
    copy_aside,
    difference,
    expected,
    fate,
    lanes,
    look,
    observation,
    tails,
)

import reverie as rv
from reverie.verify import verify_file

# --- operations --------------------------------------------------------------------------------------------


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
        heads = world.state.heads
        head = heads[0] if heads else _budget_head(world)
        if begins:
            for target in (world.buffer,) if twin is None else (world.buffer, twin):
                target.cut(0)
        return arguments(0, head, ended)

    return Operation(
        lambda world, step: world.buffer.add(**step), lambda twin, step: twin.add(**step), prepare
    )


def _budget_head(world: World) -> int:
    return int(world.buffer.episodes["stop"].max())


def _lanes(world: World, twin: Twin | None) -> dict[str, Any]:
    heads = world.state.heads or (_budget_head(world),)
    last = len(heads) - 1
    return lanes(
        [arguments(stream, head, "shown" if stream == last else "") for stream, head in enumerate(heads)]
    )


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
    "cut": Operation(lambda world, _: world.buffer.cut(0), lambda twin, _: twin.cut(0)),
    "cut-shown": Operation(lambda world, final: world.buffer.cut(0, final_obs=final), lambda twin, final: twin.cut(0, final_obs=final),
                           lambda world, twin: observation(0, 1999)),
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

LINES = ("interrupt", "memory", "twice", "arrays")
FAULTS = (*LINES, *ERRORS, "kill")


def faults_of(operation: str, home: Home) -> list[str]:
    """Return the faults that can come to an operation there."""
    calls = home.durability is not None or operation.startswith("save_as")
    takes_arrays = operation.startswith(("add", "cut-", "write", "update"))
    return [fault for fault in FAULTS if (fault != "arrays" or takes_arrays) and (calls or fault in LINES)]


def scenes() -> list[tuple[str, str, str]]:
    """Return every (operation, state, home) that can be."""
    return [
        (operation, state, home)
        for operation, what in OPERATIONS.items() for state, lived in STATES.items() for home, place in HOMES.items()
        if lived.allows(place) and not (what.needs_path and place.durability is None)
        and not (what.needs_steps and state == "empty")
    ]  # fmt: skip


class Broken(AssertionError):
    """A cell whose promise does not hold."""


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
        lines = 0

        def counted() -> None:
            nonlocal lines
            lines = run_lines(call, 0, lambda: None)

        made = calls.count(counted)
        return lines, made

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
            return self.lines * (len(FAR) if fault == "twice" else 1)
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


# --- cells -------------------------------------------------------------------------------------------------


Moment = int | Twin  # before (0) or after (1) the operation, or as this twin says


class Cell:
    """One operation, in one state and home, with one fault at one place."""

    def __init__(self, name: str) -> None:
        operation, state, home, self.fault, at = name.split("/")
        self.name, self.at = name, int(at)
        self.scene = scene(operation, state, home)
        self.dice = random.Random(name)
        self.follow: dict[str, Any] | None = None  # the step of the call after one that was interrupted
        self.followed = False

    def run(self) -> bool:
        """Let it happen; return whether there was anything to fault.

        Raises:
            Broken: it has half happened.
        """
        with Scene.folder() as folder:
            world = World(folder, self.scene.home, self.scene.state)
            try:
                return self._kill(world) if self.fault == "kill" else self._fault(world)
            except Broken:
                raise
            except Exception as error:
                raise Broken(f"afterwards, {_said(error)}") from error
            finally:
                self._end(world)

    def _end(self, world: World) -> None:
        buffer = getattr(world, "buffer", None)
        if buffer is not None:
            with suppress(Exception):  # what is wrong was said already
                buffer.close()

    # --- the fault -----------------------------------------------------------------------------------------

    def _fault(self, world: World) -> bool:
        calls = SystemCalls(world.folder)
        if self.fault in ERRORS:
            with calls.watching():
                return self._check(world, *self._call(world, calls))
        return self._check(world, *self._call(world, calls))

    def _call(self, world: World, calls: SystemCalls) -> tuple[bool, str | None, Any, Any]:
        """Run the operation with its fault; return whether that came, the error, and the arguments' two values."""
        world.build()
        given = self.scene.operation.prepare(world, None)
        first, second = _copied(given), None
        came, error = False, None

        def call() -> None:
            self.scene.operation.run(world, given)

        def act() -> type[BaseException] | None:
            nonlocal came, second
            came = True
            if self.fault == "arrays":
                _overwrite(given)
                second = _copied(given)
                return None
            return KeyboardInterrupt if self.fault == "interrupt" else MemoryError

        try:
            if self.fault in ERRORS:
                calls.run(call, self.at, self.fault)
            elif self.fault == "twice":
                came = self._twice(world, call)
            else:
                run_lines(call, self.at, act)
        except BaseException as wrong:  # all that a user would see
            error = _said(wrong)
            if not isinstance(wrong, ACCEPTED[self.fault if self.fault not in ERRORS else "system"]):
                raise Broken(f"raised {error}") from wrong
        if self.fault in ERRORS:
            came = calls.came
        if self.fault == "twice":
            came = came or error is not None
        return came, error, first, second

    def _twice(self, world: World, call: Callable[[], None]) -> bool:
        """Interrupt the operation, and what follows of it once more; return whether both interrupts came.

        Where the second one has not come with the operation, the next call is made, which may have to mend something.
        """
        scene = self.scene
        first, far = (self.at - 1) % scene.lines + 1, FAR[(self.at - 1) // scene.lines]
        twice = Twice(first, far)
        try:
            twice.run(call)
        except KeyboardInterrupt:
            if twice.left == 1 and scene.closes:
                twice.run(call)
            elif twice.left == 1 and not scene.state.budget and not scene.name.startswith("open"):
                stream = world.buffer.streams - 1
                self.follow = arguments(stream, 1990)
                twice.run(lambda: world.buffer.add(**self.follow))
                self.followed = True
                return twice.left == 0
            if twice.left == 0:
                raise
        return twice.left == 0

    def _check(self, world: World, came: bool, error: str | None, first: Any, second: Any) -> bool:
        if not came:
            return False
        scene = self.scene
        aside = None
        if world.path is not None:
            aside = copy_aside(world.path, world.folder / "aside.replay")
        if scene.name.startswith("open"):
            if error:
                world.buffer = rv.open(world.path)
            for stream in range(world.buffer.streams):
                world.buffer.cut(stream)
        if scene.closes and _is_closed(world.buffer):
            world.buffer.close()
            lenient = self.fault in ERRORS and error and scene.home.durability == "chunk"
            self._check_file(world.path, [0] if lenient else [1], "the closed file", prefix=bool(lenient))
            return True
        if scene.closes and not error:
            raise Broken("close returned, and the buffer is open")
        now, may = self._check_memory(world, error, first, second)
        if scene.name.startswith("save_as"):
            self._check_copy(world, error)
        if aside is not None:
            self._check_file(aside, may, "the file as it was", prefix=scene.home.durability == "chunk")
        self._go_on(world, now)
        return True

    # --- the checks ----------------------------------------------------------------------------------------

    def _check_memory(
        self, world: World, error: str | None, first: Any, second: Any
    ) -> tuple[Moment, list[Moment]]:
        """Return the moment that memory shows, and those that the file may show."""
        scene, buffer = self.scene, world.buffer
        waiting = threading.Thread(target=len, args=(buffer,), daemon=True)
        waiting.start()
        waiting.join(20)
        if waiting.is_alive():
            raise Broken("memory: another thread waits for ever")
        got = look(buffer)
        if self.fault == "arrays" and not error:
            twin = torn(scene, got, first, second)
            what = difference(got, expected(twin))
            if what:
                raise Broken(f"memory: {what}")
            return twin, [twin]
        if self.fault == "twice" and self.follow is not None:
            twins = [twin.copy() for twin in scene.twins]
            for twin in twins:
                twin.add(**self.follow)
            if not self.followed:
                twins += scene.twins
            found = []
            for twin in twins:
                found.append(difference(got, expected(twin)))
                if not found[-1]:
                    return twin, [twin] if self.followed else list(twins)
            raise Broken("memory: " + "; ".join(found))
        tables = scene.cut if scene.name.startswith("open") else scene.tables
        found = [difference(got, table) for table in tables]
        allowed = (1,) if not error else (0,) if self.fault in ERRORS or self.fault == "arrays" else (0, 1)
        for which in allowed:
            if not found[which]:
                break
        else:
            raise Broken(
                "memory: " + "; ".join(f"{('before', 'after')[which]}: {found[which]}" for which in allowed)
            )
        if self.fault != "arrays":
            seen = Scene.remembered(world)
            if not scene.name.startswith("open") and seen not in scene.samplers:
                raise Broken("samplers: neither as before nor as after")
        return which, [0, 1] if error else [1]

    def _check_copy(self, world: World, error: str | None) -> None:
        target = world.folder / "copy.replay"
        if not target.exists():
            if not error or self.scene.name == "save_as-again":
                raise Broken("the copy is not there")
            return
        tables = [self.scene.cut[0]]
        if self.scene.name == "save_as-again" and error:
            tables.append(self.scene.old_copy)
        _verify(copy_aside(target, world.folder / "copied.replay"), "the copy")
        self._compare(world.folder / "copied.replay", tables, "the copy")

    def _check_file(self, path: Path, may: list[Moment], what: str, prefix: bool = False) -> Moment:
        """Return which of these moments a file shows, or a twin of the promised part of one."""
        _verify(path, what)
        twins = [self.scene.twins[one] if isinstance(one, int) else one for one in may]
        tables = [self.scene.cut[one] if isinstance(one, int) else expected(one.all_cut()) for one in may]
        with rv.open(path, self.dice.choice(["ram", "packed", "disk"])) as buffer:
            for stream in range(buffer.streams):
                buffer.cut(stream)
            got = look(buffer)
        found = [difference(got, table) for table in tables]
        for moment, different in zip(may, found, strict=True):
            if not different:
                return moment
        for twin in twins if prefix else []:
            part = promised_part(twin, got)
            if part is not None:
                return part
        raise Broken(f"{what}: {'; '.join(found)}")

    def _compare(self, path: Path, tables: list[Table], what: str) -> None:
        with rv.open(path, self.dice.choice(["ram", "packed", "disk"])) as buffer:
            for stream in range(buffer.streams):
                buffer.cut(stream)
            got = look(buffer)
        found = [difference(got, table) for table in tables]
        if all(found):
            raise Broken(f"{what}: {'; '.join(found)}")

    def _go_on(self, world: World, which: Moment) -> None:
        """Go on beside the twin, close, and open again."""
        scene, buffer = self.scene, world.buffer
        if isinstance(which, int) and not scene.name.startswith("open"):
            calls = scene.plan(which)
            twin, wanted, cut = scene.gone_on(which)
        else:
            twin = scene.twins[which].all_cut() if isinstance(which, int) else which.copy()
            calls = plan(twin.heads, scene.state)
            go_on(twin, calls)
            wanted = cut = None
        go_on(buffer, calls)
        if scene.state.budget:
            twin, wanted = twin.copy(), None
            floor = tails(buffer)
            for stream, (old, new) in enumerate(zip(twin.floor, floor, strict=True)):
                if new < old or (new % 32 and new != old) or twin.heads[stream] - new < 32:
                    raise Broken(f"going on: a budget of {old} let go up to {new}")
            twin.floor = floor
        if wanted is None:
            wanted, cut = expected(twin), expected(twin.all_cut())
        got = look(buffer)
        what = difference(got, wanted)
        if what:
            raise Broken(f"going on: {what}")
        if scene.name.startswith("save_as"):
            target = world.folder / "copy.replay"
            buffer.save_as(target)
            self._compare(copy_aside(target, world.folder / "copied.replay"), [cut], "a copy saved later")
        if world.path is None:
            return
        buffer.flush()
        copied = copy_aside(world.path, world.folder / "flushed.replay")
        by_itself = copy_aside(world.path, world.folder / "alone.replay", log=False)
        drawn = world.draw()
        with rv.open(copied, mode="r") as other:
            samplers = {name: make() for name, make in SAMPLERS.items()}
            if world.draw(other, samplers) != drawn:
                raise Broken("resume: the file's next batches are not the buffer's")
        if ALONE:
            self._compare(by_itself, [cut], "the file alone, flushed")
        buffer.close()
        _verify(world.path, "the file in the end")
        self._compare(world.path, [cut], "the file in the end")

    # --- kill ----------------------------------------------------------------------------------------------

    def _kill(self, world: World) -> bool:
        child = os.fork()
        if not child:
            try:
                calls = SystemCalls(world.folder)
                with calls.watching():
                    world.build()
                    given = self.scene.operation.prepare(world, None)
                    calls.run(lambda: self.scene.operation.run(world, given), self.at, "kill")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return False
        assert os.WTERMSIG(status) == signal.SIGKILL
        if self.scene.name.startswith("save_as"):
            self._check_copy(world, "killed")
        if world.path is None:
            return True
        found = self._check_file(
            copy_aside(world.path, world.folder / "aside.replay"),
            [0, 1],
            "the file left",
            prefix=self.scene.home.durability == "chunk",
        )
        _verify(world.path, "the file left")
        world.buffer = rv.open(world.path)
        for stream in range(world.buffer.streams):
            world.buffer.cut(stream)
        twin = found if isinstance(found, Twin) else self.scene.twins[found].all_cut()
        self._go_on(world, twin)
        return True


# How many lines after a first interrupt the second one comes.
FAR = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 28, 36, 46, 60, 80, 105, 140, 190, 250)
ALONE = True
# The fault -> what may be raised.
ACCEPTED: dict[str, tuple[type[BaseException], ...]] = {
    "interrupt": (KeyboardInterrupt,), "twice": (KeyboardInterrupt,), "memory": (MemoryError, rv.FileError),
    "arrays": (rv.ReplayError,), "system": (rv.FileError,),
}  # fmt: skip


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_closed(buffer: rv.ReplayBuffer) -> bool:
    try:
        buffer.sample(1, 1, sampler=Chosen())
    except rv.BufferClosed:
        return True
    except rv.NotEnoughData:
        pass
    return False


def _verify(path: Path, what: str) -> None:
    for text, wrong in verify_file(path):
        if wrong:
            raise Broken(f"{what}: verify: {text}")


def promised_part(twin: Twin, got: Table) -> Twin | None:
    """Return the twin stopped where a file has stopped, if that is late enough and the file shows it; or None."""
    heads, floor = [], []
    for stream, head in enumerate(twin.heads):
        ids = got["id"][got["stream"] == stream]
        heads.append(int(ids.max()) + 1 if len(ids) else 0)
        floor.append(int(ids.min()) if len(ids) else 0)
        if not twin.promised[stream] <= heads[-1] <= head or (len(ids) and floor[-1] > twin.tails[stream]):
            return None
    for finals in (True, False):
        part = twin.up_to(heads, finals)
        part.floor = floor
        if not difference(got, expected(part)):
            return part
    return None


# --- arrays that change ------------------------------------------------------------------------------------


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


def _overwrite(value: Any, name: str = "") -> None:
    """Change every array in place, as an environment that goes on in another thread would."""
    if isinstance(value, dict):
        for key, child in value.items():
            _overwrite(child, key)
    elif isinstance(value, tuple):
        for child in value:
            _overwrite(child)
    elif isinstance(value, np.ndarray):
        if name == "streams":
            value[:] = np.roll(value, 1)
        elif value.dtype == np.bool_ or value.dtype == np.uint8:
            np.invert(value, out=value)
        else:
            value += 1000


def torn(scene: Scene, got: Table, first: Any, second: Any) -> Twin:
    """Return the twin after an operation whose arguments had two values, as far as the buffer shows which it took.

    Raises:
        Broken: it took neither.
    """
    twin = scene.twins[0].copy()
    twin.floor = list(scene.twins[1].floor)
    second = first if second is None else second

    def row_of(stream: int, step: int) -> int:
        found = np.flatnonzero((got["stream"] == stream) & (got["id"] == step))
        if len(found) != 1:
            raise Broken(f"memory: step {step} of stream {stream} is not there")
        return int(found[0])

    def check(name: str, seen: Any, *allowed: Any) -> Any:
        same = np.zeros(np.shape(seen), bool)
        for values in allowed:
            same |= np.asarray(values) == seen
        if not same.all():
            raise Broken(f"memory: {name} is {seen}: neither of two values")
        return seen

    def frames(row: int, which: str, *allowed: Any) -> dict[str, np.ndarray]:
        return {key: check(which, got[f"{which}{key}"][row], *(values[key] for values in allowed if values is not None))
                for key in ("frame", "wide")}  # fmt: skip

    begun = [int(text[1:].split(",")[0]) for text in got["episodes"].tolist()][::-1]
    begun = list(dict.fromkeys(begun))[::-1]  # streams by their newest episodes
    if scene.name.startswith("add"):
        many = scene.name == "add_batch"
        # Of lanes that begin an episode, the order is that of the streams at the moment when it was looked at.
        streams = sorted(range(len(twin.heads)), key=begun.index) if many else [first["stream"]]
        for stream in streams:
            head = twin.heads[stream]
            row = row_of(stream, head)
            both = (
                [each[at] for each in (rows_of(first), rows_of(second)) for at in each]
                if many
                else [first, second]
            )
            ended = {
                name: bool(check(name, got[name][row], *(one[name] for one in both)))
                for name in ("terminated", "truncated")
            }
            ends = any(ended.values()) and bool(got["next known"][row])
            twin.add(
                obs=frames(row, "", *(one["obs"] for one in both)), action=check("action", got["action"][row], *(one["action"] for one in both)),
                reward=float(check("reward", got["reward"][row], *(one["reward"] for one in both))), stream=stream, **ended,
                final_obs=frames(row, "next ", *(one["final_obs"] for one in both)) if ends else None,
                **{name: check(name, got[name][row], *(one[name] for one in both)) for name in ("latent", "state")},
            )  # fmt: skip
    elif scene.name == "cut-shown":
        episodes = twin.streams[0].episodes
        if episodes and not episodes[-1].ended:
            twin.cut(0, final_obs=frames(row_of(0, twin.heads[0] - 1), "next ", first, second))
    elif scene.name == "write_back":
        touched: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for stream, step, row, place in first[0]:
            touched.setdefault((stream, step), []).append((row, place))
        for (stream, step), places in touched.items():
            row = row_of(stream, step)
            for name in first[1]:
                allowed = [each[1][name][at] for each in (first, second) for at in places]
                twin.write_back(name, stream, step, check(name, got[name][row], *allowed))
    return twin


def rows_of(batch: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the lanes of `add_batch`, each as the arguments of `add`."""

    def lane(value: Any, at: int) -> Any:
        return (
            None
            if value is None
            else {key: rows[at] for key, rows in value.items()}
            if isinstance(value, dict)
            else value[at]
        )

    return {
        at: {name: lane(value, at) for name, value in batch.items()} for at in range(len(batch["reward"]))
    }


# --- which cells -------------------------------------------------------------------------------------------


def cells(seed: int, together: int = 10) -> Iterator[str]:
    """Yield cells for ever, drawn by a seed: some of one scene after the other, half of them without a file."""
    dice = random.Random(seed)
    kinds = [
        [one for one in scenes() if (HOMES[one[2]].durability is None) == quick] for quick in (True, False)
    ]
    while True:
        operation, state, home = dice.choice(dice.choice(kinds))
        here = scene(operation, state, home)
        faults = [fault for fault in faults_of(operation, here.home) if here.count(fault)]
        for _ in range(together):
            fault = dice.choice(faults)
            yield f"{operation}/{state}/{home}/{fault}/{dice.randint(1, here.count(fault))}"


def every_cell(share: float = 1.0, seed: int = 0) -> Iterator[str]:
    """Yield every cell, or a share of all of them drawn by a seed."""
    dice = random.Random(seed)
    for operation, state, home in scenes():
        here = scene(operation, state, home)
        for fault in faults_of(operation, here.home):
            for at in range(1, here.count(fault) + 1):
                if share >= 1.0 or dice.random() < share:
                    yield f"{operation}/{state}/{home}/{fault}/{at}"


def try_cells(names: Iterator[str], count: float = float("inf")) -> tuple[int, dict[str, str]]:
    """Try cells until `count` of them had something to fault; return how many had, and what broke, by cell."""
    tried, broken = 0, {}
    for name in names:
        if tried >= count:
            break
        try:
            tried += Cell(name).run()
        except Broken as error:
            tried += 1
            broken[name] = str(error)
    return tried, broken


def told(broken: dict[str, str], most: int = 12) -> str:
    """Return what broke, one line for each kind, with a cell that shows it."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, error in broken.items():
        kinds.setdefault((name.split("/")[0], re.sub(r"[0-9]+|/[^ ]*", "#", error)[:60]), []).append(name)
    lines = [f"{len(names):4} like {names[0]}: {broken[names[0]]}" for names in kinds.values()]
    return "\n".join([f"{len(broken)} cells are broken:", *sorted(lines, reverse=True)[:most]])


def main() -> int:
    """Try the cells named on the command line, or a share of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", help="operation/state/home/fault/k")
    parser.add_argument("--share", type=float, default=0.0, help="of all cells, 0 to 1")
    parser.add_argument("--sample", type=int, default=0, help="so many cells, as the tests draw them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", action="store_true", help="say how many cells there are")
    parser.add_argument("--kinds", type=int, default=60, help="kinds of broken cells to tell")
    parser.add_argument(
        "--but-alone", action="store_true", help="leave out the check of the flushed file without its log"
    )
    given = parser.parse_args()
    global ALONE
    ALONE = not given.but_alone
    begun = time.perf_counter()
    if given.count:
        total = dict.fromkeys(FAULTS, 0)
        for one in scenes():
            for fault in faults_of(one[0], HOMES[one[2]]):
                total[fault] += scene(*one).count(fault)
        print(f"{len(scenes())} scenes, {sum(total.values()):,} cells: {total}")
        return 0
    names = (iter(given.cells) if given.cells else every_cell(given.share, given.seed) if given.share
             else cells(given.seed))  # fmt: skip
    tried, broken = try_cells(names, given.sample or float("inf"))
    print(f"{tried} cells in {time.perf_counter() - begun:.0f} s")
    if broken:
        print(told(broken, given.kinds))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())

"""A cell of the product: one operation, state, home and fault, and all that must hold afterwards."""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import reverie as rv
from reverie.file.verify import verify_file
from support.buffers import kept_locks
from support.faults import ERRORS, Lines, SystemCalls
from support.operations import FAR, Scene, go_on, plan, scene
from support.torn import Broken, copied, overwrite, torn
from support.twin import Table, Twin, expected
from support.worlds import SAMPLERS, Chosen, World, arguments, copy_aside, difference, look, tails

Moment = int | Twin  # before (0) or after (1) the operation, or as this twin says


class Cell:
    """One operation, in one state and home, with one fault at one place."""

    def __init__(self, name: str, alone: bool = True) -> None:
        self._alone = alone
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
        hook = sys.unraisablehook
        # What is raised while memory is given back is raised for nobody: it must do no harm all the same.
        sys.unraisablehook = lambda unraisable: None
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
                sys.unraisablehook = hook

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
        first, second = copied(given), None
        came, error = False, None

        def call() -> None:
            self.scene.operation.run(world, given)

        def act() -> type[BaseException] | None:
            nonlocal came, second
            came = True
            if self.fault == "arrays":
                overwrite(given)
                second = copied(given)
                return None
            return KeyboardInterrupt if self.fault == "interrupt" else MemoryError

        try:
            if self.fault in ERRORS:
                calls.run(call, self.at, self.fault)
            elif self.fault == "twice":
                came = self._twice(world, call)
            else:
                Lines(act, self.at).run(call)
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
        first, far = self.at, FAR[self.at % len(FAR)]
        twice = Lines(lambda: KeyboardInterrupt, first, far)
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
            assert aside is not None
            self._check_file(aside, [0, 1], "the file as it was", prefix=scene.home.durability == "chunk")
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
        kept = kept_locks(buffer)
        if kept:
            raise Broken(
                f"memory: another thread waits for ever for the lock of the {' and of the '.join(kept)}"
            )
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
            if not scene.name.startswith("open") and seen not in scene.samplers[0 if error else 1 :]:
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
            got, index = look(buffer), buffer.engine.index
            heads, tails = index.head.tolist(), index.tail.tolist()
        found = [difference(got, table) for table in tables]
        for moment, different in zip(may, found, strict=True):
            if not different:
                return moment
        for twin in twins if prefix else []:
            part = promised_part(twin, got, heads, tails)
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
        # One look more at a time: each takes as long as all the rest.
        more = "alone" if scene.name == "flush" else self.dice.choice(["alone", "resume", ""])
        for stream in range(buffer.streams if more == "resume" else 0):
            buffer.cut(stream)  # a file that is not closed is opened with all episodes ended
        if more:
            buffer.flush()
        if more == "alone" and self._alone:
            aside = copy_aside(world.path, world.folder / "alone.replay", log=False)
            self._compare(aside, [cut], "the file alone, flushed")
        elif more == "resume":
            aside = copy_aside(world.path, world.folder / "flushed.replay")
            drawn = world.draw()
            with rv.open(aside) as other:
                if world.draw(other, {name: make() for name, make in SAMPLERS.items()}) != drawn:
                    raise Broken("resume: the file's next batches are not the buffer's")
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


# The fault -> what may be raised.
ACCEPTED: dict[str, tuple[type[BaseException], ...]] = {
    "interrupt": (KeyboardInterrupt,), "twice": (KeyboardInterrupt,), "memory": (MemoryError, rv.FileError),
    "arrays": (rv.ReplayError,), "system": (rv.FileError,),
}  # fmt: skip


def _said(error: BaseException) -> str:
    """Return an error and where it arose, for a message that has to tell all of it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


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


def promised_part(twin: Twin, got: Table, heads: list[int], floor: list[int]) -> Twin | None:
    """Return the twin stopped where a file has stopped, if that is late enough and the file shows it; or None.

    Args:
        twin: what was done; got: what the file shows.
        heads, floor: of its streams. Discarded episodes are not shown, so these do not follow from what is.
    """
    for stream, head in enumerate(twin.heads):
        has_steps = heads[stream] > floor[stream]
        if not twin.promised[stream] <= heads[stream] <= head or (
            has_steps and floor[stream] > twin.tails[stream]
        ):
            return None
    for finals in (True, False):
        part = twin.up_to(heads, finals)
        part.floor = floor
        if not difference(got, expected(part)):
            return part
    return None

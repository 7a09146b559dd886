"""Changes the code of a room here and there, and counts how many changes the room's own tests notice.

`make mutants` tries every change in index/, samplers/, engine/ and file/, each with the tests of its own room alone.
`make mutants ROOMS="index samplers" SAMPLE=40 SEED=1` tries 40 changes of each room, drawn by a seed. Changes are made in
copies of the source, by operators of Cosmic Ray. A change that no test notices is printed: it has to be answered by a test,
unless the changed program does the same.

First the tests of a room run once on the code as it is, and each is watched: how long it takes, and through which
functions it runs. A change is then tried with the tests that run through its function, the fastest first, until one fails.
Each trial is a fork of a process that has imported the slow libraries, but nothing of reverie.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from cProfile import Profile
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest
from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).parents[1]
ROOMS = ("index", "samplers", "engine", "file")
PATIENCE = 4  # times what a change's tests take on the code as it is; if they take longer, it is noticed
GRACE_S = 20.0  # on top of that
BROKEN = 99  # the status of a trial that did not come as far as pytest
MOST_BYTES = 8 << 30  # of a trial: a loop that never ends may fill a list
SLOW_LIBRARIES = ("numpy", "scipy.stats", "zstandard", "sqlite3", "rich", "tyro", "hypothesis.stateful")

Function = tuple[str, int]  # a module below the root, and the line where the function begins

# Each a small slip that a programmer could make. Not | in place of something: it stands in annotations, which never run.
OPERATORS = [
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in
      ("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Mod_FloorDiv", "BitAnd_BitOr")),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in
      ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")),
    "core/ReplaceUnaryOperator_Delete_USub", "core/ReplaceUnaryOperator_Delete_Not", "core/AddNot",
    "core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak", "core/NumberReplacer", "core/ZeroIterationForLoop",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: of the module, below the root of the repository.
        operator: its name.
        occurrence: the place where it is applied, counted from 0.
        line: the line of that place.
    """

    path: Path
    operator: str
    occurrence: int
    line: int

    def code(self) -> str:
        """Return the code of the changed module."""
        changed = mutate_code((ROOT / self.path).read_text(), get_operator(self.operator)(), self.occurrence)
        assert changed is not None
        return str(changed)

    def inside(self) -> Function | None:
        """Return the innermost function that holds the change, if one does."""
        best = None
        for node in ast.walk(ast.parse((ROOT / self.path).read_text())):
            body = isinstance(node, ast.FunctionDef) and node.body[0].lineno <= self.line <= (
                node.end_lineno or 0
            )
            if body and (best is None or node.lineno > best.lineno):
                best = node
        # A function's code begins at its first decorator.
        return best and (str(self.path), min([best.lineno, *(each.lineno for each in best.decorator_list)]))

    def __str__(self) -> str:
        old, new = (ROOT / self.path).read_text().splitlines(), self.code().splitlines()
        shown = [line.strip() for line, before in zip(new, old, strict=False) if line != before]
        return (
            f"{self.path}:{self.line}: {old[self.line - 1].strip()}  ->  {shown[0] if shown else '(shorter)'}"
        )


class _Places(Visitor):
    """Lists the lines of the places where an operator applies."""

    def __init__(self, operator: str) -> None:
        self.operator = get_operator(operator)()
        self.lines: list[int] = []

    def visit(self, node: object) -> object:
        self.lines += [start[0] for start, _ in self.operator.mutation_positions(node)]
        return node


def mutants(room: str) -> Iterator[Mutant]:
    """Yield every change of the modules of a room."""
    for path in sorted((ROOT / "src/reverie" / room).glob("*.py")):
        tree = get_ast(path.read_text())
        for operator in OPERATORS:
            places = _Places(operator)
            places.walk(tree)
            for occurrence, line in enumerate(places.lines):
                yield Mutant(path.relative_to(ROOT), operator, occurrence, line)


@dataclass
class Seen:
    """What a test does on the code as it is.

    Attributes:
        took_s: seconds.
        functions: of its room, those through which it runs.
        starts: whether it starts other processes. Through what these run is not known.
    """

    took_s: float
    functions: set[Function]
    starts: bool


class Watch:
    """A plugin of pytest that writes down what each test does.

    Args:
        source: the folder of the room's modules.
        above: the folder to which paths are relative.
        out: the file to write.
    """

    def __init__(self, source: Path, above: Path, out: Path) -> None:
        self._source, self._above, self._out = str(source) + os.sep, above, out
        self._in_threads: set[CodeType] = set()
        self._starts = False
        self._tests: dict[str, tuple[float, list[Function], bool]] = {}
        self._failed: set[str] = set()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: object) -> None:
        self._starts |= event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")

    def _call(self, frame: FrameType, *_: object) -> None:
        self._in_threads.add(frame.f_code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Watch one test, its fixtures included."""
        self._in_threads, self._starts, began = set(), False, time.perf_counter()
        threading.setprofile(self._call)
        profile = Profile(subcalls=False, builtins=False)
        profile.enable()
        try:
            return (yield)
        finally:
            profile.disable()
            threading.setprofile(None)  # type: ignore[arg-type]
            codes = {each.code for each in profile.getstats()} | self._in_threads
            functions = [
                (str(Path(code.co_filename).relative_to(self._above)), code.co_firstlineno)
                for code in codes
                if isinstance(code, CodeType) and code.co_filename.startswith(self._source)
            ]
            self._tests[item.nodeid] = time.perf_counter() - began, functions, self._starts

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails on the code as it is, or while it is watched: it tells nothing of a change."""
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write it all down."""
        for test in self._failed:
            print(f"left out, for it fails on the code as it is: {test}")
            self._tests.pop(test, None)
        self._out.write_text(json.dumps(self._tests))


class Order:
    """A plugin of pytest that keeps some tests, in an order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop the other tests, and sort these."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._place), key=lambda item: self._place[item.nodeid]
        )


def start(copy: Path, settings: Collection[str], plugin: object, log: Path) -> int:
    """Start pytest in a fork, on a copy of the source.

    Args:
        copy: the folder of the copy.
        settings: of pytest: files, above all.
        plugin: watches the tests, or chooses among them.
        log: where pytest's words go.

    Returns:
        the number of the process, whose status is pytest's.
    """
    if process := os.fork():
        return process
    status = BROKEN
    try:
        os.setsid()
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        os.environ["PYTHONPATH"] = str(copy / "src")
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
            "1"  # plugins take longer to import than most trials take
        )
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        sys.path.insert(0, str(copy / "src"))
        status = int(pytest.main(["-q", "-p", "no:xdist", "-m", "not slow", *settings], [plugin]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def stop(process: int) -> None:
    """Kill a process that `start` began, and those that its tests began."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


class Room:
    """What the tests of a room do, and trials of changes with them.

    Args:
        name: the room's.
        folder: where copies of the source, and logs, lie.
        at_once: trials.
        known: a folder where what the tests do is kept for the next time; None for nowhere.
        left_out: an expression of pytest's -k, for tests not to use; empty for none.
        longest_s: tests that take longer are not used either.
    """

    def __init__(
        self, name: str, folder: Path, at_once: int, known: Path | None, left_out: str, longest_s: float
    ) -> None:
        self._folder, self._left_out = folder / name, left_out
        first = self._folder / "0"
        shutil.copytree(ROOT / "src", first / "src", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(first, quiet=1)
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        kept = known and known / f"{name}-{digest(name, left_out)}.json"
        if kept is None or not kept.exists():
            self._watch(name, first, kept or self._folder / "seen.json")
        told = json.loads((kept or self._folder / "seen.json").read_text())
        self.seen = {
            test: Seen(took, {(path, line) for path, line in functions}, starts)
            for test, (took, functions, starts) in told.items()
            if took <= longest_s
        }
        # From here on compiled modules are read, and none is written: a change can never be mistaken for another.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        self._free = [first]
        for number in range(1, at_once):
            shutil.copytree(first, self._folder / str(number))
            self._free.append(self._folder / str(number))

    def _watch(self, name: str, copy: Path, out: Path) -> None:
        """Run the tests of the room on a copy, and write what each does to `out`."""
        log = self._folder / "watch.log"
        watch = Watch(copy / "src/reverie" / name, copy, out)
        left_out = ["-k", f"not ({self._left_out})"] if self._left_out else []
        _, status = os.waitpid(start(copy, [f"tests/{name}", *left_out], watch, log), 0)
        print(*re.findall("left out, .*", log.read_text()), sep="\n", flush=True)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            out.unlink(missing_ok=True)
            raise SystemExit(f"{log.read_text()}\nthe tests in tests/{name} cannot be run; mend them first")

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that can notice a change, the fastest first; those that start processes last."""
        function = mutant.inside()
        if function is not None:
            chosen = [test for test, seen in self.seen.items() if seen.starts or function in seen.functions]
        else:
            paths = {str(mutant.path), *importers(mutant.path)}
            chosen = [
                test
                for test, seen in self.seen.items()
                if seen.starts or any(path in paths for path, _ in seen.functions)
            ]
        return sorted(chosen, key=lambda test: (self.seen[test].starts, self.seen[test].took_s))

    def try_all(self, chosen: list[Mutant], told: Callable[[Mutant, str], None]) -> None:
        """Try changes, several at once.

        Args:
            chosen: the changes.
            told: is called with each, and with "noticed", "not noticed", or "too slow" for one whose tests took too long.
        """
        waiting, running = chosen[::-1], dict[int, tuple[Mutant, Path, float]]()
        while waiting or running:
            while waiting and self._free:
                mutant, copy = waiting.pop(), self._free.pop()
                process, patience_s = self._begin(mutant, copy)
                running[process] = mutant, copy, time.perf_counter() + patience_s
            time.sleep(0.02)
            for process, (mutant, copy, until) in list(running.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if not ended and time.perf_counter() < until:
                    continue
                stop(process)
                if not ended:
                    os.waitpid(process, 0)
                del running[process]
                shutil.copy2(ROOT / mutant.path, copy / mutant.path)
                self._free.append(copy)
                if ended and os.waitstatus_to_exitcode(status) == BROKEN:
                    raise SystemExit((copy / "trial.log").read_text())
                # 0: every test passed. 5: there is no test.
                unnoticed = ended and os.waitstatus_to_exitcode(status) in (0, 5)
                told(mutant, "not noticed" if unnoticed else "noticed" if ended else "too slow")

    def _begin(self, mutant: Mutant, copy: Path) -> tuple[int, float]:
        """Start a trial; return its process, and how many seconds it may take."""
        tests = self.tests_of(mutant)
        (copy / mutant.path).write_text(mutant.code())
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        process = start(copy, ["-x", *(files or [__file__])], Order(tests), copy / "trial.log")
        return process, PATIENCE * sum(self.seen[test].took_s for test in tests) + GRACE_S


def digest(name: str, left_out: str) -> str:
    """Return what tells a room with its tests from the same room after either changed."""
    crc = zlib.crc32(left_out.encode())
    for path in sorted(
        [*(ROOT / "src/reverie" / name).rglob("*.py"), *(ROOT / "tests" / name).rglob("*.py")]
    ):
        crc = zlib.crc32(path.read_bytes(), crc)
    return f"{crc:08x}"


def importers(path: Path) -> Iterator[str]:
    """Yield the modules of a room that import one of its modules."""
    named = re.compile(rf"from reverie\.{path.parent.name}\.{path.stem} import")
    for other in (ROOT / path.parent).glob("*.py"):
        if named.search(other.read_text()):
            yield str(other.relative_to(ROOT))


def main() -> None:
    """Try what the command line asks for, print what was not noticed, and the score of each room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "rooms", nargs="*", default=list(ROOMS), help=f"some of {', '.join(ROOMS)}; all if none"
    )
    parser.add_argument("--sample", type=int, default=0, help="changes of each room to try; 0 means all")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--at-once", type=int, default=2, help="trials at a time")
    parser.add_argument("--all-words", action="store_true", help="print the changes that were noticed, too")
    parser.add_argument("--known", type=Path, help="folder that keeps what the tests do for the next time")
    parser.add_argument(
        "--leave-out", default="", help="tests not to use, as pytest's -k; the score is then a lower bound"
    )
    parser.add_argument(
        "--longest", type=float, default=float("inf"), help="seconds of a test to be used; a lower bound, too"
    )
    settings = parser.parse_args()
    for library in SLOW_LIBRARIES:
        importlib.import_module(library)
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.rooms:
            chosen = every = list(mutants(name))
            if 0 < settings.sample < len(every):
                chosen = random.Random(f"{name} {settings.seed}").sample(every, settings.sample)
            room = Room(
                name, Path(folder), settings.at_once, settings.known, settings.leave_out, settings.longest
            )
            print(f"{name}: {len(room.seen):,} tests", flush=True)
            counts = {"noticed": 0, "too slow": 0, "not noticed": 0}

            def told(mutant: Mutant, verdict: str, counts: dict[str, int] = counts) -> None:
                counts[verdict] += 1
                if verdict != "noticed" or settings.all_words:
                    print(f"{verdict}: {mutant}", flush=True)

            room.try_all(chosen, told)
            killed = counts["noticed"] + counts["too slow"]
            scores.append(
                f"{name:10} {killed:6,} of {len(chosen):6,} noticed ({counts['too slow']} by time), "
                f"{100 * killed / len(chosen):5.1f} %; {len(every):6,} in all"
            )
            print(scores[-1], flush=True)
    print("\n".join(["", f"seed {settings.seed}", *scores]))


if __name__ == "__main__":
    main()

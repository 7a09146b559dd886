"""Changes the code of a room here and there, and counts how many changes the room's own tests notice.

`make mutants` tries every change in index/, samplers/, engine/ and file/, each with the tests of its own room alone.
`make mutants ROOMS="index samplers" SAMPLE=40 SEED=1` tries 40 changes of each room, drawn by a seed. Changes are made in
copies of the source, by operators of Cosmic Ray. A change that no test notices is printed: it has to be answered by a test,
unless the changed program does the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).parents[1]
ROOMS = ("index", "samplers", "engine", "file")
AT_ONCE = 2  # processes
PATIENCE = (
    4  # times what the tests take on the code as it is; a change after which they take longer is noticed
)

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


class Trial:
    """Tries changes of one room with its own tests, the fastest of their files first.

    Args:
        room: its name.
        folder: where the copies of the source lie.
    """

    def __init__(self, room: str, folder: Path) -> None:
        self._copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(AT_ONCE):
            copy = folder / f"{room}-{number}"
            shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
            self._copies.put(copy)
        copy = self._copies.get()
        files = sorted((ROOT / "tests" / room).rglob("test_*.py"))
        took = {}
        for file in files:
            began = time.perf_counter()
            if self._run(copy, [file], None) not in (0, 5):  # 5: all of its tests are slow ones
                raise SystemExit(f"{file}: its tests fail on the code as it is; mend them first")
            took[file] = time.perf_counter() - began
        self._copies.put(copy)
        self._files = sorted(files, key=took.__getitem__)
        self._patience_s = PATIENCE * sum(took.values()) + 20

    def notices(self, mutant: Mutant) -> bool:
        """Whether a test fails, or never ends, after a change."""
        copy = self._copies.get()
        module = copy / mutant.path
        try:
            module.write_text(mutant.code())
            return self._run(copy, self._files, self._patience_s) != 0
        finally:
            module.write_text((ROOT / mutant.path).read_text())
            self._copies.put(copy)

    def _run(self, copy: Path, files: list[Path], patience_s: float | None) -> int | None:
        """Return the exit status of the tests on a copy, or None if they took too long."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n",
            "0",
            "-m",
            "not slow",
            *map(str, files),
        ]
        paths = {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **paths}, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            return process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return None


def main() -> None:
    """Try what the command line asks for, print what was not noticed, and the score of each room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "rooms", nargs="*", default=list(ROOMS), help=f"some of {', '.join(ROOMS)}; all if none"
    )
    parser.add_argument("--sample", type=int, default=0, help="changes of each room to try; 0 means all")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    settings = parser.parse_args()
    scores = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        for room in settings.rooms:
            chosen = every = list(mutants(room))
            if 0 < settings.sample < len(every):
                chosen = random.Random(f"{room} {settings.seed}").sample(every, settings.sample)
            trial, killed = Trial(room, Path(folder)), 0
            for mutant, noticed in zip(chosen, pool.map(trial.notices, chosen), strict=True):
                killed += noticed
                if not noticed:
                    print(f"not noticed: {mutant}", flush=True)
            share = 100 * killed / len(chosen)
            scores.append(
                f"{room:10} {killed:6,} of {len(chosen):6,} noticed, {share:5.1f} %; {len(every):6,} in all"
            )
            print(scores[-1], flush=True)
    print("\n".join(["", f"seed {settings.seed}", *scores]))


if __name__ == "__main__":
    main()

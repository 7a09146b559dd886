"""Through which files of reverie one call runs, and how deep.

What is watched is one ordinary call. An `add` stores a step inside of an episode and fills no run; a file has the
default durability. Every call is made a few times before it is watched, so that nothing is seen that happens only once,
such as an import inside of a function.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import reverie as rv

WARM_UP = 5  # calls before the one that is watched
EXECUTE = ("execute", "executemany", "executescript")


class Watch:
    """Watches Python's calls while it is entered, and takes note of those that run code of one folder.

    Attributes:
        files: those that were entered.
        crossings: how often a call or a return led from one of the files to another. Frames of other code between
            the two do not count.
        frames: of these files, the most that lay on the stack when SQLite was asked to execute a statement. The
            method that the user called is one of them.
    """

    def __init__(self, source: Path) -> None:
        self._source = f"{source.resolve()}/"
        self._stack: list[str] = []  # the files of the frames that run now, the innermost last
        self.files: set[str] = set()
        self.crossings = self.frames = 0

    def __enter__(self) -> Watch:
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    @property
    def rooms(self) -> set[str]:
        """The rooms that the files belong to. A module beside the rooms, such as `errors.py`, is none."""
        return {Path(file).parts[0] for file in self.files if len(Path(file).parts) > 1}

    @property
    def words(self) -> set[str]:
        """The modules beside the rooms."""
        return {Path(file).stem for file in self.files if len(Path(file).parts) == 1}

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg.__name__ in EXECUTE and isinstance(arg.__self__, sqlite3.Connection | sqlite3.Cursor):
                self.frames = max(self.frames, len(self._stack))
            return
        file = frame.f_code.co_filename
        if event not in ("call", "return") or not file.startswith(self._source):
            return
        file = file.removeprefix(self._source)
        if event == "return":
            self._stack.pop()
        if self._stack and self._stack[-1] != file:
            self.crossings += 1
        if event == "call":
            self._stack.append(file)
            self.files.add(file)


def watched(call: Callable[[], object], source: Path) -> Watch:
    """Return what was seen of the last of several calls."""
    for _ in range(WARM_UP):
        call()
    watch = Watch(source)
    with watch:
        call()
    return watch


def every_call(source: Path) -> dict[str, Watch]:
    """Return what is seen of each of the calls that a trainer makes, on buffers of a few steps."""
    spec = rv.StepSpec(rv.Field((4,), "float32"), rv.Field((), "int64"))
    sampler = rv.Prioritized()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.replay"
        memory = rv.ReplayBuffer(spec, 1000, seed=0)
        kept = rv.ReplayBuffer(spec, 1000, seed=0, path=path)
        for buffer in (memory, kept):
            for number in range(200):
                add(buffer, ends=number % 20 == 19)
            add(buffer)  # what is watched is a step inside of an episode
        batch = memory.sample(16, 8, sampler=sampler)
        errors = np.ones((16, 8))
        seen = {
            "add": watched(lambda: add(memory), source),
            "add with a path": watched(lambda: add(kept), source),
            "sample, uniform": watched(lambda: memory.sample(16, 8), source),
            "sample, prioritised": watched(lambda: memory.sample(16, 8, sampler=sampler), source),
            "update_priorities": watched(lambda: memory.update_priorities(batch, errors), source),
        }
        kept.close()
        for mode in ("r+", "r"):
            seen[f'open, "{mode}"'] = opened(path, mode, source)
        return seen


def add(buffer: rv.ReplayBuffer, ends: bool = False) -> None:
    """Add one step."""
    buffer.add(obs=np.ones(4, np.float32), action=0, reward=1.0, terminated=ends, truncated=False)


def opened(path: Path, mode: str, source: Path) -> Watch:
    """Return what is seen of `reverie.open`; the buffer is closed unwatched."""
    rv.open(path, mode=mode).close()
    watch = Watch(source)
    with watch:
        buffer = rv.open(path, mode=mode)
    buffer.close()
    return watch

"""The folder of a run: who may write there, and which of its replay files count.

A checkpoint names one replay file. Two files take turns, so the named one is never touched while the next one is
written. Files that no checkpoint names any more are removed last, when the next checkpoint is in its place.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reverie import BadSetting, FileError
from reverie.errors import FileMissing, printable
from reverie.iris.config import config_from_json

CHECKPOINT = "checkpoint.pt"
NAME = re.compile(r"replay-\d+-\d+")  # of the replay files that a checkpoint may name
NUMBERED = re.compile(r"replay-(?:live-)?(\d+)")
# What a checkpoint holds, beside the name of its replay.
KINDS = {
    "seed": int,
    "game": str,
    "config": str,
    "epoch": int,
    "steps": int,
    "agent": dict,
    "optimisers": dict,
    "collector": str,
    "frames": torch.Tensor,
    "chance": torch.Tensor,
}


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what the checkpoint of a run holds. No code in it is run.

    Raises:
        BadSetting: there is none.
        FileError: it is something else, cut short, or damaged, or the replay file that it names is not there.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise BadSetting(f"run: wanted a folder with {CHECKPOINT}, got {folder}; start a run there first")
    with reading(path):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if type(state) is not dict:
            raise ValueError(f"it holds a {type(state).__name__}")
        for name, kind in KINDS.items():
            if not isinstance(state[name], kind):
                raise ValueError(f"its {name} is a {type(state[name]).__name__}")
        config_from_json(state["config"])
        replay = state["replay"]
    replay_of(folder, replay)
    return state


def kept_epochs(folder: Path) -> int:
    """Return how many epochs the run in a folder has kept, 0 if there is none."""
    return int(read_checkpoint(folder)["epoch"]) if (folder / CHECKPOINT).exists() else 0


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise whatever goes wrong inside as one FileError: it comes from what a checkpoint holds."""
    try:
        yield
    except Exception as error:  # PyTorch has a dozen kinds for a file that it cannot read
        why = (str(error) or type(error).__name__).partition("\n")[0]
        raise FileError(
            f"{path}: wanted the checkpoint of a run, got a damaged one or something else ({printable(why, 200)}); "
            f"restore the folder from a copy, or start a run in another"
        ) from error


def replay_of(folder: Path, name: object) -> Path:
    """Return where the replay file is that a run's checkpoint names.

    Raises:
        FileError: it is no name of a replay file in this folder, or there is no such file.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise FileError(
            f"{folder / CHECKPOINT}: wanted the name of a replay file in its folder, "
            f"got {printable(repr(name), 200)}; restore the folder from a copy"
        )
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise FileError(
            f"{path}: wanted a file in the folder of the run, got a link that leads out of it; put the file itself "
            f"there"
        )
    if not path.is_file():
        raise FileMissing(
            f"{path}: wanted the replay file that {CHECKPOINT} names, got none; restore the folder from a copy. "
            f"Nothing in it was changed"
        )
    return path


class RunFolder:
    """A folder, made if missing, that one process at a time trains in.

    Args:
        path: of the folder.

    Raises:
        BadSetting: another process trains there. Where the system cannot lock a folder nobody finds out.
        FileError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            self._handle = _lock(path)
        numbers = [int(found[1]) for each in path.iterdir() if (found := NUMBERED.match(each.name))]
        self._number = max(numbers, default=-1) + 1  # of none of the files there
        self.live = path / f"replay-live-{self._number}"

    def replay(self, epoch: int) -> Path:
        """Return where the replay goes after an epoch: never where that of the epoch before is."""
        return self.path / f"replay-{self._number}-{epoch % 2}"

    def copy(self, replay: Path) -> Path:
        """Return a copy of a replay file, for what is played next: the file itself stays as it is."""
        with _writing(self.live):
            shutil.copyfile(replay, self.live)
        return self.live

    def put(self, content: memoryview) -> None:
        """Put a checkpoint in its place in one move; the one before stays if that fails."""
        draft = self.path / f"{CHECKPOINT}.draft"
        with _writing(draft):
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / CHECKPOINT)
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(handle)  # the move itself
            finally:
                os.close(handle)

    def tidy(self) -> None:
        """Remove the replay files of whoever trained here before."""
        kept = [path.name for path in (self.live, self.replay(0), self.replay(1))]
        for path in self.path.glob("replay-*"):
            ours = any(path.name == name or path.name.startswith(f"{name}-") for name in kept)
            if not ours and not path.is_dir():
                path.unlink()

    def release(self) -> None:
        """Remove the live replay, and let others train here."""
        self.live.unlink(missing_ok=True)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise an error of the operating system as a FileError of the run's folder."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path}: wanted to write, got {error.strerror or error}; make room, change the permissions, or choose "
            f"another folder. What was kept before is as it was"
        ) from error


def _lock(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise BadSetting(
            f"run: wanted a folder that nobody trains in, got {path}, where another process does; wait for it, "
            f"or choose another folder"
        ) from error
    return handle

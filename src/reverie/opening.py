"""`reverie.open`: a buffer from its replay file."""

from __future__ import annotations

import os
from pathlib import Path

from reverie.buffer import ReplayBuffer
from reverie.errors import BadSetting, TooLarge
from reverie.file import ReplayFile
from reverie.stores import check_residency


def open(path: str | os.PathLike[str], residency: str | None = None, mode: str = "r+") -> ReplayBuffer:
    """Return the buffer that a replay file keeps, with everything in it.

    Data, episodes, priorities, visit counts and random state come back: the next batch is the one that would
    have come, if the samplers are made again in the order in which they were first used. An episode that ran
    when the writing process was killed is closed as a cut; one that ran when the buffer was closed goes on.

    Args:
        path: of the file.
        residency: where the bytes are to live; None means as before.
        mode: "r+" to go on writing; "r" to read, also while another process writes: every call sees what
            was written up to then. What a reader draws changes nothing in the file.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is no replay file, a newer one, damaged, or another process writes to it (with "r+").
        TooLarge: its content does not fit into memory; try residency="packed" or "disk".
    """
    if mode not in ("r", "r+"):
        raise BadSetting(f"mode: wanted 'r+' to write or 'r' to read, got {mode!r}; choose one")
    if not isinstance(path, (str, os.PathLike)):
        raise BadSetting(f"path: wanted a path, got {path!r}; pass a name such as 'pong.replay'")
    if residency is not None:
        check_residency(residency, True)
    file = ReplayFile.open(Path(path), mode)
    try:
        return ReplayBuffer._resume(file, residency)
    except MemoryError as error:
        file.close()
        if isinstance(error, TooLarge):
            raise
        raise TooLarge(
            f"{path}: wanted memory for what it holds, got none; open it with residency='packed' or 'disk', or close "
            f"something"
        ) from error
    except BaseException:
        file.close()
        raise

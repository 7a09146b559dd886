"""Opens the buffer that a replay file keeps."""

from __future__ import annotations

import os
from pathlib import Path

from reverie.buffer.buffer import ReplayBuffer
from reverie.checks import seed_number
from reverie.errors import BadSetting, TooLarge
from reverie.file import ReplayFile, Settings, check_residency, compact_file, reserve_for, resize_file


def open(
    path: str | os.PathLike[str],
    residency: str | None = None,
    mode: str = "r+",
    *,
    episodes: str = "new",
    seed: int | None = None,
    capacity: int | None = None,
    streams: int | None = None,
) -> ReplayBuffer:
    """Return the buffer that a replay file keeps, with everything in it.

    Data, episodes, priorities, visit counts and random state come back: the next batch is the one that would
    have come, if the samplers are made again in the order in which they were first used.

    The environments begin anew when a program does. So the first step that is added to a stream begins a new
    episode, and an episode that ran when the buffer was closed ends before it, as a cut: no window ever joins two
    recordings. An episode that ran when the writing process was killed ends as a cut at once.

    A reader draws with random numbers of its own: any number of them draw differently. It may be pickled and
    copied: it travels as its path, and is opened there as one more reader.

    Args:
        path: of the file.
        residency: where the bytes are to live; None means as before.
        mode: "r+" to go on writing; "r" to read, also while another process writes: every call sees what
            was written up to then. What a reader draws changes nothing in the file.
        episodes: "new", or "continue" if the program puts the environments back to where they were when the file was
            closed: the next step of a stream then belongs to the episode that was running there.
        seed: fixes every random choice from here on. None means with "r+" that the file's random state goes on,
            with "r" that the operating system gives one.
        capacity: steps kept in all from here on, in a larger or smaller ring: the file is written anew, and takes the
            place of the old one when it is whole. Of each stream the newest `capacity // streams` stay. None means
            that each stream keeps as many as before.
        streams: how many there are from here on; new ones are empty. None means as many as before.

    Raises:
        BadSetting: an argument of the wrong kind or range, or fewer streams than have steps.
        FileNotFoundError: there is no such file.
        FileError: it is no replay file, a newer one, damaged, or another process writes to it (with "r+").
        TooLarge: its content does not fit into memory; try residency="packed" or "disk".
    """
    if mode not in ("r", "r+"):
        raise BadSetting(f"mode: wanted 'r+' to write or 'r' to read, got {mode!r}; choose one")
    _check_path(path)
    if episodes not in ("new", "continue"):
        raise BadSetting(f"episodes: wanted 'new' or 'continue', got {episodes!r}; choose one")
    if episodes == "continue" and mode == "r":
        raise BadSetting("episodes: wanted 'continue' only to write, got it with mode='r'; leave it out")
    if residency is not None:
        check_residency(residency, True)
    if seed is not None:
        seed = seed_number(seed)
    if capacity is not None or streams is not None:
        _resize(Path(path), residency, mode, capacity, streams)
    file = ReplayFile.open(Path(path), mode)
    try:
        return ReplayBuffer.of_file(file, residency, seed, episodes, open)
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


def compact(path: str | os.PathLike[str]) -> int:
    """Make a replay file as small as what it holds: discarded episodes and pages without content take no room any more.

    The file is written anew and takes the place of the old one when it is whole; whatever goes wrong before leaves the
    old one as it was. Of discarded episodes nothing stays but how long they were and their rewards; all other episodes,
    ids, samplers and the next batch are as they were. An episode that ran when the writer was killed ends as a cut, as
    it would in `open`. A reader that has the file open has to open it again. Copies, and other hard links to the old
    file, keep what they have.

    Args:
        path: of the file, which nobody has open to write.

    Returns:
        How many bytes less the file takes now; negative if it takes more.

    Raises:
        BadSetting: `path` is none.
        FileNotFoundError: there is no such file.
        FileError: it is no replay file, damaged, cannot be written, or another process writes to it; a reader holds
            an older moment of it; or it has discarded episodes, and is that of a class around a buffer, such as
            `IRISReplayBuffer`.
    """
    _check_path(path)
    return compact_file(Path(path))


def _check_path(path: object) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise BadSetting(f"path: wanted a path, got {path!r}; pass a name such as 'pong.replay'")


class _Owner:
    """Whom memory is promised until it is clear that there is enough."""


def _resize(path: Path, residency: str | None, mode: str, capacity: int | None, streams: int | None) -> None:
    """Make the file one of another size, if there is the memory that its buffer will need."""
    if mode == "r":
        raise BadSetting(
            "capacity: wanted another size only to write, got it with mode='r'; leave out capacity and streams, or let "
            "a reader write a copy of another size with save_as"
        )

    def check(settings: Settings) -> None:
        kept = settings.residency if residency is None else residency
        reserve_for(_Owner(), settings._replace(residency=kept))

    resize_file(path, capacity, streams, check)

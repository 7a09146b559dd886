"""Data sets into buffers and out of them, whatever their format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from reverie.buffer import ReplayBuffer
from reverie.episode import Episode
from reverie.errors import BadSetting, FileMissing
from reverie.exchange.format import Format, Incoming, Outgoing
from reverie.spec import StepSpec
from reverie.union import Union
from reverie.values import shown, tree_map

# Name -> module of this room, and its class: read when it is needed, since it may need packages that are not there.
OURS = {
    "minari": ("minari", "Minari"),
    "iris": ("pt", "Iris"),
    "delta-iris": ("pt", "DeltaIris"),
    "diamond": ("diamond", "Diamond"),
    "lerobot": ("lerobot", "LeRobot"),
    "d4rl": ("hdf5", "D4rl"),
    "robomimic": ("hdf5", "Robomimic"),
    "swm": ("swm", "StableWorldModel"),
    "rlds": ("rlds", "Rlds"),
    "dreamer": ("dreamer", "Dreamer"),
    "npz": ("plain", "Npz"),
    "imitation": ("plain", "Imitation"),
    "episodes": ("plain", "Episodes"),
}
_others: dict[str, Format] = {}
SQLITE = b"SQLite format 3\0"  # how its files begin
Tell = Callable[[str], object]


class NotHeld(UserWarning):
    """Something that a buffer, or a format, cannot hold, and that was left out."""


def register(format: Format) -> None:
    """Make a format of your own known by its name; one of the same name is replaced."""
    _others[format.name] = format


def formats() -> list[str]:
    """Return the names of all formats."""
    return sorted({*OURS, *_others})


def format_of(name: str) -> Format:
    """Return a format by name.

    Raises:
        BadSetting: there is none.
    """
    if name in _others:
        return _others[name]
    if name not in OURS:
        raise BadSetting(f"format: wanted one of {formats()}, got {shown(name)}; choose one")
    module, kind = OURS[name]
    found: Format = getattr(import_module(f"reverie.exchange.{module}"), kind)()
    return found


def recognised(source: Any) -> Format:
    """Return the format that `source` looks like.

    Raises:
        BadSetting: it looks like none, or like several. FileMissing: it is no path that exists.
    """
    found = [format for name in formats() if (format := format_of(name)).reads and format.recognises(source)]
    if not found and isinstance(source, (str, os.PathLike)):
        _refuse_path(Path(source))
    if len(found) != 1:
        names = [format.name for format in found]
        raise BadSetting(
            f"source: wanted a data set of one of the formats {formats()}, got {shown(source)}, which looks like "
            f"{names or 'none of them'}; name its format"
        )
    return found[0]


def _refuse_path(path: Path) -> None:
    """Say what is wrong with a path that no format recognises, where that is not its content."""
    if not path.exists():
        raise FileMissing(
            f"{path}: wanted a data set, got no file or folder, and no id of a Minari data set; check the path"
        )
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_sqlite = file.read(len(SQLITE)) == SQLITE
    if is_sqlite:
        raise BadSetting(
            f"{path}: wanted another library's data set, got an SQLite file; reverie.open({str(path)!r}) opens it "
            f"if it is a replay file"
        )


def import_from(
    source: Any,
    format: str | None = None,
    *,
    into: ReplayBuffer | None = None,
    path: str | os.PathLike[str] | None = None,
    capacity: int | None = None,
    residency: str | None = None,
    stream: int = 0,
    seed: int | None = None,
    tell: Tell | None = None,
    on_step: Callable[[int, int | None], object] | None = None,
    **options: Any,
) -> ReplayBuffer:
    """Read a foreign data set into a buffer, one episode in memory at a time.

    Args:
        source: a path, or an object that the format takes.
        format: its name; None recognises it.
        into: an open buffer, whose fields must be those of the data set. None makes one.
        path: a new replay file for the buffer that is made.
        capacity: of the buffer that is made; all steps if that is known. With less the newest stay.
        residency: of the buffer that is made, as for ReplayBuffer. None means "ram", and "disk" with a path: so memory
            holds an episode at a time. `reverie.open(path, residency="ram")` reads all of it into memory later.
        stream: of `into` that takes the steps. Its running episode is cut before and after.
        seed: of the buffer that is made.
        tell: called with each line of what could not be held; None warns with NotHeld.
        on_step: called after each episode with the steps so far, and with how many there are if that is known.
        **options: of the format, such as `lossy=("jpeg",)`.

    Returns:
        The buffer, open.

    Raises:
        FileError: the data set is damaged, or of another format. FileMissing: there is none.
        BadSetting: a wrong argument; nobody recognises `source`; or reading would change values.
        SpecMismatch: `into` has other fields.
    """
    chosen = recognised(source) if format is None else format_of(format)
    if not chosen.reads:
        raise BadSetting(f"format: wanted one that can be read, got {chosen.name!r}; it is written only")
    if into is not None and any(value is not None for value in (path, capacity, residency, seed)):
        raise BadSetting(
            "into: wanted it without path, capacity, residency and seed, got both; leave one of them out"
        )
    incoming = chosen.open(source, **options)
    buffer = into
    try:
        if buffer is None:
            buffer = _made(incoming, path, capacity, residency or ("ram" if path is None else "disk"), seed)
        else:
            _check_fields(incoming.spec, buffer.spec)
        _take_all(incoming, buffer, stream, on_step)
    except BaseException:
        if into is None and buffer is not None:
            buffer.close()
            if path is not None:  # half a data set is of no use, and the path is free again
                Path(path).unlink(missing_ok=True)
        raise
    finally:
        incoming.close()
    for line in incoming.lost:
        _tell(tell, line)
    return buffer


def _made(
    incoming: Incoming,
    path: str | os.PathLike[str] | None,
    capacity: int | None,
    residency: str,
    seed: int | None,
) -> ReplayBuffer:
    if capacity is None:
        if incoming.total_steps is None:
            raise BadSetting(
                "capacity: wanted a number, since this data set does not say how many steps it has; pass it"
            )
        capacity = max(incoming.total_steps, 1)
    return ReplayBuffer(incoming.spec, capacity, residency=residency, path=path, seed=seed)


def _check_fields(wanted: StepSpec, got: StepSpec) -> None:
    mine, theirs = dict(got.columns()), dict(wanted.columns())
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            raise BadSetting(
                f"into: wanted a buffer with the fields of the data set, got {name!r} as {mine.get(name, 'none')} "
                f"in place of {theirs.get(name, 'none')}; make one with {wanted!r}"
            )


def _take_all(
    incoming: Incoming,
    buffer: ReplayBuffer,
    stream: int,
    on_step: Callable[[int, int | None], object] | None,
) -> None:
    buffer.cut(stream)
    with buffer.engine.lock:
        buffer.engine.check_writable()
        notes = {"names": dict(incoming.names), "about": dict(incoming.about)}
        buffer.engine.memories.note(exchange=notes)
    steps = 0
    for episode in incoming.episodes:
        take(buffer, episode, stream)
        steps += len(episode)
        if on_step is not None:
            on_step(steps, incoming.total_steps)
    buffer.cut(stream)


def take(buffer: ReplayBuffer, episode: Episode, stream: int = 0) -> None:
    """Add the steps of an episode, how it ended, and its metadata, to a stream of a buffer."""
    ends = np.zeros((2, len(episode)), np.bool_)
    ends[:, -1:] = [[episode.terminated], [episode.truncated]]
    is_end = bool(ends.any())
    final = episode.final_obs
    buffer.extend(
        obs=episode.obs,
        action=episode.action,
        reward=episode.reward,
        terminated=ends[0],
        truncated=ends[1],
        final_obs=tree_map(lambda leaf: np.asarray(leaf)[None], final)
        if is_end and final is not None
        else None,
        stream=stream,
        **episode.extras,
    )
    if episode.metadata:
        buffer.annotate(episode=buffer.engine.index.newest(stream), **episode.metadata)
    if not is_end and not episode.running:
        buffer.cut(stream, final_obs=final)


def export_to(
    buffer: ReplayBuffer | Union,
    target: Any,
    format: str,
    *,
    episodes: Iterable[int] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> None:
    """Write episodes of a buffer as a data set of another library, whole or not at all.

    Args:
        buffer: or a union, whose parts become one data set. It stays as it is; others may go on adding to it.
        target: a path, or what the format takes.
        format: its name.
        episodes: which ones, by number as in `buffer.episodes`; None means all.
        tell: called with each line of what the format could not hold; None warns with NotHeld.
        **options: of the format.

    Raises:
        FileTaken: there is something already. FileError: it cannot be written.
        BadSetting: a wrong argument, or the format would change values and nobody asked for it.
        IndexError: there is no such episode.
    """
    chosen = format_of(format)
    if not isinstance(buffer, (ReplayBuffer, Union)):
        raise BadSetting(f"buffer: wanted a ReplayBuffer or a Union, got {shown(buffer)}; pass one")
    if not chosen.writes:
        raise BadSetting(f"format: wanted one that can be written, got {chosen.name!r}; it is read only")
    table = np.asarray(buffer.episodes)
    numbers = list(range(len(table))) if episodes is None else list(episodes)
    notes = _notes(buffer)
    outgoing = Outgoing(
        buffer.spec,
        buffer.read_episodes(numbers),
        len(numbers),
        int(table["live"][numbers].sum()),
        notes.get("names", {}),
        notes.get("about", {}),
    )
    for line in chosen.save(target, outgoing, **options):
        _tell(tell, line)


def _notes(buffer: ReplayBuffer | Union) -> dict[str, Any]:
    """Return what the data set that it came from said; parts of a union may have come from several."""
    return buffer.engine.memories.notes.get("exchange", {}) if isinstance(buffer, ReplayBuffer) else {}


def _tell(tell: Tell | None, line: str) -> None:
    if tell is None:
        warnings.warn(line, NotHeld, stacklevel=3)
    else:
        tell(line)

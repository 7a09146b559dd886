"""The commands that look into replay files, write them anew, and bring data sets in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from reverie.checks import natural
from reverie.errors import printable
from reverie.store import format_bytes

FINDINGS = 1  # exit status of a verification that found something


def inspect(
    file: Annotated[Path, tyro.conf.Positional],
    episodes: int = 5,
) -> None:
    """Tell what a replay file holds: sizes, streams, episodes, samplers. Also while it is being written.

    Args:
        file: a replay file.
        episodes: how many of the newest episodes to list.
    """
    from reverie.cli.report import report

    for line in report(file, natural("episodes", episodes)):
        print(line)


def verify(file: Annotated[Path, tyro.conf.Positional]) -> int:
    """Check everything in a replay file. The exit status is 0 if it is whole, 1 if not, 2 if it does not open.

    Args:
        file: a replay file; it is only read, also while it is being written.
    """
    from reverie.file import verify_file

    status = 0
    for line, is_finding in verify_file(file):
        print(printable(line))
        status = FINDINGS if is_finding else status
    return status


def import_(
    source: Annotated[str, tyro.conf.Positional],
    out: Path,
    format: str | None = None,
    lossy: tuple[str, ...] = (),
    checksum: bool = False,
) -> None:
    """Read another library's data set into a new replay file, and list what could not be held.

    Args:
        source: a file, a folder, or the id of a Minari data set.
        out: the replay file to make.
        format: minari, lerobot, dreamer, …, as the manual lists them; it is recognised if you do not give it.
        lossy: losses that are accepted, by the names that a refusal gives them.
        checksum: print the SHA-256 of all observations, too.
    """
    from reverie.cli.exchange import import_file

    for line in import_file(source, out, format, lossy, checksum):
        print(printable(line))


def export(
    file: Annotated[Path, tyro.conf.Positional],
    to: str,
    episodes: tuple[int, ...] = (),
    lossy: tuple[str, ...] = (),
) -> None:
    """Write the episodes of a replay file as another library's data set, and list what it could not hold.

    Args:
        file: a replay file; it is only read.
        to: a format and a place, such as minari:cartpole/mine-v0 or npz:mine.npz.
        episodes: which ones, by number: 0 is the oldest, -1 the newest; all if not given.
        lossy: losses that are accepted, by the names that a refusal gives them.
    """
    from reverie.cli.exchange import export_file

    for line in export_file(file, to, episodes, lossy):
        print(printable(line))


def compact(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Make a replay file as small as what it holds. Of discarded episodes nothing stays but their lengths and rewards.

    The file is written anew beside its place, which takes as much room again until it is done.

    Args:
        file: a replay file that nobody writes to.
    """
    from reverie.buffer import compact as compact_file

    less = compact_file(file)
    print(
        printable(
            f"{file}: gave back {format_bytes(max(less, 0))}, {format_bytes(file.stat().st_size)} are left"
        )
    )


def film(
    file: Annotated[Path, tyro.conf.Positional],
    episode: int,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    column: str | None = None,
    every: int | None = None,
    fps: float = 15.0,
) -> None:
    """Show an episode of a replay file as an animated GIF, or as a PNG with its frames side by side.

    Args:
        file: a replay file.
        episode: its number, as `reverie inspect` lists them.
        out: a name that ends in .gif or .png.
        column: the observation to show, such as obs/camera, if several are frames.
        every: show one of so many steps, with the rewards of all of them; else each step, as far as they fit.
        fps: frames of a GIF in a second.
    """
    from reverie.cli.pictures import film as make_film

    print(printable(f"wrote {make_film(file, episode, out, column, every, fps)}"))

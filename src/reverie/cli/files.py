"""The commands on replay files: inspect, verify, import, export, compact and film."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import tyro

from reverie.checks import natural, number
from reverie.cli.options import File, Force, Json, Lossy, Quiet
from reverie.cli.terminal import say, width_of, wrapped
from reverie.errors import printable
from reverie.store import format_bytes

FINDINGS = 1  # exit status of a verification that found something
LEAST_S, MOST_S = 0.1, 86_400.0  # between two looks of a watch
CLEAR = "\x1b[H\x1b[2J"  # moves to the upper left corner, and clears the terminal


def inspect(
    file: File,
    episodes: int = 5,
    json: Json = False,
    watch: Annotated[bool, tyro.conf.arg(aliases=["-w"], help_behavior_hint="")] = False,
    interval: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 2.0,
) -> None:
    """Tell what a replay file holds: its sizes, streams, episodes and samplers.

    It only reads, also while another process writes.

    Args:
        file: The replay file.
        episodes: How many of the newest episodes to list.
        json: Print one JSON object instead of text and tables.
        watch: Look again and again, until Ctrl-C. With --json, each look is one line.
        interval: How long --watch waits between two looks.
    """
    episodes = natural("episodes", episodes)
    look = _in_json if json else _in_words
    if watch:
        seconds = number("interval", interval, LEAST_S, MOST_S)
        keep_looking(lambda: look(file, episodes, watched=True), file, seconds)
    sys.stdout.write(look(file, episodes))


def keep_looking(
    look: Callable[[], str], file: Path, seconds: float, pause: Callable[[float], None] | None = None
) -> NoReturn:
    """Write what a look shows, again and again: in a terminal over the last one, elsewhere below it.

    Args:
        look: returns text.
        file: what is looked at.
        seconds: how long each pause is; pause: waits so many seconds, and is `time.sleep` if None.

    Raises:
        KeyboardInterrupt: on Ctrl-C, as the only end.
    """
    pause = time.sleep if pause is None else pause
    try:
        while True:
            shown = look()
            sys.stdout.write((CLEAR if sys.stdout.isatty() else "") + shown)
            sys.stdout.flush()
            pause(seconds)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {file} is watched no more") from None


def _in_words(file: Path, episodes: int, *, watched: bool = False) -> str:
    from reverie.cli.report import report

    columns = width_of(sys.stdout)
    lines = [f"time        {datetime.now():%H:%M:%S}; Ctrl-C ends the watch"] if watched else []
    lines += report(file, episodes, columns)
    if columns is not None:
        lines = [part for line in lines for part in wrapped(line, columns)]
    return "\n".join([*lines, *([""] if watched and columns is None else []), ""])


def _in_json(file: Path, episodes: int, *, watched: bool = False) -> str:
    from reverie.cli.contents import contents

    return json.dumps(contents(file, episodes), indent=None if watched else 2) + "\n"


def verify(file: File, json: Json = False, quiet: Quiet = False) -> int:
    """Check everything in a replay file. The exit status is 0 if it is whole, 1 if not, 2 if it does not open.

    It only reads, also while another process writes. A file of 1 GB takes some seconds.

    Args:
        file: The replay file.
        json: Print one JSON object instead of lines.
        quiet: Print what is wrong, and nothing else.
    """
    if json:
        return _verify_in_json(file, quiet)
    from reverie.file import verify_file

    status = 0
    for line, is_finding in verify_file(file):
        status = FINDINGS if is_finding else status
        if is_finding or not quiet:
            say([printable(line)])
    return status


def _verify_in_json(file: Path, quiet: bool) -> int:
    from reverie.file import verdict_on

    found = verdict_on(file)
    told = {"file": str(file), "whole": not found.findings, **found._asdict()}
    if found.findings or not quiet:
        say([json.dumps(told, indent=2)])
    return FINDINGS if found.findings else 0


def import_(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")],
    format: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: it is recognised)")
    ] = None,
    lossy: Lossy = (),
    checksum: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False,
    quiet: Quiet = False,
) -> None:
    """Read another library's data set into a new replay file, and list what could not be held.

    Args:
        source: The data set: a file, a folder, or the id of one that Minari keeps.
        out: The replay file to make.
        format: The format of the data set, such as minari, lerobot or npz.
        lossy: Losses that you accept, by the names that a refusal gives them.
        checksum: Print the SHA-256 of all observations, too.
        quiet: Print what could not be held, and nothing else but checksums.
    """
    from reverie.cli.exchange import import_file

    say(map(printable, import_file(source, out, format, lossy, checksum, quiet)))


def export(
    file: File,
    to: Annotated[str, tyro.conf.arg(metavar="FORMAT:PLACE")],
    episodes: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="(default: all)")
    ] = (),
    lossy: Lossy = (),
    quiet: Quiet = False,
) -> None:
    """Write the episodes of a replay file as another library's data set, and list what it could not hold.

    Args:
        file: The replay file. It is only read.
        to: A format and a place to write to, such as minari:cartpole/mine-v0 or npz:mine.npz.
        episodes: Which episodes to write, by their numbers in `reverie inspect`; -1 is the newest.
        lossy: Losses that you accept, by the names that a refusal gives them.
        quiet: Print what could not be held, and nothing else.
    """
    from reverie.cli.exchange import export_file

    say(map(printable, export_file(file, to, episodes, lossy, quiet)))


def compact(file: File, quiet: Quiet = False) -> None:
    """Make a replay file as small as what it holds. Of discarded episodes nothing stays but their lengths and rewards.

    The file is written anew beside its place, which takes as much room again until it is done.

    Args:
        file: The replay file. Nobody may write to it meanwhile.
        quiet: Print nothing.
    """
    from reverie.buffer import compact as compact_file

    less = compact_file(file)
    if not quiet:
        left = format_bytes(file.stat().st_size)
        say([printable(f"{file}: gave back {format_bytes(max(less, 0))}, {left} are left")])


def film(
    file: File,
    episode: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the newest that ended)"),
    ] = None,
    out: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: FILE-EPISODE.gif, here)"),
    ] = None,
    column: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the only one)")
    ] = None,
    every: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1, if all fit)")
    ] = None,
    fps: float = 15.0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show an episode of a replay file as an animated GIF, or as a PNG with its frames side by side.

    Args:
        file: The replay file. It is only read.
        episode: The number of the episode, as `reverie inspect` lists it; -1 is the newest.
        out: The picture to make. A name in .gif gives an animation, one in .png a sheet.
        column: The observation to show, such as obs/camera, where several are frames.
        every: Show one of so many steps, with the rewards of all of them.
        fps: How many frames a GIF shows in a second.
        force: Replace a picture that is there already.
        quiet: Print nothing.
    """
    from reverie.cli.pictures import film as make_film

    told = make_film(file, episode, out, column, every, fps, force)
    if not quiet:
        say([printable(f"wrote {told}")])


def report(
    file: File,
    out: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o"], metavar="PAGE", help_behavior_hint="(default: FILE.html, here)"),
    ] = None,
    episodes: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="(default: of all kinds)")
    ] = (),
    max_mb: Annotated[float, tyro.conf.arg(metavar="MB")] = 4.0,
    length: int = 16,
    seed: int = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a replay file: what it holds, its episodes, and what is drawn from it.

    Of the folder of a run of `reverie train` or `reverie learn` it shows returns, losses, times and a dream.

    The page needs no network. The file is only read, also while another process writes.

    Args:
        file: The replay file, or the folder of a run.
        out: The page to make.
        episodes: The episodes to play on it, by number; -1 is the newest.
        max_mb: How large the page may be.
        length: How long the windows are that are drawn to see what is drawn.
        seed: Fixes what is chosen at random.
        force: Replace a page that is there already.
        quiet: Print nothing.
    """
    page = Path(f"{file.resolve().name}.html") if out is None else out
    if file.is_dir():
        from reverie.iris.app import report_run

        report_run(file, page, force=force)
    else:
        from reverie.report import report as write

        write(file, page, episodes=episodes or None, max_mb=max_mb, length=length, seed=seed, force=force)
    if not quiet:
        say([printable(f"wrote {page}, {format_bytes(page.stat().st_size)}; open it in a browser")])

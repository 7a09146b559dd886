"""`reverie import` and `reverie export`: other people's data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reverie
from reverie.cli.progress import showing
from reverie.errors import BadSetting, counted
from reverie.exchange import checksums, export_to, import_from
from reverie.store import format_bytes


def import_file(
    source: str,
    out: Path,
    format: str | None,
    lossy: tuple[str, ...],
    checksum: bool = False,
    quiet: bool = False,
) -> Iterator[str]:
    """Import a data set into a new replay file; yield what came of it.

    Args:
        source: as `import_from` takes it; out: the file to make; format: its name, or None.
        lossy: losses that are accepted.
        checksum: whether to say the SHA-256 of all observations.
        quiet: show no progress, and tell only checksums and what could not be held.
    """
    lost: list[str] = []
    options: dict[str, Any] = {"lossy": lossy} if lossy else {}
    try:
        with (
            showing("importing", Path(source).name, quiet=quiet) as show,
            import_from(source, format, path=out, tell=lost.append, on_step=show, **options) as buffer,
        ):
            steps, episodes = len(buffer), len(buffer.episodes)
            sums = checksums(buffer) if checksum else {}
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; nothing is kept, and {out} is not there") from None
    if not quiet:
        yield f"imported  {counted(steps, 'step')} in {counted(episodes, 'episode')}"
    for name, digest in sums.items():
        yield f"sha256    {digest} {name}"
    if not quiet:
        yield f"file      {out}, {format_bytes(out.stat().st_size)}; reverie inspect {out} shows what is in it"
    yield from _told(lost, quiet)


def export_file(
    file: Path, to: str, episodes: tuple[int, ...], lossy: tuple[str, ...], quiet: bool = False
) -> Iterator[str]:
    """Export episodes of a replay file; yield what came of it.

    Args:
        file: the replay file; to: format and place, with a colon between; episodes: numbers, none for all.
        lossy: losses that are accepted.
        quiet: tell only what could not be held.

    Raises:
        BadSetting: `to` is no such text, or there is no such episode.
    """
    format, colon, target = to.partition(":")
    if not colon or not target:
        raise BadSetting(
            f"--to: wanted a format and a place such as npz:mine.npz, got {to!r}; put a colon between them"
        )
    lost: list[str] = []
    options: dict[str, Any] = {"lossy": lossy} if lossy else {}
    with reverie.open(file, residency="disk", mode="r") as buffer:
        places = [_place_of(number, buffer.episodes.ids.tolist(), file) for number in episodes]
        export_to(buffer, target, format, episodes=places or None, tell=lost.append, **options)
        count = len(episodes) or len(buffer.episodes)
    if not quiet:
        yield f"exported  {counted(count, 'episode')} to {to}"
    yield from _told(lost, quiet)


def _place_of(number: int, numbers: list[int], file: Path) -> int:
    """Return which of the live episodes has a number; -1 is the newest."""
    if number < 0 and -number <= len(numbers):
        return len(numbers) + number
    if number not in numbers:
        live = f"one numbered {numbers[0]} to {numbers[-1]}" if numbers else "a file that holds episodes"
        raise BadSetting(f"--episodes: wanted {live}, got {number}; reverie inspect {file} lists them")
    return numbers.index(number)


def _told(lost: list[str], quiet: bool) -> Iterator[str]:
    if lost or not quiet:
        yield "not held  " + (lost[0] if lost else "nothing: everything is there")
    for line in lost[1:]:
        yield f"          {line}"

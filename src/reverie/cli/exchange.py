"""`reverie import` and `reverie export`: other people's data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reverie
from reverie.errors import BadSetting
from reverie.exchange import checksums, export_to, import_from
from reverie.store import format_bytes


def import_file(
    source: str, out: Path, format: str | None, lossy: tuple[str, ...], checksum: bool = False
) -> Iterator[str]:
    """Import a data set into a new replay file; yield what came of it.

    Args:
        source: as `import_from` takes it; out: the file to make; format: its name, or None.
        lossy: losses that are accepted; checksum: whether to say the SHA-256 of all observations.
    """
    from rich.console import Console
    from rich.progress import Progress

    lost: list[str] = []
    console = Console(stderr=True)
    # Nobody watches a bar in a log file.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"importing {Path(source).name}", total=None)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        options: dict[str, Any] = {"lossy": lossy} if lossy else {}
        with import_from(source, format, path=out, tell=lost.append, on_step=show, **options) as buffer:
            steps, episodes = len(buffer), len(buffer.episodes)
            sums = checksums(buffer) if checksum else {}
    yield f"imported  {steps:,} steps in {episodes:,} episodes"
    for name, digest in sums.items():
        yield f"sha256    {digest} {name}"
    yield f"file      {out}, {format_bytes(out.stat().st_size)}; reverie inspect {out} shows what is in it"
    yield from _told(lost)


def export_file(file: Path, to: str, episodes: tuple[int, ...], lossy: tuple[str, ...]) -> Iterator[str]:
    """Export episodes of a replay file; yield what came of it.

    Args:
        file: the replay file; to: format and place, with a colon between; episodes: numbers, none for all.
        lossy: losses that are accepted.

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
        try:
            export_to(buffer, target, format, episodes=episodes or None, tell=lost.append, **options)
        except IndexError as error:
            raise BadSetting(f"--episodes: {error}; reverie inspect {file} lists them") from error
        count = len(episodes) or len(buffer.episodes)
    yield f"exported  {count:,} episodes to {to}"
    yield from _told(lost)


def _told(lost: list[str]) -> Iterator[str]:
    yield "not held  " + (lost[0] if lost else "nothing: everything is there")
    for line in lost[1:]:
        yield f"          {line}"

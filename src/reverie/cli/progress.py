"""How far a long command is: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_S = 10.0  # seconds from one line of a log file to the next
ROOMY = 76  # columns that a bar needs with everything beside it

OnStep = Callable[[int, int | None], None]
"""Takes the steps that are done, and how many there are, or None where nobody knows."""


@contextmanager
def showing(
    verb: str,
    what: str,
    *,
    quiet: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[OnStep]:
    """Show on the standard error how many steps of something are done. Nothing stays of a bar afterwards.

    Args:
        verb, what: what is done, such as "recording" and "Breakout".
        quiet: show nothing.
        console: where it shows; None is the standard error.
        clock: tells seconds.
    """
    from rich.console import Console

    console = Console(stderr=True) if console is None else console
    if quiet:
        yield lambda done, total: None
    elif console.is_terminal:
        with _bar(verb, what, console) as show:
            yield show
    else:
        yield _Lines(f"{verb} {what}", clock).show


@contextmanager
def _bar(verb: str, what: str, console: Console) -> Iterator[OnStep]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    if console.width >= ROOMY:
        text = f"{verb} {what}"
        speed = TextColumn("{task.fields[rate]} steps/s")
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeLeft()]
    else:  # the bar takes what is left
        text = verb
        columns = [TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeLeft()]
    with Progress(*columns, console=console, transient=True, expand=console.width < ROOMY) as bar:
        task = bar.add_task(text, total=None, rate="-")

        def show(done: int, total: int | None) -> None:
            rate = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate="-" if rate is None else f"{rate:,.0f}")

        yield show


class _Lines:
    """Writes a line when some seconds have passed since the last one."""

    def __init__(self, text: str, clock: Callable[[], float]) -> None:
        self._text, self._clock = text, clock
        self._began = self._told = clock()

    def show(self, done: int, total: int | None) -> None:
        now = self._clock()
        if now - self._told < LINE_S:
            return
        self._told, rate = now, done / (now - self._began)
        parts = [f"{done:,} steps" if total is None else f"{done:,} of {total:,} steps ({done / total:.0%})"]
        parts.append(f"{rate:,.0f} steps/s")
        if total is not None and done:
            parts.append(f"{_time((total - done) / rate)} left")
        print(f"{self._text}: {', '.join(parts)}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

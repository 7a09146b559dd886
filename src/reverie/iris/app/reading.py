"""What the demonstration tells while it runs and when it is done."""

from __future__ import annotations

from math import isnan
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from reverie.iris.app.comparison import DREAM, FIRST, LAST, TOKENS, Comparison, Series
from reverie.iris.app.dreams import VISIBLE

LABELS = (DREAM, FIRST, LAST, TOKENS)
_HEADER = "step  " + "   ".join(2 * ["".join(f"{label:>7}" for label in LABELS)])
LINES = 10  # of progress, for each part, where the output is no terminal


class Reading:
    """Shows how far each part of the work is: as bars in a terminal, as lines in a file.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        # Narrow enough for a terminal of 80 columns.
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[report]}"),
        )
        self._bars = Progress(*columns, console=console)
        self._task: TaskID | None = None
        self._title, self._total, self._began = "", 1, 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def begin(self, title: str, total: int) -> None:
        """Begin the next part, of `total` steps."""
        self._title, self._total, self._began = title, total, perf_counter()
        self._task = self._bars.add_task(title, total=total, report="")

    def show(self, done: int, report: str) -> None:
        """Show that `done` steps of the part are done, and what there is to report of them."""
        assert self._task is not None, "a part begins before it is shown"
        self._bars.update(self._task, completed=done, report=report)
        passed = done * LINES // self._total > (done - 1) * LINES // self._total  # another tenth
        if passed and not self.console.is_terminal:
            seconds = perf_counter() - self._began
            self.console.print(
                f"{self._title:<11} {done:>6,} of {self._total:,}  {seconds:4.0f} s  {report}",
                highlight=False,
                soft_wrap=True,
            )


def compared(comparison: Comparison) -> str:
    """Return the tables of a comparison and what they come to, as text of 80 columns."""
    wrong, distance = comparison.wrong, comparison.distance
    lines = [
        f"{comparison.windows} windows that training never saw, dreamt with the actions really taken there.",
        "first, last: the window's first frame, or the last real one, repeated.",
        "tokens: the true frame as the tokenizer shows it.",
        f"visibly wrong: a pixel of which a channel is off by more than {VISIBLE} of 255.",
        "",
        "          pixels visibly wrong           mean distance, of 255",
        _HEADER,
    ]
    lines += _table((wrong, 2), (distance, 3))
    for thing in comparison.there:
        lines += [
            "",
            f"the {thing}",
            "       share of frames with it        pixels away from its place     where",
            "       in which it is shown           where it is shown              none is",
            f"{_HEADER}     dream",
        ]
        there, off, unreal = comparison.there[thing], comparison.off[thing], comparison.unreal[thing]
        lines += [
            f"{row}    {'     -' if isnan(more) else f'{more:6.2f}'}"
            for row, more in zip(_table((there, 2), (off, 2)), unreal, strict=True)
        ]
    lines += [
        "",
        _verdict("pixels visibly wrong", comparison.worse_at(wrong)),
        _verdict("mean distance", comparison.worse_at(distance)),
        *(
            _verdict(f"place of the {thing}", comparison.worse_at(off))
            for thing, off in comparison.off.items()
        ),
    ]
    return "\n".join(lines)


def _table(*measures: tuple[dict[str, Series], int]) -> list[str]:
    """Return a line for each step, with a number for each label of each measure to so many digits."""
    lines = []
    for step in range(len(measures[0][0][DREAM])):
        cells = "   ".join(
            " ".join(
                "     -" if isnan(series[label][step]) else f"{series[label][step]:6.{digits}f}"
                for label in LABELS
            )
            for series, digits in measures
        )
        lines.append(f"{step + 1:>4}   {cells}")
    return lines


def _verdict(measure: str, worse: list[int]) -> str:
    if not worse:
        return f"{measure}: the dream beats both guesses at every step"
    steps = ", ".join(map(str, worse))
    return f"{measure}: the dream does NOT beat both guesses at steps {steps}"

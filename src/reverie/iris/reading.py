"""What the demonstration tells while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from reverie.iris.comparison import DREAM, FIRST, LAST, TOKENS, Comparison
from reverie.iris.dreams import VISIBLE

LINES = 10  # of progress, for each part, where the output is no terminal


class Reading:
    """Shows how far each part of the work is: as bars in a terminal, as lines in a file.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        # Narrow enough for a terminal of 80 columns.
        columns = (TextColumn("{task.description:<11}"), BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[report]}"))  # fmt: skip
        self._bars = Progress(*columns, console=console)
        self._task: TaskID | None = None
        self._title, self._total, self._began = "", 1, 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
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
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def compared(comparison: Comparison) -> str:
    """Return the tables of a comparison and what they come to, as text of 80 columns."""
    lines = [
        f"Dreams of {comparison.windows} windows that training never saw, with the actions really taken there. The "
        f"guesses",
        'repeat the window\'s first frame or the last real one; "tokens" is the true frame as the tokenizer shows',
        f'it. "Visibly wrong" is a pixel of which a channel is off by more than {VISIBLE} of 255.',
        "",
        "      pixels visibly wrong             mean distance, of 255",
        "step   dream  first   last  tokens     dream  first   last  tokens",
    ]
    labels = (DREAM, FIRST, LAST, TOKENS)
    wrong, distance = comparison.wrong, comparison.distance
    for step in range(len(wrong[DREAM])):
        lines.append(
            f"{step + 1:>4}  "
            + _cells((wrong[label][step] for label in labels), 2)
            + "    "
            + _cells((distance[label][step] for label in labels), 3)
        )
    for thing in comparison.there:
        there, off = comparison.there[thing], comparison.off[thing]
        lines += [
            "",
            f"the {thing}: in how many of the frames that have it really, how far off in pixels, and in how many that "
            f"have it not",
            "step   dream  first   last  tokens     dream  first   last  tokens     dream",
        ]
        for step in range(len(wrong[DREAM])):
            lines.append(
                f"{step + 1:>4}  "
                + _cells((there[label][step] for label in labels), 2)
                + "    "
                + _cells((off[label][step] for label in labels), 2)
                + "    "
                + _cells([comparison.unreal[thing][step]], 2)
            )
    lines += ["", _verdict("pixels visibly wrong", comparison.worse_at(wrong)),
              _verdict("mean distance", comparison.worse_at(distance))]  # fmt: skip
    return "\n".join(lines)


def _cells(values: Iterable[float], digits: int) -> str:
    return " ".join(f"{value:6.{digits}f}" for value in values)


def _verdict(measure: str, worse: list[int]) -> str:
    if not worse:
        return f"{measure}: the dream is nearer to the game than both guesses at every step"
    steps = ", ".join(map(str, worse))
    return f"{measure}: the dream is NOT nearer to the game than both guesses at step {steps}"

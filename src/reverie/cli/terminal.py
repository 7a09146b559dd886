"""Lines for a reader: wrapped at words in a terminal, whole in a pipe or a file. Tables, too."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import TextIO

COMMAND = re.compile(r"(?!usage:)(.*:) (reverie \w+ .*)")  # what ends with a command to type
NARROWEST = 20  # columns; a terminal that says it has fewer is not believed
COLOURS = re.compile(r"\x1b\[[\d;]*m")
LABEL = re.compile(r"usage: |\S+ {2,}| +")  # what stands before the text of "steps       50 live of 64"


def say(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Print lines. A line that is too long for a terminal goes on below its text.

    Args:
        lines: of text without control characters.
        file: where to; None is the standard output.
    """
    file = sys.stdout if file is None else file
    columns = width_of(file)
    for line in lines:
        for part in [line] if columns is None else wrapped(line, columns):
            print(part, file=file)


def help_width() -> int:
    """Return the columns that tyro lays help pages out for, in a file, too: those of the terminal, or 80."""
    return max(2 * NARROWEST, shutil.get_terminal_size().columns)


def width_of(file: TextIO) -> int | None:
    """Return the columns of the terminal that a file writes to; None if it writes to none."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if file.isatty() else None


def wrapped(line: str, columns: int, indent: str = "  ") -> list[str]:
    """Return a line in pieces of at most so many columns; a word that is longer stays whole.

    What follows the first piece is indented to where the text of the line begins, if it begins with a label.
    """
    command = COMMAND.fullmatch(line)
    if command and len(line) > columns:  # it is whole on a line of its own, so that it can be copied
        return [*wrapped(command[1], columns, indent), command[2]]
    label = LABEL.match(line)
    indent = " " * label.end() if label and label.end() <= columns // 3 else indent
    pieces = wrap(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return pieces or [""]


def wrapped_help(page: str, columns: int) -> str:
    """Return a help page whose lines outside of boxes are wrapped; tyro leaves them as long as they are."""
    lines = []
    for line in page.splitlines():
        plain = COLOURS.sub("", line)
        fits = len(plain) <= columns or plain.startswith(("╭", "│", "╰"))
        lines += [line] if fits else wrapped(plain, columns, "")
    return "\n".join(lines)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], sides: str, columns: int | None = None
) -> Iterator[str]:
    """Yield a table in columns as wide as they need, each put to the side that `sides` says.

    Where it is wider than `columns`, each row is a line instead that names its cells.
    """
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    if columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns:
        for row in rows:
            first, *rest = (f"{name} {cell}" for name, cell in zip(head, row, strict=True) if cell)
            yield f"{first}: {', '.join(rest)}"
        return
    for row in [head, *rows]:
        yield "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()

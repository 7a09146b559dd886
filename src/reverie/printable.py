"""Text from a file or another program, made fit for a terminal."""

from __future__ import annotations

MOST_CHARACTERS = 8_000  # of a line: more than the longest path there is


def printable(text: object, most: int = MOST_CHARACTERS) -> str:
    """Return `text` as one line of at most `most` characters that does nothing but be read.

    What moves the cursor, turns the direction of writing, is not seen or is no character is escaped as Python
    does it, such as \\x1b. Of what is longer the end is left out, and how much is said.
    """
    line = str(text)
    left_out = len(line) - most
    if left_out > 0:
        line = line[:most]
    if not line.isprintable():
        line = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in line
        )
    return f"{line} … and {left_out:,} more characters" if left_out > 0 else line

"""Errors: one class for each kind, which is also the built-in error that one would catch. Text for a terminal."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = [
    "BadSetting",
    "BufferClosed",
    "BufferFull",
    "FieldNotRead",
    "FileError",
    "FileMissing",
    "FileTaken",
    "NoAnswer",
    "NoWeight",
    "NotEnoughData",
    "RateLimited",
    "ReplayError",
    "SpecMismatch",
    "TooLarge",
    "WrongProcess",
    "counted",
    "need",
    "printable",
]


class ReplayError(Exception):
    """The parent of every error that reverie raises on purpose."""


class SpecMismatch(ReplayError, ValueError):
    """A step or a batch does not fit the spec; nothing was stored."""


class BadSetting(ReplayError, ValueError):
    """An argument that configures or asks for something cannot be honoured."""


class NotEnoughData(ReplayError, ValueError):
    """No window of the asked kind exists yet."""


class NoWeight(NotEnoughData):
    """There are windows of the asked kind, and the sampler gives every one of them the weight 0."""


class FieldNotRead(ReplayError, AttributeError, KeyError):
    """A batch was asked for a field that `fields=` left out when it was drawn."""

    __str__ = Exception.__str__  # KeyError would show the message as Python writes a string


class BufferFull(ReplayError, OverflowError):
    """A store with a hard limit was asked to hold one step more."""


class BufferClosed(ReplayError, RuntimeError):
    """The buffer was closed; it takes and gives nothing any more."""


class WrongProcess(ReplayError, RuntimeError, TypeError):
    """Something of one process was pickled, or used in a fork of it where that cannot be right."""


class TooLarge(ReplayError, MemoryError):
    """The asked capacity cannot fit into this machine's memory."""


class FileError(ReplayError, OSError):
    """A replay file cannot be opened, read or written: missing, taken, damaged, full, or not such a file."""


class FileMissing(FileError, FileNotFoundError):
    """There is no replay file at this path."""


class FileTaken(FileError, FileExistsError):
    """There is something at this path already; nothing is ever overwritten."""


class NoAnswer(ReplayError, TimeoutError):
    """A process that holds a part of the data did not answer in time, or is gone."""


class RateLimited(ReplayError, TimeoutError):
    """A rate limit held up an add or a draw for too long, or nobody else was there to let it go on."""


def counted(number: int, thing: str) -> str:
    """Return how many of something there are, in words that agree: "1 step", "2,000 steps"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


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


# Package -> what brings it.
REMEDIES = {
    "torch": "'reverie[torch]'", "jax": "'reverie[jax]'", "gymnasium": "'reverie[atari]'", "ale_py": "'reverie[atari]'",
    "PIL": "Pillow", "h5py": "'reverie[hdf5]'", "pyarrow": "'reverie[lerobot]'", "google": "'reverie[rlds]'",
    "google_crc32c": "'reverie[rlds]'", "tensorboard": "'reverie[iris]'", "matplotlib": "'reverie[iris]'",
    "ray": "'reverie[ray]'", "bokeh": "'reverie[report]'", "jinja2": "'reverie[report]'",
    "minatar": "--no-deps MinAtar",  # its own list has plotting libraries, for a viewer alone
}  # fmt: skip


def need(package: str) -> None:
    """See to it that an optional package is there.

    Raises:
        ModuleNotFoundError: it is not; the message says how it is installed.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"wanted the package {package}, got a Python without it; install it with: pip install {REMEDIES[package]}",
            name=package,
        )

"""The `reverie` command: record games, look into replay files, train agents on them, and see them dream."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

import reverie
from reverie.cli.agents import bench, demo, dream, evaluate, learn, train
from reverie.cli.files import compact, export, film, import_, inspect, verify
from reverie.cli.recording import record
from reverie.errors import ReplayError, printable

DESCRIPTION = "A replay engine for world models. `reverie --version` names the version."
USER_ERROR = 2  # exit status, as for a misspelt option
INTERRUPTED = 130  # exit status that shells give to Ctrl-C
EXTRA_OF = {
    "gymnasium": "atari",
    "ale_py": "atari",
    "PIL": "atari",
    "torch": "iris",
    "tensorboard": "iris",
    "matplotlib": "iris",
    "h5py": "hdf5",
}  # missing module -> the extra that brings it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None) and return its exit status.

    An error of the user's prints one line to stderr and returns 2; so does a missing extra. `verify` returns 1
    if it found something.

    Raises:
        SystemExit: after `--help`, or when the arguments cannot be parsed.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    if args == ["--version"]:
        print(f"reverie {reverie.__version__}")
        return 0
    try:
        return _run(args)
    except ReplayError as error:
        print(f"reverie: {printable(error)}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        print(f"reverie: {_remedy(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        # A command that keeps work says what it keeps.
        print(f"reverie: {str(error) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader at the other end, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: list[str]) -> int:
    """Run a command and return its exit status."""
    if args[:1] == ["train"]:  # its flags are the fields of a preset, and PyTorch is needed to read that
        from reverie.iris.app import train as train_with

        train_with(args[1:])
        return 0
    commands: dict[str, Callable[..., Any]] = {
        "record": record,
        "inspect": inspect,
        "verify": verify,
        "import": import_,
        "export": export,
        "compact": compact,
        "film": film,
        "demo": demo,
        "train": train,
        "eval": evaluate,
        "dream": dream,
        "learn": learn,
        "bench": bench,
    }
    status: int | None = tyro.extras.subcommand_cli_from_dict(
        commands, prog="reverie", description=DESCRIPTION, args=args
    )
    return int(status or 0)


def _remedy(error: ModuleNotFoundError) -> str:
    """Return what to install for a package that is missing; raise the error again if no extra brings it."""
    missing = (error.name or "").partition(".")[0]
    if missing == "minatar":
        # MinAtar needs plotting libraries for its viewer alone, so no extra brings it.
        wanted = "--no-deps MinAtar"
    elif missing in EXTRA_OF:
        wanted = f"'reverie[{EXTRA_OF[missing]}]'"
    else:
        raise error
    return f"wanted the package {missing}, which is not installed; pip install {wanted}"

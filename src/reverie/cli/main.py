"""The `reverie` command: what it is called with, its subcommands, its errors and its exit status."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import make_dataclass
from functools import partial
from typing import Annotated, Any, Union

import tyro

import reverie
from reverie.cli.agents import bench, demo, dream, evaluate, learn, train
from reverie.cli.files import compact, export, film, import_, inspect, report, verify
from reverie.cli.recording import record
from reverie.cli.terminal import help_width, say, wrapped_help
from reverie.errors import REMEDIES, ReplayError, printable

DESCRIPTION = """A replay engine for world models. `reverie COMMAND --help` tells all about a command.

Exit status: 0 if all went well, 1 if `verify` found something wrong, 2 if something was refused or missing, \
130 after Ctrl-C.

Completion: `reverie --tyro-print-completion bash` (or zsh) prints a script for your shell."""
COMMANDS: dict[str, Callable[..., Any]] = {
    "record": record,
    "inspect": inspect,
    "verify": verify,
    "import": import_,
    "export": export,
    "compact": compact,
    "film": film,
    "report": report,
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "dream": dream,
    "learn": learn,
    "bench": bench,
}
MARKERS = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
)
USER_ERROR = 2  # exit status, as for a misspelt option
INTERRUPTED = 130  # exit status that shells give to Ctrl-C
# Package -> what pip installs for it. The commands that need PyTorch need the rest of its extra, too.
BROUGHT_BY = {**REMEDIES, "torch": "'reverie[iris]'"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None) and return its exit status.

    An error of the user's prints one line to stderr and returns 2; so does a missing extra. `verify` returns 1
    if it found something. A traceback is a fault of reverie's.

    Raises:
        SystemExit: after `--help`, or when the arguments cannot be parsed.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    # Python has none where the shell has closed it, as with `>&-`.
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except ReplayError as error:
        return _refused(error)
    except ModuleNotFoundError as error:
        return _refused(_remedy(error))
    except KeyboardInterrupt as error:
        # A command that keeps work says what it keeps.
        _tell(str(error) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader at the other end, such as `head`, has seen enough
        _write_no_more()
        return 0
    except OSError as error:  # of what is no replay file: the folder of a run, or the output itself
        if error.strerror is None:
            raise
        if error.filename is None:
            _write_no_more()
        return _refused(
            f"{error.filename or 'output'}: wanted to use it, got {error.strerror}; choose another place"
        )


def _write_no_more() -> None:
    """Let what is left of the output go nowhere, so that Python does not fail again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: list[str]) -> int:
    """Run a command and return its exit status."""
    if args in (["--version"], ["-V"]):
        say([f"reverie {reverie.__version__}, kernel: {reverie.kernel}"])
        return 0
    if not args:
        with redirect_stdout(sys.stderr):
            _show_help(lambda: _parsed(["--help"]))
        return USER_ERROR
    if not args[0].startswith("-") and args[0] not in COMMANDS:
        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "reverie --help tells what each does"
        return _refused(f"command: wanted one of {', '.join(COMMANDS)}, got {args[0]!r}; {hint}")
    run = partial(_train if args[0] == "train" else _parsed, args)
    return _show_help(run) if {"-h", "--help"} & set(args) else run()


def _train(args: list[str]) -> int:
    """Train: its flags are the fields of a preset, and PyTorch is needed to read that."""
    from reverie.iris.app import train as train_with

    train_with(args[1:])
    return 0


def _parsed(args: list[str]) -> int:
    """Parse the arguments, run the command that they name, and return its exit status."""
    choices = tuple(_choice(name, command, args[0] not in COMMANDS) for name, command in COMMANDS.items())
    version = tyro.conf.arg(
        aliases=["-V"], help="Print the version of reverie, and exit.", help_behavior_hint=""
    )
    asked: Any = tyro.cli(
        make_dataclass(
            "Reverie",
            [("status", Union[choices]), ("version", Annotated[bool, version], False)],  # noqa: UP007
        ),
        prog="reverie",
        description=DESCRIPTION,
        args=args,
        config=MARKERS,
    )
    return int(asked.status or 0)


def _choice(name: str, command: Callable[..., Any], in_a_list: bool) -> Any:
    """Return a subcommand as tyro takes it. In a list of all commands, the first paragraph is told of each."""
    paragraph = " ".join((command.__doc__ or "").partition("\n\n")[0].split())
    told = tyro.conf.subcommand(name, constructor=command, description=paragraph if in_a_list else None)
    return Annotated[Any, told]


class _Page(io.TextIOWrapper):
    """Takes a help page as the standard output would, so that it keeps its boxes and colours there."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8", write_through=True)
        self._is_terminal = sys.stdout.isatty()

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        """Return all that was written."""
        self.seek(0)
        return self.read()


def _show_help(run: Callable[[], int]) -> int:
    """Run what prints a help page, and print that page wrapped at words."""
    page, status = _Page(), 0
    try:
        with redirect_stdout(page):
            status = run()
    except SystemExit as stop:
        status = int(stop.code or 0)
    text = re.sub(r"\{record,[^}]*\}", "COMMAND ...", page.text(), count=1)
    print(wrapped_help(text, help_width()))
    return status


def _refused(why: object) -> int:
    _tell(printable(why))
    return USER_ERROR


def _tell(text: str) -> None:
    say([f"reverie: {text}"], sys.stderr)


def _remedy(error: ModuleNotFoundError) -> str:
    """Return what to install for a package that is missing; raise the error again if nothing is known to bring it."""
    missing = (error.name or "").partition(".")[0]
    if missing not in BROUGHT_BY:
        raise error
    return f"wanted the package {missing}, which is not installed; pip install {BROUGHT_BY[missing]}"

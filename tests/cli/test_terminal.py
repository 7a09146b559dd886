"""What a reader sees: lines that wrap at words, tables that fit, progress in a log file, and nothing broken at 50 columns."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import reverie as rv
from reverie.cli.progress import showing
from reverie.cli.terminal import say, table, wrapped, wrapped_help


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("short", ["short"]),
        ("", [""]),
        ("state       closed, and more of it here", ["state       closed, and more of it", "            here"]),
        ("            here it goes on, line by line", ["            here it goes on, line by", "            line"]),
        ("a line without any label goes on a little", ["a line without any label goes on a", "  little"]),
        ("alongwordthatnothingbreaks-not-even-its-hyphens here", ["alongwordthatnothingbreaks-not-even-its-hyphens", "  here"]),
        ("usage: reverie inspect [-h] FILE [-q] [--json]", ["usage: reverie inspect [-h] FILE [-q]", "       [--json]"]),
        ("stopped; go on with: reverie learn --seeds 7 8 9 --out a", ["stopped; go on with:", "reverie learn --seeds 7 8 9 --out a"]),
    ],
)  # fmt: skip
def test_lines_wrap_at_words(line: str, pieces: list[str]) -> None:
    """A label's text goes on below the text, a long word stays whole, and so does a command that ends a line."""
    assert wrapped(line, 37) == pieces


def test_nothing_is_wrapped_in_a_file() -> None:
    """Programs read whole lines."""
    file = io.StringIO()
    say(["word " * 100], file)
    assert file.getvalue().count("\n") == 1


def test_a_table_that_does_not_fit_becomes_lines() -> None:
    """Each row names its cells then; an empty cell is left out."""
    head, rows = ["name", "size", "note"], [["obs", "12", ""], ["reward", "4", "small"]]
    assert list(table(head, rows, "<><", 20)) == [
        "name    size  note", "obs       12", "reward     4  small",
    ]  # fmt: skip
    assert list(table(head, rows, "<><", 17)) == ["name obs: size 12", "name reward: size 4, note small"]


def test_help_is_wrapped_outside_of_boxes() -> None:
    """tyro draws boxes that fit, and leaves what stands above them as it is."""
    page = "\x1b[1musage:\x1b[0m reverie inspect [-h] FILE\n\nAll of it, and so much more.\n╭─ options ────────────────────╮"
    assert wrapped_help(page, 26).splitlines() == [
        "usage: reverie inspect", "       [-h] FILE", "", "All of it, and so much", "more.", page.splitlines()[3],
    ]  # fmt: skip


# --- progress ------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that somebody sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_file_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Not before ten seconds have passed, and then not before ten more: how much is done, how fast, how long yet."""
    clock = Clock()
    with showing("recording", "Pong", console=Console(file=io.StringIO()), clock=clock) as show:
        for clock.now, done in ((1.0, 10), (9.9, 99), (10.0, 100), (19.9, 150), (25.0, 500), (40.0, 800)):
            show(done, 2_000)
    assert capsys.readouterr().err.splitlines() == [
        "recording Pong: 100 of 2,000 steps (5%), 10 steps/s, 0:03:10 left",
        "recording Pong: 500 of 2,000 steps (25%), 20 steps/s, 0:01:15 left",
        "recording Pong: 800 of 2,000 steps (40%), 20 steps/s, 0:01:00 left",
    ]


def test_a_log_file_where_nobody_knows_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    """Then there is no share, and no time that is left. Nothing done yet is told, too."""
    clock = Clock()
    with showing("importing", "a", console=Console(file=io.StringIO()), clock=clock) as show:
        for clock.now, done in ((10.0, 1_000), (20.0, 1_000)):
            show(done, None)
    with showing("importing", "b", console=Console(file=io.StringIO()), clock=clock) as show:
        clock.now = 40.0
        show(0, 10)
    assert capsys.readouterr().err.splitlines() == [
        "importing a: 1,000 steps, 100 steps/s", "importing a: 1,000 steps, 50 steps/s",
        "importing b: 0 of 10 steps (0%), 0 steps/s",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [30, 50, 75, 80, 120])
def test_there_is_a_bar_at_every_width(width: int) -> None:
    """A terminal of 50 columns has one, too, and no line is wider than the terminal."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    with showing("recording", "Breakout", console=console) as show:
        show(5_000, 10_000)
    lines = screen.getvalue().replace("\x1b[2K", "\n").replace("\r", "").splitlines()
    bars = [line for line in lines if "━" in line]
    assert bars
    assert all(line.count("━") >= 3 for line in bars)
    assert all(len(line) <= width for line in bars)
    assert ("50%" in bars[-1]) == (width < 76)
    assert ("recording Breakout" in bars[-1]) == (width >= 76)


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in a terminal nor in a log file."""
    screen = io.StringIO()
    clock = Clock()
    with showing(
        "recording", "a", quiet=True, console=Console(file=screen, force_terminal=True), clock=clock
    ) as show:
        clock.now = 100
        show(5, 10)
    assert screen.getvalue() == ""
    assert capsys.readouterr().err == ""


# --- in a terminal -------------------------------------------------------------------------------------------------


def in_a_terminal(columns: int, *args: str) -> tuple[int, list[str]]:
    """Run a command in a terminal of that width; return its exit status and what the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen([sys.executable, "-W", "error", "-m", "reverie", *args], env={**settings, "TERM": "dumb"},
                          stdin=theirs, stdout=theirs, stderr=theirs) as process:  # fmt: skip
        os.close(theirs)
        sent = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # so Linux says that the other end was closed
                break
            if not part:
                break
            sent += part
    os.close(ours)
    return process.returncode, sent.decode().replace("\r", "").splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 4_000, seed=0, path=tmp_path / "a.replay") as buffer:
        for step in range(100):
            buffer.add(
                obs=np.zeros((3, 64, 64), np.uint8),
                action=0,
                reward=1.0,
                terminated=step % 30 == 29,
                truncated=False,
            )
    return tmp_path / "a.replay"


@pytest.mark.parametrize("columns", [50, 80, 120])
@pytest.mark.parametrize("command", ["inspect", "inspect missing", "--help", "sing"])
def test_no_word_is_broken(columns: int, command: str, path: Path) -> None:
    """No line is longer than the terminal is wide, so that the terminal breaks none."""
    args = {"inspect": ["inspect", str(path)], "inspect missing": ["inspect", "no.replay"]}
    status, lines = in_a_terminal(columns, *args.get(command, [command]))
    assert status == (2 if command in ("inspect missing", "sing") else 0)
    long = [line for line in lines if len(line) > columns and str(path) not in line]
    assert long == []
    if command == "inspect":
        assert ("episode  stream  first id" in "\n".join(lines)) == (columns >= 80)

"""The `reverie` command: what it prints, and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import reverie
from reverie.cli.main import main


def test_version_names_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`reverie --version` prints the package's version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"reverie {reverie.__version__}, kernel: {reverie.kernel}\n"


def test_help_names_the_commands_and_imports_no_framework() -> None:
    """`reverie --help` lists record and demo without loading torch or Gymnasium."""
    code = (
        "import sys\nfrom reverie.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({'torch', 'gymnasium', 'ale_py', 'PIL', 'rich.progress'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert "record" in done.stdout
    assert "demo" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_module_runs_as_a_command() -> None:
    """`python -m reverie.cli` hands main's status to the shell."""
    command = [sys.executable, "-W", "error", "-m", "reverie.cli", "record", "brekout"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == "reverie: game: wanted one of 62 Atari games, got 'brekout'; did you mean Breakout?\n"
    )


def test_record_reports_what_it_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """`reverie record` tells steps, speed, episodes and the buffer."""
    assert main(["record", "breakout", "--steps", "150", "--seed", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"recorded  150 steps of breakout, played at random, in .* s \(.* steps/s\)", out[0])
    assert re.fullmatch(
        r"episodes  [1-9]\d* ended, mean return \d+\.\d\d, mean length \d+\.\d steps; "
        r"one more was cut when the recording stopped; an episode ends with each life, "
        r"and with the game under --full-games",
        out[1],
    )
    assert out[2].startswith("buffer    ReplayBuffer(150 of 150 steps, 1 stream")


def test_record_heeds_capacity_and_says_when_nothing_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """A smaller capacity keeps fewer steps; without an end there is no mean to report."""
    assert main(["record", "pong", "--steps", "12", "--capacity", "8", "--full-games"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "episodes  none ended; record more steps to see an end"
    assert out[2].startswith("buffer    ReplayBuffer(8 of 8 steps")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["record", "pong", "--steps", "0"], "reverie: steps: wanted an integer of at least 1"),
        (["record", "pong", "--seed", "-1"], "reverie: seed: wanted"),
        (["record", "pong", "--capacity", "0"], "reverie: capacity: wanted"),
    ],
)
def test_bad_values_print_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that reverie refuses gives one line on stderr and status 2."""
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("args", [["record"], ["record", "pong", "--stpes", "3"], ["sing"], []])
def test_arguments_that_do_not_parse_exit_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A missing game, a misspelt option, an unknown command or none at all exit with status 2."""
    try:
        status = main(args)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err


def forget_games(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("reverie.gymnasium", "reverie.gymnasium"))]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [("gymnasium", "'reverie[atari]'"), ("ale_py", "'reverie[atari]'"), ("PIL", "Pillow")],
)
def test_a_missing_extra_gets_a_one_line_remedy(
    missing: str, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reverie record` names the pip command that brings what it lacks."""
    forget_games(monkeypatch)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["record", "pong", "--steps", "4"]) == 2
    told = f"reverie: wanted the package {missing}, which is not installed; pip install {wanted}\n"
    assert capsys.readouterr().err == told


def test_a_module_that_no_extra_brings_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module missing for another reason is a bug, and keeps its traceback."""
    forget_games(monkeypatch)
    monkeypatch.setitem(sys.modules, "reverie.gymnasium.atari_games", None)
    with pytest.raises(ModuleNotFoundError):
        main(["record", "pong", "--steps", "4"])


def fake_demo(monkeypatch: pytest.MonkeyPatch, run_demo: Any) -> None:
    package, module = ModuleType("reverie.iris"), ModuleType("reverie.iris.app")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reverie.iris", package)
    monkeypatch.setitem(sys.modules, "reverie.iris.app", module)


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`reverie demo` calls the demonstration with the folder, game, steps and seed of the command line."""
    calls: list[Any] = []
    fake_demo(monkeypatch, lambda out, **options: calls.append((out, options)))
    assert main(["demo", "--out", str(tmp_path), "--steps", "7", "--seed", "2", "--game", "pong"]) == 0
    assert calls == [(tmp_path, {"steps": 7, "seed": 2, "game": "pong", "force": False})]


def test_demo_without_torch_gets_a_one_line_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torch, `reverie demo` names the pip command that brings it."""

    def run_demo(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    fake_demo(monkeypatch, run_demo)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'reverie[iris]'\n")


def test_ctrl_c_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted command says so in one line and exits as shells expect."""

    def run_demo(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    fake_demo(monkeypatch, run_demo)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "reverie: interrupted\n"

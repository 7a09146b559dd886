"""The exit statuses of the commands, as docs/command-line.md lists them, and the rule for what is there already."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reverie as rv
from reverie.cli.main import COMMANDS, main
from reverie.iris import app, bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three episodes, the last of which runs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    spec = rv.StepSpec(rv.Field((3, 8, 8), "uint8"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 64, seed=0, path=tmp_path / "a.replay") as buffer:
        for step in range(25):
            buffer.add(obs=np.full((3, 8, 8), step, np.uint8), action=0, reward=0.0, terminated=step % 10 == 9,
                       truncated=False)  # fmt: skip
    return tmp_path / "a.replay"


# What each command needs besides a name, and what is missing here.
MISSING: dict[str, list[str]] = {
    "record": ["NoSuchGame-v0"],
    "inspect": ["none.replay"],
    "verify": ["none.replay"],
    "import": ["none", "-o", "a.replay"],
    "export": ["none.replay", "--to", "npz:a.npz"],
    "compact": ["none.replay"],
    "film": ["none.replay"],
    "report": ["none.replay"],
    "demo": ["--game", "no such game"],
    "train": ["--run", "none", "--preset", "none"],
    "eval": ["--run", "none"],
    "dream": ["--run", "none"],
    "learn": ["--game", "minatar:none"],
    "bench": ["iris", "--preset", "none"],
}


def test_every_command_is_listed() -> None:
    """A new command gets its row."""
    assert set(MISSING) == set(COMMANDS)


@pytest.mark.parametrize("command", list(MISSING))
def test_what_is_missing_gives_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command: status 2, one line on the standard error that begins with its name, nothing else."""
    monkeypatch.chdir(tmp_path)
    assert main([command, *MISSING[command]]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("reverie: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", list(MISSING))
def test_every_command_has_help_in_sentences(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` gives 0, and every option but tyro's own is told in a sentence: a capital letter, a full stop."""
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"reverie {command}" in shown
    if command == "train":
        return
    texts, text = [], ""
    for line in (line.strip("│ ") for line in shown.splitlines() if line.startswith("│")):
        if line.startswith(("-", "FILE", "GAME", "SOURCE", "{")):
            texts.append(text)
            text = line.partition("  ")[2].strip() if "  " in line else ""
        else:
            text = f"{text} {line}".strip()
    texts.append(text)
    for told in texts[1:]:
        told = told.partition(" (")[0] if "(default" in told or "(required" in told else told
        if told and told != "show this help message and exit":
            assert told[0].isupper(), told
            assert told.endswith("."), told


def test_a_folder_that_refuses_gives_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What the system refuses beside replay files, such as the folder of a demonstration, is a line, too."""
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert capsys.readouterr().err == (
        f"reverie: {tmp_path}/file/demo: wanted to use it, got Not a directory; choose another place\n"
    )


def test_ctrl_c_gives_130_and_tells_what_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording keeps its steps, in a whole file; without a file, nothing."""
    steps = []

    class Interrupted(rv.ReplayBuffer):
        def add(self, **step: Any) -> None:
            super().add(**step)
            steps.append(step)
            if len(steps) == 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(rv, "ReplayBuffer", Interrupted)
    assert main(["record", "CartPole-v1", "-o", "b.replay"]) == 130
    assert capsys.readouterr().err == "reverie: interrupted; b.replay keeps 30 steps\n"
    assert main(["verify", "b.replay", "-q"]) == 0
    steps.clear()
    assert main(["record", "CartPole-v1"]) == 130
    assert (
        capsys.readouterr().err
        == "reverie: interrupted; nothing is kept, since no file was named with --out\n"
    )


# --- what is there already -----------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_forced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """film refuses a picture that is there, and replaces it with --force."""
    out = path.with_name("a.png")
    out.write_bytes(b"mine")
    assert main(["film", "a.replay", "-o", "a.png"]) == 2
    assert capsys.readouterr().err == (
        "reverie: a.png: wanted a path that is free, got one that exists; choose another, or replace it with --force (force=True)\n"
    )
    assert out.read_bytes() == b"mine"
    assert main(["film", "a.replay", "-o", "a.png", "--force", "--quiet"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.png", "a.replay"]


def test_a_picture_that_fails_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while the new picture is written costs nothing; no draft stays."""
    out = path.with_name("a.gif")
    out.write_bytes(b"mine")

    def fails(draft: Path, *_: object) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reverie.cli.pictures._animate", fails)
    assert main(["film", "a.replay", "-o", "a.gif", "--force"]) == 2
    assert out.read_bytes() == b"mine"
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.gif", "a.replay"]


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else makes the file while the picture is drawn."""
    out = path.with_name("a.gif")

    def slowly(draft: Path, *_: object) -> None:
        draft.write_bytes(b"ours")
        out.write_bytes(b"theirs")

    monkeypatch.setattr("reverie.cli.pictures._animate", slowly)
    assert main(["film", "a.replay", "-o", "a.gif"]) == 2
    assert out.read_bytes() == b"theirs"


def test_film_chooses_episode_and_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a number it is the newest that ended; -1 is the newest of all; the name tells both."""
    assert main(["film", "a.replay"]) == 0
    assert capsys.readouterr().out.startswith("wrote a-1.gif: 11 frames of 'obs'; episode 1 of stream 0, ")
    assert main(["film", "a.replay", "--episode", "-1"]) == 0
    assert capsys.readouterr().out.startswith("wrote a-2.gif: 5 frames of 'obs'; episode 2 of stream 0, ")
    with rv.open(path) as buffer:
        buffer.cut()
    assert main(["film", "a.replay", "--force"]) == 0
    assert capsys.readouterr().out.startswith("wrote a-1.gif: "), "one that was cut has not ended"
    assert main(["film", "a.replay", "--episode", "-4"]) == 2
    with rv.open(path) as buffer:
        buffer.discard([1])
    assert main(["film", "a.replay", "--episode", "1"]) == 2
    assert "wanted one of the 2 that are live, numbered 0 to 2, got 1" in capsys.readouterr().err


def test_export_numbers_episodes_as_inspect_does(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number stays that of its episode when an older one is discarded."""
    with rv.open(path) as buffer:
        buffer.discard([0])
    assert main(["export", "a.replay", "--to", "npz:b.npz", "--episodes", "1", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["import", "b.npz", "-o", "b.replay", "-q"]) == 0
    with rv.open(path.with_name("b.replay"), mode="r") as buffer:
        assert buffer.episode(0).obs[0, 0, 0, 0] == 10
    assert main(["export", "a.replay", "--to", "npz:c.npz", "--episodes", "0"]) == 2
    assert "--episodes: wanted one numbered 1 to 2, got 0" in capsys.readouterr().err


def test_demo_and_bench_refuse_before_they_work(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of work are not begun for a file that cannot take what comes of it."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was begun")

    monkeypatch.setattr(app.demo, "_record", never)
    monkeypatch.setattr(bench, "measure", never)
    path.with_name("dream.gif").write_bytes(b"mine")
    for command in (["demo", "--out", "."], ["bench", "iris", "--out", "dream.gif"]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("reverie: dream.gif: wanted a path that is free")
        with pytest.raises(AssertionError, match="it was begun"):
            main([*command, "--force"])


# --- ways in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both spellings print it, and the help lists them."""
    assert main([option]) == 0
    assert capsys.readouterr().out == f"reverie {rv.__version__}, kernel: {rv.kernel}\n"
    assert main(["--help"]) == 0
    assert "-V, --version" in capsys.readouterr().out


def test_the_package_runs_as_a_command() -> None:
    """`python -m reverie` is the command; a misspelt one gets a hint."""
    command = [sys.executable, "-W", "error", "-m", "reverie", "inspcet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("got 'inspcet'; did you mean inspect?\n")


def test_a_closed_output_is_no_fault(path: Path) -> None:
    """`reverie inspect FILE >&-` has nothing to write to, and goes well."""
    command = f"{sys.executable} -W error -m reverie inspect a.replay >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", [[], ["--json"], ["--watch"]])
def test_a_reader_that_is_gone_is_no_fault(option: list[str], path: Path) -> None:
    """Nobody reads from the pipe any more: status 0, and not a word."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-W", "error", "-m", "reverie", "inspect", "a.replay", *option],
                          stdout=writes, stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_an_output_that_is_full_gives_2(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line that says so is the only one."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Full())
        assert main(["inspect", "a.replay"]) == 2
    assert capsys.readouterr().err == (
        "reverie: output: wanted to use it, got No space left on device; choose another place\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_help_names_what_completes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The option that `--help` names prints a script that knows the commands and their options."""
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", shell])
    assert not stop.value.code
    script = capsys.readouterr().out
    assert "inspect" in script
    assert "--watch" in script
    assert main(["--help"]) == 0
    assert "--tyro-print-completion bash` (or zsh)" in " ".join(capsys.readouterr().out.split())

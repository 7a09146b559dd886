"""`reverie train`, `eval` and `dream`: flags, folders, what they leave behind, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from reverie.cli.main import main
from reverie.iris.app import commands
from reverie.iris.config import Config, TokenizerConfig, config_from_json, presets
from reverie.iris.learning.folder import read_checkpoint
from reverie.iris.learning.run import SHARDS, Run
from support.games import Lights

SMALL = ["--preset", "tiny", "--game", "lights", "--epochs", "2"]


@pytest.fixture(autouse=True)
def _tiny(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of this name, and the toy game under any name."""
    monkeypatch.setitem(presets, "tiny", config)

    def toys(name: str) -> Callable[[bool], Lights]:
        return lambda training: Lights(life=7, lives=2)

    monkeypatch.setattr(commands, "games", toys)


def test_a_run_leaves_metrics_curves_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After `reverie train` the folder tells of every epoch; eval and dream work on it."""
    run = tmp_path / "run"
    assert main(["train", "--run", str(run), *SMALL, "--seed", "3"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert "world_model/observation" in lines[1]
    assert list((run / "tensorboard").iterdir())
    with Image.open(run / "pictures" / "epoch-0002.png") as picture:
        assert picture.width > 300
    with Image.open(run / "pictures" / "epoch-0002.gif") as animation:
        assert animation.n_frames > 3  # type: ignore[attr-defined]
        assert animation.width > 3 * 192  # the game, its reconstruction and two dreams, side by side
    assert "epoch 2 of 2  test return" in capsys.readouterr().out
    assert read_checkpoint(run)["seed"] == 3
    assert main(["eval", "--run", str(run), "--episodes", "4"]) == 0
    assert re.match(
        r"lights after 2 epochs and 40 steps, 4 episodes: return \d\.\d\d ±", capsys.readouterr().out
    )
    capsys.readouterr()
    for name in ("dream.gif", "dream.png"):  # the name decides, as in `reverie film`
        assert main(["dream", "--run", str(run), "-o", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == (
            f"{tmp_path / name}  real, reconstructed, imagined with the same actions, "
            f"red: where dream and game differ, imagined, the agent acting in it\n"
        )
    with Image.open(tmp_path / "dream.gif") as animation:
        assert animation.n_frames > 3  # type: ignore[attr-defined]
    with Image.open(tmp_path / "dream.png") as sheet:
        assert sheet.format == "PNG"
        assert getattr(sheet, "n_frames", 1) == 1
    before = (tmp_path / "dream.gif").read_bytes()
    for name, message in (("dream.gif", "replace it with --force"), ("dream.mp4", "ends in .gif or .png")):
        assert main(["dream", "--run", str(run), "-o", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "dream.gif").read_bytes() == before
    assert main(["dream", "--run", str(run), "-o", str(tmp_path / "dream.gif"), "--force", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_training_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C within the second epoch loses that epoch and says so; naming the folder is enough to go on."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", "--run", str(whole), *SMALL]) == 0
    play = Run._play

    def interrupted(self: Run, *args: object) -> dict[str, float]:
        metrics = play(self, *args)  # type: ignore[arg-type]
        if self.done or first:
            raise KeyboardInterrupt
        return metrics

    first = ["at first"]
    with monkeypatch.context() as patched:
        patched.setattr(Run, "_play", interrupted)
        assert main(["train", "--run", str(run), *SMALL]) == 130
        assert "in the first epoch, of which nothing is kept; begin again" in capsys.readouterr().err
        first.clear()
        assert main(["train", "--run", str(run), *SMALL]) == 130
        again = f"reverie train --run {run} {' '.join(SMALL)}"
        assert capsys.readouterr().err == (
            f"reverie: interrupted; {run} keeps 1 epoch and goes on with epoch 2: {again}\n"
        )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lost": true}\n')
    capsys.readouterr()
    assert main(["train", "--run", str(run)]) == 0
    assert "going on after epoch 1" in capsys.readouterr().out
    told = [
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (run, whole)
    ]
    for got, wanted in zip(*told, strict=True):
        assert {k: v for k, v in got.items() if not k.endswith("_s")} == {
            k: v for k, v in wanted.items() if not k.endswith("_s")
        }
    one, two = (read_checkpoint(each)["agent"] for each in (run, whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_command_that_keeps_nothing_is_just_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in `reverie eval` leaves a line, the run as it was, and the exit status that shells expect."""
    run = tmp_path / "run"
    assert main(["train", "--run", str(run), *SMALL]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}

    def interrupted(self: Run, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "test", interrupted)
    capsys.readouterr()
    assert main(["eval", "--run", str(run)]) == 130
    assert capsys.readouterr().err == "reverie: interrupted\n"
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_an_interrupted_team_leaves_shards_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its first epoch no checkpoint names them, and a run would refuse them: the last line says what to do."""

    def interrupted(self: Run, *_: object) -> None:
        (self.folder / SHARDS).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_play", interrupted)
    assert main(["train", "--run", str(tmp_path / "run"), *SMALL]) == 130
    assert f"remove {tmp_path / 'run' / 'shards'}, which a team has begun, and begin again with" in (
        capsys.readouterr().err
    )


def test_flags_change_the_preset(tmp_path: Path) -> None:
    """A flag for every number, deep ones included; the run remembers them."""
    run = tmp_path / "run"
    flags = ["--actor-critic-loss.gamma", "0.9", "--collection.steps", "6", "--epochs", "1"]
    assert main(["train", "--run", str(run), "--preset", "tiny", "--game", "lights", *flags]) == 0
    config = config_from_json(read_checkpoint(run)["config"])
    assert (config.actor_critic_loss.gamma, config.collection.steps, config.epochs) == (0.9, 6, 1)
    assert isinstance(config.tokenizer, TokenizerConfig)
    assert config.tokenizer == presets["tiny"].tokenizer


def test_every_flag_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    """No flag of `reverie train` stands without a word about it."""
    assert main(["train", "--help"]) == 0
    lines = [line.strip("│ ").rstrip() for line in capsys.readouterr().out.splitlines()]
    flags = [place for place, line in enumerate(lines) if line.startswith("--")]
    assert len(flags) > 60
    for place in flags:
        after = next(line for line in lines[place + 1 :] if not line.startswith("--"))
        assert not after.startswith("(default"), lines[place]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "papre"], "preset: wanted one of"),
        (["--preset=tiny", "--game", "lights", "--epochs", "0"], "epochs: wanted at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong preset or number leaves one line on stderr and no run."""
    assert main(["train", "--run", str(tmp_path / "run"), *args]) == 2
    assert capsys.readouterr().err.startswith(f"reverie: {message}")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_as_it_was_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other numbers, another game or seed are refused, each by its name, stored and asked; the same ones are not."""
    run = str(tmp_path / "run")
    same = ["train", "--run", run, "--preset", "tiny", "--game", "lights", "--epochs", "2"]
    assert main(same) == 0
    asked = ["--seed", "4", "--collection.steps", "40", "--game=other"]
    told = "got game other (stored: lights), seed 4 (stored: 0), collection.steps 40 (stored: 20); leave"
    for flags in ([*same, *asked], ["train", "--run", run, *asked]):
        assert main(flags) == 2
        assert told in capsys.readouterr().err
    assert main(["train", "--run", run, "--epochs", "1"]) == 2
    assert "epochs: wanted at least the 2 that are done, got 1" in capsys.readouterr().err
    for command in ("eval", "dream"):
        assert main([command, "--run", str(tmp_path / "none")]) == 2
        assert "start a run there first" in capsys.readouterr().err


def test_a_finished_run_says_so_and_can_be_prolonged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked again it tells how to go on; with more epochs it goes on, and its own settings are those it had."""
    run = str(tmp_path / "run")
    assert main(["train", "--run", run, *SMALL, "--collection.steps", "6"]) == 0
    capsys.readouterr()
    assert main(["train", "--run", run]) == 0
    assert f"{run} is finished: 2 epochs of 2 done" in (told := capsys.readouterr().out)
    assert main(told.split("reverie ")[1].split()) == 0  # the command that it names
    assert "going on after epoch 2" in (told := capsys.readouterr().out)
    assert "epoch 4 of 4" in told
    assert read_checkpoint(tmp_path / "run")["epoch"] == 4
    assert config_from_json(read_checkpoint(tmp_path / "run")["config"]).collection.steps == 6


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the command, one line says so, before there is a folder or a model."""
    run = ["--run", str(tmp_path / "run")]
    for command in (["train", *run, *SMALL], ["eval", *run], ["dream", *run], ["bench", "iris"]):
        assert main([*command, "--device", device]) == 2
        assert (
            f"reverie: device: wanted one that PyTorch can use here, got '{device}'"
            in capsys.readouterr().err
        )
    assert not (tmp_path / "run").exists()


def test_a_preset_that_does_not_fit_its_game_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's frames are not those of the game: told at once, in terms of the game, and nothing is left behind."""
    assert main(["train", "--run", str(tmp_path / "run"), "--game", "lights"]) == 2
    assert "game: wanted frames shaped (3, 64, 64)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

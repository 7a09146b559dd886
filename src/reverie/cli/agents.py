"""The commands on agents: demo, train, eval, dream, learn and bench. They need PyTorch, and import it when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from reverie.checks import check_free
from reverie.cli.options import Device, Force, Quiet
from reverie.cli.terminal import say
from reverie.errors import BadSetting

Run = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]


def demo(
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/demo"),
    game: str = "Breakout",
    steps: int = 20_000,
    seed: int = 0,
    force: Force = False,
) -> None:
    """Train a small IRIS from a replay buffer, and show what it dreams and how near that comes to the game.

    It takes about five minutes of one processor core, and its pictures less than 1 MB of disk.

    Args:
        out: The folder for its pictures.
        game: An Atari game in any spelling.
        steps: How many steps to record.
        seed: Fixes every random choice.
        force: Replace pictures that are there already.
    """
    from reverie.iris.app import run_demo

    run_demo(out, steps=steps, seed=seed, game=game, force=force)


def train(
    run: Run, preset: str = "paper", game: str | None = None, seed: int = 0, device: Device = None
) -> None:
    """Train an agent in a folder, or go on training one; `reverie train --help` lists every number.

    Here stand the options that a shell completes.

    Args:
        run: The folder of the run. If there is a run already, it goes on.
        preset: The numbers of the run: paper, demo, minatar, minatar-columns or minatar-rows.
        game: The game that is played.
        seed: Fixes every random choice.
        device: Where the models run, such as cpu or cuda.
    """
    raise AssertionError("main takes this command before it is parsed")


def evaluate(
    run: Run,
    episodes: int = 100,
    diagnose: bool = False,
    out: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: diagnosis.png)"),
    ] = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Test the agent of a run on whole games, without random play.

    Args:
        run: The folder of the run.
        episodes: How many games to play.
        diagnose: Look into every part of the agent instead, by how deep into the game it is.
        out: The picture of a diagnosis, a name in .png.
        device: Where the models run, such as cpu or cuda.
        force: Replace a picture that is there already.
    """
    from reverie.iris.app import diagnose_run, evaluate_run

    if diagnose:
        diagnose_run(run, out or Path("diagnosis.png"), episodes, device, force=force)
    elif out or force:
        raise BadSetting("out: wanted --diagnose, got none; without it there is no picture")
    else:
        evaluate_run(run, episodes, device)


def dream(
    run: Run,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = Path("dream.gif"),
    device: Device = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw what the agent of a run dreams, beside what really happened, as a GIF or as a PNG.

    Args:
        run: The folder of the run.
        out: The picture to make. A name in .gif gives an animation, one in .png a sheet.
        device: Where the models run, such as cpu or cuda.
        force: Replace a picture that is there already.
        quiet: Print nothing.
    """
    from reverie.iris.app import dream_run

    told = dream_run(run, out, device, force=force)
    if not quiet:
        say([told])


def learn(
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/learn"),
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (7, 8, 9),
    preset: str = "minatar",
    epochs: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = None,
    game: str = "minatar:breakout",
) -> None:
    """Learn to play a small game, and compare with agents that learned nothing.

    It takes about seven minutes on two processor cores, and longer with other presets.

    Args:
        out: The folder for what is written. A run in it that was interrupted goes on.
        seeds: One agent is trained from each.
        preset: The numbers of the runs: minatar, or minatar-columns or minatar-rows, which take longer.
        epochs: How many epochs each run has. More of them take longer and learn more.
        game: One of MinAtar's games.
    """
    from reverie.iris.app import run_learn

    run_learn(out, seeds=seeds, preset=preset, epochs=epochs, game=game)


def bench(
    what: Annotated[Literal["iris"], tyro.conf.Positional],
    preset: str = "paper",
    device: Device = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        tyro.conf.arg(metavar="{float32,bfloat16}", help_behavior_hint="(default: the preset's)"),
    ] = None,
    share: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="FLOAT", help_behavior_hint="(default: all of it, if that takes under 2 minutes)"
        ),
    ] = None,
    repeats: int = 5,
    out: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")
    ] = None,
    force: Force = False,
) -> None:
    """Measure how fast an agent trains on this machine. It takes a few minutes on a processor.

    Args:
        what: The agent.
        preset: The sizes of its models: paper, demo, minatar, minatar-columns or minatar-rows.
        device: Where the models run, such as cpu or cuda.
        precision: The precision of tokenizer and world model.
        share: The share of each batch that is used.
        repeats: How many updates of each phase are timed.
        out: The file to write the numbers to, as JSON.
        force: Replace a file that is there already.
    """
    from reverie.iris.bench import run_bench

    if out is not None:
        check_free(out, force=force)
    speed = run_bench(
        preset=preset, device=device, precision=precision, share=share, repeats=repeats, out=out
    )
    say(speed.report().splitlines())

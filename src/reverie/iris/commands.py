"""The commands on runs: train, eval and dream, as the command line calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import tyro
from rich.console import Console

from reverie import BadSetting
from reverie.iris.collect import interval
from reverie.iris.games import games
from reverie.iris.humans import human_normalised
from reverie.iris.pictures import draw_animation
from reverie.iris.run import CHECKPOINT, Run, read_checkpoint
from reverie.iris.settings import Config, config_from_json, presets
from reverie.iris.watching import PICTURE_SIDE, dream_of
from reverie.iris.watching import train as train_run

GAMES = {
    "paper": "Breakout",
    "demo": "Breakout",
    "minatar": "minatar:breakout",
}  # preset -> game, if none is named


@dataclass(frozen=True)
class Train:
    """Train an agent, or go on training one. Every number of the run is a flag; a preset sets them all.

    Attributes:
        run: folder of the run; if there is a run already, it goes on.
        preset: the numbers that flags change.
        game: an Atari game such as Breakout, or one of MinAtar's such as minatar:breakout; the preset's if
            not given.
        seed: fixes every random choice.
        device: cpu, cuda and so on; an accelerator if there is one.
        config: the numbers.
    """

    run: Path
    preset: str = "paper"
    game: str | None = None
    seed: int = 0
    device: str | None = None
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def train(args: Sequence[str]) -> None:
    """Run `reverie train` with these arguments.

    Raises:
        BadSetting: an unknown preset or game, or flags that differ from what the run was started with.
    """
    preset = _preset(args)
    asked = tyro.cli(
        Train,
        default=Train(run=tyro.MISSING, preset=preset, config=presets[preset]),
        args=list(args),
        prog="reverie train",
    )
    console, device = Console(), _device(asked.device)
    if (asked.run / CHECKPOINT).exists():
        state = read_checkpoint(asked.run)
        _refuse_changes(args, asked, state["game"], state["seed"], config_from_json(state["config"]))
        run = Run.resume(asked.run, games(state["game"]), device=device)
        console.print(f"going on after epoch {run.done} of {asked.run}", highlight=False)
    else:
        game = asked.game or GAMES[preset]
        run = Run.start(asked.run, asked.config, games(game), seed=asked.seed, device=device, game=game)
    try:
        train_run(run, console)
    finally:
        run.close()


def evaluate_run(run: Path, episodes: int, device: str | None) -> None:
    """Test the agent of a run on whole games and print what came of it."""
    agent_run = _resumed(run, device)
    try:
        played = agent_run.test(episodes=episodes)
    finally:
        agent_run.close()
    mean, spread = interval(played.returns)
    normalised = human_normalised(agent_run.game, mean)
    known = "" if normalised is None else f", human-normalised {normalised:.3f} (random 0, human 1)"
    Console().print(
        f"{agent_run.game} after {agent_run.done} epochs and {agent_run.steps:,} steps, {episodes} episodes: "
        f"return {mean:.2f} ± {spread:.2f} (95 %), from {min(played.returns):g} to "
        f"{max(played.returns):g}, length {fmean(played.lengths):.1f}{known}",
        highlight=False,
        soft_wrap=True,
    )


def dream_run(run: Path, out: Path, device: str | None) -> None:
    """Write an animation of what the agent of a run dreams, beside what really happened."""
    agent_run = _resumed(run, device)
    try:
        rows = dream_of(agent_run)
    finally:
        agent_run.close()
    if rows is None:
        raise BadSetting(f"run: wanted episodes of two steps or more in {run}, got none; train it for longer")
    draw_animation(out, rows, scale=max(1, PICTURE_SIDE // agent_run.config.tokenizer.frame[1]))
    Console().print(f"{out}  {', '.join(rows)}", highlight=False, soft_wrap=True)


def _preset(args: Sequence[str]) -> str:
    """Return the preset that the arguments name; it has to be known before the rest can be parsed."""
    preset = "paper"
    for place, arg in enumerate(args):
        if arg == "--preset" and place + 1 < len(args):
            preset = args[place + 1]
        elif arg.startswith("--preset="):
            preset = arg.removeprefix("--preset=")
    if preset not in presets:
        raise BadSetting(f"preset: wanted one of {', '.join(sorted(presets))}, got {preset!r}; choose one")
    return preset


def _refuse_changes(args: Sequence[str], asked: Train, game: str, seed: int, config: Config) -> None:
    named = {arg.partition("=")[0] for arg in args if arg.startswith("--")}
    if not named - {"--run", "--device"}:
        return  # nothing but the folder was named: the run knows the rest
    if (asked.game or game, asked.seed if "--seed" in named else seed, asked.config) != (game, seed, config):
        raise BadSetting(
            f"run: wanted the game and the numbers that {asked.run} was started with, got others; name nothing "
            f"but the folder to go on, or choose another folder"
        )


def _resumed(folder: Path, device: str | None) -> Run:
    return Run.resume(folder, games(read_checkpoint(folder)["game"]), device=_device(device))


def _device(name: str | None) -> str:
    return name or ("cuda" if torch.cuda.is_available() else "cpu")

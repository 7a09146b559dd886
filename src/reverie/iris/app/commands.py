"""The commands on runs, as the command line calls them: train, eval and dream."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro
from rich.console import Console

from reverie import BadSetting
from reverie.errors import counted
from reverie.iris.app import breakout
from reverie.iris.app.diagnosis import diagnose
from reverie.iris.app.monitor import dream_of, scale_of
from reverie.iris.app.monitor import train as train_run
from reverie.iris.app.page import PAGE, report_run
from reverie.iris.app.pictures import draw_animation, draw_panels, draw_strip
from reverie.iris.app.scores import human_normalised
from reverie.iris.config import Config, check_unchanged, config_from_json, preset_named
from reverie.iris.learning import (
    CHECKPOINT,
    SHARDS,
    Run,
    Team,
    games,
    interval,
    kept_epochs,
    read_checkpoint,
    team_of,
)
from reverie.iris.models import usable_device
from reverie.pictures import ANIMATION, SHEET, check_picture, writing_picture

# Preset -> game, if none is named.
GAMES = {
    "paper": "Breakout",
    "demo": "Breakout",
    "minatar": "minatar:breakout",
    "minatar-columns": "minatar:breakout",
    "minatar-rows": "minatar:seaquest",
}


# Game -> what is known of it.
INSIGHTS = {breakout.NAME: breakout.INSIGHT}


@dataclass(frozen=True)
class Train:
    """Train an agent, or go on training one. Every number of the run is a flag; a preset sets them all.

    Attributes:
        run: The folder of the run. If there is a run already, it goes on. It may get more epochs then, and no
            other change.
        preset: The numbers that flags change: paper, demo, minatar, minatar-columns or minatar-rows.
        game: An Atari game such as Breakout, or one of MinAtar's such as minatar:breakout.
        seed: Fixes every random choice.
        device: Where the models run, such as cpu or cuda.
        ray_actors: Processes that play while this one learns, as actors of Ray; 0 plays here, between the updates.
        ray_shards: Replay files that their steps are spread over.
        config: The numbers.
    """

    run: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    preset: str = "paper"
    game: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the preset's)")
    ] = None
    seed: int = 0
    device: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: an accelerator if there is one)"),
    ] = None
    ray_actors: int = 0
    ray_shards: int = 1
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def train(args: Sequence[str]) -> None:
    """Run `reverie train` with these arguments.

    Raises:
        BadSetting: an unknown preset, game or device, a game that does not fit, or flags that differ from what
            the run was started with.
        KeyboardInterrupt: on Ctrl-C; its text says what is kept and how to go on.
    """
    named = _named(args)
    preset = named.get("--preset", "paper")
    default = Train(run=tyro.MISSING, preset=preset, config=preset_named(preset))
    state = _checkpoint(Path(named["--run"])) if "--run" in named else None
    if state is not None:  # the run knows what is not named
        team = team_of(Path(named["--run"]), state["collector"], None)
        default = replace(default, game=state["game"], seed=state["seed"])
        if team is not None:
            default = replace(default, ray_actors=team.players, ray_shards=team.shards)
        if "--preset" not in named:
            default = replace(default, config=config_from_json(state["config"]))
    asked = tyro.cli(Train, default=default, args=list(args), prog="reverie train")
    device, console = str(usable_device(asked.device)), Console()
    try:
        run = _new_run(asked, device) if state is None else _old_run(asked, device, state, console)
        try:
            if run is not None:
                train_run(run, console)
                page = report_run(run.folder, run.folder / PAGE, force=True, run=run)
                console.print(
                    f"{page}  all of it on one page, for a browser", highlight=False, soft_wrap=True
                )
        finally:
            if run is not None:
                run.close()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(asked.run, args)) from None


def _new_run(asked: Train, device: str) -> Run:
    game = asked.game or GAMES[asked.preset]
    return Run.start(
        asked.run, asked.config, games(game), team=_team(asked), seed=asked.seed, device=device, game=game
    )


def _team(asked: Train) -> Team | None:
    """Return the processes that play; None plays in this one."""
    if not asked.ray_actors and asked.ray_shards == 1:
        return None
    return Team(asked.ray_actors, asked.ray_shards)


def _old_run(asked: Train, device: str, state: dict[str, Any], console: Console) -> Run | None:
    """Return the run of a folder; None if all that is asked of it is done."""
    config = config_from_json(state["config"])
    game = asked.game or state["game"]
    check_unchanged(
        config,
        asked.config,
        done=state["epoch"],
        game=(state["game"], game),
        seed=(state["seed"], asked.seed),
    )
    epochs = asked.config.epochs
    if state["epoch"] == epochs:
        console.print(
            f"{asked.run} is finished: {counted(epochs, 'epoch')} of {epochs} done; to prolong it, name more of them: "
            f"reverie train --run {shlex.quote(str(asked.run))} --epochs {2 * epochs}",
            highlight=False,
            soft_wrap=True,
        )
        return None
    run = Run.resume(asked.run, games(game), epochs=epochs, team=_team(asked), device=device)
    cut = (
        f"; episodes of {counted(len(run.cut), 'game')} were cut, since another course was taken"
        if run.cut
        else ""
    )
    console.print(f"going on after epoch {run.done} of {asked.run}{cut}", highlight=False, soft_wrap=True)
    return run


def _kept(folder: Path, args: Sequence[str]) -> str:
    """Return what an interrupted run keeps, and how to go on."""
    done, again = kept_epochs(folder), f"reverie train {shlex.join(args)}"
    if not done:
        shards = folder / SHARDS
        first = f"remove {shards}, which a team has begun, and begin" if shards.exists() else "begin"
        return f"interrupted in the first epoch, of which nothing is kept; {first} again with: {again}"
    return f"interrupted; {folder} keeps {counted(done, 'epoch')} and goes on with epoch {done + 1}: {again}"


def _checkpoint(folder: Path) -> dict[str, Any] | None:
    return read_checkpoint(folder) if (folder / CHECKPOINT).exists() else None


def evaluate_run(run: Path, episodes: int, device: str | None) -> None:
    """Test the agent of a run on whole games and print what came of it."""
    with closing(_read(run, device)) as agent_run:
        played = agent_run.test(episodes=episodes)
    mean, spread = interval(played.returns)
    normalised = human_normalised(agent_run.game, mean)
    known = "" if normalised is None else f", human-normalised {normalised:.3f} (random 0, human 1)"
    console = Console()
    console.print(
        f"{agent_run.game} after {counted(agent_run.done, 'epoch')} and {counted(agent_run.steps, 'step')}, "
        f"{counted(episodes, 'episode')}: "
        f"return {mean:.2f} ± {spread:.2f} (95 %), from {min(played.returns):g} to "
        f"{max(played.returns):g}, length {fmean(played.lengths):.1f}{known}",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )


def diagnose_run(run: Path, out: Path, episodes: int, device: str | None, *, force: bool = False) -> None:
    """Look into every part of the agent of a run, by how deep into the game it is; print a table and draw a picture.

    Args:
        run: folder of the run.
        out: the picture, a name in .png.
        episodes: how many games are looked at.
        device: of the models; None is an accelerator if there is one.
        force: a picture that is there already is replaced.

    Raises:
        BadSetting: another name, no such device, or no episodes. FileTaken: there is something at `out` already.
    """
    if out.suffix.lower() != SHEET:
        raise BadSetting(f"out: wanted a name that ends in .png, got {out.name!r}; a diagnosis does not move")
    check_picture(out, force=force)
    with closing(_read(run, device)) as agent_run:
        found = diagnose(agent_run, episodes=episodes, insight=INSIGHTS.get(agent_run.game))
    title = f"{agent_run.game} after {counted(agent_run.done, 'epoch')}, {counted(episodes, 'episode')}"
    with writing_picture(out, force=force) as draft:
        draw_panels(draft, found.panels, found.depths, "rewards so far", title)
    console = Console()
    console.print(found.table(title), highlight=False)
    console.print(f"{out}  the same as curves", highlight=False, soft_wrap=True)


def dream_run(run: Path, out: Path, device: str | None, *, force: bool = False) -> str:
    """Make a picture of what the agent of a run dreams, beside what really happened; return what it shows in words.

    Args:
        run: folder of the run.
        out: a name in .gif gives an animation, one in .png the frames of every second step side by side.
        device: of the models; None is an accelerator if there is one.
        force: a picture that is there already is replaced.

    Raises:
        BadSetting: another name, no such device, or the run has no episodes that are long enough.
        FileTaken: there is something at `out` already.
    """
    check_picture(out, force=force)
    with closing(_read(run, device)) as agent_run:
        rows = dream_of(agent_run)
    if rows is None:
        raise BadSetting(f"run: wanted episodes of two steps or more in {run}, got none; train it for longer")
    with writing_picture(out, force=force) as draft:
        draw = draw_animation if out.suffix.lower() == ANIMATION else draw_strip
        draw(draft, rows, scale=scale_of(agent_run))
    return f"{out}  {', '.join(rows)}"


def _named(args: Sequence[str]) -> dict[str, str]:
    """Return the flags among the arguments with their values; some have to be known before the rest is parsed."""
    named = {}
    for place, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag.startswith("--"):
            named[flag] = value if equals else next(iter(args[place + 1 :]), "")
    return named


def _read(folder: Path, device: str | None) -> Run:
    where = str(usable_device(device))
    return Run.read(folder, games(read_checkpoint(folder)["game"]), device=where)

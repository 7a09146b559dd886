"""`reverie record`: an environment played at random, in memory or into a new replay file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import reverie
from reverie.checks import positive
from reverie.store import format_bytes

if TYPE_CHECKING:
    from reverie.gymnasium import Recording


def record(
    game: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")],
    steps: int = 5_000,
    seed: int = 0,
    capacity: int | None = None,
    full_games: bool = False,
    out: Path | None = None,
) -> None:
    """Record an environment played at random, and report what came of it.

    Args:
        game: an environment that Gymnasium knows, such as CartPole-v1; an Atari game in any spelling, such as
            Breakout or ms_pacman; or one of MinAtar's, such as minatar:breakout.
        steps: steps to record; each is 4 frames of an Atari game.
        seed: fixes the game and the actions.
        capacity: steps that the buffer keeps; all of them if not given.
        full_games: end an Atari episode with the game, as in testing, and not with each life, as in training.
        out: a new replay file to record into; without it the steps are in memory alone, and then gone.
    """
    from reverie.gymnasium import make_named

    steps = positive("steps", steps)  # before a file is made
    env = make_named(game, full_games=full_games)
    try:
        spec = reverie.StepSpec.from_env(env)
        with reverie.ReplayBuffer(
            spec, steps if capacity is None else capacity, seed=seed, path=out
        ) as buffer:
            recorded = _record_watched(env, buffer, game, steps, seed)
            held = repr(buffer)
    finally:
        env.close()
    for line in _told(recorded, game):
        print(line)
    print(f"buffer    {held}")
    if out is not None:
        print(
            f"file      {out}, {format_bytes(out.stat().st_size)}; reverie inspect {out} shows what is in it"
        )


def _record_watched(env: Any, buffer: reverie.ReplayBuffer, game: str, steps: int, seed: int) -> Recording:
    """Record a Gymnasium environment, and show in a terminal how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from reverie.gymnasium import record as record_steps

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} steps/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Nobody watches a bar in a log file.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"recording {game}", total=steps, rate="-")

        def show(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, rate="-" if speed is None else f"{speed:,.0f}")

        return record_steps(env, buffer, steps=steps, seed=seed, on_step=show)


def _told(recorded: Recording, game: str) -> Iterator[str]:
    """Yield what came of a recording."""
    yield (
        f"recorded  {recorded.steps:,} steps of {game}, played at random, in {recorded.duration_s:.1f} s "
        f"({recorded.steps_per_s:,.0f} steps/s)"
    )
    if not recorded.episodes:
        yield "episodes  none ended; record more steps to see an end"
        return
    mean_return = sum(recorded.returns) / recorded.episodes
    mean_length = sum(recorded.lengths) / recorded.episodes
    yield (
        f"episodes  {recorded.episodes:,} ended, mean return {mean_return:.2f}, "
        f"mean length {mean_length:.1f} steps"
    )

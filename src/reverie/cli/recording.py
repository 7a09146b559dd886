"""`reverie record`: an environment played at random into a replay buffer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import reverie
from reverie.checks import natural, positive
from reverie.cli.options import Quiet
from reverie.cli.progress import showing
from reverie.cli.terminal import say
from reverie.errors import counted, printable
from reverie.store import format_bytes

if TYPE_CHECKING:
    from reverie.gymnasium import Recording


def record(
    game: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")],
    steps: int = 5_000,
    seed: int = 0,
    capacity: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all of them)")
    ] = None,
    full_games: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False,
    out: Annotated[
        Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Record an environment that is played at random, and report what came of it.

    Args:
        game: Gymnasium's id (CartPole-v1), an Atari game in any spelling (ms_pacman), or minatar:breakout.
        steps: How many steps to record. A step of an Atari game is 4 of its frames.
        seed: Fixes the game and the actions.
        capacity: How many steps the buffer keeps; the newest stay.
        full_games: End an Atari episode with the game, as in testing, and not with each life, as in training.
        out: The replay file to make. Without one, the steps are in memory and gone afterwards.
        quiet: Print neither progress nor summary.
    """
    from reverie.gymnasium import make_named

    steps, seed = positive("steps", steps), natural("seed", seed)  # before a file is made
    env = make_named(game, full_games=full_games)
    kept = 0
    try:
        spec = reverie.StepSpec.from_env(env)
        with (
            reverie.ReplayBuffer(
                spec, steps if capacity is None else capacity, seed=seed, path=out
            ) as buffer,
            showing("recording", game, quiet=quiet) as show,
        ):
            from reverie.gymnasium import record as record_steps

            try:
                recorded = record_steps(
                    env, buffer, steps=steps, seed=seed, on_step=lambda done: show(done, steps)
                )
            finally:
                kept = len(buffer)
            held = repr(buffer)
            is_life = any(noted.get("episode_is") == "life" for noted in buffer.episodes.metadata[-1:])
    except KeyboardInterrupt:
        if out is None:
            raise KeyboardInterrupt(
                "interrupted; nothing is kept, since no file was named with --out"
            ) from None
        raise KeyboardInterrupt(f"interrupted; {out} keeps {counted(kept, 'step')}") from None
    finally:
        env.close()
    if not quiet:
        say(map(printable, _told(recorded, game, is_life)))
        say(map(printable, _kept(held, out)))


def _told(recorded: Recording, game: str, is_life: bool) -> Iterator[str]:
    """Yield what came of a recording."""
    yield (
        f"recorded  {counted(recorded.steps, 'step')} of {game}, played at random, "
        f"in {recorded.duration_s:.1f} s ({recorded.steps_per_s:,.0f} steps/s)"
    )
    life = "; an episode ends with each life, and with the game under --full-games" if is_life else ""
    if not recorded.episodes:
        yield f"episodes  none ended; record more steps to see an end{life}"
        return
    mean_return = sum(recorded.returns) / recorded.episodes
    mean_length = sum(recorded.lengths) / recorded.episodes
    cut = "; one more was cut when the recording stopped" if sum(recorded.lengths) < recorded.steps else ""
    yield (
        f"episodes  {recorded.episodes:,} ended, mean return {mean_return:.2f}, "
        f"mean length {mean_length:.1f} steps{cut}{life}"
    )


def _kept(held: str, out: Path | None) -> Iterator[str]:
    yield f"buffer    {held}"
    if out is None:
        yield "file      none was named with --out, so the steps are gone"
    else:
        yield f"file      {out}, {format_bytes(out.stat().st_size)}; reverie inspect {out} shows what is in it"

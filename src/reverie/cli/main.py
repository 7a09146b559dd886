"""The `reverie` command: record games, look into replay files, train agents on them, and see them dream."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import reverie
from reverie.checks import natural, positive
from reverie.errors import ReplayError, printable
from reverie.store import format_bytes

if TYPE_CHECKING:
    from reverie.gymnasium import Recording

DESCRIPTION = "A replay engine for world models. `reverie --version` names the version."
USER_ERROR = 2  # exit status, as for a misspelt option
FINDINGS = 1  # exit status of a verification that found something
INTERRUPTED = 130  # exit status that shells give to Ctrl-C
EXTRA_OF = {
    "gymnasium": "atari",
    "ale_py": "atari",
    "PIL": "atari",
    "torch": "iris",
    "tensorboard": "iris",
    "matplotlib": "iris",
    "h5py": "hdf5",
}  # missing module -> the extra that brings it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None) and return its exit status.

    An error of the user's prints one line to stderr and returns 2; so does a missing extra. `verify` returns 1
    if it found something.

    Raises:
        SystemExit: after `--help`, or when the arguments cannot be parsed.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    if args == ["--version"]:
        print(f"reverie {reverie.__version__}")
        return 0
    try:
        return _run(args)
    except ReplayError as error:
        print(f"reverie: {printable(error)}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        print(f"reverie: {_remedy(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        # A command that keeps work says what it keeps.
        print(f"reverie: {str(error) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader at the other end, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: list[str]) -> int:
    """Run a command and return its exit status."""
    if args[:1] == ["train"]:  # its flags are the fields of a preset, and PyTorch is needed to read that
        from reverie.iris.app import train as train_with

        train_with(args[1:])
        return 0
    commands: dict[str, Callable[..., Any]] = {
        "record": record,
        "inspect": inspect,
        "verify": verify,
        "import": import_,
        "export": export,
        "film": film,
        "demo": demo,
        "train": train,
        "eval": evaluate,
        "dream": dream,
        "learn": learn,
        "bench": bench,
    }
    status: int | None = tyro.extras.subcommand_cli_from_dict(
        commands, prog="reverie", description=DESCRIPTION, args=args
    )
    return int(status or 0)


def _remedy(error: ModuleNotFoundError) -> str:
    """Return what to install for a package that is missing; raise the error again if no extra brings it."""
    missing = (error.name or "").partition(".")[0]
    if missing == "minatar":
        # MinAtar needs plotting libraries for its viewer alone, so no extra brings it.
        wanted = "--no-deps MinAtar"
    elif missing in EXTRA_OF:
        wanted = f"'reverie[{EXTRA_OF[missing]}]'"
    else:
        raise error
    return f"wanted the package {missing}, which is not installed; pip install {wanted}"


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


def inspect(
    file: Annotated[Path, tyro.conf.Positional],
    episodes: int = 5,
) -> None:
    """Tell what a replay file holds: sizes, streams, episodes, samplers. Also while it is being written.

    Args:
        file: a replay file.
        episodes: how many of the newest episodes to list.
    """
    from reverie.cli.report import report

    for line in report(file, natural("episodes", episodes)):
        print(line)


def import_(
    source: Annotated[str, tyro.conf.Positional],
    out: Path,
    format: str | None = None,
    lossy: tuple[str, ...] = (),
    checksum: bool = False,
) -> None:
    """Read another library's data set into a new replay file, and list what could not be held.

    Args:
        source: a file, a folder, or the id of a Minari data set.
        out: the replay file to make.
        format: minari, lerobot, dreamer, …, as the manual lists them; it is recognised if you do not give it.
        lossy: losses that are accepted, by the names that a refusal gives them.
        checksum: print the SHA-256 of all observations, too.
    """
    from reverie.cli.exchange import import_file

    for line in import_file(source, out, format, lossy, checksum):
        print(printable(line))


def export(
    file: Annotated[Path, tyro.conf.Positional],
    to: str,
    episodes: tuple[int, ...] = (),
    lossy: tuple[str, ...] = (),
) -> None:
    """Write the episodes of a replay file as another library's data set, and list what it could not hold.

    Args:
        file: a replay file; it is only read.
        to: a format and a place, such as minari:cartpole/mine-v0 or npz:mine.npz.
        episodes: which ones, by number: 0 is the oldest, -1 the newest; all if not given.
        lossy: losses that are accepted, by the names that a refusal gives them.
    """
    from reverie.cli.exchange import export_file

    for line in export_file(file, to, episodes, lossy):
        print(printable(line))


def verify(file: Annotated[Path, tyro.conf.Positional]) -> int:
    """Check everything in a replay file. The exit status is 0 if it is whole, 1 if not, 2 if it does not open.

    Args:
        file: a replay file; it is only read, also while it is being written.
    """
    from reverie.file import verify_file

    status = 0
    for line, is_finding in verify_file(file):
        print(printable(line))
        status = FINDINGS if is_finding else status
    return status


def film(
    file: Annotated[Path, tyro.conf.Positional],
    episode: int,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    column: str | None = None,
    every: int | None = None,
    fps: float = 15.0,
) -> None:
    """Show an episode of a replay file as an animated GIF, or as a PNG with its frames side by side.

    Args:
        file: a replay file.
        episode: its number, as `reverie inspect` lists them.
        out: a name that ends in .gif or .png.
        column: the observation to show, such as obs/camera, if several are frames.
        every: show one of so many steps, with the rewards of all of them; else each step, as far as they fit.
        fps: frames of a GIF in a second.
    """
    from reverie.cli.pictures import film as make_film

    print(printable(f"wrote {make_film(file, episode, out, column, every, fps)}"))


def demo(
    out: Annotated[Path, tyro.conf.arg(help="folder for what the demonstration writes")] = Path("runs/demo"),
    game: str = "Breakout",
    steps: int = 20_000,
    seed: int = 0,
) -> None:
    """Train a small IRIS from a replay buffer, and show what it dreams and how near that comes to the game.

    Args:
        out: folder for what the demonstration writes.
        game: an Atari game in any spelling.
        steps: agent steps to record.
        seed: fixes every random choice.
    """
    from reverie.iris.app import run_demo

    run_demo(out, steps=steps, seed=seed, game=game)


def train() -> None:
    """Train an agent in a folder, or go on training one; `reverie train --help` lists every number."""
    raise AssertionError("main takes this command before it is parsed")


def evaluate(run: Path, episodes: int = 100, device: str | None = None) -> None:
    """Test the agent of a run on whole games, without random play.

    Args:
        run: folder of the run.
        episodes: games to play.
        device: cpu, cuda and so on; an accelerator if there is one.
    """
    from reverie.iris.app import evaluate_run

    evaluate_run(run, episodes, device)


def dream(
    run: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("dream.gif"),
    device: str | None = None,
) -> None:
    """Draw what the agent of a run dreams, beside what really happened.

    Args:
        run: folder of the run.
        out: the animation to write.
        device: cpu, cuda and so on; an accelerator if there is one.
    """
    from reverie.iris.app import dream_run

    dream_run(run, out, device)


def learn(
    out: Annotated[Path, tyro.conf.arg(help="folder for what is written")] = Path("runs/learn"),
    seeds: tuple[int, ...] = (7, 8, 9),
    epochs: int = 4,
    game: str = "minatar:breakout",
) -> None:
    """Learn to play a small game in a few minutes, and compare with agents that learned nothing.

    Args:
        out: folder for what is written; a run in it that was interrupted goes on.
        seeds: one agent is trained from each.
        epochs: of each run; more of them take longer and learn more.
        game: one of MinAtar's.
    """
    from reverie.iris.app import run_learn

    run_learn(out, seeds=seeds, epochs=epochs, game=game)


def bench(
    what: Annotated[Literal["iris"], tyro.conf.Positional],
    preset: str = "paper",
    device: str | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    share: float | None = None,
    repeats: int = 5,
    out: Path | None = None,
) -> None:
    """Measure how fast an agent trains on this machine.

    Args:
        what: the agent.
        preset: its sizes: paper, demo or minatar.
        device: cpu, cuda and so on; an accelerator if there is one.
        precision: of tokenizer and world model; the preset's if not given.
        share: of each batch that is used; all of it, or on a processor a part if all took over two minutes.
        repeats: timed updates of each phase.
        out: where to write the numbers as JSON.
    """
    from reverie.iris.bench import run_bench

    speed = run_bench(
        preset=preset, device=device, precision=precision, share=share, repeats=repeats, out=out
    )
    print(speed.report())

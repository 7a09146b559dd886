"""The proof that it learns: agents trained on MinAtar's Breakout beside agents that learned nothing."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table

from reverie import BadSetting
from reverie.errors import counted
from reverie.iris.app.monitor import METRICS, dream_of, scale_of, train
from reverie.iris.app.page import PAGE, report_run
from reverie.iris.app.pictures import draw_animation, draw_returns
from reverie.iris.config import Config, check_unchanged, config_from_json, preset_named
from reverie.iris.learning import (
    CHECKPOINT,
    Games,
    Played,
    Run,
    games,
    interval,
    kept_epochs,
    read_checkpoint,
)

GAME = "minatar:breakout"
EPISODES = 100
AT_ONCE = 3  # agents trained at the same time, each by one thread: three share two cores without a rest


@dataclass(frozen=True, slots=True)
class Learned:
    """What one seed came to. Every result is the returns of whole games.

    Attributes:
        seed: of all of it.
        random: of a policy that takes all actions alike.
        untrained: of the agent before its first epoch, which is the control.
        constant: of the best policy that always takes the same action.
        learned: of the agent after its last epoch.
        curve: (real steps, mean return) of the test after each epoch.
        steps: of real games that it learned from.
        duration_s: how long it took, tests included; of the last start alone if it was interrupted.
    """

    seed: int
    random: tuple[float, ...]
    untrained: tuple[float, ...]
    constant: tuple[float, ...]
    learned: tuple[float, ...]
    curve: tuple[tuple[float, float], ...]
    steps: int
    duration_s: float


def run_learn(
    out: Path,
    *,
    seeds: Sequence[int] = (7, 8, 9),
    preset: str = "minatar",
    epochs: int | None = None,
    config: Config | None = None,
    game: str = GAME,
    episodes: int = EPISODES,
    console: Console | None = None,
) -> list[Learned]:
    """Train an agent from each seed, and write pictures, `learning.json` and `report.html` into `out`.

    Args:
        out: the folder, made if missing; a run in it that was interrupted, or that has fewer epochs, goes on.
        seeds: at least one.
        preset: the name of the numbers.
        epochs: of each run; None is as configured.
        config: the numbers; None is those of the preset.
        game: what is played.
        episodes: games in each comparison.
        console: where the table shows; None for the standard output.

    Raises:
        BadSetting: no seeds, an unknown preset or game, one that the configuration does not fit, or a run in the
            folder that was started with other settings.
        KeyboardInterrupt: on Ctrl-C; its text says what is kept and how to go on.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise BadSetting(f"seeds: wanted different numbers, at least one, got {tuple(seeds)}; name some")
    console, config = console or Console(), config or preset_named(preset)
    if epochs is not None:
        config = replace(config, epochs=epochs)
    make = games(game)  # a missing game is told before the processes start
    _check_stored(out, seeds, config, game)
    out.mkdir(parents=True, exist_ok=True)
    began = perf_counter()
    console.print(
        f"training {counted(len(seeds), 'agent')}; {out}/seed-*/log.txt tells how far "
        f"{'it is' if len(seeds) == 1 else 'they are'}",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
    results = _learn_all(out, seeds, config, game, episodes, preset)
    (out / "learning.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    best = max(results, key=lambda result: fmean(result.learned))
    _draw(out, results, best, make, game)
    report_run(out, out / PAGE, force=True)
    _show(console, results, game)
    console.print(
        f"{out / 'learning.png'}  the tests after each epoch\n"
        f"{out / 'dream.gif'}  a dream of seed {best.seed} beside what happened\n"
        f"{out / 'learning.json'}  every return\n"
        f"{out / PAGE}  all of it on one page, for a browser\n"
        f"each learned from {best.steps:,} real steps; all of it took {perf_counter() - began:.0f} s",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
    return results


def _check_stored(out: Path, seeds: Sequence[int], config: Config, game: str) -> None:
    """Refuse to go on with runs that were started with other settings."""
    for seed in seeds:
        if (out / f"seed-{seed}" / CHECKPOINT).exists():
            state = read_checkpoint(out / f"seed-{seed}")
            stored = config_from_json(state["config"])
            check_unchanged(
                stored, config, done=state["epoch"], game=(state["game"], game), seed=(state["seed"], seed)
            )


def _learn_all(
    out: Path, seeds: Sequence[int], config: Config, game: str, episodes: int, preset: str
) -> list[Learned]:
    """Run `learn` for every seed, each in a process of its own."""
    others = set(active_children())
    # Threads help models of this size little, so every agent has a process with one thread. It is a fresh process,
    # since PyTorch's threads do not survive a fork.
    with ProcessPoolExecutor(min(AT_ONCE, len(seeds)), get_context("spawn"), _one_thread) as pool:
        try:
            with _interrupts_ignored():  # the processes inherit that; they are stopped from here
                waiting = [
                    pool.submit(learn, out / f"seed-{seed}", seed, config, game, episodes) for seed in seeds
                ]
            return [each.result() for each in waiting]
        except KeyboardInterrupt:
            ours = set(active_children()) - others
            for process in ours:
                process.terminate()  # a run may be stopped at any instant
            for process in ours:
                process.join()  # so that what it keeps is known
            raise KeyboardInterrupt(_kept(out, seeds, config, game, preset)) from None


def _draw(out: Path, results: Sequence[Learned], best: Learned, make: Games, game: str) -> None:
    """Draw the curves of all agents, and a dream of the best one if its episodes are long enough."""
    bands = {
        "random play": interval([one for result in results for one in result.random]),
        "untrained": interval([one for result in results for one in result.untrained]),
    }
    curves = {f"seed {result.seed}": result.curve for result in results}
    draw_returns(out / "learning.png", curves, bands, game)
    with closing(Run.read(out / f"seed-{best.seed}", make)) as run:
        rows = dream_of(run)
    if rows is not None:
        draw_animation(out / "dream.gif", rows, scale=scale_of(run))


def learn(folder: Path, seed: int, config: Config, game: str, episodes: int) -> Learned:
    """Train one agent in a folder, or go on training it, and return what it came to."""
    began = perf_counter()
    make = games(game)
    with TemporaryDirectory() as aside:
        control = Run.start(Path(aside), config, make, seed=seed, game=game)
        untrained = control.test(episodes=episodes)
        random, constant = _baselines(control, episodes)
        control.close()
    if (folder / CHECKPOINT).exists():
        run = Run.resume(folder, make, epochs=config.epochs)
    else:
        run = Run.start(folder, config, make, seed=seed, game=game)
    with (folder / "log.txt").open("a") as log:
        train(run, Console(file=log))
    learned = run.test(episodes=episodes)
    run.close()
    told = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    curve = tuple((line["steps"], line["test/return"]) for line in told if "test/return" in line)
    return Learned(
        seed,
        random.returns,
        untrained.returns,
        constant.returns,
        learned.returns,
        curve,
        run.steps,
        perf_counter() - began,
    )


@torch.no_grad()
def _baselines(run: Run, episodes: int) -> tuple[Played, Played]:
    """Return games of a uniform policy and of the best constant one. The run's agent plays them without weights."""
    actor = run.agent.actor_critic.actor
    actor.weight.zero_()
    actor.bias.zero_()
    random = run.test(episodes=episodes)
    constants = []
    for action in range(run.agent.num_actions):
        actor.bias.zero_()
        actor.bias[action] = 1e6
        constants.append(run.test(episodes=episodes))
    return random, max(constants, key=lambda played: fmean(played.returns))


def _one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile. Processes that are started here ignore it for good. Only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _kept(out: Path, seeds: Sequence[int], config: Config, game: str, preset: str) -> str:
    """Return what to tell of interrupted runs."""
    told = ", ".join(f"seed {seed} keeps {kept_epochs(out / f'seed-{seed}')}" for seed in seeds)
    flags = ["--out", str(out), "--seeds", *map(str, seeds), "--preset", preset]
    flags += ["--epochs", str(config.epochs), "--game", game]
    return f"interrupted; of {config.epochs} epochs {told}; go on with: reverie learn {shlex.join(flags)}"


HEAD = ("seed", "random", "untrained", "best constant", "learned", "times random", "apart")
ROOMY = 78  # columns that the table takes


def _show(console: Console, results: Sequence[Learned], game: str) -> None:
    """Print the results as a table, or where it does not fit, as a line for each seed."""
    title = f"{game}, return of {counted(len(results[0].learned), 'game')}, mean ± 1.96 standard errors"
    caption = "apart: the interval of what was learned lies above that of random play"
    if console.width < ROOMY:
        for line in (title, *map(_line, results), caption):
            console.print(line, highlight=False)
        return
    # Close together and without lines it fits into a terminal of 80.
    table = Table(*HEAD, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, caption=caption)
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)


def _line(result: Learned) -> str:
    return ", ".join(f"{name} {cell}" for name, cell in zip(HEAD, _cells(result), strict=True))


def _cells(result: Learned) -> list[str]:
    rows = [interval(row) for row in (result.random, result.untrained, result.constant, result.learned)]
    (random, its_half), (learned, half) = rows[0], rows[-1]
    return [
        str(result.seed),
        *(f"{mean:.2f} ± {spread:.2f}" for mean, spread in rows),
        f"{learned / random if random else float('inf'):.1f}",
        "yes" if learned - half > random + its_half else "no",
    ]

"""The demonstration: record a game, train a small IRIS on it, and show what it dreams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Display

from reverie import ReplayBuffer, StepSpec
from reverie.gymnasium import atari, record
from reverie.iris.app.comparison import SIGHTS, Comparison, compare, tables_of
from reverie.iris.app.dreams import BEFORE, IMAGINED, REAL, Dream, dream
from reverie.iris.app.page import PAGE, report_demo
from reverie.iris.app.pictures import draw_animation, draw_losses, draw_strip
from reverie.iris.config import Optimisation, presets
from reverie.iris.learning import History, Progress, train_tokenizer, train_world_model
from reverie.iris.models import Tokenizer, WorldModel
from reverie.pictures import check_picture

STEPS = 20_000  # of the recording that training sees
HELD_OUT_STEPS = 4_000  # of the one that it never does
DREAM_STEPS = 10
TEMPERATURE = 0.0  # the emulator leaves nothing to chance, so the likeliest token is the one to show
EVERY = 2  # steps from one column of the picture to the next
ROOMY = 80  # columns that a bar needs with everything beside it
LINES = 10  # of progress, for each part, where the output is no terminal


@contextmanager
def _repeatably(seed: int) -> Iterator[None]:
    """Seed PyTorch and keep it to one thread; both are put back afterwards.

    A second thread makes models of this size a quarter faster at best. They are several times slower with it when
    something else needs its core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


class Bars:
    """Shows how far each part of the work is: as bars in a terminal, as lines in a file.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        title = TextColumn("{task.description:<11}")
        if console.width >= ROOMY:
            report = TextColumn("{task.fields[report]}")
            columns = [title, BarColumn(8), TaskProgressColumn(), TimeElapsedColumn(), report]
        else:  # the bar takes what is left
            columns = [title, BarColumn(None), TaskProgressColumn(), TimeElapsedColumn()]
        self._bars = Display(*columns, console=console, expand=console.width < ROOMY)
        self._task: TaskID | None = None
        self._title, self._total, self._began = "", 1, 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def begin(self, title: str, total: int) -> None:
        """Begin the next part, of `total` steps."""
        self._title, self._total, self._began = title, total, perf_counter()
        self._task = self._bars.add_task(title, total=total, report="")

    def show(self, done: int, report: str) -> None:
        """Show that `done` steps of the part are done, and what there is to report of them."""
        assert self._task is not None, "a part begins before it is shown"
        self._bars.update(self._task, completed=done, report=report)
        passed = done * LINES // self._total > (done - 1) * LINES // self._total  # another tenth
        if passed and not self.console.is_terminal:
            seconds = perf_counter() - self._began
            self.console.print(
                f"{self._title:<11} {done:>6,} of {self._total:,}  {seconds:4.0f} s  {report}",
                highlight=False,
                soft_wrap=True,
            )


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration made.

    Attributes:
        files: the pictures: losses.png, dream.png, dream.gif.
        tokenizer, world_model: what their training reported.
        dream: what the pictures show.
        comparison: how near many dreams come to the game, beside two guesses.
        duration_s: how long it all took.
    """

    files: tuple[Path, ...]
    tokenizer: History
    world_model: History
    dream: Dream
    comparison: Comparison
    duration_s: float


def run_demo(
    out: Path,
    *,
    steps: int = STEPS,
    held_out_steps: int = HELD_OUT_STEPS,
    seed: int = 0,
    game: str = "Breakout",
    tokenizer_steps: int | None = None,
    world_model_steps: int | None = None,
    console: Console | None = None,
    force: bool = False,
) -> DemoResult:
    """Record a game played at random, train the `demo` preset on it, and write three pictures into `out`.

    All dreams start from frames of a second recording that training never sees.

    Args:
        out: the folder, made if missing.
        steps: steps to record, each 4 frames of the game.
        held_out_steps: steps of the second recording.
        seed: fixes every random choice. The arithmetic of the processor still differs between machines.
        game: an Atari game.
        tokenizer_steps, world_model_steps: updates; None for the preset's.
        console: where progress shows; None for the standard output.
        force: pictures that are there already are replaced.

    Raises:
        FileTaken: there are pictures in the folder already.
        BadSetting: an unknown game, or fewer than one step or update.
        NotEnoughData: so few steps that no episode fills the world model's context.
    """
    began = perf_counter()
    console = console or Console()
    config = presets["demo"]
    tokenizer_training = _of_steps(config.tokenizer_training, tokenizer_steps)
    world_model_training = _of_steps(config.world_model_training, world_model_steps)
    out.mkdir(parents=True, exist_ok=True)
    files = (out / "losses.png", out / "dream.png", out / "dream.gif")
    for file in files:  # before minutes of work
        check_picture(file, force=force)
    with _repeatably(seed), Bars(console) as bars:
        buffer, held_out, meanings = _record(bars, game, steps, held_out_steps, seed)
        tokenizer = Tokenizer(config.tokenizer)
        training = train_tokenizer(tokenizer, buffer, tokenizer_training, config.tokenizer_loss)
        tokenizer_history = _watch(bars, "tokenizer", tokenizer_training.steps, training)
        world_model = WorldModel(
            config.world_model,
            tokens_per_frame=config.tokenizer.tokens_per_frame,
            codebook_size=config.tokenizer.codebook_size,
            actions=len(meanings),
        )
        training = train_world_model(world_model, tokenizer, buffer, world_model_training, boundary="inside")
        world_model_history = _watch(bars, "world model", world_model_training.steps, training)

        dreamt = dream(tokenizer, world_model, held_out, seed, steps=DREAM_STEPS, temperature=TEMPERATURE)
        comparison = compare(
            tokenizer,
            world_model,
            held_out,
            seed,
            steps=DREAM_STEPS,
            temperature=TEMPERATURE,
            sights=SIGHTS.get(game.lower()),
        )
    draw_losses(files[0], {"tokenizer": tokenizer_history, "world model": world_model_history})
    draw_strip(files[1], dreamt.rows, every=EVERY, captions=_captions(dreamt, meanings))
    draw_animation(files[2], dreamt.rows)
    histories = {"tokenizer": tokenizer_history, "world model": world_model_history}
    report_demo(out, game, dreamt.rows, histories, config)
    result = DemoResult(
        files, tokenizer_history, world_model_history, dreamt, comparison, perf_counter() - began
    )
    _explain(console, result)
    return result


def _of_steps(training: Optimisation, steps: int | None) -> Optimisation:
    return training if steps is None else replace(training, steps=steps)


def _record(
    bars: Bars, game: str, steps: int, held_out_steps: int, seed: int
) -> tuple[ReplayBuffer, ReplayBuffer, list[str]]:
    """Record a game twice, and return both recordings and what the game calls its actions."""
    with closing(atari(game)) as env:
        spec = StepSpec.from_env(env)
        buffer = ReplayBuffer(spec, steps, seed=seed)
        held_out = ReplayBuffer(spec, held_out_steps, seed=seed)
        bars.begin("recording", steps)
        played = f"{game}, played at random"
        record(env, buffer, None, steps, seed=seed, on_step=lambda done: bars.show(done, played))
        record(env, held_out, None, held_out_steps, seed=seed + 1)
        emulator: Any = env.unwrapped  # it names its actions, which Gymnasium's types do not know
        return buffer, held_out, emulator.get_action_meanings()


def _watch(bars: Bars, title: str, steps: int, training: Iterator[Progress]) -> History:
    """Run a training to its end and show how far it is."""
    history = History()
    bars.begin(title, steps)
    for progress in training:
        history.add(progress)
        report = (
            f"loss {history.recent('total'):.3f}  {history.sequences_per_s:,.0f} sequences/s  "
            f"{history.waiting_share:.1%} waiting"
        )
        bars.show(progress.step + 1, report)
    return history


def _captions(dreamt: Dream, meanings: list[str]) -> list[str]:
    """Return what was done on the way to each column of the picture, and which rewards came in game and dream."""
    captions = [f"{BEFORE} steps before\nare known, too"]
    steps = len(dreamt.actions)
    for stop in range(EVERY, steps + 1, EVERY):
        way = slice(stop - EVERY, stop)
        done = ", ".join(meanings[action].lower() for action in dreamt.actions[way])
        rewards, imagined = dreamt.rewards[way].sum(), dreamt.imagined_rewards[way].sum()
        captions.append(f"{done}\nreward {rewards:g}, dream {imagined:g}")
    return captions


def _explain(console: Console, result: DemoResult) -> None:
    losses, strip, animation = result.files
    tokenizer, world_model = result.tokenizer, result.world_model
    console.print(
        f"\n{losses}  the losses of both models, update by update"
        f"\n{strip}  a game that training never saw, and the dream of it: {REAL}, {IMAGINED}"
        f"\n{animation}  the same, moving"
        f"\n{animation.with_name(PAGE)}  all of it on one page, for a browser\n",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
    console.print(tables_of(result.comparison), highlight=False, soft_wrap=True)
    console.print(
        f"\nthe world model's surprise at the next frame token fell from {world_model.losses['observation'][0]:.2f} "
        f"to {world_model.recent('observation'):.2f} nats"
        f"\nthe buffer fed {tokenizer.sequences_per_s:,.0f} frames/s to the tokenizer and "
        f"{world_model.sequences_per_s:,.0f} windows/s to the world model, which waited for it during "
        f"{tokenizer.waiting_share:.1%} and {world_model.waiting_share:.1%} of their time"
        f"\nall of it took {result.duration_s:.0f} s",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )

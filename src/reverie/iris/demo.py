"""The demonstration: record a game, train a small IRIS on it, and show what it dreams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

from reverie import ReplayBuffer, StepSpec
from reverie.gymnasium import atari, record
from reverie.iris.dreams import IMAGINED, REAL, RECONSTRUCTED, dream
from reverie.iris.pictures import Frames, draw_animation, draw_losses, draw_strip
from reverie.iris.settings import presets
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.train import History, Progress, train_tokenizer, train_world_model
from reverie.iris.world_model import WorldModel

HELD_OUT_STEPS = 400  # a second recording, that training never sees
TEMPERATURE = 0.7  # below 1: a model trained for two minutes gives unlikely tokens too much credit


@contextmanager
def _repeatably(seed: int) -> Iterator[None]:
    """Seed PyTorch and keep it to one thread; both are put back afterwards.

    A second thread makes models of this size a quarter faster at best, and several times slower when something
    else wants its core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration made.

    Attributes:
        files: the pictures: losses.png, dream.png, dream.gif.
        tokenizer, world_model: what their training reported.
        rows: label -> (T, 3, H, W) uint8, the frames of the dream picture.
        reconstruction_error, imagination_error: mean distance of these rows from the real one, in 0..255.
        duration_s: how long it all took.
    """

    files: tuple[Path, ...]
    tokenizer: History
    world_model: History
    rows: dict[str, Frames]
    reconstruction_error: float
    imagination_error: float
    duration_s: float


def run_demo(
    out: Path,
    *,
    steps: int = 5_000,
    seed: int = 0,
    game: str = "Breakout",
    tokenizer_steps: int | None = None,
    world_model_steps: int | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Record a game played at random, train the `demo` preset on it, and write three pictures into `out`.

    The dream starts from a frame of a second recording that training never sees.

    Args:
        out: the folder, made if missing; files of the same names in it are replaced.
        steps: steps to record, each 4 frames of the game.
        seed: fixes every random choice. The arithmetic of the processor still differs between machines.
        game: an Atari game.
        tokenizer_steps, world_model_steps: updates; None for the preset's.
        console: where progress shows; None for the standard output.

    Raises:
        BadSetting: an unknown game, or fewer than one step or update.
        NotEnoughData: so few steps that no episode fills the world model's context.
    """
    began = perf_counter()
    console = console or Console()
    config = presets["demo"]
    tokenizer_training, world_model_training = config.tokenizer_training, config.world_model_training
    if tokenizer_steps is not None:
        tokenizer_training = replace(tokenizer_training, steps=tokenizer_steps)
    if world_model_steps is not None:
        world_model_training = replace(world_model_training, steps=world_model_steps)
    out.mkdir(parents=True, exist_ok=True)
    # Narrow enough for a terminal of 80 columns.
    columns = (TextColumn("{task.description:<11}"), BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[report]}"))  # fmt: skip
    with _repeatably(seed), Display(*columns, console=console) as display:
        task = display.add_task("recording", total=steps, report="")
        with closing(atari(game)) as env:
            spec = StepSpec.from_env(env)
            buffer = ReplayBuffer(spec, steps, seed=seed)
            held_out = ReplayBuffer(spec, HELD_OUT_STEPS, seed=seed)
            record(
                env, buffer, None, steps, seed=seed, on_step=lambda done: display.update(task, completed=done)
            )
            display.update(task, report=f"{game}, {len(buffer.episodes)} episodes, random actions")
            record(env, held_out, None, HELD_OUT_STEPS, seed=seed + 1)
            actions = int(env.action_space.n)  # type: ignore[attr-defined]

        tokenizer = Tokenizer(config.tokenizer)
        training = train_tokenizer(tokenizer, buffer, tokenizer_training, config.tokenizer_loss)
        tokenizer_history = _watch(display, "tokenizer", tokenizer_training.steps, training)
        world_model = WorldModel(
            config.world_model,
            tokens_per_frame=config.tokenizer.tokens_per_frame,
            codebook_size=config.tokenizer.codebook_size,
            actions=actions,
        )
        training = train_world_model(world_model, tokenizer, buffer, world_model_training, boundary="inside")
        world_model_history = _watch(display, "world model", world_model_training.steps, training)

        rows = dream(tokenizer, world_model, held_out, seed, temperature=TEMPERATURE)
    files = (out / "losses.png", out / "dream.png", out / "dream.gif")
    draw_losses(files[0], {"tokenizer": tokenizer_history, "world model": world_model_history})
    draw_strip(files[1], rows)
    draw_animation(files[2], rows)
    result = DemoResult(
        files,
        tokenizer_history,
        world_model_history,
        rows,
        _distance(rows[RECONSTRUCTED], rows[REAL]),
        _distance(rows[IMAGINED], rows[REAL]),
        perf_counter() - began,
    )
    _explain(console, result)
    return result


def _watch(display: Display, title: str, steps: int, training: Iterator[Progress]) -> History:
    """Run a training to its end under the eyes of the user."""
    history = History()
    task = display.add_task(title, total=steps, report="")
    for progress in training:
        history.add(progress)
        report = (
            f"loss {history.recent('total'):.3f}  {history.sequences_per_s:,.0f} sequences/s  "
            f"{history.waiting_share:.1%} waiting"
        )
        display.update(task, advance=1, report=report)
    return history


def _distance(frames: Frames, others: Frames) -> float:
    return float(np.abs(frames.astype(np.int16) - others).mean())


def _explain(console: Console, result: DemoResult) -> None:
    losses, strip, animation = result.files
    tokenizer, world_model = result.tokenizer, result.world_model
    console.print(
        f"\n{losses}  the losses of both models, update by update"
        f"\n{strip}  a game that training never saw: {REAL}, {RECONSTRUCTED}, {IMAGINED}"
        f"\n{animation}  the same, moving"
        f"\n\nreconstructed frames are off by {result.reconstruction_error:.2f} of 255 per pixel, "
        f"imagined ones by {result.imagination_error:.2f} (they may take another course than the game did)"
        f"\nthe world model's surprise at the next frame token fell from {world_model.losses['observation'][0]:.2f} "
        f"to {world_model.recent('observation'):.2f} nats"
        f"\nthe buffer fed {tokenizer.sequences_per_s:,.0f} frames/s to the tokenizer and "
        f"{world_model.sequences_per_s:,.0f} windows/s to the world model, which waited for it during "
        f"{tokenizer.waiting_share:.1%} and {world_model.waiting_share:.1%} of their time"
        f"\nall of it took {result.duration_s:.0f} s",
        highlight=False,
        soft_wrap=True,
    )

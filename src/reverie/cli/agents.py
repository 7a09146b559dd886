"""The commands that train agents and show what they learned; they need PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


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

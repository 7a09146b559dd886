"""The monitor of a run: a live table, and beside the checkpoint TensorBoard, metrics.jsonl and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

import reverie
from reverie import NotEnoughData
from reverie.iris.app.dreams import dream
from reverie.iris.app.pictures import draw_animation, draw_strip
from reverie.iris.learning import Metrics, Run, read_checkpoint
from reverie.pictures import Frames

METRICS = "metrics.jsonl"
PHASES = ("play", "tokenizer", "world_model", "actor_critic", "test")
PICTURE_SIDE = 192  # pixels of a frame's side in a picture, about
SHOWN = {
    "play": ("return", "length", "steps_per_s"),
    "tokenizer": ("total", "reconstruction", "perplexity", "updates_per_s"),
    "world_model": ("observation", "reward", "end", "updates_per_s"),
    "actor_critic": ("entropy", "mean_value", "mean_reward", "updates_per_s"),
    "test": ("return", "length", "episodes"),
}


class Monitor:
    """Shows a run on a console, and writes what every epoch brought into the run's folder.

    A killed run loses an epoch. Lines of such epochs are cut from `metrics.jsonl`, so each epoch has one line.

    Args:
        run: what is shown.
        console: where; a line an epoch where nobody watches.
    """

    def __init__(self, run: Run, console: Console) -> None:
        self.run = run
        self.console = console
        self._latest: Metrics = {}
        self._phase: tuple[str, int, int] = ("play", 0, 1)
        self._began = perf_counter()
        self._done_before = run.done

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        run = self.run
        path = run.folder / METRICS
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)[: run.done]
            path.write_text("".join(lines))
        self._file = path.open("a")
        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.done + 1)
        self._live = Live(self._table(), console=self.console, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._file.close()
        self._board.close()

    def step(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase of the epoch is."""
        self._phase = (phase, done, total)
        if self._live.is_started:
            self._live.update(self._table())

    def epoch(self, metrics: Metrics) -> None:
        """Write down what an epoch brought, and draw a dream if it was tested."""
        self._latest = metrics
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, int(metrics["epoch"]))
        self._board.flush()
        tested = "test/return" in metrics
        if tested:
            folder = self.run.folder / "pictures"
            folder.mkdir(exist_ok=True)
            draw_dream(self.run, folder / f"epoch-{self.run.done:04d}")
        if not self._live.is_started:
            shown = "played" if not tested else f"test return {metrics['test/return']:.2f}"
            self.console.print(
                f"epoch {self.run.done} of {self.run.config.epochs}  {shown}  "
                f"{metrics['duration_s']:.0f} s, {self._time_left()}",
                highlight=False,
            )

    def _time_left(self) -> str:
        done = self.run.done - self._done_before
        if not done:
            return "how long it will take is not known yet"
        seconds = (perf_counter() - self._began) / done * (self.run.config.epochs - self.run.done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d} left"

    def _table(self) -> Table:
        run, (phase, done, total) = self.run, self._phase
        title = f"{run.game}  epoch {run.done + 1} of {run.config.epochs}, {self._time_left()}"
        table = Table("phase", "now", "in the last epoch", title=title, title_justify="left")
        for name in PHASES:
            now = f"{done:,} of {total:,}" if name == phase else ""
            shown = [
                f"{term.removesuffix('_per_s')}{'/s' if term.endswith('_per_s') else ''} "
                f"{self._latest[f'{name}/{term}']:,.3g}"
                for term in SHOWN[name]
                if f"{name}/{term}" in self._latest
            ]
            table.add_row(name.replace("_", " "), now, "  ".join(shown))
        return table


def dream_of(run: Run) -> dict[str, Frames] | None:
    """Return a dream of a run beside a window of the replay of its checkpoint; None while episodes are too short.

    The file is only read: what is drawn from it changes nothing in the run.
    """
    replay = run.folder / read_checkpoint(run.folder)["replay"]
    with reverie.open(replay, residency="disk", mode="r", seed=run.seed) as buffer:
        try:
            agent = run.agent
            return dream(
                agent.tokenizer, agent.world_model, buffer, run.seed, actor_critic=agent.actor_critic
            ).rows
        except NotEnoughData:
            return None


def scale_of(run: Run) -> int:
    """Return by how much pictures enlarge the frames of a run."""
    return max(1, PICTURE_SIDE // run.config.tokenizer.frame[1])


def draw_dream(run: Run, path: Path) -> None:
    """Write a dream, if there is one, as a strip of frames (.png) and as an animation (.gif)."""
    rows = dream_of(run)
    if rows is not None:
        draw_strip(path.with_suffix(".png"), rows, scale=scale_of(run))
        draw_animation(path.with_suffix(".gif"), rows, scale=scale_of(run))


def train(run: Run, console: Console) -> None:
    """Run all epochs that are left, and show them."""
    with Monitor(run, console) as monitor:
        while run.done < run.config.epochs:
            monitor.epoch(run.epoch(monitor.step))

"""The page of a run, or of runs from several seeds: returns, losses, times, a dream, settings."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

import reverie
from reverie.errors import BadSetting, counted
from reverie.iris.app.monitor import METRICS, PHASES, dream_of
from reverie.iris.config import Config, config_from_json
from reverie.iris.learning import CHECKPOINT, History, Run, games, interval, read_checkpoint
from reverie.pictures import Frames
from reverie.report import Curves, Group, run_page

Told = list[dict[str, float]]
Line = tuple[list[float], list[float]]  # x and y
Area = tuple[list[float], list[float], list[float]]  # x, lowest and highest y
LOSSES = {
    "tokenizer": ("total", "reconstruction", "commitment", "perceptual"),
    "world_model": ("total", "observation", "reward", "end"),
    "actor_critic": ("total", "policy", "value", "entropy", "mean_value"),
}
POINTS = 300  # of a curve of losses
PAGE = "report.html"  # in the folder of a run
SPREAD = 3  # seeds, from which on a standard error tells something
BANDS = " A level band is the mean ± 1.96 standard errors of agents that learned nothing."
DREAM_TOLD = (
    "A window of the replay: as it was, as the tokenizer gives it back, imagined with the same actions, and where the "
    "two differ visibly. One slider moves all of them."
)


def report_run(folder: Path, target: Path, *, force: bool = False, run: Run | None = None) -> Path:
    """Write the page of a run, and return its path.

    Args:
        folder: of a run of `reverie train`, or of runs of several seeds, as `reverie learn` makes it.
        target: the page; force: whether it may be there already.
        run: the run of the folder, if it is open; None opens one to read.

    Raises:
        BadSetting: there is no run. FileTaken: `target` is there. FileError: something cannot be read or written.
    """
    runs = _runs(folder)
    if not runs:
        raise BadSetting(f"run: wanted a folder with {CHECKPOINT}, got {folder}; start a run there first")
    states = {one.name: read_checkpoint(one) for one in runs}
    told = {one.name: _metrics(one, int(states[one.name]["epoch"])) for one in runs}
    first = states[runs[0].name]
    config = config_from_json(first["config"])
    if run is None:
        with closing(Run.read(runs[0], games(first["game"]))) as opened:
            dreamt = dream_of(opened)
    else:
        dreamt = dream_of(run)
    last = {
        name: [line["test/return"] for line in lines if "test/return" in line][-1:]
        for name, lines in told.items()
    }
    tested = [value for values in last.values() for value in values]
    facts = [
        ("game", str(first["game"])),
        ("epochs", ", ".join(f"{state['epoch']} of {config.epochs}" for state in states.values())),
        ("real steps", f"{first['steps']:,}"),
        ("return of the last test", ", ".join(f"{value:.2f}" for value in tested) or "none yet"),
        ("seeds", ", ".join(str(state["seed"]) for state in states.values())),
        (
            "time",
            f"{sum(line.get('duration_s', 0) for lines in told.values() for line in lines) / 60:.1f} min",
        ),
    ]
    known = {name: interval(values) for name, values in _compared(folder).items()}
    return run_page(
        target,
        title=f"{folder.name}: IRIS on {first['game']}",
        state=f"{counted(len(runs), 'run')} of {folder}.",
        facts=facts,
        groups=[
            returns_of(told, _bounds(known)),
            *_losses(told),
            *_times(told),
        ],
        dream=dreamt,
        dream_told=DREAM_TOLD if dreamt else "No episode is long enough for a dream yet.",
        settings=[*_versions(), *_flat(config)],
        force=force,
    )


def report_demo(
    folder: Path, game: str, dreamt: Mapping[str, Frames], histories: Mapping[str, History], config: Config
) -> Path:
    """Write the page of a demonstration into its folder, in place of an older one, and return its path."""
    shown = [
        Curves(f"{name}: {term}", "update", "", {term: _thinned(losses)})
        for name, history in histories.items()
        for term, losses in history.losses.items()
    ]
    counts = {name: len(next(iter(history.losses.values()))) for name, history in histories.items()}
    return run_page(
        folder / PAGE,
        title=f"{folder.name}: what a small IRIS dreams of {game}",
        state="A demonstration.",
        facts=[("game", game), *((f"updates of the {name}", f"{updates:,}") for name, updates in counts.items())],
        groups=[Group("Losses", f"Means of up to {POINTS} stretches of updates.", shown)],
        dream=dreamt,
        dream_told=DREAM_TOLD,
        settings=[*_versions(), *_flat(config)],
        force=True,
    )  # fmt: skip


def _thinned(values: Sequence[float]) -> Line:
    """Return a curve of means of stretches of a long list."""
    parts = np.array_split(np.asarray(values, float), min(POINTS, max(len(values), 1)))
    stops = np.cumsum([len(part) for part in parts])
    return stops.astype(float).tolist(), [float(part.mean()) for part in parts if len(part)]


def _versions() -> list[tuple[str, str]]:
    return [
        ("reverie", reverie.__version__), ("Python", platform.python_version()), ("PyTorch", str(torch.__version__)),
        ("NumPy", np.__version__), ("machine", f"{platform.system()} {platform.machine()}"),
    ]  # fmt: skip


def _runs(folder: Path) -> list[Path]:
    """Return the folders of runs: this one, or those of its seeds."""
    if (folder / CHECKPOINT).exists():
        return [folder]
    return sorted(one.parent for one in folder.glob(f"seed-*/{CHECKPOINT}"))


def _compared(folder: Path) -> dict[str, list[float]]:
    """Return returns of whole games of agents that learned nothing, where `reverie learn` has kept some."""
    path = folder / "learning.json"
    if not path.exists():
        return {}
    results = json.loads(path.read_text())
    kinds = {"random play": "random", "untrained": "untrained"}
    return {name: [one for result in results for one in result[key]] for name, key in kinds.items()}


def _metrics(folder: Path, done: int) -> Told:
    """Return the lines of the epochs that the checkpoint has."""
    path = folder / METRICS
    lines = path.read_text().splitlines()[:done] if path.exists() else []
    return [json.loads(line) for line in lines]


def _line(lines: Told, name: str, x: str = "epoch") -> Line:
    found = [
        (line[x], line[name]) for line in lines if name in line and x in line and math.isfinite(line[name])
    ]
    return [one for one, _ in found], [two for _, two in found]


def _bounds(known: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return lowest and highest of each interval, which is a mean and half a width."""
    return {name: (mean - half, mean + half) for name, (mean, half) in known.items()}


def returns_of(told: Mapping[str, Told], bands: Mapping[str, tuple[float, float]]) -> Group:
    """Return the plots of returns: a line for each seed, and of several seeds their mean and how far they lie apart.

    Args:
        told: seed -> what its epochs noted. bands: name -> lowest and highest return of agents that learned nothing.
    """
    tests = {name: _line(lines, "test/return", "steps") for name, lines in told.items()}
    plays = {name: _line(lines, "play/return", "steps") for name, lines in told.items()}
    seeds = list(tests.values())
    spread = _spread(seeds) if len(told) > 1 else {}
    if len(told) > 1:
        tests["mean of all seeds"] = _mean(seeds)
    return Group(
        "Returns",
        "Sums of rewards of whole games, by real steps." + BANDS * bool(bands),
        [
            Curves("Tests after an epoch", "real steps", "mean return", tests, bands, spread),
            Curves("Games played to learn from", "real steps", "mean return", plays),
        ],
    )


def _common(curves: Sequence[Line]) -> tuple[list[float], list[list[float]]]:
    """Return the x that all curves have, and for each of them the y of every curve."""
    common = sorted(set.intersection(*(set(xs) for xs, _ in curves)))
    at = [dict(zip(xs, ys, strict=True)) for xs, ys in curves]
    return common, [[one[x] for one in at] for x in common]


def _mean(curves: Sequence[Line]) -> Line:
    """Return the mean of curves at the x that all of them have."""
    common, values = _common(curves)
    return common, [fmean(ys) for ys in values]


def _spread(curves: Sequence[Line]) -> dict[str, Area]:
    """Return how far the seeds lie apart, under the name of what is shown: a standard error of two says nothing."""
    common, values = _common(curves)
    if len(curves) < SPREAD:
        return {"lowest to highest seed": (common, [min(ys) for ys in values], [max(ys) for ys in values])}
    bounds = [(mean - half, mean + half) for mean, half in map(interval, values)]
    return {"mean ± 1.96 standard errors": (common, [low for low, _ in bounds], [high for _, high in bounds])}


def _losses(told: Mapping[str, Told]) -> list[Group]:
    shown = []
    for phase, terms in LOSSES.items():
        for term in terms:
            found = {name: _line(lines, f"{phase}/{term}") for name, lines in told.items()}
            if any(ys for _, ys in found.values()):
                shown.append(Curves(f"{phase}: {term}".replace("_", " "), "epoch", "", found))
    return [Group("Losses", "Means over the updates of each epoch.", shown)] if shown else []


def _times(told: Mapping[str, Told]) -> list[Group]:
    """Return how long each phase took in each epoch of the first run, if it noted that."""
    lines = next(iter(told.values()))
    spent = {phase.replace("_", " "): _line(lines, f"{phase}/duration_s") for phase in PHASES}
    shown = {name: line for name, line in spent.items() if line[1]}
    plots = [Curves("Time of each phase", "epoch", "seconds", shown)]
    return [Group("Times", "Seconds of each phase, of the first run.", plots)] if shown else []


def _flat(config: Any, name: str = "") -> list[tuple[str, str]]:
    """Return the numbers of a configuration by dotted names."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        path = f"{name}.{key}" if name else key
        found += _flat(value, path) if isinstance(value, dict) else [(path, str(value))]
    return found

"""The page of a training run: what it returned, lost and dreamt. It knows curves and frames, and no agent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.report import plots
from reverie.report.frames import Frames, as_pictures, sheets_of
from reverie.report.html import drawn, free_target, render, told_to_player, write

Line = tuple[Sequence[float], Sequence[float]]  # x and y of the points of a curve
Area = tuple[Sequence[float], Sequence[float], Sequence[float]]  # x, lowest and highest y of each


@dataclass(frozen=True)
class Curves:
    """One plot.

    Attributes:
        title, x, y: what stands on it. lines: name -> points.
        bands: name -> lowest and highest y, the same at every x. areas: name -> lowest and highest y at each x,
            in the colour of the last line. Both lie behind the lines.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Line]
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    areas: Mapping[str, Area] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A section with several plots, and a sentence above them."""

    title: str
    told: str
    plots: Sequence[Curves]


def run_page(
    target: str | os.PathLike[str],
    *,
    title: str,
    state: str,
    facts: Sequence[tuple[str, str]],
    groups: Sequence[Group],
    dream: Mapping[str, Frames] | None,
    dream_told: str,
    settings: Sequence[tuple[str, str]],
    force: bool = False,
) -> Path:
    """Write the page of a run as one HTML file, and return its path.

    Args:
        target: the file. title, state: what it is about; facts: names and values of the overview.
        groups: sections of plots.
        dream: label -> (T + 1, 3, H, W) uint8 frames, which one slider moves together; None if there is none.
        dream_told: what the dream is. settings: names and values.
        force: whether `target` may be there already.

    Raises:
        FileTaken: `target` is there. FileError: it cannot be written.
        ModuleNotFoundError: a package of the extra `report` is missing.
    """
    path = free_target(target, force)
    curves = [one for group in groups for one in group.plots]
    script, divs = drawn({f"plot{at}": plots.lines(one) for at, one in enumerate(curves)})
    ready = iter(divs.values())
    text = render(
        "run.html.j2",
        title=title,
        state=state,
        bokeh=["bokeh"],
        script=script,
        facts=facts,
        groups=[
            {
                "id": group.title.lower().replace(" ", "-"),
                "title": group.title,
                "told": group.told,
                "plots": [next(ready) for _ in group.plots],
            }
            for group in groups
        ],
        dream_told=dream_told,
        settings=settings,
        told=told_to_player([_played(dream)] if dream else [], [], plots.COLOURS),
    )
    write(path, text)
    return path


def _played(dream: Mapping[str, Frames]) -> dict[str, Any]:
    """Return the rows of a dream as an episode that the page plays."""
    count = len(next(iter(dream.values())))
    return {
        "number": 0,
        "title": "Every row begins with the same frame",
        "ids": list(range(count)),
        "every": 1,
        "length": count - 1,
        "has_final": False,
        "curves": {},
        "images": {},
        "frames": {label: (*rows.shape[2:], sheets_of(as_pictures(rows))) for label, rows in dream.items()},
        "metadata": "",
    }

"""The page of a training run: what it returned, lost and dreamt. It knows curves and frames, and no agent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from reverie.errors import FileError, FileTaken, need, printable
from reverie.report import plots
from reverie.report.frames import Frames, as_pictures, sheets_of

Line = tuple[Sequence[float], Sequence[float]]  # x and y of the points of a curve


@dataclass(frozen=True)
class Curves:
    """One plot.

    Attributes:
        title, x, y: what stands on it. lines: name -> points. bands: name -> lowest and highest y, behind the lines.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Line]
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
    for package in ("bokeh", "jinja2", "PIL"):
        need(package)
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment

    path = Path(target)
    if path.exists() and not force:
        raise FileTaken(
            f"{path}: wanted a free path, got one that exists; choose another, or allow it with force"
        )
    drawn = {
        f"plot{at}": plots.lines(one) for at, one in enumerate(one for group in groups for one in group.plots)
    }
    script, divs = components(drawn) if drawn else ("", {})
    ready = iter(divs.values())
    style = files("reverie.report")
    css, player, page = (
        (style / name).read_text("utf-8") for name in ("page.css", "player.js", "run.html.j2")
    )
    text = (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(page)
        .render(
            title=printable(title),
            state=printable(state),
            version=version("reverie"),
            time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            css=css,
            player=player,
            bokeh=Resources("inline", components=["bokeh"]).render(),
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
            told=_json(dream),
        )
    )
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise FileError(
            f"{path}: wanted to write a page, got {error.strerror}; choose another place"
        ) from error
    return path


def _json(dream: Mapping[str, Frames] | None) -> str:
    episodes: list[dict[str, Any]] = []
    if dream:
        count = len(next(iter(dream.values())))
        frames = {label: (*rows.shape[2:], sheets_of(as_pictures(rows))) for label, rows in dream.items()}
        episodes.append(
            {
                "number": 0,
                "title": "Every row begins with the same frame",
                "ids": list(range(count)),
                "every": 1,
                "length": count - 1,
                "has_final": False,
                "curves": {},
                "images": {},
                "frames": frames,
                "metadata": "",
            }
        )
    told = {"episodes": episodes, "groups": [], "colours": plots.COLOURS, "absent": ""}
    return json.dumps(told, separators=(",", ":")).replace("<", "\\u003c")

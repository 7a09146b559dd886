"""One HTML file of plots, text and frames: how its pieces come together, and how it gets to its place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from reverie.checks import check_free
from reverie.errors import FileError, need, printable


def free_target(target: str | os.PathLike[str], force: bool) -> Path:
    """Return the path of a page that can be made: before there is work that would be lost.

    Raises:
        FileTaken: there is something, and `force` does not allow to replace it; or it is a folder.
        BadSetting: there is no folder to put it in.
        ModuleNotFoundError: a package of the extra `report` is missing.
    """
    for package in ("bokeh", "jinja2", "PIL"):
        need(package)
    path = Path(target)
    check_free(path, force=force)
    return path


def drawn(plots: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the script that draws Bokeh's models, and the place of each in the page, as HTML by name."""
    from bokeh.embed import components

    script, divs = components(dict(plots)) if plots else ("", {})
    return script, divs


def render(template: str, *, title: str, state: str, bokeh: Sequence[str], **given: Any) -> str:
    """Return a page.

    Args:
        template: the name of a file of this room. title, state: what it is about.
        bokeh: parts of Bokeh that it needs.
        **given: what else the template asks for.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment

    room = files("reverie.report")
    page, css, player = ((room / name).read_text("utf-8") for name in (template, "page.css", "player.js"))
    text: str = (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(page)
        .render(
            title=printable(title),
            state=printable(state),
            version=version("reverie"),
            time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            css=css,
            player=player,
            bokeh=Resources("inline", components=list(bokeh)).render(),
            **given,
        )
    )
    return text


def told_to_player(
    episodes: Sequence[Mapping[str, Any]], groups: Sequence[str], colours: Sequence[str]
) -> str:
    """Return what the page's script is told, as JSON that is safe inside of a script element.

    Args:
        episodes: to play. groups: names of the plots that follow them; colours: of their lines.
    """
    told = {
        "episodes": episodes,
        "groups": groups,
        "colours": colours,
        "absent": "ask for it by its number when the page is written, or allow a larger page.",
    }
    return json.dumps(told, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def write(path: Path, text: str) -> None:
    """Write a page.

    Raises:
        FileError: it cannot be written.
    """
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise FileError(
            f"{path}: wanted to write a page, got {error.strerror}; choose another place"
        ) from error

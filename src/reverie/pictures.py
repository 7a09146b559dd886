"""Pictures of frames: sheets of paper with enlarged pixels and captions, alone or as an animation.

The name of a file says which: .png is one sheet, .gif an animation.

Pillow is imported when the first sheet is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reverie.checks import check_free
from reverie.errors import BadSetting, FileError, FileTaken, need

if TYPE_CHECKING:
    from PIL import ImageFont

Frames = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

INK, PAPER = (20, 20, 20), (255, 255, 255)
SHEET, ANIMATION = ".png", ".gif"


def check_picture(out: Path, *, force: bool = False) -> None:
    """Refuse a path at which no picture can be made, before there is work that would be lost.

    Args:
        out: where the picture is to be.
        force: a file that is there already may be replaced.

    Raises:
        BadSetting: its name ends otherwise, or there is no folder to put it in.
        FileTaken: there is something at this path already.
    """
    if out.suffix.lower() not in (SHEET, ANIMATION):
        raise BadSetting(
            f"out: wanted a name that ends in .gif or .png, got {out.name!r}; "
            f"a GIF moves, a PNG shows all frames side by side"
        )
    check_free(out, force=force)


@contextmanager
def writing_picture(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a path to write a picture to; it gets its own name when all of it is there.

    Args:
        out: where the picture is to be; force: as for `check_picture`.

    Raises:
        BadSetting, FileTaken: as from `check_picture`.
        FileError: it cannot be written.
    """
    check_picture(out, force=force)
    draft = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        yield draft
        check_free(out, force=force)  # it may have been taken meanwhile
        os.replace(draft, out)
    except FileTaken:
        raise
    except OSError as error:
        raise FileError(
            f"{out}: wanted to write a picture, got {error.strerror or error}; choose another place"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


class Sheet:
    """A sheet of paper. Places on it are pixels from the left and from the top.

    Args:
        width, height: in pixels.
        colour: of the paper.
    """

    def __init__(self, width: int, height: int, colour: Colour = PAPER) -> None:
        need("PIL")
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), colour)
        self._pen = ImageDraw.Draw(self.image)

    def fill(self, colour: Colour, x: int, y: int, width: int, height: int) -> None:
        """Paint a rectangle."""
        self.image.paste(colour, (x, y, x + width, y + height))

    def show(self, frame: Frames, x: int, y: int, *, scale: int) -> None:
        """Put a frame, (height, width) or (height, width, 3), with its upper left corner at a place.

        Every pixel becomes a square of side `scale`; nothing is smoothed.
        """
        need("PIL")
        from PIL import Image

        height, width = frame.shape[:2]
        picture = Image.fromarray(np.ascontiguousarray(frame)).convert("RGB")
        self.image.paste(picture.resize((scale * width, scale * height), Image.Resampling.NEAREST), (x, y))

    def paste(self, sheet: Sheet, x: int, y: int) -> None:
        """Put another sheet with its upper left corner at a place."""
        self.image.paste(sheet.image, (x, y))

    def write(
        self,
        text: str,
        x: int,
        y: int,
        *,
        size: int = 16,
        ink: Colour = INK,
        centred: bool = False,
        spacing: int = 4,
    ) -> None:
        """Write lines whose middle is at height `y`; they begin at `x`, or have their centre there."""
        anchor, align = ("mm", "center") if centred else ("lm", "left")
        self._pen.text((x, y), text, ink, _font(size), anchor=anchor, align=align, spacing=spacing)

    def save(self, path: Path) -> None:
        """Write it as a picture of the kind that the name ends in."""
        self.image.save(path)


def width_of(text: str, size: int = 16) -> float:
    """Return how many pixels wide a line of text is."""
    return _font(size).getlength(text)


def save_animation(
    path: Path, sheets: Iterable[Sheet], durations: int | Sequence[int], comment: str = ""
) -> None:
    """Write sheets of one size as an endless GIF.

    Args:
        path: where to.
        sheets: at least one.
        durations: how many milliseconds all sheets are shown, or each of them.
        comment: what the file says of itself.
    """
    images = (sheet.image for sheet in sheets)
    said: dict[str, Any] = {"comment": comment.encode()} if comment else {}
    next(images).save(path, save_all=True, append_images=images, duration=durations, loop=0, **said)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    need("PIL")
    from PIL import ImageFont

    return ImageFont.load_default(size)

"""Frames of observations: which arrays are some, and sheets of them as lossless WebP."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reverie.errors import need
from reverie.spec import Field

Array = npt.NDArray[Any]
Frames = npt.NDArray[np.uint8]

LEAST_SIDE, MOST_SIDE = 4, 4_096  # pixels of a frame
SHEET_SIDE = 4_096  # pixels of a sheet; WebP has at most 16,383, and browsers draw smaller ones faster
MOST_ON_SHEET = 400  # frames: one sheet is unpacked at a time


class Sheet(NamedTuple):
    """Frames side by side in one picture.

    Attributes:
        data: the picture as a data URI.
        frames: how many there are. across: of them in a row.
        nbytes: of the data URI.
    """

    data: str
    frames: int
    across: int

    @property
    def nbytes(self) -> int:
        """Bytes that the sheet takes on a page."""
        return len(self.data)


def is_frame(field: Field) -> bool:
    """Whether the values of a field are pictures: uint8 of (height, width), with channels first or last."""
    shape = field.shape
    if field.dtype != np.uint8 or len(shape) not in (2, 3):
        return False
    height, width = _size(shape)
    return min(height, width) >= LEAST_SIDE and max(height, width) <= MOST_SIDE


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width; the smallest axis of three at either end has the channels."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return (shape[1], shape[2]) if shape[0] <= shape[2] else (shape[0], shape[1])


def as_pictures(rows: Array) -> Frames:
    """Return frames (N, …) as (N, height, width, 3); of stacked frames the newest, which is the last one."""
    if rows.ndim == 4 and rows.shape[1] <= rows.shape[3]:
        rows = np.moveaxis(rows, 1, -1)
    if rows.ndim == 3:
        rows = rows[..., None]
    if rows.shape[-1] != 3:
        rows = rows[..., -1:]
    return np.ascontiguousarray(np.broadcast_to(rows, (*rows.shape[:3], 3)), np.uint8)


def sheets_of(pictures: Frames) -> list[Sheet]:
    """Return pictures (N, height, width, 3) as sheets, pixel for pixel."""
    _, height, width, _ = pictures.shape
    across = max(1, min(20, SHEET_SIDE // width))
    each = across * max(1, min(MOST_ON_SHEET // across, SHEET_SIDE // height))
    return [_sheet(pictures[first : first + each], across) for first in range(0, len(pictures), each)]


def _sheet(pictures: Frames, across: int) -> Sheet:
    count, height, width, _ = pictures.shape
    down = -(-count // across)
    paper = np.zeros((down * across, height, width, 3), np.uint8)
    paper[:count] = pictures
    sheet = (
        paper.reshape(down, across, height, width, 3).swapaxes(1, 2).reshape(down * height, across * width, 3)
    )
    return Sheet(data_uri(sheet), count, across)


def data_uri(picture: Frames, kind: str = "WEBP") -> str:
    """Return a picture, (height, width, 3), as a data URI, pixel for pixel."""
    need("PIL")
    from PIL import Image

    out = io.BytesIO()
    more: dict[str, Any] = {"lossless": True, "quality": 60, "method": 3} if kind == "WEBP" else {}
    Image.fromarray(np.ascontiguousarray(picture)).save(out, kind, **more)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"

"""The pictures that training leaves behind: curves of the losses, and a dream beside what really happened."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from reverie import BadSetting
from reverie.iris.learning import History

Frames = npt.NDArray[np.uint8]
"""(T, 3, H, W), channels first."""

GAP = 6  # pixels between frames
LETTER = 9  # pixels of a letter's width, about
INK, PAPER = (20, 20, 20), (255, 255, 255)
SHADES = ("dimgray", "darkkhaki", "rosybrown")  # of the bands
SMOOTHING = 50  # a curve shows means over this fraction of the run
FRAME_MS = 220  # how long the animation shows a frame


def draw_losses(path: Path, histories: Mapping[str, History]) -> None:
    """Write a PNG with one panel of loss curves for each named training run, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(histories), 4), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of our own leaves the caller's windows and settings alone
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (title, history) in zip(panels, histories.items(), strict=True):
        for name, values in history.losses.items():
            window = max(1, len(values) // SMOOTHING)
            # The logarithmic axis has no zero.
            mean = np.convolve(values, np.ones(window) / window, "valid")
            updates = np.arange(window - 1, len(values))
            axes.plot(updates, np.maximum(mean, 1e-6), label=name, linestyle="--" if name == "total" else "-")
        axes.set_yscale("log")
        axes.set_xlabel("update")
        axes.set_ylabel("loss, running mean")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def draw_returns(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    bands: Mapping[str, tuple[float, float]],
    title: str,
) -> None:
    """Write a PNG with a learning curve for each entry.

    Args:
        path: where to.
        curves: label -> (real steps, mean return) of each test.
        bands: label -> (mean, half the width of its interval) of what did not learn, drawn across.
        title: what was played.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, curve in curves.items():
        axes.plot([steps for steps, _ in curve], [mean for _, mean in curve], marker="o", label=label)
    for shade, (label, (mean, half)) in zip(itertools.cycle(SHADES), bands.items()):
        axes.axhspan(mean - half, mean + half, color=shade, alpha=0.3, linewidth=0)
        axes.axhline(mean, color=shade, linestyle="--", label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of real games")
    axes.set_ylabel("mean return of a test")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_strip(
    path: Path, rows: Mapping[str, Frames], *, every: int = 2, scale: int = 3, captions: Sequence[str] = ()
) -> None:
    """Write a PNG with a labelled row of frames for each entry, a column for every `every`th step.

    Args:
        path: where to.
        rows: label -> frames, all of one shape; frame t of each row belongs to step t.
        every: steps from one column to the next.
        scale: every pixel becomes a square of this side, nothing is smoothed.
        captions: what stands under the number of each column's step, for every column one; none leaves no room.
    """
    _check_rows(rows)
    line = 24
    label_width, header = 150, line * (1 + max((caption.count("\n") + 1 for caption in captions), default=0))
    columns = range(0, len(next(iter(rows.values()))), every)
    height, width = (scale * side + GAP for side in next(iter(rows.values())).shape[2:])
    sheet = Image.new("RGB", (label_width + width * len(columns), header + height * len(rows)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, step in enumerate(columns):
        x = label_width + width * column
        middle = x + (width - GAP) // 2
        pen.text((middle, line // 2), f"step {step}", INK, font, anchor="mm")
        if captions:
            pen.multiline_text(
                (middle, (line + header) // 2), captions[column], INK, font, anchor="mm", align="center"
            )
        for row, frames in enumerate(rows.values()):
            sheet.paste(_enlarged(frames[step], scale), (x, header + height * row))
    for row, label in enumerate(rows):
        y = header + height * row + (height - GAP) // 2
        pen.multiline_text((8, y), _wrapped(label, 17), INK, font, anchor="lm", spacing=6)
    sheet.save(path)


def draw_animation(path: Path, rows: Mapping[str, Frames], *, scale: int = 4) -> None:
    """Write an endless GIF that shows the entries side by side, one frame a step; see `draw_strip`."""
    _check_rows(rows)
    header = 66
    steps, _, height, width = next(iter(rows.values())).shape
    sheets = []
    for step in range(steps):
        size = ((scale * width + GAP) * len(rows) - GAP, header + scale * height)
        sheet = Image.new("RGB", size, PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
        for column, (label, frames) in enumerate(rows.items()):
            x = (scale * width + GAP) * column
            text = _wrapped(label, max(8, scale * width // LETTER))
            pen.multiline_text((x + 4, header // 2), text, INK, font, anchor="lm")
            sheet.paste(_enlarged(frames[step], scale), (x, header))
        sheets.append(sheet)
    sheets[0].save(path, save_all=True, append_images=sheets[1:], duration=FRAME_MS, loop=0)


def _check_rows(rows: Mapping[str, Frames]) -> None:
    shapes = {label: frames.shape for label, frames in rows.items()}
    if len(set(shapes.values())) != 1:
        raise BadSetting(
            f"rows: wanted frames of one shape in every row, got {shapes}; cut them to the same steps"
        )


def _enlarged(frame: Frames, scale: int) -> Image.Image:
    height, width = frame.shape[1:]
    image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    return image.resize((scale * width, scale * height), Image.Resampling.NEAREST)


def _wrapped(text: str, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, columns))

"""Pictures of training: curves of losses and returns, and a dream beside what really happened."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reverie import BadSetting
from reverie.iris.learning import History
from reverie.pictures import Frames, Sheet, save_animation

GAP = 6  # pixels between frames
LETTER = 9  # pixels of a letter's width, about
LABELS = 150  # pixels that the labels of a strip take on its left
LINE, HEADER = 24, 66  # pixels of a line above a strip, and of all above an animation
SHADES = ("dimgray", "darkkhaki", "rosybrown")  # of the bands
MARKS = ("o-", "s--", "^-.", "v:")  # of the lines of a panel
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


def draw_panels(
    path: Path,
    panels: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
    ticks: Sequence[str],
    label: str,
    title: str,
) -> None:
    """Write a PNG with a panel of lines for each entry, two side by side.

    Args:
        path: where to.
        panels: title -> name of a line -> its values, one for each tick; NaN leaves a gap.
        ticks: what stands below.
        label: what the ticks are. title: of the whole.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(13, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, lines) in zip(
        figure.subplots(rows, 2, squeeze=False).flat, panels.items(), strict=False
    ):
        axes.set_prop_cycle("color", colormaps["tab20"](range(20)))  # no panel has as many lines
        for mark, (line, values) in zip(itertools.cycle(MARKS), lines.items()):
            axes.plot(range(len(ticks)), values, mark, label=line)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_title(name)
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=110)


def draw_strip(
    path: Path, rows: Mapping[str, Frames], *, every: int = 2, scale: int = 3, captions: Sequence[str] = ()
) -> None:
    """Write a PNG with a labelled row of frames for each entry, a column for every `every`th step.

    Args:
        path: where to.
        rows: label -> frames (T, 3, H, W), all of one shape; frame t of each row belongs to step t.
        every: steps from one column to the next.
        scale: every pixel becomes a square of this side, nothing is smoothed.
        captions: what stands under the number of each column's step, for every column one; none leaves no room.
    """
    _check_rows(rows)
    header = LINE * (1 + max((caption.count("\n") + 1 for caption in captions), default=0))
    steps, _, height, width = next(iter(rows.values())).shape
    height, width = scale * height + GAP, scale * width + GAP
    columns = range(0, steps, every)
    sheet = Sheet(LABELS + width * len(columns), header + height * len(rows))
    for column, step in enumerate(columns):
        x = LABELS + width * column
        middle = x + (width - GAP) // 2
        sheet.write(f"step {step}", middle, LINE // 2, centred=True)
        if captions:
            sheet.write(captions[column], middle, (LINE + header) // 2, centred=True)
        for row, frames in enumerate(rows.values()):
            sheet.show(_channels_last(frames[step]), x, header + height * row, scale=scale)
    for row, label in enumerate(rows):
        y = header + height * row + (height - GAP) // 2
        sheet.write(_wrapped(label, 17), 8, y, spacing=6)
    sheet.save(path)


def draw_animation(path: Path, rows: Mapping[str, Frames], *, scale: int = 4) -> None:
    """Write an endless GIF that shows the entries side by side, one frame a step; see `draw_strip`."""
    _check_rows(rows)
    steps = len(next(iter(rows.values())))
    save_animation(path, (_side_by_side(rows, step, scale) for step in range(steps)), FRAME_MS)


def _side_by_side(rows: Mapping[str, Frames], step: int, scale: int) -> Sheet:
    _, _, height, width = next(iter(rows.values())).shape
    height, width = scale * height, scale * width
    sheet = Sheet((width + GAP) * len(rows) - GAP, HEADER + height)
    for column, (label, frames) in enumerate(rows.items()):
        x = (width + GAP) * column
        sheet.write(_wrapped(label, max(8, width // LETTER)), x + 4, HEADER // 2)
        sheet.show(_channels_last(frames[step]), x, HEADER, scale=scale)
    return sheet


def _check_rows(rows: Mapping[str, Frames]) -> None:
    shapes = {label: frames.shape for label, frames in rows.items()}
    if len(set(shapes.values())) != 1:
        raise BadSetting(
            f"rows: wanted frames of one shape in every row, got {shapes}; cut them to the same steps"
        )


def _channels_last(frame: Frames) -> Frames:
    return frame.transpose(1, 2, 0)


def _wrapped(text: str, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, columns))

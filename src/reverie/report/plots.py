"""The page's plots, table and sliders, made by Bokeh, and what links them to each other."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

# Okabe and Ito (2008), who chose them so that colour-blind people tell them apart; readable on light and on dark.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
COLOURS = [BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, "#999999", "#b8a900"]
ENDED = {"terminated": VERMILION, "truncated": BLUE, "cut": ORANGE, "running": GREEN}
TEXT = "#808080"  # on white and on black alike
BARS = 30
LEGEND_WIDTH, LEGEND_KEY, LEGEND_LETTER = (
    500,
    35,
    6,
)  # pixels: of half a page, of a name's mark, of one letter
LEGEND_LINE = 23

DARK_TABLE = """
:host { font: inherit; }
@media screen and (prefers-color-scheme: dark) {
  .slick-header, .slick-header-column.ui-state-default, .slick-row, .slick-cell, .slick-viewport, .slick-pane
    { background: #1d2126 !important; color: #e6e6e6 !important; border-color: #3a4048 !important; }
  .slick-row.odd .slick-cell { background: #23282e !important; }
  .slick-cell.selected { background: #0b4a73 !important; }
}
"""
DARK_WIDGET = """
:host { font: inherit; }
@media screen and (prefers-color-scheme: dark) {
  input, select, .bk-input
    { background: #1d2126 !important; color: #e6e6e6 !important; border-color: #59606a !important; }
  label, .bk-slider-title, .bk-slider-value { color: #e6e6e6 !important; }
}
"""
NO_PRINT = "@media print { :host { display: none !important; } }"

# Rows that every widget lets through; the table, the plots and the line above them show these.
FILTER = """
const rows = source.data, text = words.value.toLowerCase(), kept = [];
for (let i = 0; i < rows.number.length; i++) {
  const haystack = (rows.ended[i] + ' ' + rows.metadata[i] + ' stream ' + rows.stream[i]).toLowerCase();
  if ((ended.value === 'all' || rows.ended[i] === ended.value)
      && rows.length[i] >= lengths.value[0] && rows.length[i] <= lengths.value[1]
      && (!text || haystack.includes(text))) kept.push(i);
}
filter.indices = kept;
source.change.emit();
count.text = kept.length.toLocaleString('en') + ' of ' + rows.number.length.toLocaleString('en') + ' episodes';
"""
OPEN = "if (cb_obj.indices.length) location.hash = 'episode=' + source.data.number[cb_obj.indices[0]];"


def figure(title: str, x: str, y: str, name: str = "", height: int = 230, **more: Any) -> Any:
    """Return an empty plot that fits light and dark pages."""
    from bokeh.models import InlineStyleSheet
    from bokeh.plotting import figure as make

    plot = make(
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        height=height,
        sizing_mode="stretch_width",
        tools="pan,xwheel_zoom,reset",
        toolbar_location="right",
        name=name or None,
        min_border_right=8,
        **more,
    )
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [InlineStyleSheet(css=NO_PRINT)]
    plot.background_fill_alpha = plot.border_fill_alpha = 0
    plot.outline_line_color = None
    plot.title.text_color = TEXT
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = TEXT
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = TEXT
        axis.axis_label_text_font_style = "normal"
    plot.grid.grid_line_color, plot.grid.grid_line_alpha = TEXT, 0.25
    return plot


def _quiet(legend: Any) -> None:
    """Let a legend fit light and dark pages."""
    legend.background_fill_alpha, legend.label_text_color, legend.border_line_color = 0, TEXT, None


def _legend_above(plot: Any, names: Collection[str] = ()) -> None:
    """Put the legend of a plot above it, where it hides nothing: in a line, or of `names` in as many as they need."""
    _quiet(plot.legend)
    plot.legend.orientation = "horizontal"
    if names:
        columns = max(1, LEGEND_WIDTH // max(LEGEND_KEY + LEGEND_LETTER * len(name) for name in names))
        plot.legend.ncols = columns
        plot.height += LEGEND_LINE * (math.ceil(len(names) / columns) - 1)
    plot.add_layout(plot.legend[0], "above")


def _playhead(group: str) -> Any:
    """Return the line that the page's script moves along a plot of an episode."""
    from bokeh.models import Span

    return Span(location=0, dimension="height", line_color=VERMILION, line_width=2, name=f"head:{group}")


def _columns(plot: Any, tops: Any, edges: npt.NDArray[Any]) -> None:
    """Draw a bar between each two edges."""
    plot.quad(
        bottom=0,
        top=tops,
        left=edges[:-1],
        right=edges[1:],
        fill_color=BLUE,
        line_color=None,
        fill_alpha=0.85,
    )


def table_of(table: npt.NDArray[np.void], metadata: list[str]) -> dict[str, Any]:
    """Return the table of episodes, its filters, its histograms, and the plot of returns.

    Args:
        table: of the episodes; metadata: of each, as text.
    """
    from bokeh.models import (
        CDSView,
        ColumnDataSource,
        CustomJS,
        DataTable,
        Div,
        IndexFilter,
        InlineStyleSheet,
        NumberFormatter,
        RangeSlider,
        Select,
        TableColumn,
        TextInput,
    )

    count = len(table)
    returns = np.where(np.isfinite(table["return"]), table["return"], np.nan)
    source = ColumnDataSource(
        {
            "number": np.arange(count),
            "stream": table["stream"],
            "length": table["length"],
            "return": returns,
            "ended": table["ended"].tolist(),
            "metadata": metadata,
            "colour": [ENDED.get(kind, TEXT) for kind in table["ended"].tolist()],
        },
        name="episodes",
    )
    chosen = IndexFilter(indices=list(range(count)))
    view = CDSView(filter=chosen)
    style, plain = InlineStyleSheet(css=DARK_WIDGET), NumberFormatter(format="0,0")
    columns = [
        TableColumn(field="number", title="number", width=70, formatter=plain),
        TableColumn(field="stream", title="stream", width=60, formatter=plain),
        TableColumn(field="length", title="steps", width=70, formatter=plain),
        TableColumn(
            field="return",
            title="return",
            width=90,
            formatter=NumberFormatter(format="0,0.00", nan_format="not finite"),
        ),
        TableColumn(field="ended", title="ended", width=90),
        TableColumn(field="metadata", title="metadata", width=620),
    ]
    grid = DataTable(
        source=source,
        view=view,
        columns=columns,
        index_position=None,
        reorderable=False,
        height=330,
        sizing_mode="stretch_width",
        autosize_mode="none",
        selectable=True,
        stylesheets=[InlineStyleSheet(css=DARK_TABLE)],
    )
    source.selected.js_on_change("indices", CustomJS(args={"source": source}, code=OPEN))
    longest = int(table["length"].max()) if count else 1
    words = TextInput(
        title="Text in a row",
        name="words",
        sizing_mode="stretch_width",
        stylesheets=[style],
    )
    ended = Select(
        title="Ended", value="all", options=["all", *ENDED], sizing_mode="stretch_width", stylesheets=[style]
    )
    lengths = RangeSlider(
        title="Steps",
        start=0,
        end=max(longest, 1),
        value=(0, max(longest, 1)),
        step=1,
        sizing_mode="stretch_width",
        stylesheets=[style],
    )
    told = Div(
        text=f"{count:,} of {count:,} episodes", name="count", styles={"color": TEXT}, stylesheets=[style]
    )
    code = CustomJS(
        args={
            "source": source,
            "words": words,
            "ended": ended,
            "lengths": lengths,
            "filter": chosen,
            "count": told,
        },
        code=FILTER,
    )
    words.js_on_change("value_input", CustomJS(code="cb_obj.value = cb_obj.value_input;"))
    for widget in (words, ended, lengths):
        widget.js_on_change("value", code)
    return {
        "words": words,
        "ended": ended,
        "lengths": lengths,
        "count": told,
        "table": grid,
        "length_bars": bars("Lengths", "steps", table["length"].astype(float)),
        "return_bars": bars("Returns", "return", returns[np.isfinite(returns)]),
        "returns": returns_over_time(source, view, count),
    }


def bars(title: str, x: str, values: npt.NDArray[Any]) -> Any:
    """Return a histogram; outliers beyond three times the interquartile range are gathered in red bars at its ends."""
    plot = figure(title, x, "episodes")
    if not len(values):
        return plot
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low) or np.inf
    inside = values[(values >= low - reach) & (values <= high + reach)]
    counts, edges = np.histogram(inside, min(BARS, max(1, len(np.unique(inside)))))
    _columns(plot, counts, edges)
    width = edges[1] - edges[0] or 1.0
    for many, left in (
        (int((values < low - reach).sum()), edges[0] - 2 * width),
        (int((values > high + reach).sum()), edges[-1] + width),
    ):
        if many:
            plot.quad(
                bottom=0,
                top=[many],
                left=[left],
                right=[left + width],
                fill_color=VERMILION,
                line_color=None,
                legend_label="outliers, gathered",
            )
    if plot.legend:
        _quiet(plot.legend)
    return plot


def returns_over_time(source: Any, view: Any, count: int) -> Any:
    """Return the plot of the return of each episode, in the order in which they began; a click opens one."""
    from bokeh.models import HoverTool, TapTool

    plot = figure(
        "Return of each episode, in the order in which they began",
        "number of the episode",
        "return",
        "returns",
    )
    plot.scatter(
        "number",
        "return",
        source=source,
        view=view,
        color="colour",
        size=5 if count > 500 else 7,
        fill_alpha=0.7,
        line_color=None,
        nonselection_fill_alpha=0.35,
        legend_field="ended",
    )
    plot.add_tools(
        TapTool(),
        HoverTool(
            tooltips=[
                ("episode", "@number"),
                ("stream", "@stream"),
                ("steps", "@length"),
                ("return", "@return"),
                ("ended", "@ended"),
            ]
        ),
    )
    _legend_above(plot)
    return plot


def curves(groups: list[str]) -> list[Any]:
    """Return a plot for each group of curves of an episode; the page's script fills them when one is opened."""
    from bokeh.models import ColumnDataSource

    plots = []
    for group in groups:
        plot = figure(group, "step of the episode", "", height=170)
        source = ColumnDataSource(
            {"xs": [[0, 1]], "ys": [[0, 0]], "colour": [TEXT], "name": [""]}, name=f"curves:{group}"
        )
        plot.multi_line("xs", "ys", source=source, line_color="colour", line_width=1.5, legend_field="name")
        _legend_above(plot)
        plot.add_layout(_playhead(group))
        plots.append(plot)
    return plots


def images(groups: list[str]) -> list[Any]:
    """Return a plot for each wide vector: its numbers from bottom to top, steps from left to right."""
    from bokeh.models import ColumnDataSource, LinearColorMapper

    plots = []
    for group in groups:
        plot = figure(
            f"{group}: its numbers, from the first at the bottom to the last",
            "step of the episode",
            "",
            height=190,
        )
        source = ColumnDataSource({"image": [np.zeros((1, 1))], "dw": [1], "dh": [1]}, name=f"image:{group}")
        plot.image(
            "image",
            x=0,
            y=0,
            dw="dw",
            dh="dh",
            source=source,
            color_mapper=LinearColorMapper(palette="Cividis256"),
        )
        plot.add_layout(_playhead(group))
        plots.append(plot)
    return plots


def by_age(title: str, y: str, values: list[float], level: float | None = None) -> Any:
    """Return bars for the steps of each age, beside a dashed line at some level."""
    from bokeh.models import Span

    plot = figure(title, "oldest steps  →  newest steps", y)
    _columns(plot, values, np.linspace(0, 1, len(values) + 1))
    if level is not None:
        plot.add_layout(
            Span(location=level, dimension="width", line_color=ORANGE, line_width=2, line_dash="dashed")
        )
    plot.xaxis.ticker = []
    return plot


def _area(plot: Any, name: str, area: Any, colour: str) -> None:
    """Fill what lies between two curves: x, and the lowest and highest y of each."""
    xs, lows, highs = map(list, area)
    plot.varea(xs, lows, highs, fill_color=colour, fill_alpha=0.25, legend_label=name)


def lines(asked: Any) -> Any:
    """Return a plot of a `Curves`: its lines, with the bands and areas behind them."""
    from bokeh.models import HoverTool

    plot = figure(asked.title, asked.x, asked.y, height=260)
    points = [x for xs, _ in asked.lines.values() for x in xs] or [0, 1]
    ends = [min(points), max(points)]
    for at, (name, (low, high)) in enumerate(asked.bands.items()):
        _area(plot, name, (ends, [low] * 2, [high] * 2), COLOURS[-1 - at % len(COLOURS)])
    for name, area in asked.areas.items():
        _area(plot, name, area, COLOURS[(len(asked.lines) - 1) % len(COLOURS)])
    for at, (name, (xs, ys)) in enumerate(asked.lines.items()):
        colour = COLOURS[at % len(COLOURS)]
        plot.line(list(xs), list(ys), line_color=colour, line_width=2, legend_label=name, name=name)
        plot.scatter(list(xs), list(ys), color=colour, size=4, legend_label=name, name=name)
    plot.add_tools(HoverTool(tooltips=[("", "$name"), (asked.x, "$x{0,0}"), ("", "$y{0.000}")]))
    if plot.legend:
        _legend_above(plot, [*asked.bands, *asked.areas, *asked.lines])
    return plot

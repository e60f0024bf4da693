"""The plots: each takes numbers and names, and gives an `svg` element."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet_edge.report.numbers import significant
from alexnet_edge.report.page import printable
from alexnet_edge.report.svg import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    draw,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

MOST_SERIES = len(SERIES)
_LONGEST_IN_LEGEND = 48
_WIDER = 1.2
"""The page's font may be wider than the one that is measured."""


@dataclasses.dataclass(frozen=True)
class Series:
    """A named line, or a group of bars.

    Attributes:
        name: for the legend.
        x, y: its points; x are positions or the names of bars.
        low, high: the intervals of y; empty for none.
        doubtful: which points a cross is drawn over; empty for none.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    doubtful: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Axis:
    """What an axis shows, and whether on a logarithmic scale."""

    label: str
    log: bool = False
    ticks: tuple[float, ...] = ()


def plot_lines(key: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Draw lines with markers, and intervals where there are any."""

    def paint(axes: Axes) -> None:
        for at, line in enumerate(series):
            color = SERIES[at]
            axes.plot(
                line.x, line.y, color=color, linestyle=DASHES[at], marker=MARKERS[at],
                markersize=5, linewidth=1.8, label=_short(line.name, _LONGEST_IN_LEGEND),
            )  # fmt: skip
            if line.low:
                axes.vlines(line.x, line.low, line.high, color=color, linewidth=1.4, alpha=0.7)
            crossed = [at for at, is_doubtful in enumerate(line.doubtful) if is_doubtful]
            axes.plot(
                [line.x[at] for at in crossed], [line.y[at] for at in crossed], color=INK,
                linestyle="none", marker="x", markersize=10, markeredgewidth=1.6, zorder=3,
            )  # fmt: skip
        _set_axes(axes, x, y)
        if not y.log:
            top = max((max(line.high or line.y) for line in series), default=1.0)
            axes.set_ylim(0, 1.08 * top or 1)

    return draw(key, 225, paint, legend=len(series))


def plot_steps(key: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Draw histograms as outlines; x are the edges, one more than y."""

    def paint(axes: Axes) -> None:
        for at, line in enumerate(series):
            color = SERIES[at]
            axes.stairs(
                line.y, line.x, color=color, linestyle=DASHES[at], linewidth=1.6,
                label=_short(line.name, _LONGEST_IN_LEGEND),
            )  # fmt: skip
            axes.stairs(line.y, line.x, color=color, fill=True, alpha=0.16)
        _set_axes(axes, x, y)
        axes.set_ylim(bottom=0)

    return draw(key, 225, paint, legend=len(series))


@dataclasses.dataclass(frozen=True)
class Range:
    """Percentiles of one engine, for a plot of ranges."""

    name: str
    p50: float
    p90: float
    p99: float


def plot_ranges(key: str, ranges: Sequence[Range], x: Axis) -> str:
    """Draw p50, p90 and p99 of each as marks on a line."""

    def paint(axes: Axes) -> None:
        names = [_short(item.name) for item in ranges]
        for at, item in enumerate(ranges):
            axes.plot([item.p50, item.p99], [at, at], color=MUTED, linewidth=1.5)
            for marker, value, fill in (
                ("o", item.p50, SERIES[0]), ("|", item.p90, INK), ("D", item.p99, PAPER),
            ):  # fmt: skip
                axes.plot(
                    [value], [at], marker=marker, color=INK, linestyle="none",
                    markerfacecolor=fill, markersize=8 if marker == "|" else 6,
                    label={"o": "p50", "|": "p90", "D": "p99"}[marker] if at == 0 else None,
                )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        _set_axes(axes, x, Axis(""))
        axes.grid(visible=False, axis="y")

    return draw(key, 70 + 26 * len(ranges), paint, legend=3)


def plot_bars(key: str, names: Sequence[str], series: Sequence[Series], x: Axis) -> str:
    """Draw horizontal bars with their values, grouped by name."""
    thick = 0.8 / max(1, len(series))

    def paint(axes: Axes) -> None:
        told: list[tuple[float, Annotation]] = []
        for at, line in enumerate(series):
            places = [row + (at - (len(series) - 1) / 2) * thick for row in line.x]
            axes.barh(
                places,
                line.y,
                thick * 0.88,
                color=SERIES[at],
                label=_short(line.name, _LONGEST_IN_LEGEND),
            )
            for place, value in zip(places, line.y, strict=True):
                told.append((value, axes.annotate(
                    significant(value), (value, place), (4 if value >= 0 else -4, 0),
                    textcoords="offset points", va="center", fontsize=9.5,
                    ha="left" if value >= 0 else "right",
                )))  # fmt: skip
        axes.set_yticks(range(len(names)), [_short(item) for item in names])
        axes.set_ylim(len(names) - 0.45, -0.55)
        if any(value < 0 for value, _ in told):
            axes.axvline(0, color=MUTED, linewidth=1)
        _set_axes(axes, x, Axis(""))
        axes.grid(visible=False, axis="y")
        _leave_room(axes, told)

    height = 46 + max(20, 15 * len(series) + 6) * len(names)
    return draw(key, height, paint, legend=len(series))


def _leave_room(axes: Axes, told: Sequence[tuple[float, Annotation]]) -> None:
    """Set the horizontal limits so that the values beside the bars stand within the axes.

    Args:
        axes: with its names, which take what room they need.
        told: each bar's value, and that as text: to the right, or to the left of negative ones.
    """
    axes.figure.canvas.draw()
    ends = [0.0, 0.0]  # of the bars
    rooms = [0.0, 0.0]  # in pixels, of the widest text beyond them
    for value, text in told:
        side = 0 if value < 0 else 1
        ends[side] = min(ends[0], value) if value < 0 else max(ends[1], value)
        rooms[side] = max(rooms[side], 8 + _WIDER * text.get_window_extent().width)
    width = max(axes.bbox.width, 2 * sum(rooms))
    unit = ((ends[1] - ends[0]) or 1.0) / (width - sum(rooms))
    axes.set_xlim(ends[0] - unit * rooms[0], ends[1] + unit * max(rooms[1], 8))


@dataclasses.dataclass(frozen=True)
class Spot:
    """A point of a scatter.

    Attributes:
        label: written beside it: its number in the table.
        x, y: where it is.
        area: how large it is drawn, from 0 to 1.
        on_front: filled, and joined to the others that are.
    """

    label: str
    x: float
    y: float
    area: float
    on_front: bool


def plot_spots(key: str, spots: Sequence[Spot], x: Axis, y: Axis) -> str:
    """Draw points whose area shows a third figure; those of the front are filled and joined."""

    def paint(axes: Axes) -> None:
        front = sorted((spot for spot in spots if spot.on_front), key=lambda spot: spot.x)
        axes.plot(
            [spot.x for spot in front], [spot.y for spot in front], color=SERIES[0],
            linewidth=1.2, linestyle=(0, (4, 2)), zorder=1,
        )  # fmt: skip
        for spot in spots:
            axes.scatter(
                [spot.x], [spot.y], s=30 + 330 * spot.area, linewidths=1.4, zorder=2,
                facecolors=SERIES[0] if spot.on_front else "none",
                edgecolors=SERIES[0] if spot.on_front else MUTED, alpha=0.75,
            )  # fmt: skip
        _set_axes(axes, x, y)
        axes.margins(0.12)
        _label_spots(axes, spots)

    return draw(key, 260, paint)


def _label_spots(axes: Axes, spots: Sequence[Spot]) -> None:
    """Write each label in whichever corner of its point is farthest from the other points."""
    axes.figure.canvas.draw()
    places = [tuple(axes.transData.transform((spot.x, spot.y))) for spot in spots]
    taken = list(places)
    for spot, place in zip(spots, places, strict=True):
        away = 5 + 9 * spot.area**0.5
        corners = [(away, away), (-away, away), (away, -away), (-away, -away),
                   (away + 9, 0), (-away - 9, 0), (0, away + 8), (0, -away - 8)]  # fmt: skip

        options = [(place[0] + corner[0], place[1] + corner[1]) for corner in corners]
        rooms = [min(math.dist(option, other) for other in taken) for option in options]
        best = corners[rooms.index(max(rooms))]
        taken.append((place[0] + best[0], place[1] + best[1]))
        axes.annotate(
            spot.label, (spot.x, spot.y), best, textcoords="offset points", fontsize=9.5,
            ha="center", va="center", zorder=3,
        )  # fmt: skip


def _set_axes(axes: Axes, x: Axis, y: Axis) -> None:
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        NullFormatter,
        NullLocator,
    )

    for axis, what in ((axes.xaxis, x), (axes.yaxis, y)):
        if what.log:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            low, high = axis.get_view_interval()
            steps = (1.0,) if high > 50 * low else (1.0, 2.0, 5.0)
            axis.set_major_locator(LogLocator(subs=steps))
            axis.set_minor_formatter(NullFormatter())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if what.ticks:
            axis.set_major_locator(FixedLocator(list(what.ticks)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.grid(visible=True, which="major")
    axes.tick_params(length=0, which="both")


def _short(text: str, most: int = 22) -> str:
    """Cut a long name in its middle: its ends tell most."""
    text = " ".join(printable(text).split()) or "?"
    if text.startswith("_"):
        text = f"\u200b{text}"  # matplotlib leaves names that begin with _ out of legends
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"

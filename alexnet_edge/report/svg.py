"""Drawings as inline SVG whose colours follow the page: light, dark and printed.

matplotlib knows no CSS variables, so it draws with placeholder colours that nothing else has, and
they are replaced by variables afterwards. Text stays text, in the page's font. What is drawn is
the same for the same data, byte for byte.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

from alexnet_edge.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, RULE, PAPER = "#0101f1", "#0101f2", "#0101f3", "#0101f4"
SERIES = tuple(f"#0202f{digit}" for digit in range(1, 7))
MARKERS = "os^DvP"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), "-", "-")

_VARIABLES = {
    INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)",
    **{color: f"var(--series-{at})" for at, color in enumerate(SERIES, 1)},
}  # fmt: skip

WIDTH = 352
"""Of a drawing, in CSS pixels: as wide as a phone, so that text keeps its size there."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "alexnet-edge",
    "text.parse_math": False,  # a $ in a class name is a $
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "hatch.linewidth": 0.8,
}


def draw(key: str, height: float, paint: Callable[[Axes], None], *, legend: int = 0) -> str:
    """Return a drawing as an `svg` element.

    Args:
        key: prefix of its ids, which no other drawing of the page has.
        height: in CSS pixels, of the axes with their labels.
        paint: draws into the axes.
        legend: how many series a legend names, above the axes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", needed_for="plots", extra="report") from None
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        mpl.rcdefaults()  # not the user's matplotlibrc: the page is the same everywhere
        mpl.rcParams.update(_SETTINGS)
        rows = legend if legend > 1 else 0
        total = height + 17 * rows
        figure = Figure(figsize=(WIDTH / 72, total / 72), dpi=72, layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        if rows:
            figure.legend(loc="outside upper left", ncols=1, handlelength=2.6, borderpad=0,
                          labelspacing=0.35)  # fmt: skip
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), key)


def _inline(svg: str, key: str) -> str:
    """Return the element alone: no prolog, metadata or fixed size, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {view[0] if view else ""} aria-hidden="true" focusable="false">{body}'
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg).replace("url(#", f"url(#{key}-")
    svg = svg.replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    # Presentation attributes know no variables; declarations do. Empty lines and comments go.
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()

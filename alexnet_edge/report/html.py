"""The page as HTML: one file, no script, nothing fetched."""

from __future__ import annotations

import itertools
import json
from typing import Any

from alexnet_edge.errors import MissingDependencyError
from alexnet_edge.report.page import Block, Page, printable


def render_html(page: Page) -> str:
    """Return the page as one HTML document.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingDependencyError("jinja2", needed_for="the report", extra="report") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_edge.report"),
        autoescape=True,  # names from data are text, whatever they hold
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = json.dumps
    template = environment.get_template("report.html")
    return printable(template.render(page=page, groups=_group_blocks)) + "\n"


def _group_blocks(blocks: tuple[Block, ...]) -> list[tuple[str, list[Any]]]:
    """Put neighbours of a kind together: they stand side by side where there is room.

    A single figure stands beside the tables that follow it.
    """
    groups: list[tuple[str, list[Any]]] = []
    for kind, group in itertools.groupby(blocks, key=lambda block: block.kind):
        members = list(group)
        if kind == "table" and groups and groups[-1][0] == "figure" and len(groups[-1][1]) == 1:
            groups[-1] = "side", groups[-1][1] + members
        else:
            groups.append((kind, members))
    return groups

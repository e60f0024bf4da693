"""Changes between two runs, as `compare --json` found them."""

from __future__ import annotations

from typing import Any

from alexnet_edge.report import numbers
from alexnet_edge.report.page import BAD, GOOD, NOTHING, Block, Cell, Section, Table
from alexnet_edge.report.page import name as name_cell
from alexnet_edge.report.sources import Show, Sources
from alexnet_edge.results_files import ResultsFile
from alexnet_edge.results_files.reading import COMPARE

_SHOWN: dict[str, Show] = {
    "size": numbers.megabytes, "top-1": numbers.percent, "agreement": numbers.percent,
}  # fmt: skip
_GOOD_WORDS = ("faster", "smaller", "better", "less")
_BAD_WORDS = ("slower", "larger", "worse", "more")


def make_changes(sources: Sources) -> Section | None:
    """Return what `compare --json` found, or None without such a file."""
    blocks: list[Block] = []
    for file in sources.of(COMPARE):
        for at, pair in enumerate(file.data["pairs"]):
            listing = tuple(
                _change_row(sources, file, (at, i), change)
                for i, change in enumerate(pair["changes"])
            )
            blocks.append(Table(
                f"Changes: {pair['label']}",
                ("Figure", "Before", "After", "Change", "95 % interval", "Verdict"), listing,
                _verdict(file),
            ))  # fmt: skip
    return Section("changes", "Changes between runs", tuple(blocks)) if blocks else None


def _change_row(
    sources: Sources, file: ResultsFile, at: tuple[int, int], change: dict[str, Any]
) -> tuple[Cell, ...]:
    path = ("pairs", at[0], "changes", at[1])
    word = str(change["verdict"])
    show = _SHOWN.get(str(change["figure"]), numbers.significant)
    flag = GOOD if word in _GOOD_WORDS else BAD if word in _BAD_WORDS else ""
    bounds = NOTHING
    if change.get("low") is not None and change.get("high") is not None:
        bounds = Cell(f"{numbers.signed(change['low'])} to {numbers.signed(change['high'])}")
    beyond = ", beyond the bound" if change.get("fails") else ""
    return (
        name_cell(change["figure"]),
        sources.cell(file, (*path, "first"), show),
        sources.cell(file, (*path, "second"), show),
        sources.cell(file, (*path, "change"), lambda x: f"{numbers.signed(x)} {change['unit']}"),
        bounds, Cell(f"{word}{beyond}", flag=flag),
    )  # fmt: skip


def _verdict(file: ResultsFile) -> str:
    verdict = file.data.get("verdict")
    forced = " The settings were unlike, or a run was not valid." if file.data.get("forced") else ""
    return (f"Verdict: {verdict}." if verdict else "") + forced

"""Figures over time, from the history that `compare --history` keeps."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.answer import FLAGS
from alexnet_edge.report.page import BAD, NOTHING, Block, Cell, Figure, Section, Table
from alexnet_edge.report.page import name as name_cell
from alexnet_edge.results_files import HistoryEntry
from alexnet_edge.results_files.reading import BENCH, CAMERA

_HISTORY_AXES = (
    ("p50_ms", "median latency, ms"), ("top1", "top-1, %"), ("size_bytes", "size, MB"),
    ("fps", "camera: answers a second"), ("age_p50_ms", "camera: median age of an answer, ms"),
)  # fmt: skip
_CAMERA_COLUMNS = {"fps": "Answers/s", "age_p50_ms": "Age p50 ms", "age_p99_ms": "Age p99 ms"}
_TIMED = frozenset((BENCH, CAMERA))
"""Kinds whose figures are a machine's."""


def make_history(entries: Sequence[HistoryEntry]) -> Section | None:
    """Return figures over time, or None without a history.

    A line joins runs of one engine on one machine at the same batch size, scenario and cache; of
    the camera, runs from one source.
    """
    if not entries:
        return None
    entries, is_dated = _by_date(entries)
    blocks: list[Block] = []
    lines = _history_lines(entries)
    for figure, axis in _HISTORY_AXES:
        known = list(lines.get(figure, {}).items())
        if known and len(entries) > 1:
            left = len(known) - plots.MOST_SERIES
            more = f" {left} more lines are in the table alone." if left > 0 else ""
            blocks.append(_history_figure(figure, axis, known[: plots.MOST_SERIES], more))
    blocks.append(_history_table(entries, is_dated))
    return Section("history", "History", tuple(blocks))


def _by_date(entries: Sequence[HistoryEntry]) -> tuple[Sequence[HistoryEntry], bool]:
    """Return the runs and whether the oldest is first: not so where one lacks a date."""
    dates = [_date_of(entry) for entry in entries]
    known = [date for date in dates if date is not None]
    if len(known) < len(entries):
        return entries, False
    return [entries[at] for at in sorted(range(len(entries)), key=lambda at: known[at])], True


def _date_of(entry: HistoryEntry) -> datetime.datetime | None:
    """Return when a run was; UTC where no zone is stated, None where it is no date."""
    text = entry.date.strip()
    try:
        date = datetime.datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] == "Z" else text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A figure of a run: its number in the table, the value, and whether the run is valid."""

    number: int
    value: float
    is_valid: bool


_Lines = dict[str, dict[str, list[_Run]]]


def _history_lines(entries: Sequence[HistoryEntry]) -> _Lines:
    """Return for each figure its lines, of each engine at its smallest batch size."""
    machines = {_machine(entry) for entry in entries if entry.kind in _TIMED}
    smallest: dict[str, int] = {}
    for entry in (entry for entry in entries if entry.kind == BENCH):
        for row in entry.rows:
            engine, batch = str(row.get("engine")), _batch(row)
            smallest[engine] = min(batch, smallest.get(engine, batch))
    lines: _Lines = {}
    for at, entry in enumerate(entries, start=1):
        for row in entry.rows:
            if entry.kind == BENCH and _batch(row) > smallest[str(row.get("engine"))]:
                continue
            label = _line_name(entry, row, with_machine=len(machines) > 1)
            for figure, value in row["figures"].items():
                if value is not None:
                    lines.setdefault(figure, {}).setdefault(label, []).append(
                        _Run(at, value, row.get("valid") is not False)
                    )
    return lines


def _batch(row: Mapping[str, Any]) -> int:
    batch = row.get("batch")
    return batch if isinstance(batch, int) else 1


def _history_figure(
    figure: str, axis: str, drawn: Sequence[tuple[str, list[_Run]]], more: str
) -> Figure:
    scale = {"size_bytes": 1e-6, "top1": 100.0}.get(figure, 1.0)
    series = [
        plots.Series(
            label,
            tuple(float(run.number) for run in runs),
            tuple(scale * run.value for run in runs),
            doubtful=tuple(not run.is_valid for run in runs),
        )
        for label, runs in drawn
    ]
    count = max(int(x) for line in series for x in line.x)
    step = -(-count // 8)
    ticks = tuple(float(x) for x in range(1, count + 1, step))
    svg = plots.plot_lines(
        f"history-{figure}", series, plots.Axis("run", ticks=ticks), plots.Axis(axis)
    )
    told = "; ".join(
        f"{line.name}: {numbers.significant(line.y[0])} at first, "
        f"{numbers.significant(line.y[-1])} at last"
        for line in series
    )
    doubtful = sorted({run.number for _, runs in drawn for run in runs if not run.is_valid})
    told += f"; not valid: run {', '.join(map(str, doubtful))}" if doubtful else ""
    cross = " A cross marks what is not valid." if doubtful else ""
    return Figure(
        svg,
        f"{axis} over the runs of the history. {told}.",
        f"{axis[:1].upper()}{axis[1:]}, by run; each engine at its smallest batch size, "
        f"runs numbered as in the table.{cross}{more}",
    )


def _history_table(entries: Sequence[HistoryEntry], is_dated: bool) -> Table:
    listing = []
    camera = _CAMERA_COLUMNS if any(entry.kind == CAMERA for entry in entries) else {}
    for at, entry in enumerate(entries, start=1):
        for row in entry.rows:
            figures = row["figures"]

            def cell(key: str, show: Any, figures: dict[str, Any] = figures) -> Cell:
                value = figures.get(key)
                return NOTHING if value is None else Cell(show(value), value)

            invalid = row.get("valid") is False
            listing.append((
                Cell(str(at)), Cell(entry.date[:16].replace("T", " "), is_name=True),
                name_cell(row["label"]), cell("p50_ms", numbers.significant),
                cell("p99_ms", numbers.significant), cell("throughput_ips", numbers.significant),
                cell("size_bytes", numbers.megabytes), cell("top1", numbers.percent),
                cell("drop_pp", numbers.points), *(cell(k, numbers.significant) for k in camera),
                Cell("not valid", flag=BAD) if invalid else _told_verdict(row),
            ))  # fmt: skip
    return Table(
        "Runs, the oldest first" if is_dated else "Runs, as they were added: not all have a date",
        ("Run", "Date (UTC)", "What", "p50 ms", "p99 ms", "Images/s", "Size", "Top-1", "Drop",
         *camera.values(), "Verdict"),
        tuple(listing),
    )  # fmt: skip


def _told_verdict(row: Mapping[str, Any]) -> Cell:
    verdict = row.get("verdict")
    return NOTHING if verdict is None else Cell(str(verdict), flag=FLAGS.get(str(verdict), ""))


def _machine(entry: HistoryEntry) -> str:
    gpus = entry.machine.get("gpus") or []
    return str((gpus or [entry.machine.get("cpu") or "unknown machine"])[0])


def _line_name(entry: HistoryEntry, row: Any, *, with_machine: bool) -> str:
    parts = [str(row["label"])]
    if row.get("cache") not in {None, "warm"}:
        parts.append(str(row["cache"]))
    if row.get("scenario") not in {None, "single-stream"}:
        parts.append(str(row["scenario"]))
    if entry.kind in _TIMED and with_machine:
        parts.append(_machine(entry))
    return ", ".join(parts)

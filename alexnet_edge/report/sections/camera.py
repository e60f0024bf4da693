"""The camera: frames, how old answers are, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.page import Block, Cell, Figure, Section, Table
from alexnet_edge.report.page import name as name_cell
from alexnet_edge.report.sources import Sources
from alexnet_edge.results_files import ResultsFile
from alexnet_edge.results_files.reading import CAMERA
from alexnet_edge.results_files.rows import base_name


def make_camera(sources: Sources) -> Section | None:
    """Return the section, or None without a run of the camera."""
    files = sources.of(CAMERA)
    if not files:
        return None
    blocks: list[Block] = [_camera_table(sources, files)]
    for at, file in enumerate(files):
        blocks += _stages(sources, file, at)
    return Section("camera", "Camera", tuple(blocks))


def _camera_table(sources: Sources, files: Sequence[ResultsFile]) -> Table:
    listing = []
    for file in files:

        def cell(show: Any, *path: str, file: ResultsFile = file) -> Cell:
            return sources.cell(file, path, show)

        listing.append((
            name_cell(base_name(file.data["engine"])),
            Cell(str(file.data.get("source") or "–"), is_name=True),
            cell(numbers.significant, "seconds"), cell(numbers.significant, "fps"),
            *(cell(numbers.significant, "frame_age_ms", at) for at in ("p50", "p90", "p99")),
            *(cell(numbers.count, "frames", part)
              for part in ("captured", "answered", "dropped", "corrupt")),
            cell(numbers.count, "reconnects"), cell(numbers.significant, "cpu_percent"),
            cell(lambda x: numbers.significant(x / 1e6), "rss_bytes"),
        ))  # fmt: skip
    return Table(
        "Live runs: frames, and how old an answer is when it is there",
        ("Engine", "Source", "Seconds", "Frames/s", "Age p50 ms", "Age p90 ms", "Age p99 ms",
         "Captured", "Answered", "Dropped", "Corrupt", "Reconnects", "CPU %", "Memory MB"),
        tuple(listing),
    )  # fmt: skip


def _stages(sources: Sources, file: ResultsFile, at: int) -> list[Block]:
    stages = file.data.get("stages_ms") or {}
    known = [
        label for label, times in stages.items()
        if isinstance(times, dict) and isinstance(times.get("p50"), (int, float))
    ]  # fmt: skip
    if not known:
        return []
    values = tuple(float(stages[label]["p50"]) for label in known)
    told = "; ".join(
        f"{label}: {numbers.milliseconds(v)}" for label, v in zip(known, values, strict=True)
    )
    engine = base_name(file.data["engine"])
    bars = plots.Series("p50", tuple(map(float, range(len(known)))), values)
    svg = plots.plot_bars(f"stages-{at}", known, [bars], plots.Axis("median, ms"))
    listing = tuple(
        (name_cell(label),
         *(sources.cell(file, ("stages_ms", label, part), numbers.significant)
           for part in ("p50", "p90", "p99", "mean")))
        for label in known
    )  # fmt: skip
    return [
        Figure(svg, f"Median time of each stage, {engine}. {told}.",
               f"Where the time goes from the camera to the answer, {engine}."),
        Table(f"Stages in milliseconds: {engine}", ("Stage", "p50", "p90", "p99", "Mean"), listing),
    ]  # fmt: skip

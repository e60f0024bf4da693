"""Puts a page together, and says what the results do not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from alexnet_edge.report.answer import (
    make_answers,
    make_cautions,
    make_tiles,
)
from alexnet_edge.report.page import Page
from alexnet_edge.report.sections.accuracy import make_accuracy
from alexnet_edge.report.sections.camera import make_camera
from alexnet_edge.report.sections.changes import make_changes
from alexnet_edge.report.sections.history import make_history
from alexnet_edge.report.sections.layers import make_layers
from alexnet_edge.report.sections.pareto import make_pareto
from alexnet_edge.report.sections.provenance import make_provenance
from alexnet_edge.report.sections.speed import make_speed
from alexnet_edge.report.sources import Sources, read_sources
from alexnet_edge.report.speed_ups import find_speed_ups
from alexnet_edge.report.thumbnails import Thumbnails
from alexnet_edge.results_files import read_history


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """How a page is made.

    Attributes:
        title: its heading; None for one made of the engines' names.
        history: a file that `compare --history` wrote.
        images: where the images are that parity names; None for where it found them.
    """

    title: str | None = None
    history: Path | None = None
    images: str | None = None


def make_page(paths: Sequence[Path], settings: ReportSettings | None = None) -> Page:
    """Read results and put a page together.

    Raises:
        InputError: a file is no result, or the history is none.
        DatasetError: ``images`` is no folder of images.
        MissingDependencyError: matplotlib is not installed.
    """
    settings = settings or ReportSettings()
    sources = read_sources(paths)
    history = () if settings.history is None else read_history(settings.history)
    thumbnails = Thumbnails(settings.images)
    speed_ups = find_speed_ups(sources.bench)
    sections = (
        make_speed(sources, speed_ups),
        make_accuracy(sources, thumbnails),
        make_layers(sources),
        make_pareto(sources),
        make_camera(sources),
        make_changes(sources),
        make_history(history),
        make_provenance(sources),
    )
    return Page(
        title=settings.title or _title(sources),
        answers=make_answers(sources, speed_ups),
        tiles=make_tiles(sources, speed_ups),
        cautions=make_cautions(sources),
        sections=tuple(section for section in sections if section is not None),
        missing=_missing(sources, thumbnails),
        repeated=sources.repeated,
    )


def _title(sources: Sources) -> str:
    engines = [sources.engine(row) for row in sources.bench if row.precision != "fp32"]
    engines += [sources.engine(row) for row in sources.parity]
    engines += [sources.engine(row) for row in sources.bench]
    named = list(dict.fromkeys(engines))
    return f"Report on {named[0]}" if named else f"Report on {sources.files[0].name}"


def _missing(sources: Sources, thumbnails: Thumbnails) -> tuple[str, ...]:
    """Return what is not on the page, each with the command that would add it."""
    bench, parity = sources.bench, sources.parity
    found = []
    if not bench:
        found.append("Latency, throughput and energy: give a result of bench --json.")
    else:
        found += _missing_of_bench(sources)
    if not parity:
        found.append("Accuracy: give a result of parity --json.")
    elif not any(row.raw.get("worst") or row.raw.get("flipped") for row in parity):
        found.append("The worst images: no image is named in the parity results.")
    if parity and not any(row.raw.get("per_class") for row in parity):
        found.append("Class by class: not in the parity results.")
    if not any(row.raw.get("layers") for row in parity):
        found.append("SQNR layer by layer: not in the parity results (parity --layers).")
    if thumbnails.missing:
        names = list(dict.fromkeys(thumbnails.missing))
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        why = f" ({'; '.join(dict.fromkeys(thumbnails.reasons))})" if thumbnails.reasons else ""
        found.append(
            f"Pictures of {', '.join(names[:20])}{more}{why}: name their folder, --images."
        )
    return tuple(found)


def _missing_of_bench(sources: Sources) -> list[str]:
    bench = sources.bench
    found = []
    if all(row.energy_j is None for row in bench):
        found.append("Energy: no sensor of power was read while bench ran.")
    if not any(row.raw.get("layers") for row in bench):
        found.append("Time layer by layer: not in the bench results (bench --profile).")
    if all(row.precision == "fp32" for row in bench):
        found.append("A speed-up: no engine but FP32 was measured.")
    elif not any(row.precision == "fp32" for row in bench):
        found.append("A speed-up: FP32 was not measured beside the engine.")
    if len({row.batch for row in bench}) < 2:
        found.append("A batch sweep: one batch size was measured.")
    if not any((row.raw.get("histogram") or {}).get("counts") for row in bench):
        found.append("A histogram of latencies: an older version of bench wrote these results.")
    return found

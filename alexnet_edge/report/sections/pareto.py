"""Size, speed and accuracy together: which engines no other beats in all three."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.engines import by_preference, may_be_of_one_model
from alexnet_edge.report.page import GOOD, NOTHING, Block, Cell, Figure, Section, Table, name
from alexnet_edge.report.sources import Sources
from alexnet_edge.results_files import ResultsFile
from alexnet_edge.results_files.reading import PARETO, SENSITIVITY
from alexnet_edge.results_files.rows import BenchRow


@dataclasses.dataclass(frozen=True)
class _Point:
    """An engine: a name, and cells for time, faithfulness and size; on_front None if unstated."""

    name: str
    time: Cell
    quality: Cell
    size: Cell
    on_front: bool | None


_ALL_THREE = "no other is as good in all three figures and better in one"
_BOTH = "no other is both faster and more faithful"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is drawn: the plot's key, the table's caption, the axes, what puts one on the front."""

    key: str
    caption: str
    time: str
    quality: str
    rule: str = _ALL_THREE


def make_pareto(sources: Sources) -> Section | None:
    """Return the section, or None where fewer than two engines have the figures for it."""
    blocks: list[Block] = []
    for at, file in enumerate(sources.of(PARETO)):
        blocks += _stated(sources, file, f"pareto-{at}")
    for at, file in enumerate(sources.of(SENSITIVITY)):
        blocks += _spared(sources, file, f"spared-{at}")
    if not blocks:
        blocks = _measured(sources)
    return Section("pareto", "Size, speed and accuracy", tuple(blocks)) if blocks else None


def _stated(sources: Sources, file: ResultsFile, key: str) -> list[Block]:
    raw = file.data["points"]
    batch = _first_batch(raw)
    quality, label, show = _quality(raw)
    points = [
        _Point(
            str(point["name"]),
            sources.cell(file, ("points", at, "latency_ms", *_latency_path(point, batch)),
                         numbers.significant),
            sources.cell(file, ("points", at, quality), show),
            sources.cell(file, ("points", at, "size_bytes"), numbers.megabytes),
            point.get("on_front"),
        )
        for at, point in enumerate(raw)
    ]  # fmt: skip
    where = f" at batch {batch}" if batch else ""
    return _draw(points, _Plan(key, f"Engines of {file.name}", f"latency{where}, ms", label))


def _spared(sources: Sources, file: ResultsFile, key: str) -> list[Block]:
    raw = file.data["pareto"]
    timed = any(point["cost"].get("ratio") is not None for point in raw)
    points = []
    for at, point in enumerate(raw):
        layers = ", ".join(map(str, point["spared"])) or "none"
        damage = point.get("damage")
        quality = sources.cell(file, ("pareto", at, "damage", "logit_sqnr_db"), numbers.decibels)
        points.append(_Point(
            "all (float)" if damage is None else layers,
            sources.cell(file, ("pareto", at, "cost", "ratio"), numbers.ratio),
            Cell("∞ (the reference)") if damage is None else quality,
            sources.cell(file, ("pareto", at, "cost", "size_bytes"), numbers.megabytes),
            point.get("optimal"),
        ))  # fmt: skip
    label = "latency, times plain INT8's" if timed else "latency was not measured"
    return _draw(points, _Plan(key, "Layers that stay in float", label, "logit SQNR, dB", _BOTH))


def _measured(sources: Sources) -> list[Block]:
    """From bench and parity: engines that are in both, at their smallest batch size."""
    smallest: dict[str, BenchRow] = {}
    for row in by_preference(sources.bench):
        smallest.setdefault(sources.engine(row), row)
    points = []
    for engine, row in sorted(smallest.items()):
        quality = _top1(sources, row)
        if quality is not NOTHING:
            points.append(_Point(
                engine, sources.bench_cell(row, ("latency_ms", "p50"), numbers.significant),
                quality, sources.bench_cell(row, ("size_bytes",), numbers.megabytes), None,
            ))  # fmt: skip
    batches = {row.batch for row in smallest.values()}
    where = f" at batch {batches.pop()}" if len(batches) == 1 else ""
    return _draw(points, _Plan("pareto", "Engines", f"median latency{where}, ms", "top-1, %"))


def _top1(sources: Sources, row: BenchRow) -> Cell:
    """Return the engine's top-1; of FP32, that of the one reference that its model has."""
    result = sources.parity_of(row)
    if result is not None:
        return sources.parity_cell(result, ("engine", "top1"), numbers.percent)
    of_model = [result for result in sources.parity if may_be_of_one_model(result, row)]
    references = {
        (result.raw.get("reference_sha256"), result.reference, result.raw.get("images_sha256"))
        for result in of_model
    }
    if row.precision != "fp32" or len(references) != 1:
        return NOTHING
    return sources.parity_cell(of_model[-1], ("reference", "top1"), numbers.percent)


def _draw(points: Sequence[_Point], plan: _Plan) -> list[Block]:
    if len(points) < 2:
        return []
    points = _mark_front(points)
    blocks: list[Block] = []
    drawn = [
        (at, p) for at, p in enumerate(points, 1) if _number(p.time) and _has_number(p.quality)
    ]
    largest = max((_number(p.size) or 0 for _, p in drawn), default=0) or 1
    if len(drawn) > 1:
        scale = 100 if plan.quality.endswith("%") else 1
        spots = [
            plots.Spot(
                label=str(at),
                x=_number(p.time) or 0,
                y=scale * (_number(p.quality) or 0),
                area=(_number(p.size) or 0) / largest,
                on_front=bool(p.on_front),
            )
            for at, p in drawn
        ]
        svg = plots.plot_spots(plan.key, spots, plots.Axis(plan.time), plots.Axis(plan.quality))
        told = "; ".join(
            f"{at} {p.name}: {p.time.text}, {p.quality.text}, {p.size.text}" for at, p in drawn
        )
        blocks.append(Figure(
            svg, f"{plan.caption}: {plan.time} against {plan.quality}. {told}.",
            "Up and to the left is better; area shows size. Filled: on the Pareto front, "
            f"{plan.rule}. Numbers are those of the table.",
        ))  # fmt: skip
    listing = tuple(
        (Cell(f"{at}"), name(p.name), p.time, p.quality, p.size,
         Cell("yes", flag=GOOD) if p.on_front else Cell("no"))
        for at, p in enumerate(points, 1)
    )  # fmt: skip
    left = [str(at) for at in range(1, len(points) + 1) if at not in dict(drawn)]
    blocks.append(Table(
        plan.caption,
        ("No.", "Name", _head(plan.time), _head(plan.quality), "Size", "On the front"), listing,
        f"Not drawn, for want of a number: {', '.join(left)}." if left and len(drawn) > 1 else "",
    ))  # fmt: skip
    return blocks


def _mark_front(points: Sequence[_Point]) -> list[_Point]:
    """Mark the front where the file does not: among points that have all three figures."""
    if any(point.on_front is not None for point in points):
        return list(points)

    def figures(point: _Point) -> tuple[float, ...] | None:
        cells = [point.time, point.quality, point.size]
        if not all(_has_number(cell) for cell in cells):
            return None
        time, quality, size = (_number(cell) or 0.0 for cell in cells)
        return time, -quality, size

    known = {id(point): figures(point) for point in points}
    marked = []
    for point in points:
        mine = known[id(point)]
        beaten = mine is None or any(
            other is not None
            and other != mine
            and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in known.values()
        )
        marked.append(dataclasses.replace(point, on_front=not beaten))
    return marked


def _quality(points: Sequence[Mapping[str, Any]]) -> tuple[str, str, Any]:
    """Return the figure of faithfulness that most points have, top-1 first."""
    options = (
        ("top1", "top-1, %", numbers.percent),
        ("agreement", "agreement, %", numbers.percent),
        ("logit_sqnr_db", "logit SQNR, dB", numbers.decibels),
    )
    return max(options, key=lambda option: sum(p.get(option[0]) is not None for p in points))


def _first_batch(points: Sequence[Mapping[str, Any]]) -> str | None:
    batches = [key for p in points for key in p.get("latency_ms") or {} if str(key).isdecimal()]
    return min(batches, key=int) if batches else None


def _latency_path(point: Mapping[str, Any], batch: str | None) -> tuple[str, ...]:
    """By batch size, each a number or percentiles; or percentiles at once."""
    latency = point.get("latency_ms") or {}
    inner = latency.get(batch) if batch is not None else latency
    path = () if batch is None else (batch,)
    return (*path, "p50") if isinstance(inner, dict) else path


def _number(cell: Cell) -> float | None:
    return cell.value if isinstance(cell.value, (int, float)) else None


def _has_number(cell: Cell) -> bool:
    return _number(cell) is not None


def _head(axis: str) -> str:
    return axis[:1].upper() + axis[1:]

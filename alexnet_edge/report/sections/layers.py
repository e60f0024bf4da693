"""Layer by layer: time, SQNR, and what sparing a layer from INT8 would cost."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.page import NOTHING, Block, Cell, Figure, Section, Table, Text, name
from alexnet_edge.report.sources import Sources, short_names
from alexnet_edge.results_files import ResultsFile
from alexnet_edge.results_files.reading import SENSITIVITY
from alexnet_edge.results_files.rows import BenchRow

MOST_BARS = 14


def make_layers(sources: Sources) -> Section | None:
    """Return the section, or None where nothing was measured layer by layer."""
    blocks = [*_times(sources), *_sqnr(sources)]
    for at, file in enumerate(sources.of(SENSITIVITY)):
        blocks += _sensitivity(sources, file, at)
    return Section("layers", "Layers", tuple(blocks)) if blocks else None


def _times(sources: Sources) -> list[Block]:
    """One plot and one table for each engine, at the smallest batch size that has times."""
    chosen: dict[tuple[str, str], BenchRow] = {}
    for row in sorted(sources.bench, key=lambda row: row.batch):
        if row.raw.get("layers"):
            chosen.setdefault((sources.engine(row), row.runtime), row)
    rows = list(chosen.values())
    names = short_names(sources)
    figures: list[Block] = []
    tables: list[Block] = []
    for at, row in enumerate(rows):
        layers = row.raw["layers"]
        order = sorted(range(len(layers)), key=lambda i: (-layers[i]["mean_us"], i))[:MOST_BARS]
        order.sort()  # in the order in which they run
        times = tuple(layers[i]["mean_us"] / 1e3 for i in order)
        labels = [str(layers[i]["name"]) for i in order]
        svg = plots.plot_bars(
            f"times-{at}", labels, [_bars("time", times)], plots.Axis("ms of one inference")
        )
        told = "; ".join(
            f"{label}: {numbers.milliseconds(time)}"
            for label, time in zip(labels, times, strict=True)
        )
        which = f"{names[id(row)]}, batch {row.batch}"
        rest = f", the {len(order)} longest of {len(layers)}" if len(order) < len(layers) else ""
        figures.append(
            Figure(svg, f"Time of each layer, {which}. {told}.",
                   f"Time of each layer in milliseconds, {which}{rest}.")
        )  # fmt: skip
        listing = tuple(
            (name(layer["name"]), Cell(str(layer.get("op") or "–"), is_name=bool(layer.get("op"))),
             sources.bench_cell(row, ("layers", i, "mean_us"), numbers.significant),
             sources.bench_cell(row, ("layers", i, "share"), numbers.percent))
            for i, layer in enumerate(layers)
        )  # fmt: skip
        tables.append(Table(
            f"Time layer by layer: {sources.engine(row)}, batch {row.batch}",
            ("Layer", "Operator", "µs", "Share"), listing,
            "As the runtime divides and names them; timing each adds to the whole.",
        ))  # fmt: skip
    return figures + tables


def _sqnr(sources: Sources) -> list[Block]:
    blocks: list[Block] = []
    for at, row in enumerate(sources.parity):
        layers = row.raw.get("layers") or []
        known = [layer for layer in layers if layer.get("sqnr_db") is not None]
        if not known:
            continue
        engine = sources.engine(row)
        labels = [str(layer["name"]) for layer in known]
        values = tuple(float(layer["sqnr_db"]) for layer in known)
        svg = plots.plot_bars(
            f"sqnr-{at}", labels, [_bars("SQNR", values)], plots.Axis("SQNR, dB (more is better)")
        )
        told = "; ".join(
            f"{label}: {numbers.decibels(value)}"
            for label, value in zip(labels, values, strict=True)
        )
        blocks.append(Figure(
            svg, f"SQNR after each layer, {engine}. {told}.",
            f"How much of the signal is left after each layer, {engine}.",
        ))  # fmt: skip
        listing = []
        for i, layer in enumerate(layers):
            cell = sources.parity_cell(row, ("layers", i, "sqnr_db"), numbers.decibels)
            listing.append((name(layer["name"]), Cell("∞ (equal)") if cell is NOTHING else cell))
        note = str(row.raw.get("layers_note") or "")
        blocks.append(Table(
            f"SQNR layer by layer: {engine}", ("Layer", "SQNR"), tuple(listing), note
        ))  # fmt: skip
    return blocks


def _sensitivity(sources: Sources, file: ResultsFile, at: int) -> list[Block]:
    layers = file.data["layers"]
    if not layers:
        return []
    labels = [str(layer["layer"]) for layer in layers]
    known = [i for i, layer in enumerate(layers) if layer["only"].get("logit_sqnr_db") is not None]
    blocks: list[Block] = []
    if known:
        values = tuple(float(layers[i]["only"]["logit_sqnr_db"]) for i in known)
        svg = plots.plot_bars(
            f"sensitivity-{at}", [labels[i] for i in known], [_bars("SQNR", values)],
            plots.Axis("logit SQNR, dB (less: hurt more)"),
        )  # fmt: skip
        told = "; ".join(
            f"{labels[i]}: {numbers.decibels(v)}" for i, v in zip(known, values, strict=True)
        )
        blocks.append(Figure(
            svg, f"Logit SQNR when one layer alone is quantized. {told}.",
            "What INT8 does when one layer alone is quantized: the logits' SQNR.",
        ))  # fmt: skip
    listing = []
    for i, label in enumerate(labels):
        cells = [
            sources.cell(file, ("layers", i, *path), show)
            for path, show in (
                (("only", "logit_sqnr_db"), numbers.decibels),
                (("only", "drop_pp"), numbers.points),
                (("spared", "logit_sqnr_db"), numbers.decibels),
                (("spared", "drop_pp"), numbers.points),
                (("cost", "ratio"), numbers.ratio),
                (("cost", "size_bytes"), numbers.megabytes),
            )
        ]
        listing.append((name(label), *cells))
    blocks.append(Table(
        f"What quantizing or sparing each layer does: {file.name}",
        ("Layer", "Only it", "Drop", "All but it", "Drop", "Latency", "Size"), tuple(listing),
        f"Damage by {file.data.get('damage_by') or 'an unnamed method'} on "
        f"{file.data.get('images') or '?'} images; latency as a multiple of plain INT8's "
        f"({file.data.get('latency') or 'unknown how'}).",
    ))  # fmt: skip
    if not known:
        blocks.append(Text(("No layer is damaged by INT8.",)))
    return blocks


def _bars(label: str, values: Sequence[float]) -> plots.Series:
    return plots.Series(label, tuple(map(float, range(len(values)))), tuple(values))

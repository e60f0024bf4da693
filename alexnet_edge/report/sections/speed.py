"""Latency and throughput: the table, the distribution, the batch sweep, the floor, energy."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.engines import by_preference
from alexnet_edge.report.page import BAD, NOTHING, Block, Cell, Figure, Section, Table, name
from alexnet_edge.report.sections.limits import (
    make_energy_table,
    make_floor_table,
    make_load_table,
)
from alexnet_edge.report.sections.skipped import tell_skipped
from alexnet_edge.report.sources import Sources, short_names
from alexnet_edge.report.speed_ups import SpeedUp
from alexnet_edge.results_files.estimates import estimate
from alexnet_edge.results_files.rows import BenchRow


def make_speed(sources: Sources, speed_ups: Sequence[SpeedUp]) -> Section | None:
    """Return the section, or None without a bench."""
    rows = sources.bench
    if not rows:
        return None
    blocks: list[Block] = [_latency_table(sources, rows)]
    blocks += _skipped(rows)
    blocks += _distribution(sources)
    blocks += _turns(sources)
    blocks += _sweep(sources)
    if speed_ups:
        blocks.append(_ratio_table(sources, speed_ups))
    blocks += make_load_table(sources, rows)
    blocks += make_floor_table(sources, rows)
    blocks += make_energy_table(sources, rows)
    return Section("speed", "Speed", tuple(blocks))


def _latency_table(sources: Sources, rows: Sequence[BenchRow]) -> Table:
    listing = []
    for row in rows:
        median = estimate(row, "p50")
        interval = NOTHING
        if median is not None and median.low is not None and median.high is not None:
            interval = Cell(numbers.interval(median.low, median.high))
        valid = NOTHING if "valid" not in row.raw else Cell("yes")
        if row.invalid_because:
            valid = Cell("no", flag=BAD)
        cells = [sources.bench_cell(row, ("latency_ms", at), numbers.significant)
                 for at in ("p50", "p90", "p99", "mean")]  # fmt: skip
        listing.append((
            name(sources.engine(row)), sources.bench_cell(row, ("batch",), numbers.count), cells[0],
            interval, *cells[1:],
            sources.bench_cell(row, ("throughput_ips",), numbers.significant),
            sources.bench_cell(row, ("size_bytes",), lambda x: numbers.significant(x / 1e6)),
            sources.bench_cell(row, ("samples",), numbers.count),
            Cell(f"{row.runtime} {row.precision}"), valid,
        ))  # fmt: skip
    bases = {e.basis for row in rows if (e := estimate(row, "p50")) is not None and e.known}
    how = {"turns": "a bootstrap over turns", "samples": "order statistics"}
    named = " or ".join(how[basis] for basis in sorted(bases & set(how)))
    scenario = ", ".join(sorted({str(r.scenario["name"]) for r in rows if r.scenario.get("name")}))
    note = f"95 % interval of the median by {named}. " if named else ""
    return Table(
        "Latency of one query in milliseconds, throughput and size",
        ("Engine", "Batch", "p50", "95 % interval", "p90", "p99", "Mean", "Images/s", "MB",
         "Samples", "Runs as", "Valid"),
        tuple(listing),
        note + (f"Scenario: {scenario}. " if scenario else "") + _tell_input(sources),
    )  # fmt: skip


def _tell_input(sources: Sources) -> str:
    """Return what engines were fed, and whose time depends on it."""
    rows = sources.bench
    fed = sorted({
        f"{row.raw['input_images']} images of {row.scenario.get('images_name') or 'a folder'}"
        if row.raw.get("input_images") else "random values"
        for row in rows if "input" in row.raw
    })  # fmt: skip
    if not fed:
        return ""
    names = sorted({
        sources.engine(row) for row in rows
        if row.raw.get("depends_on_input") and not row.raw.get("input_images")
    })  # fmt: skip
    warning = f" {', '.join(names)} skips zeros, and takes another time on images." if names else ""
    return f"Input: {'; '.join(fed)}.{warning}"


def _skipped(rows: Sequence[BenchRow]) -> list[Block]:
    """Say which images engines were not fed since they could not be read."""
    names = list(dict.fromkeys(image for row in rows for image in row.input_skipped))
    return tell_skipped("Not fed to the engines", [(image, "") for image in names])


def _first_batch(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Return the rows of the smallest batch size, of one file if that has several engines."""
    least = min(row.batch for row in rows)
    chosen = [row for row in rows if row.batch == least]
    return chosen[: plots.MOST_SERIES]


def _distribution(sources: Sources) -> list[Block]:
    chosen = _first_batch(sources.bench)
    names = short_names(sources)
    batch = chosen[0].batch
    ranges = [
        plots.Range(names[id(r)], *(r.latency_ms(at) for at in ("p50", "p90", "p99")))
        for r in chosen
    ]
    told = "; ".join(
        f"{item.name}: p50 {numbers.milliseconds(item.p50)}, p90 "
        f"{numbers.milliseconds(item.p90)}, p99 {numbers.milliseconds(item.p99)}"
        for item in ranges
    )
    label = f"Latency distribution at batch {batch}. {told}."
    series = [line for row in chosen if (line := _histogram(row, names[id(row)])) is not None]
    if series:
        svg = plots.plot_steps(
            "distribution", series, plots.Axis("latency in ms, logarithmic", log=True),
            plots.Axis("share of queries, %"),
        )  # fmt: skip
        caption = (
            f"How latencies are distributed at batch {batch}: the share of queries in each bin."
        )
    else:
        svg = plots.plot_ranges("distribution", ranges, plots.Axis("latency in ms", log=True))
        caption = f"p50, p90 and p99 at batch {batch}; these files have no histogram."
    return [Figure(svg, label, caption)]


def _histogram(row: BenchRow, label: str) -> plots.Series | None:
    histogram = row.raw.get("histogram") or {}
    counts, edges = histogram.get("counts") or [], histogram.get("edges_ms") or []
    total = sum(counts)
    if not total or min(edges) <= 0 or edges[0] >= edges[-1]:
        return None
    return plots.Series(label, tuple(edges), tuple(100 * part / total for part in counts))


def _turns(sources: Sources) -> list[Block]:
    chosen = _first_batch(sources.bench)
    names = short_names(sources)
    series = []
    for row in chosen:
        slices = row.raw.get("slices") or {}
        medians = slices.get("p50_ms") or []
        if len(medians) > 2:
            at_s = slices.get("at_s") or []
            x = at_s if len(at_s) == len(medians) else range(1, len(medians) + 1)
            series.append(plots.Series(names[id(row)], tuple(x), tuple(medians)))
    if not series:
        return []
    timed = all((row.raw.get("slices") or {}).get("at_s") for row in chosen)
    svg = plots.plot_lines(
        "turns", series, plots.Axis("seconds since the first turn" if timed else "turn"),
        plots.Axis("median of the turn, ms"),
    )  # fmt: skip
    told = "; ".join(
        f"{line.name}: {numbers.milliseconds(min(line.y))} to {numbers.milliseconds(max(line.y))}"
        for line in series
    )
    return [
        Figure(svg, f"Median latency of each turn over the run. {told}.",
               "How steady the run was: a slope is drift, a jump is another program.")
    ]  # fmt: skip


def _sweep(sources: Sources) -> list[Block]:
    names = short_names(sources)
    groups: dict[str, dict[int, BenchRow]] = {names[id(row)]: {} for row in sources.bench}
    for row in by_preference(sources.bench):
        groups[names[id(row)]].setdefault(row.batch, row)
    swept = {label: by_batch for label, by_batch in groups.items() if len(by_batch) > 1}
    if not swept:
        return []
    ticks = tuple(float(b) for b in sorted({b for by_batch in swept.values() for b in by_batch}))
    latency: list[plots.Series] = []
    throughput: list[plots.Series] = []
    for label, by_batch in list(swept.items())[: plots.MOST_SERIES]:
        batches = sorted(by_batch)
        for kind, figure in ((latency, "p50"), (throughput, "throughput")):
            found = [estimate(by_batch[batch], figure) for batch in batches]
            known = [item for item in found if item is not None]
            bounds = all(item.known for item in known)
            kind.append(plots.Series(
                label, tuple(map(float, batches)), tuple(item.value for item in known),
                tuple(item.low or 0.0 for item in known) if bounds else (),
                tuple(item.high or 0.0 for item in known) if bounds else (),
            ))  # fmt: skip
    x = plots.Axis("batch size", log=True, ticks=ticks)
    return [
        Figure(
            plots.plot_lines("sweep-throughput", throughput, x, plots.Axis("images per second")),
            f"Throughput by batch size. {_told(throughput, 'images/s')}",
            "Throughput by batch size, with 95 % intervals where the files have them.",
        ),
        Figure(
            plots.plot_lines(
                "sweep-latency", latency, x, plots.Axis("median latency, ms", log=True)
            ),
            f"Median latency by batch size. {_told(latency, 'ms')}",
            "Median latency of a batch by its size, both logarithmic.",
        ),
    ]


def _told(series: Sequence[plots.Series], unit: str) -> str:
    return "; ".join(
        f"{line.name}: "
        + ", ".join(
            f"{numbers.significant(y)} {unit} at {x:g}" for x, y in zip(line.x, line.y, strict=True)
        )
        for line in series
    )


def _ratio_table(sources: Sources, speed_ups: Sequence[SpeedUp]) -> Table:
    listing = []
    for found in speed_ups:
        ratio = found.ratio
        bounds = NOTHING
        if ratio.low is not None and ratio.high is not None:
            bounds = Cell(numbers.interval(ratio.low, ratio.high))
        listing.append((
            name(sources.engine(found.row)), Cell(str(found.row.batch)),
            Cell(numbers.ratio(ratio.value), ratio.value), bounds,
            NOTHING if found.size is None else Cell(numbers.ratio(found.size), found.size),
            NOTHING if found.energy is None else Cell(numbers.ratio(found.energy), found.energy),
            name(sources.engine(found.base)),
            Cell("in turns" if found.together else "in different runs"),
        ))  # fmt: skip
    return Table(
        "Beside FP32: how many times faster, smaller and more frugal",
        ("Engine", "Batch", "Faster", "95 % interval", "Smaller", "Less energy", "Beside",
         "Measured"),
        tuple(listing),
        "Ratios of median latencies; below 1× the engine is slower, or larger.",
    )  # fmt: skip

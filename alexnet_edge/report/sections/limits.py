"""What bounds an engine: its queue under load, the machine's floor, the energy it takes."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_edge.report import numbers
from alexnet_edge.report.page import Block, Cell, Table, name
from alexnet_edge.report.sources import Show, Sources
from alexnet_edge.results_files.rows import BenchRow


def make_load_table(sources: Sources, rows: Sequence[BenchRow]) -> list[Block]:
    """Return waiting and service, of engines that were measured under a load."""
    queued = [row for row in rows if row.raw.get("queue_ms")]
    if not queued:
        return []
    listing = tuple(
        (name(sources.engine(row)), Cell(str(row.batch)),
         *(sources.bench_cell(row, (part, at), numbers.significant)
           for part in ("queue_ms", "service_ms") for at in ("p50", "p99")),
         sources.bench_cell(row, ("utilization",), numbers.percent),
         sources.bench_cell(row, ("unserved",), numbers.count))
        for row in queued
    )  # fmt: skip
    return [Table(
        "Under load: milliseconds in the queue and of service",
        ("Engine", "Batch", "Queue p50", "Queue p99", "Service p50", "Service p99", "Utilization",
         "Unserved"),
        listing,
    )]  # fmt: skip


def make_floor_table(sources: Sources, rows: Sequence[BenchRow]) -> list[Block]:
    """Return the floor of each engine that has one, and how near it comes."""
    known = [row for row in rows if row.raw.get("floor")]
    if not known:
        return []

    def giga(value: float) -> str:
        return numbers.significant(value / 1e9)

    columns: tuple[tuple[str, Show], ...] = (
        ("floor_ms", numbers.significant), ("efficiency", numbers.percent), ("macs", giga),
        ("bytes", lambda x: numbers.significant(x / 1e6)), ("bandwidth_gb_s", numbers.significant),
        ("compute_gmac_s", numbers.significant),
    )  # fmt: skip
    listing = tuple(
        (name(sources.engine(row)), Cell(str(row.batch)),
         *(sources.bench_cell(row, ("floor", key), show) for key, show in columns))
        for row in known
    )  # fmt: skip
    origin = sorted(
        {str(row.raw["floor"]["source"]) for row in known if row.raw["floor"].get("source")}
    )
    return [Table(
        "The least time that memory and arithmetic allow, and how near the engine comes",
        ("Engine", "Batch", "Floor ms", "Reached", "GMAC", "MB read", "GB/s", "GMAC/s"),
        listing,
        f"Source: {'; '.join(origin)}." if origin else "",
    )]  # fmt: skip


def make_energy_table(sources: Sources, rows: Sequence[BenchRow]) -> list[Block]:
    """Return joules, where a sensor gave them."""
    known = [row for row in rows if row.energy_j is not None]
    if not known:
        return []

    def millijoules(value: float) -> str:
        return numbers.significant(1e3 * value)

    listing = tuple(
        (name(sources.engine(row)), Cell(str(row.batch)),
         sources.bench_cell(row, ("energy_j_per_inference",), millijoules))
        for row in known
    )  # fmt: skip
    return [Table("Energy of one inference", ("Engine", "Batch", "Millijoules"), listing)]

"""Engines beside the FP32 that they should replace: which are set against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from alexnet_edge.report.engines import may_be_of_one_model
from alexnet_edge.report.sources import Sources
from alexnet_edge.results_files.estimates import estimate
from alexnet_edge.results_files.intervals import Estimate, divide
from alexnet_edge.results_files.rows import BenchRow


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """An engine beside the one that it should replace.

    Attributes:
        base, row: FP32, where there is one, and the engine.
        ratio: of their median latencies, above 1 where the engine is faster; with its interval.
        size, energy: likewise, above 1 where the engine takes less; energy None where unknown.
        together: whether both were measured in one run, in turns.
    """

    base: BenchRow
    row: BenchRow
    ratio: Estimate
    size: float | None
    energy: float | None
    together: bool

    @property
    def is_doubtful(self) -> bool:
        """Whether a run says of itself that it is not valid."""
        return self.base.is_doubtful or self.row.is_doubtful


def find_speed_ups(rows: Sequence[BenchRow]) -> tuple[SpeedUp, ...]:
    """Pair every engine with FP32 at the same batch size, in the same run where there is one.

    Runs on other machines, under another scenario or of another model are never paired.
    """
    found = []
    for row in rows:
        bases = [base for base in rows if _can_be_base(base, row)]
        if bases and row.precision != "fp32":
            base = min(bases, key=lambda base: _distance(base, row))
            speed_up = _compare(base, row)
            if speed_up is not None:
                found.append(speed_up)
    return tuple(found)


def _distance(base: BenchRow, row: BenchRow) -> tuple[bool, ...]:
    """Return what makes an FP32 row less fit to stand beside an engine, what counts most first."""
    return (
        base.file is not row.file,
        base.model_sha256 != row.model_sha256,
        base.runtime != row.runtime,
        base.is_doubtful,
    )


def _can_be_base(base: BenchRow, row: BenchRow) -> bool:
    if not may_be_of_one_model(base, row):
        return False
    alike = (base.batch, base.cache, base.scenario.get("name")) == (
        row.batch, row.cache, row.scenario.get("name"),
    )  # fmt: skip
    same_machine = base.file is row.file or all(
        base.environment.get(key) == row.environment.get(key) for key in ("cpu", "cores", "gpus")
    )
    return base.precision == "fp32" and alike and same_machine


def _compare(base: BenchRow, row: BenchRow) -> SpeedUp | None:
    medians = estimate(base, "p50"), estimate(row, "p50")
    ratio = divide(medians[0], medians[1]) if medians[0] and medians[1] else None
    if ratio is None:
        return None
    energies = base.energy_j, row.energy_j
    return SpeedUp(
        base,
        row,
        ratio,
        size=base.size_bytes / row.size_bytes if row.size_bytes else None,
        energy=energies[0] / energies[1] if energies[0] and energies[1] else None,
        together=base.file is row.file,
    )


def lead_speed_ups(sources: Sources, speed_ups: Sequence[SpeedUp]) -> tuple[SpeedUp, ...]:
    """Return one for each engine, at the smallest batch size that it was measured at.

    Of several, one that is valid; of these, the one that was given last.
    """
    best: dict[tuple[str, str, str], tuple[tuple[int, bool, int], SpeedUp]] = {}
    for at, found in enumerate(speed_ups):
        row = found.row
        key = (sources.engine(row), row.runtime, row.precision)
        rank = (row.batch, found.is_doubtful, -at)
        best[key] = min(best.get(key, (rank, found)), (rank, found), key=lambda pair: pair[0])
    return tuple(found for _, found in sorted(best.values(), key=lambda pair: pair[0][0]))

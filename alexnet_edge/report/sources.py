"""The results that a report is made of, each with a tag that its figures refer to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.errors import InputError
from alexnet_edge.report.engines import Engines
from alexnet_edge.report.page import NOTHING, Cell
from alexnet_edge.results_files import (
    BenchRow,
    ParityRow,
    ResultsFile,
    bench_rows,
    parity_rows,
    read_results,
)
from alexnet_edge.results_files.reading import BENCH, PARITY

Show = Callable[[float], str]


@dataclasses.dataclass(frozen=True)
class Sources:
    """The results, in the order in which they were given.

    Attributes:
        files: as they were read; the first has the tag R1.
        repeated: names of files whose bytes had been given already; these count once.
    """

    files: tuple[ResultsFile, ...]
    repeated: tuple[str, ...] = ()

    def tag(self, file: ResultsFile) -> str:
        """Return how the page refers to a file."""
        return f"R{next(at for at, known in enumerate(self.files, 1) if known is file)}"

    def of(self, kind: str) -> tuple[ResultsFile, ...]:
        """Return the files of a kind."""
        return tuple(file for file in self.files if file.kind == kind)

    @functools.cached_property
    def bench(self) -> tuple[BenchRow, ...]:
        """Every engine that was measured."""
        return tuple(row for file in self.of(BENCH) for row in bench_rows(file))

    @functools.cached_property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every engine whose answers were compared."""
        return tuple(row for file in self.of(PARITY) for row in parity_rows(file))

    @functools.cached_property
    def engines(self) -> Engines:
        """Which rows are of one engine."""
        return Engines((*self.bench, *self.parity))

    def engine(self, row: BenchRow | ParityRow) -> str:
        """Return a name of the row's engine that no other engine of these results has."""
        return self.engines.name(row)

    def label(self, row: BenchRow) -> str:
        """Return what tells a row of bench from the others."""
        return f"{self.engine(row)}, {row.runtime} {row.precision}, batch {row.batch}"

    def parity_of(self, row: BenchRow) -> ParityRow | None:
        """Return the last parity result of the engine of a row; None where there is none."""
        matching = [result for result in self.parity if self.engines.are_one(result, row)]
        return matching[-1] if matching else None

    def cell(self, file: ResultsFile, path: Sequence[str | int], show: Show) -> Cell:
        """Return a figure of a file with where it stands there; a dash where it is missing."""
        value: Any = file.data
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return NOTHING
        if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            return NOTHING
        pointer = "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in path)
        return Cell(show(value), value, f"{self.tag(file)}#/{pointer}")

    def bench_cell(self, row: BenchRow, path: Sequence[str | int], show: Show) -> Cell:
        """Return a figure of a row of bench."""
        return self.cell(row.file, ("engines", row.position, *path), show)

    def parity_cell(self, row: ParityRow, path: Sequence[str | int], show: Show) -> Cell:
        """Return a figure of a parity result."""
        if "parity" not in row.file.data:
            return self.cell(row.file, path, show)
        at = next(at for at, raw in enumerate(row.file.data["parity"]) if raw is row.raw)
        return self.cell(row.file, ("parity", at, *path), show)


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read results of any kinds.

    Raises:
        InputError: one is no result, or none is given.
    """
    if not paths:
        raise InputError("a report needs results", hint="alexnet-edge report bench.json")
    files: dict[str, ResultsFile] = {}
    repeated = []
    for file in map(read_results, paths):
        if file.sha256 in files:
            repeated.append(file.name)
        else:
            files[file.sha256] = file
    return Sources(tuple(files.values()), tuple(repeated))


def short_names(sources: Sources) -> dict[int, str]:
    """Return for each row of bench, by its id, what tells its engine from the others in a plot.

    `INT8` where that is enough; else the file's name, with the runtime and the result's file where
    it needs them.
    """
    chains: tuple[Callable[[BenchRow], tuple[str, ...]], ...] = (
        lambda row: (row.precision.upper(),),
        lambda row: (sources.engine(row),),
        lambda row: (sources.engine(row), row.runtime),
        lambda row: (sources.engine(row), row.runtime, row.file.name),
    )
    rows = sources.bench
    whole = {id(row): (sources.engine(row), row.runtime, row.precision) for row in rows}
    for chain in chains:
        names = {id(row): ", ".join(chain(row)) for row in rows}
        told_apart = {(names[key], whole[key]) for key in names}
        if len(told_apart) == len({name for name, _ in told_apart}):
            return names
    return {id(row): f"{sources.engine(row)}, {row.precision}" for row in rows}

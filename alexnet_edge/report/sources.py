"""The results that a report is made of, each with a tag that its figures refer to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.errors import InputError
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
    """

    files: tuple[ResultsFile, ...]

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
    return Sources(tuple(read_results(path) for path in paths))


def short_names(rows: Sequence[BenchRow]) -> dict[int, str]:
    """Return for each row, by its id, what tells its engine from the others in a plot.

    `INT8` where that is enough; else the file's name, with the runtime and the result's file where
    it needs them.
    """
    chains: tuple[Callable[[BenchRow], tuple[str, ...]], ...] = (
        lambda row: (row.precision.upper(),),
        lambda row: (row.engine,),
        lambda row: (row.engine, row.runtime),
        lambda row: (row.engine, row.runtime, row.file.name),
    )
    whole = {id(row): (row.engine, row.runtime, row.precision) for row in rows}
    for chain in chains:
        names = {id(row): ", ".join(chain(row)) for row in rows}
        told_apart = {(names[key], whole[key]) for key in names}
        if len(told_apart) == len({name for name, _ in told_apart}):
            return names
    return {id(row): f"{row.engine}, {row.precision}" for row in rows}

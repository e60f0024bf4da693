"""What can be compared, and how each kind of result is: a table, not a branch everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from alexnet_edge.compare.camera import camera_changes
from alexnet_edge.compare.changes import Bounds, Change, bench_changes, parity_changes
from alexnet_edge.compare.pairing import BENCH_KEYS, CAMERA_KEYS, PARITY_KEYS
from alexnet_edge.compare.settings import (
    Difference,
    bench_differences,
    camera_differences,
    parity_differences,
)
from alexnet_edge.errors import InputError
from alexnet_edge.results_files import (
    BenchRow,
    CameraRow,
    ResultsFile,
    bench_rows,
    camera_rows,
    parity_rows,
)
from alexnet_edge.results_files.reading import BENCH, CAMERA, PARITY


class Row(Protocol):
    """A part of a result that has figures of its own."""

    @property
    def label(self) -> str:
        """What tells it from the other rows."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """How results of a kind are compared; its rows are of one type.

    Attributes:
        rows: the rows of a file.
        keys: what belongs together, see `pairing`.
        changes: of each figure of a pair.
        differences: what a pair has unlike.
        invalid: why figures cannot be relied on, of two files and the pairs of them.
    """

    rows: Callable[[ResultsFile], Sequence[Any]]
    keys: Sequence[Callable[[Any], Hashable]]
    changes: Callable[[Any, Any, Bounds], tuple[Change, ...]]
    differences: Callable[[Any, Any], list[Difference]]
    invalid: Callable[[Sequence[ResultsFile], Sequence[tuple[Any, Any]]], list[str]]


def require_kinds(files: Sequence[ResultsFile]) -> Kind:
    """Return how the files are compared.

    Raises:
        InputError: they are of a kind that is not compared, or of different ones.
    """
    for file in files:
        if file.kind not in _KINDS:
            raise InputError(
                f"{file.path}: is a {file.kind} result; bench, parity and camera results can be "
                "compared",
                hint="give two files of bench --json, of parity --json or of camera --json",
            )
    if len({file.kind for file in files}) > 1:
        named = " and ".join(f"{file.path} ({file.kind})" for file in files)
        raise InputError(f"{named}: are of different kinds", hint="give two of one kind")
    return _KINDS[files[0].kind]


def _invalid_benches(
    files: Sequence[ResultsFile], pairs: Sequence[tuple[BenchRow, BenchRow]]
) -> list[str]:
    """Return why runs cannot be relied on, naming the row where only that one is meant."""
    found = [
        f"{file.path}: {row.label}: not a valid measurement ({', '.join(row.invalid_because)})"
        for index, file in enumerate(files)
        for row in (pair[index] for pair in pairs)
        if row.invalid_because
    ]
    for file in files:
        if not file.data.get("valid", True) and not any(
            row.invalid_because for row in bench_rows(file)
        ):
            reasons = ", ".join(file.data.get("invalid_because") or ["no reason is given"])
            found.append(f"{file.path}: not a valid measurement ({reasons})")
    return found


def _invalid_cameras(
    files: Sequence[ResultsFile], pairs: Sequence[tuple[CameraRow, CameraRow]]
) -> list[str]:
    return [
        f"{file.path}: not a valid measurement ({', '.join(row.invalid_because)})"
        for pair in pairs
        for file, row in zip(files, pair, strict=True)
        if row.invalid_because
    ]


_KINDS = {
    BENCH: Kind(bench_rows, BENCH_KEYS, bench_changes, bench_differences, _invalid_benches),
    PARITY: Kind(
        parity_rows, PARITY_KEYS, parity_changes, parity_differences, lambda files, pairs: []
    ),
    CAMERA: Kind(camera_rows, CAMERA_KEYS, camera_changes, camera_differences, _invalid_cameras),
}

"""Which row of one file belongs to which of the other."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from alexnet_edge.results_files.camera import CameraRow
from alexnet_edge.results_files.rows import BenchRow, ParityRow

Row = TypeVar("Row")

BENCH_KEYS: tuple[Callable[[BenchRow], Hashable], ...] = (
    lambda row: (
        row.path, row.runtime, row.precision, row.batch, row.scenario.get("name"), row.cache,
    ),
    lambda row: (
        row.engine, row.runtime, row.precision, row.batch, row.scenario.get("name"), row.cache,
    ),
    lambda row: (row.engine, row.runtime, row.precision, row.batch),
    lambda row: (row.runtime, row.precision, row.batch),
    lambda row: (row.precision, row.batch),
    lambda row: (row.engine, row.runtime, row.precision),
    lambda row: (row.runtime, row.precision),
)  # fmt: skip
"""From all that tells rows apart to what is left when engines were renamed or settings differ."""

PARITY_KEYS: tuple[Callable[[ParityRow], Hashable], ...] = (
    lambda row: row.path,
    lambda row: row.engine,
)


CAMERA_KEYS: tuple[Callable[[CameraRow], Hashable], ...] = (lambda row: row.engine,)


def pair_rows(
    first: Sequence[Row], second: Sequence[Row], keys: Sequence[Callable[[Row], Hashable]]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Pair rows, and return those that are left on each side.

    A key pairs rows where exactly one on each side has its value. Later keys, which tell less,
    see only what is left; one last row on each side belongs together whatever it is.
    """
    left, right = list(first), list(second)
    pairs: list[tuple[Row, Row]] = []
    for key in keys:
        ours, theirs = (_unique(rows, key) for rows in (left, right))
        for value in [value for value in ours if value in theirs]:
            pairs.append((ours[value], theirs[value]))
            left.remove(ours[value])
            right.remove(theirs[value])
    if len(left) == len(right) == 1:
        pairs.append((left.pop(), right.pop()))
    order = [id(row) for row in first]
    return sorted(pairs, key=lambda pair: order.index(id(pair[0]))), left, right


def _unique(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
    counts = collections.Counter(map(key, rows))
    return {key(row): row for row in rows if counts[key(row)] == 1}

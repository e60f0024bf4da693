"""Which rows are of one engine, and a name for each that tells it from the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TypeAlias

from alexnet_edge.naming import short_names
from alexnet_edge.results_files import BenchRow, ParityRow

Row: TypeAlias = "BenchRow | ParityRow"

_DIGITS = 8
"""Of a hash, where it alone tells engines apart."""


def may_be_of_one_model(first: Row, second: Row) -> bool:
    """Whether two engines can have been made from the same FP32 graph, by what is known."""
    known = first.model_sha256, second.model_sha256
    return None in known or known[0] == known[1]


def may_be_one_engine(first: Row, second: Row) -> bool:
    """Whether the hashes of two rows agree: of the engines, else of the models, else unknown."""
    if first.engine_sha256 and second.engine_sha256:
        return first.engine_sha256 == second.engine_sha256
    return may_be_of_one_model(first, second)


def by_preference(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Return rows with those first that speak best for their engine.

    The smallest batch size; then what is valid; then what was given later.
    """
    order = sorted(range(len(rows)), key=lambda at: (rows[at].batch, rows[at].is_doubtful, -at))
    return [rows[at] for at in order]


@dataclasses.dataclass
class _Group:
    """Rows of one engine."""

    rows: list[Row] = dataclasses.field(default_factory=list)

    def is_sure_of(self, row: Row) -> bool:
        return bool(row.engine_sha256) and any(
            row.engine_sha256 == known.engine_sha256 for known in self.rows
        )

    def takes(self, row: Row) -> bool:
        """Whether the row may be of this engine: its path ends as all paths of that name do."""
        namesakes = [known for known in self.rows if known.engine == row.engine]
        return (
            bool(namesakes)
            and all(_ends_alike(_parts(row.path), _parts(known.path)) for known in namesakes)
            and all(may_be_one_engine(row, known) for known in self.rows)
        )

    def parts(self, base: str) -> tuple[str, ...]:
        """The longest path of a file name."""
        return max((_parts(row.path) for row in self.rows if row.engine == base), key=len)

    @property
    def sha256(self) -> str:
        """Of the engine, else of its model; empty where neither is known."""
        found = [row.engine_sha256 for row in self.rows] + [row.model_sha256 for row in self.rows]
        return next((sha256 for sha256 in found if sha256), "")


class Engines:
    """The engines of bench and parity rows.

    Rows are of one engine where both state its hash and these agree; else where their models'
    hashes do not differ and one path ends as the other does.

    Args:
        rows: in the order in which they were given.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        groups: list[_Group] = []
        for row in sorted(rows, key=_tells_least):
            sure = [group for group in groups if group.is_sure_of(row)]
            found = sure or [group for group in groups if group.takes(row)]
            if len(found) != 1:
                groups.append(_Group())
                found = groups[-1:]
            found[0].rows.append(row)
        self._group = {id(row): group for group in groups for row in group.rows}
        self._names = _name_engines(groups)

    def name(self, row: Row) -> str:
        """Return the file's name, with as much of its path or hash as tells it from others."""
        return self._names[id(self._group[id(row)]), row.engine]

    def are_one(self, first: Row, second: Row) -> bool:
        """Whether two rows are of one engine."""
        return self._group[id(first)] is self._group[id(second)]


def _tells_least(row: Row) -> tuple[bool, bool, int]:
    """Return what puts rows that say most of their engine first: others are then put to them."""
    return not row.engine_sha256, not row.model_sha256, -len(_parts(row.path))


def _name_engines(groups: Sequence[_Group]) -> dict[tuple[int, str], str]:
    """Return a name for each file name of each group, by the group's id and the file name."""
    named: dict[str, list[_Group]] = {}
    for group in groups:
        for base in dict.fromkeys(row.engine for row in group.rows):
            named.setdefault(base, []).append(group)
    names = {}
    for base, alike in named.items():
        paths = [_join(group.parts(base)) for group in alike]
        short = short_names(paths)
        for group, path in zip(alike, paths, strict=True):
            is_alone = paths.count(path) == 1
            told = f"{path} ({group.sha256[:_DIGITS] or 'unknown hash'})"
            names[id(group), base] = short[path] if is_alone else told
    return names


def _join(parts: tuple[str, ...]) -> str:
    return "/".join(parts).replace("//", "/")


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace("\\", "/")).parts or (path,)


def _ends_alike(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    least = min(len(first), len(second))
    return first[-least:] == second[-least:]

"""Two files compared: paired, refused where they are unlike, and judged."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet_edge.compare.changes import Bounds, Change
from alexnet_edge.compare.kinds import Row, require_kinds
from alexnet_edge.compare.pairing import pair_rows
from alexnet_edge.compare.settings import Difference, show_value
from alexnet_edge.errors import InputError
from alexnet_edge.naming import short_names
from alexnet_edge.results_files import ResultsFile, read_results

PASS, FAIL = "pass", "fail"


@dataclasses.dataclass(frozen=True)
class ComparedPair:
    """A row of one file and the one of the other that belongs to it.

    Attributes:
        label: what the first is; and the second, where that is something else.
        changes: figure by figure.
    """

    label: str
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The change from one file to another.

    Attributes:
        compared: `bench`, `parity` or `camera`.
        first, second: the files, with their hashes.
        pairs: rows that are in both.
        only_first, only_second: rows that are not.
        differences: what the runs have unlike.
        invalid: why figures cannot be relied on, where a run says so of itself.
        forced: whether they were compared all the same.
        bounds: what changes were judged by.
        verdict: `pass` or `fail`; None without a bound.
    """

    compared: str
    first: dict[str, str]
    second: dict[str, str]
    pairs: tuple[ComparedPair, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differences: tuple[Difference, ...]
    invalid: tuple[str, ...]
    forced: bool
    bounds: Bounds
    verdict: str | None
    kind: str = "compare"


def compare_files(
    first: Path, second: Path, bounds: Bounds | None = None, *, force: bool = False
) -> Comparison:
    """Compare two results of bench, two of parity, or two of the camera.

    Args:
        first, second: before and after.
        bounds: how much worse figures may become.
        force: compare runs with unlike settings, and invalid ones.

    Raises:
        InputError: a file is none of these; the two are of different kinds, have no row in
            common, were measured under unlike settings, or say of themselves that they are not
            valid.
    """
    bounds = bounds or Bounds()
    files = [read_results(path) for path in (first, second)]
    kind = require_kinds(files)
    pairs, *left = pair_rows(kind.rows(files[0]), kind.rows(files[1]), kind.keys)
    labels = [[row.label for row in rows] for rows in left]
    changes = _tell_apart(
        [_labelled(*pair, kind.changes(*pair, bounds)) for pair in pairs],
        [first.path for first, _ in pairs],
    )
    differences = [difference for pair in pairs for difference in kind.differences(*pair)]
    invalid = kind.invalid(files, pairs)
    _require_pairs(files, changes)
    _require_judged(bounds, changes)
    differences = _say_once(differences)
    if not force:
        _require_alike(files, differences, invalid)
    failed = any(change.fails for pair in changes for change in pair.changes)
    return Comparison(
        compared=files[0].kind,
        first=_describe(files[0]),
        second=_describe(files[1]),
        pairs=tuple(changes),
        only_first=tuple(labels[0]),
        only_second=tuple(labels[1]),
        differences=tuple(differences),
        invalid=tuple(invalid),
        forced=force and (bool(invalid) or any(d.refuses for d in differences)),
        bounds=bounds,
        verdict=None if not bounds.given else FAIL if failed else PASS,
    )


def _require_pairs(files: Sequence[ResultsFile], changes: Sequence[ComparedPair]) -> None:
    if not changes:
        raise InputError(
            f"{files[0].path} and {files[1].path}: have no engine and batch size in common by "
            "which their rows can be told apart",
            hint="measure the same engines, each once, or one in each file",
        )


def _require_judged(bounds: Bounds, changes: Sequence[ComparedPair]) -> None:
    """Refuse a bound that judges nothing: its `pass` would say nothing."""
    judged = any(change.bound is not None for pair in changes for change in pair.changes)
    if bounds.given and not judged:
        raise InputError(
            "the bound is for top-1 and agreement, which these results do not have",
            hint="give --max-regression 5%",
        )


def _require_alike(
    files: Sequence[ResultsFile], differences: Sequence[Difference], invalid: Sequence[str]
) -> None:
    if invalid:
        raise InputError(
            "; ".join(invalid), hint="measure again, or compare all the same with --force"
        )
    refusing = [str(difference) for difference in differences if difference.refuses]
    if refusing:
        raise InputError(
            f"{files[0].path} and {files[1].path}: were measured under unlike settings "
            f"({'; '.join(refusing)})",
            hint="measure both alike, or compare all the same with --force",
        )


def _labelled(first: Row, second: Row, changes: tuple[Change, ...]) -> ComparedPair:
    label = first.label if first.label == second.label else f"{first.label} → {second.label}"
    return ComparedPair(label, changes)


def _tell_apart(pairs: Sequence[ComparedPair], paths: Sequence[str]) -> list[ComparedPair]:
    """Add as much of the engines' paths to equal labels as tells them apart."""
    names, counts = short_names(paths), collections.Counter(pair.label for pair in pairs)
    return [
        dataclasses.replace(pair, label=f"{pair.label} ({names[path]})")
        if counts[pair.label] > 1
        else pair
        for pair, path in zip(pairs, paths, strict=True)
    ]


def _say_once(differences: Iterable[Difference]) -> list[Difference]:
    """Drop what was found again for another row; lists and objects become text."""
    said = []
    for difference in differences:
        first, second = (
            value if isinstance(value, (str, int, float, type(None))) else show_value(value)
            for value in (difference.first, difference.second)
        )
        said.append(dataclasses.replace(difference, first=first, second=second))
    return list(dict.fromkeys(said))


def _describe(file: ResultsFile) -> dict[str, str]:
    return {"file": str(file.path), "sha256": file.sha256}

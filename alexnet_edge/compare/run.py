"""Two files compared: paired, refused where they are unlike, and judged."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.compare.changes import Bounds, Change, bench_changes, parity_changes
from alexnet_edge.compare.pairing import BENCH_KEYS, PARITY_KEYS, pair_rows
from alexnet_edge.compare.settings import (
    Difference,
    bench_differences,
    parity_differences,
    show_value,
)
from alexnet_edge.errors import InputError
from alexnet_edge.results_files import (
    BenchRow,
    HistoryEntry,
    ParityRow,
    ResultsFile,
    bench_rows,
    parity_rows,
    read_results,
)
from alexnet_edge.results_files.reading import BENCH, PARITY

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
        compared: `bench` or `parity`.
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
    """Compare two results of bench, or two of parity.

    Args:
        first, second: before and after.
        bounds: how much worse figures may become.
        force: compare runs with unlike settings, and invalid ones.

    Raises:
        InputError: a file is neither; the two are of different kinds, have no row in common, were
            measured under unlike settings, or say of themselves that they are not valid.
    """
    bounds = bounds or Bounds()
    files = [read_results(path) for path in (first, second)]
    _require_kinds(files)
    if files[0].kind == BENCH:
        pairs, *left = pair_rows(bench_rows(files[0]), bench_rows(files[1]), BENCH_KEYS)
        labels = [[row.label for row in rows] for rows in left]
        differences = [d for pair in pairs for d in bench_differences(*pair)]
        invalid = _invalid_runs(files, pairs)
        changes = [_labelled(*pair, bench_changes(*pair, bounds)) for pair in pairs]
    else:
        results, *rest = pair_rows(parity_rows(files[0]), parity_rows(files[1]), PARITY_KEYS)
        labels = [[row.label for row in rows] for rows in rest]
        differences = [d for pair in results for d in parity_differences(*pair)]
        invalid = []
        changes = [_labelled(*pair, parity_changes(*pair, bounds)) for pair in results]
    _require_pairs(files, changes)
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


def describe_run(path: Path) -> HistoryEntry:
    """Return a result's figures as a line of the history.

    Raises:
        InputError: it is neither of bench nor of parity.
    """
    file = read_results(path)
    _require_kinds([file])
    environment = file.data.get("environment") or {}
    if file.kind == BENCH:
        rows = [_bench_figures(row) for row in bench_rows(file)]
    else:
        rows = [_parity_figures(row) for row in parity_rows(file)]
        environment = parity_rows(file)[0].raw.get("environment") or environment if rows else {}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return HistoryEntry(
        date=str(environment.get("date") or now),
        source=file.name,
        sha256=file.sha256,
        kind=file.kind,
        machine={
            "cpu": environment.get("cpu"),
            "cores": environment.get("cores"),
            "board": environment.get("board"),
            "gpus": [gpu.get("name") for gpu in environment.get("gpus") or []],
        },
        rows=tuple(rows),
    )


def _bench_figures(row: BenchRow) -> dict[str, Any]:
    intervals = {"p50_ms": row.latency_interval("p50")}
    return {
        "label": row.label,
        "engine": row.engine,
        "runtime": row.runtime,
        "precision": row.precision,
        "batch": row.batch,
        "scenario": row.scenario.get("name"),
        "cache": row.cache,
        "model_sha256": row.raw.get("model_sha256"),
        "valid": row.raw.get("valid", True),
        "figures": {
            **{f"{name}_ms": row.latency_ms(name) for name in ("p50", "p90", "p99", "mean")},
            "throughput_ips": row.throughput_ips,
            "size_bytes": row.size_bytes,
            "energy_j_per_inference": row.energy_j,
        },
        "ci95": {name: interval for name, interval in intervals.items() if interval},
    }


def _parity_figures(row: ParityRow) -> dict[str, Any]:
    raw = row.raw
    return {
        "label": row.label,
        "engine": row.engine,
        "images_sha256": raw.get("images_sha256"),
        "verdict": raw["verdict"],
        "figures": {
            "top1": row.accuracy("engine"),
            "drop_pp": raw.get("drop_pp"),
            "agreement": raw["agreement"],
            "logit_sqnr_db": raw.get("logit_sqnr_db"),
        },
        "ci95": {"drop_pp": row.drop_interval_pp} if row.drop_interval_pp else {},
    }


def _require_kinds(files: Sequence[ResultsFile]) -> None:
    for file in files:
        if file.kind not in {BENCH, PARITY}:
            raise InputError(
                f"{file.path}: is a {file.kind} result; bench and parity results can be compared",
                hint="give two files of bench --json, or two of parity --json",
            )
    if len({file.kind for file in files}) > 1:
        named = " and ".join(f"{file.path} ({file.kind})" for file in files)
        raise InputError(f"{named}: are of different kinds", hint="give two of one kind")


def _require_pairs(files: Sequence[ResultsFile], changes: Sequence[ComparedPair]) -> None:
    if not changes:
        raise InputError(
            f"{files[0].path} and {files[1].path}: have no engine and batch size in common",
            hint="measure the same engines, or one in each file",
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


def _invalid_runs(
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


def _labelled(
    first: BenchRow | ParityRow, second: BenchRow | ParityRow, changes: tuple[Change, ...]
) -> ComparedPair:
    label = first.label if first.label == second.label else f"{first.label} → {second.label}"
    return ComparedPair(label, changes)


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

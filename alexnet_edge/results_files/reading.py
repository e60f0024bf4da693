"""Which kind of result a JSON file is, and whether it holds what that kind must.

A kind is told by the file's `kind`, or by its keys where an older version left that out. What is
read later is checked here once, so that a damaged file is named before anything is computed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import read_json, require_file, sha256_file
from alexnet_edge.errors import InputError
from alexnet_edge.results_files.checks import (
    MalformedError,
    Shape,
    amount,
    anything,
    as_long,
    check,
    count,
    each,
    flag,
    interval,
    named,
    number,
    one_of,
    positive,
    require,
    share,
    some,
    text,
)

BENCH, PARITY, TABLE, MANIFEST = "bench", "parity", "table", "manifest"
SENSITIVITY, CAMERA, PARETO, COMPARE = "sensitivity", "camera", "pareto", "compare"
KINDS = (BENCH, PARITY, SENSITIVITY, PARETO, CAMERA, COMPARE, TABLE, MANIFEST)

_DEEPEST = 50
_SURROGATES = re.compile("[\ud800-\udfff]")

_HINT = "give a file that a command wrote with --json, a calibration table or a manifest"


@dataclasses.dataclass(frozen=True)
class ResultsFile:
    """A result as it was read.

    Attributes:
        path: the file.
        sha256: of its bytes.
        kind: one of `KINDS`.
        data: the JSON object.
    """

    path: Path
    sha256: str
    kind: str
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def read_results(path: Path) -> ResultsFile:
    """Read a result of any kind.

    Raises:
        InputError: missing, not JSON, of no known kind, or without what its kind must hold.
    """
    require_file(path, hint=_HINT)
    data = read_json(path, what="a result", hint=_HINT)
    kind = _kind_of(data)
    if kind is None:
        raise InputError(f"{path}: is no result that alexnet-edge knows{_known(data)}", hint=_HINT)
    try:
        data = replace_halves(data)
        check(data, _SHAPES[kind], "")
    except MalformedError as problem:
        raise InputError(f"{path}: is no {kind} result: {problem}", hint=_HINT) from None
    return ResultsFile(path, sha256_file(path), kind, data)


def replace_halves(value: Any, depth: int = 0) -> Any:
    """Return a JSON value whose texts hold no half of a surrogate pair, which nothing can print.

    Raises:
        MalformedError: it is nested deeper than any result.
    """
    require(depth <= _DEEPEST, "", f"nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {replace_halves(key): replace_halves(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_halves(item, depth + 1) for item in value]
    return value


def _kind_of(data: Mapping[str, Any]) -> str | None:
    stated = data.get("kind")
    if stated is not None:
        return stated if isinstance(stated, str) and stated in KINDS else None
    keys = set(data)
    for kind, needed in (
        (MANIFEST, {"engine_sha256", "layers"}),
        (TABLE, {"tensors", "model_sha256"}),
        (SENSITIVITY, {"damage_by", "pareto"}),
        (BENCH, {"engines"}),
        (PARITY, {"verdict", "agreement"}),
        (PARITY, {"parity"}),
    ):
        if needed <= keys:
            return kind
    return None


def _known(data: Mapping[str, Any]) -> str:
    if "kind" in data:
        return f" (kind {str(data['kind'])[:40]!r})"
    keys = ", ".join(" ".join(key.split()) for key in sorted(data)[:6])
    return f" (its keys: {keys})" if keys else " (it is empty)"


def _times(value: Any, where: str) -> None:
    """Check for milliseconds, or percentiles of them; what is neither is not read."""
    if isinstance(value, dict):
        each(_times)(value, where)
    elif isinstance(value, (int, float)):
        amount(value, where)


_LATENCY = {
    "mean": positive, "p50": positive, "p90": positive, "p99": positive,
    "ci95_p50?": interval, "ci95_p90?": interval, "ci95_p99?": interval, "basis?": text,
}  # fmt: skip
_PERCENTILES = {"p50": amount, "p90?": amount, "p99?": amount, "mean?": amount}
_ENVIRONMENT = {"cpu?": text, "cores?": count, "date?": text, "gpus?": [named],
                "packages?": named, "load_1min?": number}  # fmt: skip
_BENCH_ROW = {
    "engine": text, "runtime": text, "precision": text, "batch": some,
    "latency_ms": _LATENCY, "throughput_ips": positive, "samples": some, "size_bytes": positive,
    "settings?": named, "input?": text, "input_images?": count, "input_sha256?": text,
    "depends_on_input?": flag, "throughput_ci95_ips?": interval, "cache?": text,
    "slices?": as_long("p50_ms", "mean_ms", "samples", also=("at_s",)),
    "histogram?": as_long("edges_ms", "counts", more=1),
    "layers?": [{"name": text, "op?": text, "mean_us": amount, "share": share}],
    "floor?": {"floor_ms": amount, "efficiency": amount, "bytes?": amount, "macs?": amount,
               "bandwidth_gb_s?": amount, "compute_gmac_s?": amount, "source?": text},
    "energy_j_per_inference?": amount,
    "queue_ms?": _PERCENTILES, "service_ms?": _PERCENTILES,
    "valid?": flag, "invalid_because?": [text], "model_sha256?": text,
    "engine_sha256?": text, "input_skipped?": [text],
    "utilization?": amount, "unserved?": count,
}  # fmt: skip
_SAMPLING = {
    "samples": count, "basis?": text, "ci95_p50?": interval, "ci95_p90?": interval,
    "ci95_p99?": interval, "slices?": as_long("seconds", "samples", "mean_ms"),
}  # fmt: skip
_ANSWERS = {"label?": text, "reference?": text, "engine?": text}
_ACCURACY = {"top1": share, "top5?": share}
_PARITY_ROW = {
    "images": some, "labelled": count, "agreement": share,
    "verdict": one_of("pass", "fail", "inconclusive"),
    "reference?": _ACCURACY, "engine?": _ACCURACY, "sqnr_db?": number, "logit_sqnr_db?": number,
    "max_abs?": amount, "drop_pp?": number, "drop_ci95_pp?": interval, "margin_pp": number,
    "flips?": {"fixed": count, "broken": count}, "mcnemar_p?": share,
    "per_class?": [{"class": text, "images": count, "reference_top1": share,
                    "engine_top1": share, "drop_pp": number, "fixed?": count,
                    "broken?": count}],
    "flipped?": [{"image": text, **_ANSWERS, "kind?": text, "confidence?": amount,
                  "reference_confidence?": amount}],
    "flipped_total?": count,
    "worst?": [{"image": text, **_ANSWERS, "max_abs?": amount, "sqnr_db?": number}],
    "layers?": [{"name": text, "sqnr_db?": number}], "layers_note?": text,
    "divergence?": {"first?": text, "images?": count, "stages?": [
        {"name": text, "compared_with?": text, "max_abs?": amount, "sqnr_db?": number,
         "tolerance?": text, "within?": flag, "reason?": text}]},
    "images_needed?": amount, "minimum_detectable_drop_pp?": amount,
    "skipped?": [{"name": text, "reason?": text}], "environment?": _ENVIRONMENT,
    "engine_path?": text, "reference_path?": text, "images_name?": text,
    "engine_sha256?": text, "reference_sha256?": text, "model_sha256?": text,
    "images_sha256?": text,
}  # fmt: skip
_NEAR = 1.25
"""The median of all samples is among those of the turns, but for rounding; far from it, the file
was changed by hand."""

_DAMAGE = {"logit_sqnr_db?": number, "kl?": number, "drop_pp?": number, "agreement?": share,
           "top1?": share}  # fmt: skip
_COST = {"size_bytes": amount, "latency_ms?": _LATENCY, "ratio?": positive}


def _check_bench_row(value: Any, where: str) -> None:
    check(value, _BENCH_ROW, where)
    medians = (value.get("slices") or {}).get("p50_ms")
    if medians:
        among = min(medians) / _NEAR <= value["latency_ms"]["p50"] <= max(medians) * _NEAR
        require(among, f"{where}.latency_ms.p50", "is not among the medians of slices.p50_ms")


_SHAPES: dict[str, Shape] = {
    BENCH: {"engines": [_check_bench_row], "environment?": _ENVIRONMENT,
            "scenario?": {"name?": text, "images_name?": text},
            "valid?": flag, "invalid_because?": [text], "sensors?": named},
    PARITY: {},  # one result or several: see below
    TABLE: {"model_sha256": text, "tensors": named, "images?": named, "tool?": named},
    MANIFEST: {"engine_sha256": text, "model_sha256": text, "runtime": text, "precision": text,
               "layers": [{"name": text, "op": text, "precision": text}], "classes?": [anything]},
    SENSITIVITY: {
        "layers": [{"layer": text, "only": _DAMAGE, "spared": _DAMAGE, "cost": _COST}],
        "pareto": [{"spared": [text], "damage?": _DAMAGE, "cost": _COST, "optimal?": flag}],
    },
    CAMERA: {
        "engine": text, "seconds": amount, "fps": amount,
        "frames": {"captured?": count, "answered?": count, "dropped?": count,
                   "corrupt?": count},
        "frame_age_ms?": _PERCENTILES, "stages_ms?": each(_times), "environment?": _ENVIRONMENT,
        "runtime?": text, "precision?": text, "source?": text, "settings?": named,
        "source_settings?": {"kind": text, "location": text, "options": named,
                             "frame_size?": [some]},
        "sampling?": each(_SAMPLING), "cpu_percent?": amount, "rss_bytes?": amount,
        "reconnects?": count, "ended?": text, "failed_outputs?": each(text),
        "model_sha256?": text,
    },
    PARETO: {"points": [{"name": text, "size_bytes?": amount, "latency_ms?": each(_times),
                         "top1?": share, "agreement?": share, "logit_sqnr_db?": number,
                         "on_front?": flag}]},
    COMPARE: {"pairs": [{"label": text, "changes": [
        {"figure": text, "first": number, "second": number, "change": number, "unit": text,
         "verdict": text, "low?": number, "high?": number}]}]},
}  # fmt: skip


def _check_parity(value: Any, where: str) -> None:
    if "parity" in value:
        check(value, {"parity": [_check_parity_row], "environment?": _ENVIRONMENT}, where)
    else:
        _check_parity_row(value, where)


def _check_parity_row(value: Any, where: str) -> None:
    check(value, _PARITY_ROW, where)
    at = f"{where}.labelled" if where else "labelled"
    labelled, known = value["labelled"], value.get("reference") or value.get("engine")
    require(labelled <= value["images"], at, "more than there are images")
    require(labelled > 0 or not known, at, "no image has a label, yet a top-1 is stated")


_SHAPES[PARITY] = _check_parity

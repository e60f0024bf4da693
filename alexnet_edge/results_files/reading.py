"""Which kind of result a JSON file is, and whether it holds what that kind must.

A kind is told by the file's `kind`, or by its keys where an older version left that out. What is
read later is checked here once, so that a damaged file is named before anything is computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import read_json, require_file, sha256_file
from alexnet_edge.errors import InputError

BENCH, PARITY, TABLE, MANIFEST = "bench", "parity", "table", "manifest"
SENSITIVITY, CAMERA, PARETO, COMPARE = "sensitivity", "camera", "pareto", "compare"
KINDS = (BENCH, PARITY, SENSITIVITY, PARETO, CAMERA, COMPARE, TABLE, MANIFEST)

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
        _check(data, _SHAPES[kind], "")
    except _MalformedError as problem:
        raise InputError(f"{path}: is no {kind} result: {problem}", hint=_HINT) from None
    return ResultsFile(path, sha256_file(path), kind, data)


def _kind_of(data: Mapping[str, Any]) -> str | None:
    stated = data.get("kind")
    if stated is not None:
        return stated if stated in KINDS else None
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
    keys = ", ".join(sorted(map(str, data))[:6])
    return f" (its keys: {keys})" if keys else " (it is empty)"


class _MalformedError(Exception):
    pass


Shape = Any
"""A check, a one-element list of the elements' shape, or a mapping of keys to shapes; a key that
ends in ? may be missing or null."""


def _check(value: Any, shape: Shape, where: str) -> None:
    if isinstance(shape, dict):
        _require(isinstance(value, dict), where, "an object is expected")
        for key, inner in shape.items():
            name = key.rstrip("?")
            at = f"{where}.{name}" if where else name
            if value.get(name) is None:
                _require(key.endswith("?"), at, "is missing")
            else:
                _check(value[name], inner, at)
    elif isinstance(shape, list):
        _require(isinstance(value, list), where, "a list is expected")
        for index, item in enumerate(value):
            _check(item, shape[0], f"{where}[{index}]")
    else:
        shape(value, where)


def _require(condition: bool, where: str, problem: str) -> None:
    if not condition:
        raise _MalformedError(f"{where or 'the file'}: {problem}")


def _number(value: Any, where: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(number and abs(value) < 1e300 and math.isfinite(value), where, "a number is expected")


def _positive(value: Any, where: str) -> None:
    _number(value, where)
    _require(value > 0, where, "a number above 0 is expected")


def _amount(value: Any, where: str) -> None:
    _number(value, where)
    _require(value >= 0, where, "0 or more is expected")


def _count(value: Any, where: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and value >= 0, where, "a whole number of 0 or more is expected")


def _some(value: Any, where: str) -> None:
    _count(value, where)
    _require(value > 0, where, "a whole number above 0 is expected")


def _share(value: Any, where: str) -> None:
    _number(value, where)
    _require(0 <= value <= 1, where, "a share from 0 to 1 is expected")


def _text(value: Any, where: str) -> None:
    _require(isinstance(value, str), where, "a text is expected")


def _flag(value: Any, where: str) -> None:
    _require(isinstance(value, bool), where, "true or false is expected")


def _object(value: Any, where: str) -> None:
    _require(isinstance(value, dict), where, "an object is expected")


def _interval(value: Any, where: str) -> None:
    _require(isinstance(value, list) and len(value) == 2, where, "[low, high] is expected")
    for bound in value:
        _number(bound, where)
    _require(value[0] <= value[1], where, "the low end is above the high one")


def _each(shape: Shape) -> Callable[[Any, str], None]:
    """Return a check of every value of an object whose keys are names."""

    def check(value: Any, where: str) -> None:
        _object(value, where)
        for name, item in value.items():
            _check(item, shape, f"{where}.{name}")

    return check


def _as_long(*names: str, more: int = 0) -> Callable[[Any, str], None]:
    """Return a check that the lists are equally long, the first by ``more`` longer."""

    def check(value: Any, where: str) -> None:
        _object(value, where)
        for name in names:
            for item in value.get(name) or []:
                _amount(item, f"{where}.{name}")
        lengths = [len(value.get(name) or []) for name in names]
        if any(lengths):
            lengths[0] -= more
            _require(len(set(lengths)) == 1, where, f"{', '.join(names)} do not go together")

    return check


_LATENCY = {
    "mean": _positive, "p50": _positive, "p90": _positive, "p99": _positive,
    "ci95_p50?": _interval, "ci95_p90?": _interval, "ci95_p99?": _interval,
}  # fmt: skip
_PERCENTILES = {"p50": _amount, "p90?": _amount, "p99?": _amount, "mean?": _amount}
_ENVIRONMENT = {"cpu?": _text, "cores?": _count, "date?": _text, "gpus?": [_object],
                "packages?": _object, "load_1min?": _number}  # fmt: skip
_BENCH_ROW = {
    "engine": _text, "runtime": _text, "precision": _text, "batch": _some,
    "latency_ms": _LATENCY, "throughput_ips": _positive, "samples": _some, "size_bytes": _amount,
    "settings?": _object, "input?": _text, "input_images?": _count, "input_sha256?": _text,
    "depends_on_input?": _flag, "throughput_ci95_ips?": _interval, "cache?": _text,
    "slices?": _as_long("p50_ms", "mean_ms", "samples"),
    "histogram?": _as_long("edges_ms", "counts", more=1),
    "layers?": [{"name": _text, "op?": _text, "mean_us": _amount, "share": _share}],
    "floor?": {"floor_ms": _amount, "efficiency": _amount, "bytes?": _amount, "macs?": _amount,
               "bandwidth_gb_s?": _amount, "compute_gmac_s?": _amount, "source?": _text},
    "energy_j_per_inference?": _amount,
    "queue_ms?": _PERCENTILES, "service_ms?": _PERCENTILES,
    "valid?": _flag, "invalid_because?": [_text], "model_sha256?": _text,
}  # fmt: skip
_SAMPLING = {
    "samples": _count, "basis?": _text, "ci95_p50?": _interval, "ci95_p90?": _interval,
    "ci95_p99?": _interval, "slices?": _as_long("seconds", "samples", "mean_ms"),
}  # fmt: skip
_ACCURACY = {"top1": _share, "top5?": _share}
_PARITY_ROW = {
    "images": _some, "labelled": _count, "agreement": _share, "verdict": _text,
    "reference?": _ACCURACY, "engine?": _ACCURACY, "sqnr_db?": _number, "logit_sqnr_db?": _number,
    "max_abs?": _amount, "drop_pp?": _number, "drop_ci95_pp?": _interval, "margin_pp": _number,
    "flips?": {"fixed": _count, "broken": _count}, "mcnemar_p?": _share,
    "per_class?": [{"class": _text, "images": _count, "reference_top1": _share,
                    "engine_top1": _share, "drop_pp": _number, "fixed?": _count,
                    "broken?": _count}],
    "flipped?": [{"image": _text}], "worst?": [{"image": _text, "max_abs?": _amount}],
    "layers?": [{"name": _text, "sqnr_db?": _number}],
    "divergence?": {"first?": _text, "stages?": [
        {"name": _text, "compared_with?": _text, "max_abs?": _amount, "sqnr_db?": _number,
         "tolerance?": _text, "within?": _flag, "reason?": _text}]},
    "engine_path?": _text, "reference_path?": _text, "images_name?": _text,
}  # fmt: skip
_DAMAGE = {"logit_sqnr_db?": _number, "kl?": _number, "drop_pp?": _number, "agreement?": _share,
           "top1?": _share}  # fmt: skip
_COST = {"size_bytes": _amount, "latency_ms?": _LATENCY, "ratio?": _positive}

_SHAPES: dict[str, Shape] = {
    BENCH: {"engines": [_BENCH_ROW], "environment?": _ENVIRONMENT,
            "scenario?": {"name?": _text, "images_name?": _text},
            "valid?": _flag, "invalid_because?": [_text], "sensors?": _object},
    PARITY: {},  # one result or several: see below
    TABLE: {"model_sha256": _text, "tensors": _object, "images?": _object, "tool?": _object},
    MANIFEST: {"engine_sha256": _text, "model_sha256": _text, "runtime": _text, "precision": _text,
               "layers": [{"name": _text, "op": _text, "precision": _text}]},
    SENSITIVITY: {
        "layers": [{"layer": _text, "only": _DAMAGE, "spared": _DAMAGE, "cost": _COST}],
        "pareto": [{"spared": [_text], "damage?": _DAMAGE, "cost": _COST, "optimal?": _flag}],
    },
    CAMERA: {
        "engine": _text, "seconds": _amount, "fps": _amount,
        "frames": {"captured?": _count, "answered?": _count, "dropped?": _count,
                   "corrupt?": _count},
        "frame_age_ms?": _PERCENTILES, "stages_ms?": _object, "environment?": _ENVIRONMENT,
        "runtime?": _text, "precision?": _text, "source?": _text, "settings?": _object,
        "source_settings?": {"kind": _text, "location": _text, "options": _object,
                             "frame_size?": [_some]},
        "sampling?": _each(_SAMPLING), "cpu_percent?": _amount, "rss_bytes?": _amount,
        "reconnects?": _count, "ended?": _text, "failed_outputs?": _each(_text),
        "model_sha256?": _text,
    },
    PARETO: {"points": [{"name": _text, "size_bytes?": _amount, "latency_ms?": _object,
                         "top1?": _share, "agreement?": _share, "logit_sqnr_db?": _number,
                         "on_front?": _flag}]},
    COMPARE: {"pairs": [{"label": _text, "changes": [
        {"figure": _text, "first": _number, "second": _number, "change": _number, "unit": _text,
         "verdict": _text, "low?": _number, "high?": _number}]}]},
}  # fmt: skip


def _check_parity(value: Any, where: str) -> None:
    rows = {"parity": [_PARITY_ROW]} if "parity" in value else _PARITY_ROW
    _check(value, rows, where)


_SHAPES[PARITY] = _check_parity

"""What two runs have unlike, and whether that forbids comparing them.

The machine, the scenario, the settings of the runtime, the input and the model must be alike; the
versions of packages, the engine and its precision may be the very thing that is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_edge.results_files.camera import CameraRow
from alexnet_edge.results_files.rows import BenchRow, ParityRow, base_name

_SCENARIO = ("name", "loop", "timed", "arrivals", "rate_qps", "images_per_query")
_LENGTH_OF_RUN = ("duration_s", "min_samples", "warmup_s", "seed", "interleaved")
"""Of a scenario: what must be alike, and what makes figures no more than surer."""

_READINGS = ("huge_page_bytes",)
"""Of the runtime's settings, what it found rather than was told: it varies from run to run."""

_ASIDE = ("max_frames", "duration_s", "stall_timeout_s", "retry", "max_backoff_s",
          "read_timeout_s", "top_k", "smooth", "threshold")  # fmt: skip
"""Of a camera's settings: the length of the run, the watchdogs, and what is done with an answer."""

_CAMERAS = frozenset(("csi", "v4l2", "rtsp", "http"))
_MOST_RATE_CHANGE = 0.1
"""By how much the rates of a camera may differ that is asked for the same, as a share."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Something that the two have unlike.

    Attributes:
        field: what.
        first, second: as each has it; None where a file, of an older version, does not say.
        refuses: whether figures must not be compared because of it.
        where: the row; empty for the run.
    """

    field: str
    first: Any
    second: Any
    refuses: bool
    where: str = ""

    def __str__(self) -> str:
        where = f" of {self.where}" if self.where else ""
        return f"{self.field}{where}: {show_value(self.first)}, {show_value(self.second)}"


def bench_differences(first: BenchRow, second: BenchRow) -> list[Difference]:
    """Return what two rows of bench, and their runs, have unlike."""
    found = _unlike(_machine(first.environment), _machine(second.environment), "machine", True)
    found += _unlike(_scenario(first, _SCENARIO), _scenario(second, _SCENARIO), "scenario", True)
    lengths = [_scenario(row, _LENGTH_OF_RUN) for row in (first, second)]
    found += _unlike(lengths[0], lengths[1], "scenario", False)
    found += _unlike(_versions(first.environment), _versions(second.environment), "", False)
    where = first.label
    found += _unlike_settings(first.settings, second.settings, _READINGS, where)
    rows = [
        {"batch": row.batch, "cache": row.cache, "input": row.raw.get("input"),
         "input_sha256": row.raw.get("input_sha256"),
         "images per query": row.raw.get("images_per_query"),
         "model_sha256": row.raw.get("model_sha256")}
        for row in (first, second)
    ]  # fmt: skip
    found += _unlike(rows[0], rows[1], "", True, where)
    names = [
        {"engine": row.engine, "runtime": row.runtime, "precision": row.precision}
        for row in (first, second)
    ]
    return found + _unlike(names[0], names[1], "", False, where)


def parity_differences(first: ParityRow, second: ParityRow) -> list[Difference]:
    """Return what two parity results have unlike; accuracy does not depend on the machine."""
    where = first.label
    judged, named = [], []
    for row in (first, second):
        raw = row.raw
        judged.append(
            {"images": row.images, "labelled": row.labelled,
             "images_sha256": raw.get("images_sha256"),
             "images_name": _folder(raw.get("images_name")),
             "reference_sha256": raw.get("reference_sha256"),
             "reference top-1": row.accuracy("reference"),
             "model_sha256": raw.get("model_sha256")}
        )  # fmt: skip
        named.append(
            {"engine": row.engine, "reference": row.reference, "margin_pp": raw["margin_pp"],
             **_versions(raw.get("environment") or {})}
        )  # fmt: skip
    if judged[0]["images_sha256"] and judged[0]["images_sha256"] == judged[1]["images_sha256"]:
        for side in judged:  # the same images, from wherever they were read
            del side["images_name"]
    return _unlike(judged[0], judged[1], "", True, where) + _unlike(
        named[0], named[1], "", False, where
    )


def camera_differences(first: CameraRow, second: CameraRow) -> list[Difference]:
    """Return what two runs of the camera have unlike.

    The source, what ran the engine and how the loop was set must be alike: then what remains is
    the engine itself, its precision, or the program.
    """
    rows = first, second
    found = _unlike(_machine(first.environment), _machine(second.environment), "machine", True)
    sources = _sources(first, second)
    found += _unlike(sources[0], sources[1], "source", True)
    found += _unlike_settings(first.settings, second.settings, (*_READINGS, *_ASIDE))
    ran = [{key: row.raw.get(key) for key in ("runtime", "model_sha256")} for row in rows]
    found += _unlike(ran[0], ran[1], "", True)
    found += _unlike(_versions(first.environment), _versions(second.environment), "", False)
    named = [
        {"engine": row.engine, "engine_sha256": row.raw.get("engine_sha256"),
         "precision": row.raw.get("precision"), "reconnects": row.raw.get("reconnects"),
         "corrupt frames": row.frames("corrupt")}
        for row in rows
    ]  # fmt: skip
    return found + _unlike(named[0], named[1], "", False)


def _sources(first: CameraRow, second: CameraRow) -> list[dict[str, Any]]:
    """Return what each run's source was asked for and delivered."""
    rows = first, second
    if not (first.source_settings and second.source_settings):
        return [{"name": base_name(row.raw["source"]) if "source" in row.raw else None}
                for row in rows]  # fmt: skip
    options = [_asked(row.source_settings["options"]) for row in rows]
    # What is not asked for is the source's own choice, and another one than what is.
    every = {**options[0], **options[1]}
    sides = [
        {"kind": row.source_settings["kind"], "location": row.source,
         "frame size": _joined(row.source_settings.get("frame_size")),
         **{key: asked.get(key, "not asked for") for key in every}}
        for row, asked in zip(rows, options, strict=True)
    ]  # fmt: skip
    rates = [row.delivered_fps for row in rows]
    if rates[0] and rates[1] and {side["kind"] for side in sides} <= _CAMERAS:
        low, high = sorted(rate for rate in rates if rate)
        if high > low * (1 + _MOST_RATE_CHANGE):
            for side, rate in zip(sides, rates, strict=True):
                side["frames/s"] = f"{rate:.3g}"
    return sides


def _joined(size: Sequence[int] | None) -> str | None:
    return None if size is None else "×".join(map(str, size))


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those that ask for nothing."""
    return {k: v for k, v in options.items() if not (k in {"loop", "live"} and v == "0")}


def _unlike(
    first: Mapping[str, Any], second: Mapping[str, Any], group: str, refuses: bool, where: str = ""
) -> list[Difference]:
    """Compare two mappings; what one of them does not state is noted and refuses nothing."""
    found = []
    for key in sorted({*first, *second}):
        values = first.get(key), second.get(key)
        if values[0] != values[1]:
            field = f"{group} {key}" if group else key
            stated = None not in values
            found.append(Difference(field, *values, refuses and stated, where))
    return found


def _unlike_settings(
    first: Mapping[str, Any], second: Mapping[str, Any], aside: Sequence[str], where: str = ""
) -> list[Difference]:
    """Compare settings; those ``aside`` are noted and refuse nothing."""
    sides = [_flat(first), _flat(second)]
    for side in sides:
        if "huge_page_bytes" in side:
            side["huge pages"] = "used" if side["huge_page_bytes"] else "not used"
    found = []
    for refuses in (True, False):
        chosen = [{k: v for k, v in side.items() if (k in aside) != refuses} for side in sides]
        found += _unlike(chosen[0], chosen[1], "settings", refuses, where)
    return found


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    gpus = environment.get("gpus")
    names = None if gpus is None else [gpu.get("name") for gpu in gpus]
    machine = {key: environment.get(key) for key in ("cpu", "cores", "board")}
    if "board" in environment:
        machine["board"] = environment["board"] or "a PC"
    return machine | {"gpus": names}


def _scenario(row: BenchRow, keys: Sequence[str]) -> dict[str, Any]:
    return {key: row.scenario.get(key) for key in keys}


def _versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages") or {}
    system = {key: environment.get(key) for key in ("os", "python")}
    return system | {f"{name} (package)": version for name, version in packages.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _folder(name: str | None) -> str | None:
    return None if name is None else base_name(str(name).rstrip("/\\"))


def show_value(value: Any) -> str:
    """Return a setting as text; a hash is cut to the 12 digits that tell it apart."""
    if value is None:
        return "not stated"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    text = str(value)
    return text[:12] if len(text) == 64 else text

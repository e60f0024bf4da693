"""Calibration tables: ranges for every method, and what they were measured on.

A table belongs to one model and one preprocessing. `CalibrationTable.require_match` says which
field differs where it is offered to another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import read_json, sha256_file, sha256_json, write_json
from alexnet_edge.errors import InputError, StaleArtifactError, TableError
from alexnet_edge.graph import GraphInfo
from alexnet_edge.machine import package_versions
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.thresholds import PARAMETERS

VERSION = 2

MEASURING = ("alexnet-edge", "onnxruntime", "onnxruntime-gpu", "pillow")
"""Packages whose versions a table is keyed by: they decode, run and count."""

_HINT = "make one with: alexnet-edge calibrate MODEL.onnx --images DIR"


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of a tensor that are represented; those beyond are clipped.

    Attributes:
        amax: largest magnitude, for symmetric quantization.
        low, high: the same range cut to the values that occur, for asymmetric quantization.
    """

    amax: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class CalibrationTable:
    """Ranges by tensor and method, with their provenance.

    Attributes:
        model_sha256, weights_sha256, structure_sha256: of the FP32 graph.
        preprocess: how the images were prepared.
        images: `source`, `count`, `files` (sha256 and name of each, in order), `sha256` of these,
            `held_out` (names of those that methods are judged on) and `skipped`.
        tensors: tensor name to method to range, measured on all images.
        tensors_without_held_out: the same, measured without the images that are held out.
        parameters: of the methods; ranges by others are not comparable.
        tool: versions of what measured.
        choices: `Dialect.key` to a `choose.Choice` as JSON, where methods were ranked already.
        sha256: of the file that it was read from; empty before it is saved.
    """

    model_sha256: str
    weights_sha256: str
    structure_sha256: str
    preprocess: PreprocessSpec
    images: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Range]]
    tensors_without_held_out: Mapping[str, Mapping[str, Range]]
    parameters: Mapping[str, object]
    tool: Mapping[str, str]
    choices: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    sha256: str = dataclasses.field(default="", compare=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that every tensor has a range for."""
        first, *rest = [set(by_method) for by_method in self.tensors.values()]
        common = first.intersection(*rest)
        return tuple(name for name in next(iter(self.tensors.values())) if name in common)

    def ranges(self, method: str) -> dict[str, Range]:
        """Return each tensor's range by one method.

        Raises:
            TableError: the table has no such method.
        """
        if method not in self.methods:
            raise TableError(
                f"the table has no method '{method}'", hint=f"it has {', '.join(self.methods)}"
            )
        return {name: by_method[method] for name, by_method in self.tensors.items()}

    def require_match(self, graph: GraphInfo, preprocess: PreprocessSpec | None) -> None:
        """Refuse to serve another model, other weights or other preprocessing.

        Args:
            graph: the model to be quantized.
            preprocess: its preprocessing, where it is known.

        Raises:
            StaleArtifactError: naming the fields that differ.
        """
        pairs: dict[str, tuple[object, object]] = {
            "model_sha256": (graph.sha256, self.model_sha256),
            "weights_sha256": (graph.weights_sha256, self.weights_sha256),
            "structure_sha256": (graph.structure_sha256, self.structure_sha256),
        }
        pairs |= {
            f"parameters.{key}": (PARAMETERS.get(key), self.parameters.get(key))
            for key in {**PARAMETERS, **self.parameters}
        }
        differences: dict[str, tuple[object, object]] = {
            field: pair for field, pair in pairs.items() if pair[0] != pair[1]
        }
        if preprocess is not None and preprocess != self.preprocess:
            differences["preprocess_sha256"] = (preprocess.sha256, self.preprocess.sha256)
            differences |= preprocess.differences(self.preprocess)
        if differences:
            raise StaleArtifactError(
                f"the calibration table does not belong to {graph.path}", differences,
                hint=f"alexnet-edge calibrate {graph.path} --images DIR",
            )  # fmt: skip

    def require_versions(self) -> None:
        """Refuse to serve where other releases of what measured it are installed.

        A release is major.minor: a patch mends, and a package that is missing here (a board builds
        without ONNX Runtime) contradicts nothing.

        Raises:
            StaleArtifactError: naming the packages.
        """
        here = package_versions()
        differences: dict[str, tuple[object, object]] = {
            f"tool.{name}": (here[name], self.tool[name])
            for name in MEASURING
            if name in here
            and name in self.tool
            and _release(here[name]) != _release(self.tool[name])
        }
        if differences:
            raise StaleArtifactError(
                "the calibration table was measured by other versions", differences,
                hint="calibrate again, or accept and record it with --any-versions",
            )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "version": VERSION,
            "model_sha256": self.model_sha256,
            "weights_sha256": self.weights_sha256,
            "structure_sha256": self.structure_sha256,
            "images": dict(self.images),
            "preprocess_sha256": self.preprocess.sha256,
            "preprocess": self.preprocess.to_dict(),
            "parameters": dict(self.parameters),
            "tensors": _ranges_to_dict(self.tensors),
            "tensors_without_held_out": _ranges_to_dict(self.tensors_without_held_out),
            "tool": dict(self.tool),
            "choices": dict(self.choices),
        }

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        write_json(path, self.to_dict())


def load_table(path: Path) -> CalibrationTable:
    """Read and validate a table.

    Raises:
        TableError: it is malformed; the tensor or key is named.
        StaleArtifactError: its preprocessing does not have the hash that it states.
    """
    try:
        raw = read_json(path, what="a calibration table", hint=_HINT)
        if raw.get("version") != VERSION:
            raise TableError(
                f"{path}: table version {raw.get('version')} is not {VERSION}", hint=_HINT
            )
        preprocess = PreprocessSpec.from_dict(raw["preprocess"], source=str(path))
        table = CalibrationTable(
            model_sha256=str(raw["model_sha256"]),
            weights_sha256=str(raw["weights_sha256"]),
            structure_sha256=str(raw["structure_sha256"]),
            preprocess=preprocess,
            images=_read_images(path, raw["images"]),
            tensors=_read_ranges(path, raw["tensors"]),
            tensors_without_held_out=_read_ranges(path, raw["tensors_without_held_out"]),
            parameters=dict(raw["parameters"]),
            tool=dict(raw["tool"]),
            choices=dict(raw["choices"]),
            sha256=sha256_file(path),
        )
        if not table.tensors or not table.methods:
            missing = "method that every tensor has" if table.tensors else "tensors"
            raise TableError(f"{path}: has no {missing}", hint=_HINT)
        stated = raw["preprocess_sha256"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"{path}: is not a calibration table (at {error})", hint=_HINT) from error
    except InputError as error:
        raise TableError(error.message, hint=error.hint or _HINT) from error
    if stated != preprocess.sha256:
        raise StaleArtifactError(
            f"{path}: was edited", {"preprocess_sha256": (preprocess.sha256, stated)}, hint=_HINT
        )
    return table


def missing_range(tensor: str, path: Path) -> TableError:
    """Return the error of a tensor of ``path`` that is to be quantized and has no range."""
    return TableError(
        f"there is no range for tensor '{tensor}' of {path}",
        hint=f"alexnet-edge calibrate {path} --images DIR",
    )


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _read_images(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the images' entry, whose hash and count must be those of the files it lists."""
    files = [str(line) for line in raw["files"]]
    names = {line.partition("  ")[2] for line in files}
    strangers = [name for name in raw["held_out"] if name not in names]
    if strangers:
        raise TableError(f"{path}: '{strangers[0]}' is held out, but not listed", hint=_HINT)
    stated: dict[str, tuple[object, object]] = {
        "images.count": (len(files), raw["count"]),
        "images.sha256": (sha256_json(files), raw["sha256"]),
    }
    edited = {field: pair for field, pair in stated.items() if pair[0] != pair[1]}
    if edited:
        raise StaleArtifactError(f"{path}: was edited", edited, hint=_HINT)
    return {**raw, "source": str(raw["source"]), "files": files}


def _ranges_to_dict(tensors: Mapping[str, Mapping[str, Range]]) -> dict[str, Any]:
    return {
        name: {method: dataclasses.asdict(item) for method, item in by_method.items()}
        for name, by_method in tensors.items()
    }


def _read_ranges(path: Path, raw: Mapping[str, Any]) -> dict[str, dict[str, Range]]:
    return {
        name: {method: _read_range(path, name, item) for method, item in methods.items()}
        for name, methods in raw.items()
    }


def _read_range(path: Path, name: str, value: Mapping[str, Any]) -> Range:
    found = Range(*(float(value[key]) for key in ("amax", "low", "high")))
    finite = all(math.isfinite(number) for number in dataclasses.astuple(found))
    if not finite or found.amax < 0 or found.low > found.high:
        raise TableError(f"{path}: the range of '{name}' is {found}", hint=_HINT)
    return found

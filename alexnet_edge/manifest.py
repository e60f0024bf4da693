"""What an engine says of itself, in `ENGINE.json` beside it.

A sidecar, because metadata inside an engine's file breaks the vendors' own tools. The manifest
holds the engine's hash: an engine that was replaced, cut short or built again without it is
refused before a byte of it is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import read_json, require_file, sha256_file, write_json
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.results import TensorSpec, to_json

_HINT = "build it with: alexnet-edge build MODEL.onnx"


@dataclasses.dataclass(frozen=True)
class LayerPrecision:
    """What a layer runs in, read from the engine and not from the wish.

    Attributes:
        name: the weighted layer's name in the FP32 graph.
        op: the engine's operator.
        precision: `int2` and `int4` (weights), `int8`, `fp16` or `fp32`.
    """

    name: str
    op: str
    precision: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """An engine's provenance.

    Attributes:
        engine_sha256, model_sha256, table_sha256: of the engine's file, of the FP32 ONNX graph it
            was built from, and of the calibration table (None unless INT8).
        preprocess, classes: None where neither the model nor an option said.
        runtime, runtime_version: what it was built with and runs on.
        precision: `fp32`, `fp16` or `int8`, as asked for; of all layers but those with 4-bit
            weights, which ``options`` and ``layers`` name.
        layers: what every weighted layer really runs in.
        device: the machine it was built on or for.
        input, output, output_kind: the image batch and the answers.
        options: what the build was told: method, dialect, weight bits, batch range, profile.
    """

    engine_sha256: str
    model_sha256: str
    table_sha256: str | None
    preprocess: PreprocessSpec | None
    classes: tuple[str, ...] | None
    runtime: str
    runtime_version: str
    precision: str
    layers: tuple[LayerPrecision, ...]
    device: Mapping[str, Any]
    input: TensorSpec
    output: TensorSpec
    output_kind: str
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        value: dict[str, Any] = to_json(self)
        return value

    def save(self, path: Path) -> None:
        """Write it to a file, atomically."""
        write_json(path, self.to_dict())


def manifest_path(engine: Path) -> Path:
    """Return where the manifest of an engine is."""
    return engine.with_name(f"{engine.name}.json")


def load_manifest(engine: Path) -> Manifest:
    """Read the manifest beside an engine and verify the engine's hash.

    Raises:
        InputError: the engine or its manifest is missing or malformed.
        StaleArtifactError: the engine's file is not the one the manifest was written for.
    """
    require_file(engine, hint=_HINT)
    path = manifest_path(engine)
    if not path.exists():
        raise InputError(f"{engine}: has no manifest {path.name} beside it", hint=_HINT)
    manifest = read_manifest(path)
    found = sha256_file(engine)
    if found != manifest.engine_sha256:
        raise StaleArtifactError(
            f"{engine}: is not the file that {path.name} describes",
            {"engine_sha256": (manifest.engine_sha256, found)},
            hint="build it again with: alexnet-edge build",
        )
    return manifest


def find_manifest(engine: Path) -> Manifest | None:
    """Return the manifest beside a file, unverified; None where there is none.

    Raises:
        InputError: it is malformed.
    """
    path = manifest_path(engine)
    return read_manifest(path) if path.exists() else None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest's file.

    Raises:
        InputError: it is missing or malformed.
    """
    raw = read_json(path, what="an engine's manifest", hint=_HINT)
    try:
        preprocess, classes, table = raw["preprocess"], raw["classes"], raw["table_sha256"]
        return Manifest(
            engine_sha256=str(raw["engine_sha256"]),
            model_sha256=str(raw["model_sha256"]),
            table_sha256=None if table is None else str(table),
            preprocess=None
            if preprocess is None
            else PreprocessSpec.from_dict(preprocess, source=str(path)),
            classes=None if classes is None else tuple(str(name) for name in classes),
            runtime=str(raw["runtime"]),
            runtime_version=str(raw["runtime_version"]),
            precision=str(raw["precision"]),
            layers=tuple(LayerPrecision(**layer) for layer in raw["layers"]),
            device=dict(raw["device"]),
            input=_read_tensor(raw["input"]),
            output=_read_tensor(raw["output"]),
            output_kind=str(raw["output_kind"]),
            options=dict(raw["options"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not an engine's manifest (at {error})", hint=_HINT) from error


def _read_tensor(value: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if size is None else int(size) for size in value["shape"])
    return TensorSpec(str(value["name"]), str(value["dtype"]), shape)

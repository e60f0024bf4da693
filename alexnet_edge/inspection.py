"""What a file is, what it came from, and whether it runs here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import require_file, sha256_file
from alexnet_edge.errors import AlexnetEdgeError, InputError
from alexnet_edge.graph import read_graph
from alexnet_edge.manifest import load_manifest, manifest_path, read_manifest
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.table import load_table
from alexnet_edge.quantize.trt_cache import load_cache
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.loader import CHECKPOINT_SUFFIXES, availability, require_exact_sums

_MAGICS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_KINDS = {**dict.fromkeys(_MAGICS, "plan"), b"TRT-": "cache"}


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A file, described.

    Attributes:
        path, sha256, size_bytes: the file.
        kind: `checkpoint`, `onnx`, `table`, `cache` (TensorRT's calibration cache), `engine`,
            `manifest` or `plan` (an engine without a manifest).
        facts: what it says of itself.
        made_from: name to hash of what it came from.
        runs_here: whether this machine can run it; None for what is not run.
        reason: why not.
    """

    path: str
    kind: str
    sha256: str
    size_bytes: int
    facts: dict[str, Any]
    made_from: dict[str, str | None]
    runs_here: bool | None
    reason: str = ""


def inspect_file(path: Path) -> Inspection:
    """Describe a file.

    Raises:
        InputError: it is none of the artifacts of this package, or damaged.
        StaleArtifactError: an engine that is not the one its manifest describes.
    """
    require_file(path, hint="give a checkpoint, an ONNX file, a table or an engine")
    kind = _kind_of(path)
    facts, made_from, runtime = _DESCRIBE[kind](path)
    runs, reason = _runs_here(path, kind, runtime)
    return Inspection(
        path=str(path),
        kind=kind,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        facts=to_json(facts),
        made_from=made_from,
        runs_here=runs,
        reason=reason,
    )


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix in CHECKPOINT_SUFFIXES:
        return "checkpoint"
    if manifest_path(path).exists():
        return "engine"
    if path.suffix == ".onnx":
        return "onnx"
    if magic in _KINDS:
        return _KINDS[magic]
    if path.suffix == ".json":
        try:
            keys = set(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            keys = set()
        if "engine_sha256" in keys:
            return "manifest"
        if "tensors" in keys:
            return "table"
    raise InputError(
        f"{path}: is no checkpoint, ONNX file, calibration table or engine",
        hint="checkpoints end in .pt, .pth or .safetensors, graphs in .onnx",
    )


_Described = tuple[dict[str, Any], dict[str, str | None], str | None]


def _describe_checkpoint(path: Path) -> _Described:
    checkpoint = load_checkpoint(path)
    architecture = checkpoint.architecture
    facts = {
        "architecture": architecture.name,
        "width": architecture.width,
        "parameters": architecture.parameters,
        "classes": checkpoint.classes or architecture.classes,
        "preprocess": checkpoint.preprocess.to_dict() if checkpoint.preprocess else None,
    }
    return facts, {}, "torch"


def _describe_onnx(path: Path) -> _Described:
    graph = read_graph(path)
    facts = {
        "architecture": graph.arch,
        "opset": graph.opset,
        "input": str(graph.input),
        "output": f"{graph.output} ({graph.output_kind})",
        "quantized": graph.quantized,
        "classes": graph.classes,
        "preprocess": graph.preprocess.to_dict() if graph.preprocess else None,
    }
    return facts, {"checkpoint_sha256": graph.checkpoint_sha256}, "onnxruntime"


def _describe_table(path: Path) -> _Described:
    table = load_table(path)
    facts = {
        "methods": table.methods,
        "tensors": len(table.tensors),
        "images": {key: value for key, value in table.images.items() if key != "files"},
        "chosen": {name: choice.get("methods") for name, choice in table.choices.items()},
        "preprocess": table.preprocess.to_dict(),
    }
    return facts, {"model_sha256": table.model_sha256}, None


def _describe_cache(path: Path) -> _Described:
    cache = load_cache(path)
    facts = {
        "algorithm": cache.algorithm,
        "version": ".".join(map(str, cache.version)),
        "tensors": dict(cache.amax),
    }
    return facts, {}, None


def _describe_engine(path: Path) -> _Described:
    return _describe_manifest_of(load_manifest(path).to_dict())


def _describe_manifest(path: Path) -> _Described:
    facts, made_from, _ = _describe_manifest_of(read_manifest(path).to_dict())
    return facts, made_from, None


def _describe_manifest_of(manifest: dict[str, Any]) -> _Described:
    hashes = ("model_sha256", "table_sha256")
    facts = {key: value for key, value in manifest.items() if key not in hashes}
    return facts, {key: manifest[key] for key in hashes}, manifest["runtime"]


def _describe_plan(path: Path) -> _Described:
    head = path.read_bytes()[:28]
    runtime = _MAGICS[head[:4]]
    facts: dict[str, Any] = {"runtime": runtime, "manifest": None}
    if runtime == "tensorrt-rtx":
        facts["runtime_version"] = ".".join(str(byte) for byte in head[24:28])
    return facts, {}, runtime


_DESCRIBE = {
    "checkpoint": _describe_checkpoint,
    "onnx": _describe_onnx,
    "table": _describe_table,
    "cache": _describe_cache,
    "engine": _describe_engine,
    "manifest": _describe_manifest,
    "plan": _describe_plan,
}


def _runs_here(path: Path, kind: str, runtime: str | None) -> tuple[bool | None, str]:
    if runtime is None:
        return None, ""
    if kind == "plan":
        return False, f"it has no manifest {manifest_path(path).name} beside it"
    try:
        found = availability(runtime)
        if kind == "engine":
            require_exact_sums(path, load_manifest(path))
    except AlexnetEdgeError as error:
        return False, error.message
    return found.runs, "" if found.runs else f"{runtime}: {found.reason}"

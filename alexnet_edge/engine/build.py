"""A graph, a precision and a target into an engine and its manifest.

manifest = build_engine(
    Path("alexnet.onnx"), Path("alexnet.int8.onnx"), BuildSettings("int8"), table=table
)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from alexnet_edge.artifacts import atomic_path, sha256_file
from alexnet_edge.engine.build_ort import build_onnxruntime
from alexnet_edge.engine.build_trt import tensorrt_vendor
from alexnet_edge.engine.profile import BatchRange, Profile
from alexnet_edge.engine.vendor import BuiltEngine, EngineJob, Vendor
from alexnet_edge.errors import BuildError, GraphError
from alexnet_edge.graph import GraphInfo, describe_model, load_onnx
from alexnet_edge.machine import has_vnni
from alexnet_edge.manifest import Manifest
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import require_preprocess
from alexnet_edge.quantize.choose import AUTO, Choice, decide
from alexnet_edge.quantize.fp16 import convert_to_fp16
from alexnet_edge.quantize.layers import prepare, weighted_layers
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.scales import TENSORRT, Dialect
from alexnet_edge.quantize.table import CalibrationTable, Range
from alexnet_edge.quantize.trt_cache import CalibrationCache

RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt-rtx")


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        runtime: `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        method: which of the table's ranges to use; `auto` to choose by evidence.
        spared: layers that stay in floating point.
        judgement: why just these, for the manifest.
        batch: sizes for a dynamic batch axis, of TensorRT's runtimes.
        profile: the target board, if named.
        weight_bits: 7 or 8 for the CPU; None to choose by what this CPU has.
        allow_fallback: accept layers that did not become INT8; the manifest lists them.
        any_versions: accept a table that other versions measured.
    """

    precision: str = "fp32"
    runtime: str = "onnxruntime"
    method: str = AUTO
    spared: tuple[str, ...] = ()
    judgement: Mapping[str, Any] | None = None
    batch: BatchRange = BatchRange()
    profile: Profile | None = None
    weight_bits: int | None = None
    allow_fallback: bool = False
    any_versions: bool = False

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise BuildError(
                f"runtime '{self.runtime}' is unknown", hint=f"one of {', '.join(RUNTIMES)}"
            )
        if self.spared and self.precision != "int8":
            raise BuildError(
                f"layers are spared from INT8, {self.precision} is built",
                hint="build --int8, or leave --spare out",
            )
        if self.profile is not None:
            self.profile.require_precision(self.precision)
            if self.profile.runtime != self.runtime:
                raise BuildError(
                    f"profile {self.profile.name} is for {self.profile.runtime}, "
                    f"not {self.runtime}",
                    hint="leave --runtime out, or name another --profile",
                )

    @property
    def dialect(self) -> Dialect:
        """How the target wants its Q/DQ."""
        if self.runtime != "onnxruntime":
            return TENSORRT
        return Dialect("cpu", self.weight_bits or (8 if has_vnni() else 7))


def default_out(model: Path, settings: BuildSettings) -> Path:
    """Return the engine's file beside the model: `alexnet.int8.onnx`, `alexnet.int8.rtx.engine`."""
    suffix = {"onnxruntime": "onnx", "tensorrt": "engine", "tensorrt-rtx": "rtx.engine"}
    return model.with_name(f"{model.stem}.{settings.precision}.{suffix[settings.runtime]}")


def build_engine(
    path: Path,
    out: Path,
    settings: BuildSettings,
    *,
    table: CalibrationTable | None = None,
    choice: Choice | None = None,
    cache: CalibrationCache | None = None,
    preprocess: PreprocessSpec | None = None,
    classes: tuple[str, ...] | None = None,
) -> Manifest:
    """Build an engine and write its manifest beside it.

    Args:
        path: the FP32 ONNX graph.
        out: the engine's file.
        settings: precision and target.
        table: ranges, for INT8, as `load_table` read them.
        choice: how to use them, as `choose.decide` gives it; None to decide here by
            ``settings.method``.
        cache: ranges instead of a table, of a TensorRT calibration cache. It says nothing of the
            model that it belongs to, so only its tensors' names are checked.
        preprocess, classes: for a graph whose metadata lacks them.

    Raises:
        BuildError: INT8 without a table; a layer that did not become INT8; the vendor refuses.
        DatasetError: `auto`, and the images of the calibration are not where they were.
        GraphError: the graph is quantized already, or its metadata contradicts the arguments.
        StaleArtifactError: the table belongs to another model or preprocessing.
    """
    if out.resolve() == path.resolve():
        raise BuildError(f"{out}: is the model itself", hint="name another file with --out")
    vendor = _choose_vendor(settings.runtime)
    model = load_onnx(path)
    graph = describe_model(model, path)
    if graph.quantized:
        raise GraphError(f"{path}: is quantized already", hint="give the FP32 graph")
    spec = _choose_preprocess(graph, table, preprocess)
    classes = _choose_classes(graph, classes)
    prepared = prepare(model, path)
    names = tuple(layer.name for layer in weighted_layers(prepared, path))
    options = _apply_precision(prepared, graph, settings, _Ranges(table, choice, cache), spec)
    job = EngineJob(
        model=prepared, source=path, precision=settings.precision, layers=names,
        input=graph.input, batch=settings.batch,
        workspace_mib=settings.profile.workspace_mib if settings.profile else None,
    )  # fmt: skip
    with atomic_path(out) as temporary:
        built = vendor(job, temporary)
        _require_int8(path, settings, built)
        engine_sha256 = sha256_file(temporary)
    manifest = Manifest(
        engine_sha256=engine_sha256,
        model_sha256=graph.sha256,
        table_sha256=table.sha256 if table is not None and settings.precision == "int8" else None,
        preprocess=spec,
        classes=classes,
        runtime=settings.runtime,
        runtime_version=built.runtime_version,
        precision=settings.precision,
        layers=built.layers,
        device=built.device,
        input=graph.input,
        output=graph.output,
        output_kind=graph.output_kind,
        options=options,
    )
    manifest.save(out)
    return manifest


def _choose_vendor(runtime: str) -> Vendor:
    return build_onnxruntime if runtime == "onnxruntime" else tensorrt_vendor(runtime)


def _choose_preprocess(
    graph: GraphInfo, table: CalibrationTable | None, given: PreprocessSpec | None
) -> PreprocessSpec | None:
    """The model's, the option's or the table's; an engine that nobody describes has None."""
    if given is None and graph.preprocess is None:
        return table.preprocess if table is not None else None
    return require_preprocess(graph, given)


def _choose_classes(graph: GraphInfo, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if given is not None and graph.classes is not None and given != graph.classes:
        raise GraphError(
            f"{graph.path}: its metadata names other classes than the option",
            hint="leave --classes out",
        )
    classes = given or graph.classes
    outputs = graph.output.shape[1]
    if classes is not None and outputs is not None and len(classes) != outputs:
        raise GraphError(
            f"{graph.path}: has {outputs} outputs, {len(classes)} classes are named",
            hint="give one name a line for each output, in order",
        )
    return classes


@dataclasses.dataclass(frozen=True)
class _Ranges:
    """A table and how to use it, or a cache, each if there is one."""

    table: CalibrationTable | None
    choice: Choice | None
    cache: CalibrationCache | None


def _apply_precision(
    prepared: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    given: _Ranges,
    spec: PreprocessSpec | None,
) -> dict[str, Any]:
    """Change the graph to the precision asked for; return what was done, for the manifest."""
    options: dict[str, Any] = {"profile": settings.profile.name if settings.profile else None}
    if settings.runtime != "onnxruntime" and graph.input.batch is None:
        options["batch"] = dataclasses.asdict(settings.batch)
    if settings.precision == "int8":
        options |= _quantize(prepared, graph, settings, given, spec)
    elif settings.precision == "fp16" and settings.runtime != "onnxruntime":
        convert_to_fp16(prepared, graph.path)
    return options


def _quantize(
    prepared: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    given: _Ranges,
    spec: PreprocessSpec | None,
) -> dict[str, Any]:
    table, dialect = given.table, settings.dialect
    if given.cache is not None:
        return _quantize_by_cache(prepared, graph, settings, given.cache)
    if table is None:
        raise BuildError(
            f"{graph.path}: INT8 needs ranges, and there is no calibration table",
            hint=f"alexnet-edge calibrate {graph.path} --images DIR, then build --int8",
        )
    table.require_match(graph, spec)
    if not settings.any_versions:
        table.require_versions()
    choice = given.choice or decide(graph.path, table, dialect, settings.method)
    options = QdqOptions(
        weight_ranges=choice.weight_ranges,
        bias_corrections={
            name: np.array(values, np.float32) for name, values in choice.bias_corrections.items()
        },
        spared=frozenset(settings.spared),
    )
    insert_qdq(prepared, choice.ranges(table.tensors), dialect, graph.path, options)
    return {
        "measured_by": dict(table.tool),
        "method": choice.method,
        "methods": dict(choice.methods),
        "weight_ranges": choice.weight_ranges,
        "bias_correction": bool(choice.bias_corrections),
        "ranking": [dataclasses.asdict(trial) for trial in choice.trials],
        "judged_on": choice.images,
        "spared": list(settings.spared),
        "judgement": None if settings.judgement is None else dict(settings.judgement),
        "dialect": dialect.name,
        "weight_bits": dialect.weight_bits,
        "allow_fallback": settings.allow_fallback,
    }


def _quantize_by_cache(
    prepared: ir.Model, graph: GraphInfo, settings: BuildSettings, cache: CalibrationCache
) -> dict[str, Any]:
    if not settings.dialect.symmetric:
        raise BuildError(
            "a TensorRT calibration cache holds symmetric ranges, onnxruntime is built with UINT8",
            hint="build --runtime tensorrt or tensorrt-rtx, or calibrate a table",
        )
    ranges = {name: Range(amax, low=-amax, high=amax) for name, amax in cache.amax.items()}
    options = QdqOptions(spared=frozenset(settings.spared))
    insert_qdq(prepared, ranges, settings.dialect, graph.path, options)
    return {
        "method": "cache",
        "cache": {
            "sha256": hashlib.sha256(cache.to_text().encode()).hexdigest(),
            "algorithm": cache.algorithm,
            "version": ".".join(map(str, cache.version)),
        },
        "spared": list(settings.spared),
        "dialect": settings.dialect.name,
        "weight_bits": settings.dialect.weight_bits,
        "allow_fallback": settings.allow_fallback,
    }


def _require_int8(path: Path, settings: BuildSettings, built: BuiltEngine) -> None:
    if settings.precision != "int8" or settings.allow_fallback:
        return
    wanted = [layer for layer in built.layers if layer.name not in settings.spared]
    others = [layer for layer in wanted if layer.precision != "int8"]
    if others:
        named = ", ".join(f"{layer.name} ({layer.op}: {layer.precision})" for layer in others)
        raise BuildError(
            f"{path}: {len(others)} of {len(wanted)} layers did not become INT8: {named}",
            hint="accept and record that with --allow-fallback",
        )

"""A graph, a precision and a target into an engine and its manifest.

manifest = build_engine(
    Path("alexnet.onnx"), Path("alexnet.int8.onnx"), BuildSettings("int8"), table=table
)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx_ir as ir

from alexnet_edge.artifacts import atomic_paths, sha256_file
from alexnet_edge.dataset import ImageSet
from alexnet_edge.engine.build_ort import build_onnxruntime
from alexnet_edge.engine.build_trt import TensorRTBuilder
from alexnet_edge.engine.precision import Applied, Given, apply_precision
from alexnet_edge.engine.settings import RUNTIMES, BuildSettings, default_out
from alexnet_edge.engine.target import read_target_facts
from alexnet_edge.engine.trt_config import is_strongly_typed
from alexnet_edge.engine.vendor import BuiltEngine, EngineJob, OnProgress
from alexnet_edge.errors import BuildError, GraphError
from alexnet_edge.graph import GraphInfo, describe_model, load_onnx
from alexnet_edge.manifest import LayerPrecision, Manifest, manifest_path
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import require_preprocess
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.int4_choice import Int4Images
from alexnet_edge.quantize.layers import prepare, weighted_layers
from alexnet_edge.quantize.table import CalibrationTable
from alexnet_edge.quantize.trt_cache import CalibrationCache

__all__ = ["RUNTIMES", "BuildSettings", "build_engine", "default_out"]


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
    images: ImageSet | None = None,
    int4_images: Int4Images | None = None,
    builder: TensorRTBuilder | None = None,
    on_progress: OnProgress = lambda *_: None,
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
        images: to measure on what pruning costs.
        int4_images: to round 4-bit weights to and to judge by; None to look for the table's.
        builder: of TensorRT's runtimes, with the vendor's module in it; made here by default.
        on_progress: told what is being done and how much of it is done.

    Raises:
        BuildError: INT8 without a table; a layer that did not become INT8; an option that this
            version lacks; a machine that is not the profile's; the vendor refuses.
        DatasetError: `auto`, and the images of the calibration are not where they were.
        GraphError: the graph is quantized already, or its metadata contradicts the arguments.
        OSError: engine and manifest could not be written; neither is, and it names the file.
        StaleArtifactError: the table belongs to another model or preprocessing.
    """
    require_other_file(path, out)
    builder = open_builder(settings, builder)
    model = load_onnx(path)
    graph = describe_model(model, path)
    require_suitable(graph, settings)
    spec = choose_preprocess(graph, table, preprocess)
    classes = _choose_classes(graph, classes)
    prepared = prepare(model, path)
    names = tuple(layer.name for layer in weighted_layers(prepared, path))
    applied = apply_precision(
        prepared, graph, settings, Given(table, choice, cache, spec, images, int4_images),
        half_in_graph=builder is not None and is_strongly_typed(settings, builder.features),
        on_progress=on_progress,
    )  # fmt: skip
    job = _make_job(prepared, graph, settings, names, applied, on_progress=on_progress)
    vendor = builder or build_onnxruntime
    used = table if settings.precision == "int8" else None
    with atomic_paths(out, manifest_path(out)) as (engine, described):
        built = vendor(job, engine)
        _require_precisions(path, settings, applied, built)
        manifest = Manifest(
            engine_sha256=sha256_file(engine),
            model_sha256=graph.sha256,
            table_sha256=None if used is None else used.sha256,
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
            options=_record(graph, settings, applied, built),
        )
        manifest.save(described)
    return manifest


def require_other_file(path: Path, out: Path) -> None:
    """Refuse to write an engine over the model that it is built from.

    Raises:
        BuildError: it is the same file, by whatever name.
    """
    if out.resolve() == path.resolve():
        raise BuildError(f"{out}: is the model itself", hint="name another file with --out")


def open_builder(
    settings: BuildSettings, builder: TensorRTBuilder | None
) -> TensorRTBuilder | None:
    """Return TensorRT's builder where one is needed, once it is known to suit.

    Raises:
        BuildError: an option that the version lacks; a profile that is of another machine.
        MissingDependencyError, UnavailableError: it is not here.
    """
    if settings.runtime == "onnxruntime":
        return None
    builder = builder or TensorRTBuilder(settings.runtime)
    builder.features.require(settings.tensorrt)
    if settings.dla:
        builder.features.require_dla()
    if settings.int4 is not None:
        builder.features.require_int4()
    if settings.profile is not None:
        facts = read_target_facts(
            compute_capability=builder.compute_capability, tensorrt=builder.features.version
        )
        settings.profile.require_machine(facts)
    return builder


def require_suitable(graph: GraphInfo, settings: BuildSettings) -> None:
    """Refuse a graph that engines of this kind are not built from.

    Raises:
        BuildError: a dynamic batch, for a DLA.
        GraphError: it is quantized already.
    """
    if graph.quantized:
        raise GraphError(f"{graph.path}: is quantized already", hint="give the FP32 graph")
    if settings.dla and graph.input.batch is None:
        raise BuildError(
            f"{graph.path}: has a dynamic batch, a DLA takes static shapes",
            hint="export it again with --batch 1",
        )


def choose_preprocess(
    graph: GraphInfo, table: CalibrationTable | None, given: PreprocessSpec | None
) -> PreprocessSpec | None:
    """Return the model's, the option's or the table's preprocessing; None where nobody says.

    Raises:
        GraphError: the option contradicts the model.
    """
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


def _make_job(
    prepared: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    layers: tuple[str, ...],
    applied: Applied,
    *,
    on_progress: OnProgress,
) -> EngineJob:
    return EngineJob(
        model=prepared,
        source=graph.path,
        precision=settings.precision,
        layers=layers,
        input=graph.input,
        batch=settings.batch,
        workspace_mib=settings.profile.workspace_mib if settings.profile else None,
        tensorrt=settings.tensorrt,
        dla=settings.dla,
        amax=applied.amax,
        spared=settings.spared,
        int4=applied.int4,
        zero_skipping=applied.zero_skipping,
        on_progress=on_progress,
    )


def _record(
    graph: GraphInfo, settings: BuildSettings, applied: Applied, built: BuiltEngine
) -> dict[str, Any]:
    """Return everything that the build was told, for the manifest."""
    options: dict[str, Any] = {"profile": settings.profile.name if settings.profile else None}
    if settings.runtime != "onnxruntime":
        if graph.input.batch is None:
            options["batch"] = dataclasses.asdict(settings.batch)
        options |= settings.tensorrt.given
    return {**options, **applied.options, **built.options}


def _require_precisions(
    path: Path, settings: BuildSettings, applied: Applied, built: BuiltEngine
) -> None:
    """Refuse an engine whose layers did not become what was asked for."""
    if settings.allow_fallback:
        return
    if settings.precision == "int8":
        others = {*settings.spared, *applied.int4}
        _require(path, "int8", [layer for layer in built.layers if layer.name not in others])
    if settings.int4 is None:
        return
    for bits in (2, 4):
        names = [name for name in applied.int4 if settings.int4.bits(name) == bits]
        _require(path, f"int{bits}", [layer for layer in built.layers if layer.name in names])


def _require(path: Path, precision: str, wanted: list[LayerPrecision]) -> None:
    others = [layer for layer in wanted if layer.precision != precision]
    if others:
        named = ", ".join(f"{layer.name} ({layer.op}: {layer.precision})" for layer in others)
        raise BuildError(
            f"{path}: {len(others)} of {len(wanted)} layers did not become "
            f"{precision.upper()}: {named}",
            hint="accept and record that with --allow-fallback",
        )

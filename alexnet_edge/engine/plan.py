"""What a build would do, told before it is done.

Everything is checked that can be without compiling: the graph, the table, the options, the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from alexnet_edge.engine.build import (
    choose_preprocess,
    open_builder,
    require_other_file,
    require_suitable,
)
from alexnet_edge.engine.build_trt import TensorRTBuilder
from alexnet_edge.engine.int4 import int4_layers
from alexnet_edge.engine.precision import (
    Given,
    find_skipping,
    missing_ranges,
    require_table,
)
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.engine.trt_config import is_strongly_typed, planned_flags
from alexnet_edge.engine.trt_features import Features
from alexnet_edge.errors import MissingDependencyError, UnavailableError
from alexnet_edge.graph import describe_model, load_onnx
from alexnet_edge.machine import package_versions
from alexnet_edge.manifest import LayerPrecision, manifest_path
from alexnet_edge.quantize.choose import AUTO, read_stored_choice
from alexnet_edge.quantize.layers import prepare, require_spared, weighted_layers


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """A build that has not been done.

    Attributes:
        model: the file that is read.
        files: what would be written: the engine, its manifest, a timing cache.
        runtime: what builds.
        runtime_version: of the library here; None where it is not here.
        not_here: why this machine cannot do the build; empty where it can.
        precision: as asked for.
        layers: what is asked of each weighted layer, with the graph's operator.
        quantization: how INT8 and 4-bit weights are told: `Q/DQ, dialect …`, `calibration cache`,
            `4-bit blocks of …`; None without either.
        ranges: where INT8's ranges come from; None without INT8.
        typing: `strong` or `weak`, of TensorRT's networks; None where it is not known.
        flags: of the builder; None where they are not known.
        batch: the fixed size, or the range of a dynamic one.
        profile: the target board's name.
        options: what else is asked of the builder.
    """

    model: str
    files: tuple[str, ...]
    runtime: str
    runtime_version: str | None
    not_here: str
    precision: str
    layers: tuple[LayerPrecision, ...]
    quantization: str | None
    ranges: str | None
    typing: str | None
    flags: tuple[str, ...] | None
    batch: str
    profile: str | None
    options: dict[str, Any]


def plan_build(
    path: Path,
    out: Path,
    settings: BuildSettings,
    given: Given,
    *,
    ranges: str | None = None,
    builder: TensorRTBuilder | None = None,
) -> BuildPlan:
    """Return what `build_engine` would do.

    Args:
        path: the FP32 ONNX graph.
        out: the engine's file.
        settings: precision and target.
        given: the table, where there is one already.
        ranges: where INT8's ranges come from, in words.
        builder: as for `build_engine`.

    Raises:
        BuildError: as the build would, before it compiles.
        GraphError: the graph is quantized already, or malformed.
        StaleArtifactError: the table belongs to another model.
    """
    require_other_file(path, out)
    builder, not_here = _find_builder(settings, builder)
    model = load_onnx(path)
    graph = describe_model(model, path)
    require_suitable(graph, settings)
    prepared = prepare(model, path)
    layers = weighted_layers(prepared, path)
    int4 = int4_layers(prepared, graph, settings)
    if settings.precision == "int8":
        if ranges is None:
            raise missing_ranges(graph)
        names = [layer.name for layer in layers]
        require_spared(path, names, settings.spared, instead="--fp16")
        if given.table is not None:
            spec = choose_preprocess(graph, given.table, given.preprocess)
            require_table(given.table, graph, settings, spec)
    features = builder.features if builder is not None else None
    files = (out, manifest_path(out), settings.tensorrt.timing_cache)
    return BuildPlan(
        model=str(path),
        files=tuple(str(file) for file in files if file is not None),
        runtime=settings.runtime,
        runtime_version=features.version if features else package_versions().get(settings.runtime),
        not_here=not_here,
        precision=settings.precision,
        layers=tuple(
            LayerPrecision(layer.name, layer.node.op_type, _asked(layer.name, settings, int4))
            for layer in layers
        ),
        quantization=_quantization(settings, _foresee_skipping(settings, given, int4)),
        ranges=ranges,
        typing=_typing(features, settings),
        flags=planned_flags(settings, features) if features else None,
        batch=_batch(graph.input.batch, settings),
        profile=settings.profile.name if settings.profile else None,
        options=settings.tensorrt.given,
    )


def _find_builder(
    settings: BuildSettings, builder: TensorRTBuilder | None
) -> tuple[TensorRTBuilder | None, str]:
    """Return TensorRT's builder, if it is needed and here, and why it is not."""
    try:
        return open_builder(settings, builder), ""
    except (MissingDependencyError, UnavailableError) as error:
        return None, error.message


def _asked(name: str, settings: BuildSettings, int4: tuple[str, ...]) -> str:
    """Return the precision that is asked of a layer."""
    if settings.int4 is not None and name in int4:
        return f"int{settings.int4.bits(name)}"
    if settings.precision != "int8" or name not in settings.spared:
        return settings.precision
    return "fp16" if settings.tensorrt.fp16_rest or settings.dla else "fp32"


def _foresee_skipping(
    settings: BuildSettings, given: Given, int4: tuple[str, ...]
) -> Collection[str] | None:
    """Return the layers that will skip zeros; None where that is still to be found out."""
    choice, table = given.choice, given.table
    if choice is None and settings.method == AUTO:
        choice = None if table is None else read_stored_choice(table, settings.dialect)
        if choice is None:
            return None
    return find_skipping(settings, choice, int4)


def _quantization(settings: BuildSettings, skipping: Collection[str] | None) -> str | None:
    if settings.implicit:
        return "calibration cache"
    dialect = settings.dialect
    said = []
    if settings.precision == "int8":
        blocks = f", of linear layers in blocks of {dialect.fc_block}" if dialect.fc_block else ""
        if blocks and skipping is None:
            blocks += " or, where that is found to pay, without those of zeros"
        elif skipping:
            blocks += f", but of {', '.join(skipping)} without those of zeros"
        said.append(f"Q/DQ, dialect {dialect.name}, {dialect.weight_bits}-bit weights{blocks}")
    if settings.int4 is not None:
        fewer = ", ".join(settings.int4.two_bit)
        said.append(f"4-bit blocks of {settings.int4.block}, rounding {settings.int4.rounding}"
                    + (f"; 2 bits for {fewer}" if fewer else ""))  # fmt: skip
    return "; ".join(said) or None


def _typing(features: Features | None, settings: BuildSettings) -> str | None:
    if features is None:
        return None
    return "strong" if is_strongly_typed(settings, features) else "weak"


def _batch(fixed: int | None, settings: BuildSettings) -> str:
    if fixed is not None:
        return str(fixed)
    if settings.runtime == "onnxruntime":
        return "any"
    sizes = settings.batch
    return f"{sizes.min} to {sizes.max}, tuned for {sizes.opt}"

"""The graph changed to the precision that is asked for, before the vendor sees it.

In this order, each step where it is wanted: weights pruned, Q/DQ inserted (or, for a DLA, ranges
laid ready for a calibration cache), fully connected layers put in 4 bits, what pruning cost
measured, FP16 put into the graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from alexnet_edge.dataset import ImageReader, ImageSet
from alexnet_edge.engine.int4 import Int8Beside, apply_int4, find_images, int4_layers
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.engine.trt_calibrator import spread_ranges
from alexnet_edge.engine.vendor import OnProgress
from alexnet_edge.errors import BuildError, InputError
from alexnet_edge.graph import GraphInfo
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.choose import Choice, decide
from alexnet_edge.quantize.fp16 import convert_to_fp16
from alexnet_edge.quantize.int4_choice import Int4Images
from alexnet_edge.quantize.int4_graph import fully_connected
from alexnet_edge.quantize.layers import require_spared, weighted_layers
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.sparsity import PrunedLayer, measure_loss, prune_weights
from alexnet_edge.quantize.table import CalibrationTable, Range, missing_range
from alexnet_edge.quantize.trt_cache import CalibrationCache

LOSS_IMAGES = 256
"""Images that the loss of pruning is measured on, chosen evenly over the classes."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What a build may be given besides the graph, each if there is one.

    Attributes:
        table, choice: ranges, and how to use them.
        cache: ranges of a TensorRT calibration cache instead.
        preprocess: how images are prepared.
        images: to measure on what pruning costs.
        int4_images: to round to 4 bits and to judge by; None to look for a table's.
    """

    table: CalibrationTable | None = None
    choice: Choice | None = None
    cache: CalibrationCache | None = None
    preprocess: PreprocessSpec | None = None
    images: ImageSet | None = None
    int4_images: Int4Images | None = None


@dataclasses.dataclass(frozen=True)
class Applied:
    """What was done to the graph.

    Attributes:
        options: for the manifest.
        amax: ranges by tensor for INT8 by calibration cache; None otherwise.
        int4: names of the layers that have 4-bit weights now.
        zero_skipping: layers that have Q/DQ so that they can skip zeros, to their inputs that are
            seldom 0.
    """

    options: dict[str, Any]
    amax: Mapping[str, float] | None = None
    int4: tuple[str, ...] = ()
    zero_skipping: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def apply_precision(
    prepared: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    given: Given,
    *,
    half_in_graph: bool,
    on_progress: OnProgress = lambda *_: None,
) -> Applied:
    """Change the graph in place.

    Args:
        prepared: in normal form.
        graph: the file that it was read from.
        settings: precision and target.
        given: ranges and images.
        half_in_graph: whether the vendor takes FP16 from the graph; else from its flags.
        on_progress: told how many images have been measured.

    Raises:
        BuildError: INT8 without ranges, or ranges that the target cannot use.
        StaleArtifactError: the table belongs to another model or preprocessing.
        TableError: a tensor has no range.
    """
    options: dict[str, Any] = {}
    pruned: list[PrunedLayer] = []
    int4 = int4_layers(prepared, graph, settings)
    beside = None
    reference = None
    if settings.tensorrt.sparse:
        reference = ir.to_proto(prepared) if given.images is not None else None
        pruned = prune_weights(prepared, graph.path)
    amax = None
    if settings.implicit:
        amax, served = _serve_ranges(prepared, graph, settings, given)
        options |= served
    elif settings.precision == "int8":
        described, beside = _quantize(prepared, graph, settings, given, int4)
        options |= described
    elif int4:
        every = [layer.name for layer in fully_connected(prepared, graph.path)]
        require_spared(graph.path, every, settings.spared, instead="--fp16")
    if int4:
        images = given.int4_images or find_images(graph, settings, given.table)
        options |= apply_int4(
            prepared, graph, settings, int4, beside=beside, images=images, on_progress=on_progress
        )
    if pruned:
        options["pruned"] = [dataclasses.asdict(layer) for layer in pruned]
        options["ranges_before_pruning"] = settings.precision == "int8"
        loss = None
        if reference is not None:
            loss = _measure(reference, ir.to_proto(prepared), graph, given, on_progress)
        options["pruning_loss"] = loss
    if half_in_graph and (settings.precision == "fp16" or settings.tensorrt.fp16_rest):
        convert_to_fp16(prepared, graph.path)
    skipping = find_skipping(settings, beside.choice if beside is not None else None, int4)
    return Applied(options, amax, int4, skipping)


def missing_ranges(graph: GraphInfo) -> BuildError:
    """Return the error of INT8 without a table."""
    return BuildError(
        f"{graph.path}: INT8 needs ranges, and there is no calibration table",
        hint=f"alexnet-edge calibrate {graph.path} --images DIR, then build --int8",
    )


def require_table(
    table: CalibrationTable,
    graph: GraphInfo,
    settings: BuildSettings,
    preprocess: PreprocessSpec | None,
) -> None:
    """Refuse a table of another graph, or that other versions measured.

    Raises:
        StaleArtifactError: with the fields that differ.
    """
    table.require_match(graph, preprocess)
    if not settings.any_versions:
        table.require_versions()


def _measure(
    reference: onnx.ModelProto,
    pruned: onnx.ModelProto,
    graph: GraphInfo,
    given: Given,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Return what pruning, and quantizing where that comes with it, does to the answers."""
    if given.images is None or given.preprocess is None:
        raise InputError(
            f"{graph.path}: nothing says how images are prepared for it",
            hint="give --resize, --crop, --mean and --std, or leave --images out",
        )
    images = given.images.sample(LOSS_IMAGES)
    reader = ImageReader(images, given.preprocess, batch_size=graph.input.batch or 32)
    loss = measure_loss(
        graph, reference, pruned, reader,
        on_progress=lambda done: on_progress("measuring what pruning costs", done, len(images)),
    )  # fmt: skip
    return dataclasses.asdict(loss)


def _choose(
    graph: GraphInfo, settings: BuildSettings, given: Given
) -> tuple[CalibrationTable, Choice]:
    """Return the table, once it is known to be this graph's, and how to use it."""
    if given.table is None:
        raise missing_ranges(graph)
    table = given.table
    require_table(table, graph, settings, given.preprocess)
    choice = given.choice or decide(graph.path, table, settings.dialect, settings.method)
    return table, choice


def _quantize(
    prepared: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    given: Given,
    int4: tuple[str, ...],
) -> tuple[dict[str, Any], Int8Beside]:
    """Insert Q/DQ, but none around layers that are to be 4-bit; return what was done, by what."""
    spared, dialect = frozenset((*settings.spared, *int4)), settings.dialect
    if given.cache is not None:
        if not dialect.symmetric:
            raise BuildError(
                "a TensorRT calibration cache holds symmetric ranges, onnxruntime is built with "
                "UINT8",
                hint="build --runtime tensorrt or tensorrt-rtx, or calibrate a table",
            )
        ranges = {name: Range(a, low=-a, high=a) for name, a in given.cache.amax.items()}
        insert_qdq(prepared, ranges, dialect, graph.path, QdqOptions(spared=spared))
        described = {**_describe_cache(given.cache), **_describe_int8(settings)}
        return described, Int8Beside(ranges=ranges)
    table, choice = _choose(graph, settings, given)
    corrections = {
        name: np.array(values, np.float32) for name, values in choice.bias_corrections.items()
    }
    skipping = frozenset(find_skipping(settings, choice, int4))
    options = QdqOptions(choice.weight_ranges, corrections, choice.fitted, spared, skipping)
    insert_qdq(prepared, choice.ranges(table.tensors), dialect, graph.path, options)
    described = {**_describe_choice(table, choice), **_describe_int8(settings)}
    return described, Int8Beside(table, choice)


def find_skipping(
    settings: BuildSettings, choice: Choice | None, int4: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the layers that are to skip zeros: those of the choice that are INT8 here."""
    if choice is None or settings.dialect.fc_block is None:
        return {}
    others = {*settings.spared, *int4}
    return {name: hot for name, hot in choice.zero_skipping.items() if name not in others}


def _serve_ranges(
    prepared: ir.Model, graph: GraphInfo, settings: BuildSettings, given: Given
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the ranges for a calibrator, and what was done."""
    if given.cache is not None:
        amax: Mapping[str, float] = given.cache.amax
        described = _describe_cache(given.cache)
    else:
        table, choice = _choose(graph, settings, given)
        found = choice.ranges(table.tensors)
        amax = {name: item.amax for name, item in found.items()}
        # The builder quantizes the weights by itself, and adds the biases as they are.
        plain = dataclasses.replace(choice, weight_ranges="minmax", bias_corrections={}, fitted={})
        described = _describe_choice(table, plain)
    known, missing = spread_ranges(prepared, amax)
    layers = weighted_layers(prepared, graph.path)
    names = [layer.name for layer in layers]
    require_spared(graph.path, names, settings.spared, instead="--fp16")
    for layer in layers:
        if layer.activation.name not in known and layer.name not in settings.spared:
            raise missing_range(layer.activation.name or "", graph.path)
    implicit = {"quantization": "calibration cache", "without_range": missing}
    return known, {**described, **_describe_int8(settings), **implicit}


def _describe_choice(table: CalibrationTable, choice: Choice) -> dict[str, Any]:
    return {
        "measured_by": dict(table.tool),
        "method": choice.method,
        "methods": dict(choice.methods),
        "weight_ranges": choice.weight_ranges,
        "rounding": choice.rounding,
        "bias_correction": bool(choice.bias_corrections),
        "ranking": [dataclasses.asdict(trial) for trial in choice.trials],
        "judged_on": choice.images,
    }


def _describe_cache(cache: CalibrationCache) -> dict[str, Any]:
    return {
        "method": "cache",
        "cache": {
            "sha256": hashlib.sha256(cache.to_text().encode()).hexdigest(),
            "algorithm": cache.algorithm,
            "version": ".".join(map(str, cache.version)),
        },
    }


def _describe_int8(settings: BuildSettings) -> dict[str, Any]:
    judgement = settings.judgement
    return {
        "spared": list(settings.spared),
        "judgement": None if judgement is None else dict(judgement),
        "dialect": settings.dialect.name,
        "weight_bits": settings.dialect.weight_bits,
        "optimize": settings.optimize,
        "fc_block": settings.dialect.fc_block,
        "allow_fallback": settings.allow_fallback,
    }

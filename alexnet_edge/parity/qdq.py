"""The Q/DQ graph that an INT8 engine was built from, made again from what its manifest says.

A vendor compiles a Q/DQ graph and throws it away. Its answers tell whether an engine's error comes
of quantization or of the kernels, so it is made again here: from the same FP32 graph and the same
calibration table, both of which must have the hash that the manifest holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from alexnet_edge.engine.build import BuildSettings
from alexnet_edge.engine.precision import Given, apply_precision
from alexnet_edge.engine.settings import THROUGHPUT
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.errors import StaleArtifactError, TableError
from alexnet_edge.graph import describe_model, load_onnx
from alexnet_edge.manifest import Manifest
from alexnet_edge.quantize.choose import Choice, decide, read_evidence
from alexnet_edge.quantize.fitting import fit_weights
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.layerwise import Layerwise
from alexnet_edge.quantize.scales import Dialect
from alexnet_edge.quantize.table import CalibrationTable, load_table


def rebuild_qdq(manifest: Manifest, model: Path, table: Path | None) -> onnx.ModelProto:
    """Return the graph.

    Args:
        manifest: of an INT8 engine.
        model: the FP32 ONNX graph.
        table: the calibration table.

    Raises:
        DatasetError: the engine's weights were rounded to calibration images that are not there.
        StaleArtifactError: model, table or calibration images are not those of the engine.
        TableError: no table is given, or the engine's ranges did not come from one.
    """
    options = manifest.options
    _require_table_build(options)
    if table is None:
        raise TableError("no calibration table was found", hint="name it with --table")
    found = load_table(table)
    proto = load_onnx(model)
    graph = describe_model(proto, model)
    stated: dict[str, tuple[object, object]] = {
        "model_sha256": (manifest.model_sha256, graph.sha256),
        "table_sha256": (manifest.table_sha256, found.sha256),
    }
    differences = {name: pair for name, pair in stated.items() if pair[0] != pair[1]}
    if differences:
        raise StaleArtifactError(
            "the engine was built from others", differences,
            hint="give the graph and the table that it was built from, or build it again",
        )  # fmt: skip
    settings = BuildSettings(
        "int8",
        manifest.runtime,
        spared=tuple(options.get("spared", ())),
        weight_bits=options.get("weight_bits"),
        optimize=options.get("optimize", THROUGHPUT),
        any_versions=True,
        tensorrt=TensorRTOptions(sparse="pruned" in options),
    )
    prepared = prepare(proto, model)
    choice = _choose_again(manifest, model, found, table.parent, settings.dialect)
    given = Given(found, choice, None, graph.preprocess)
    apply_precision(prepared, graph, settings, given, half_in_graph=False)
    return ir.to_proto(prepared)


def _choose_again(
    manifest: Manifest, model: Path, table: CalibrationTable, folder: Path, dialect: Dialect
) -> Choice:
    """Return how an engine used its table.

    The manifest names methods, but weights that were rounded to images are as large as the engine,
    so they are not in it: they are rounded again, to the same images.
    """
    options = manifest.options
    methods = {str(name): str(method) for name, method in options["methods"].items()}
    skipping = tuple(str(name) for name in options.get("zero_skipping", ()))
    choice = Choice(
        methods, str(options["weight_ranges"]), zero_skipping=dict.fromkeys(skipping, ())
    )
    is_fitted = options.get("rounding", "nearest") != "nearest"
    if options.get("bias_correction"):
        again = decide(model, table, dialect, folder=folder)
        # A choice names what would skip zeros; of an engine, those that were spared do not.
        others = {*options.get("spared", ()), *options.get("int4_layers", ())}
        kept = {name: hot for name, hot in again.zero_skipping.items() if name not in others}
        again = dataclasses.replace(again, zero_skipping=kept)
        _require_same(choice, again, is_fitted=is_fitted)
        return again
    if not is_fitted:
        return choice
    evidence = read_evidence(table, None, folder)
    network = Layerwise(model, dialect)
    network.use_zero_skipping(skipping)
    fitted = fit_weights(network, evidence.fit, choice.weight_ranges)
    return dataclasses.replace(choice, fitted=fitted)


def _require_same(built: Choice, again: Choice, *, is_fitted: bool) -> None:
    """Refuse a choice that is not the one that the engine was built with."""
    pairs: dict[str, tuple[object, object]] = {
        "methods": (dict(built.methods), dict(again.methods)),
        "weight_ranges": (built.weight_ranges, again.weight_ranges),
        "rounding": (is_fitted, bool(again.fitted)),
        "bias_correction": (True, bool(again.bias_corrections)),
        "zero_skipping": (tuple(built.zero_skipping), tuple(again.zero_skipping)),
    }
    differences = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if differences:
        raise StaleArtifactError(
            "chosen again, the table would be used otherwise than the engine was built",
            differences, hint="build the engine again",
        )  # fmt: skip


def _require_table_build(options: Mapping[str, Any]) -> None:
    if options.get("method") == "cache" or "quantization" in options:
        raise TableError(
            "the engine was built through a calibration cache, not through a Q/DQ graph"
        )
    if "methods" not in options:
        raise TableError(
            "the manifest does not say how the table was used", hint="build the engine again"
        )

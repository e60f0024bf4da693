"""The 4-bit part of a build: which layers, by which rounding, and what the manifest says of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.engine.vendor import OnProgress
from alexnet_edge.errors import DatasetError, GraphError
from alexnet_edge.graph import GraphInfo
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import settings_of
from alexnet_edge.quantize.int4 import MSE, NEAREST, Int4Settings
from alexnet_edge.quantize.int4_choice import Int4Choice, Int4Images, choose_int4
from alexnet_edge.quantize.int4_graph import fully_connected, insert_int4, require_blocks
from alexnet_edge.quantize.layerwise import FLOAT, LayerSetting, Layerwise
from alexnet_edge.quantize.table import CalibrationTable, Range


@dataclasses.dataclass(frozen=True)
class Int8Beside:
    """How the layers that are not 4-bit are quantized.

    Attributes:
        table, choice: ranges and how to use them.
        ranges: of a calibration cache instead.
    """

    table: CalibrationTable | None = None
    choice: Choice | None = None
    ranges: dict[str, Range] | None = None


def int4_layers(model: ir.Model, graph: GraphInfo, settings: BuildSettings) -> tuple[str, ...]:
    """Return the names of the layers that become 4-bit: fully connected ones that are not spared.

    Raises:
        BuildError: blocks do not fit the target.
        GraphError: there are none, or not those that are to have 2 bits.
    """
    if settings.int4 is None:
        return ()
    every = fully_connected(model, graph.path)
    layers = [layer for layer in every if layer.name not in settings.spared]
    if not layers:
        raise GraphError(
            f"{graph.path}: every fully connected layer is spared, none is left for 4-bit weights",
            hint="build without --int4-fc",
        )
    require_blocks(layers, settings.int4.block, settings.dialect)
    names = tuple(layer.name for layer in layers)
    if others := [name for name in settings.int4.two_bit if name not in names]:
        raise GraphError(
            f"{graph.path}: '{others[0]}' is none of the layers that become 4-bit",
            hint=f"--int2 takes {', '.join(names)}",
        )
    return names


def apply_int4(
    model: ir.Model,
    graph: GraphInfo,
    settings: BuildSettings,
    names: tuple[str, ...],
    *,
    beside: Int8Beside | None = None,
    images: Int4Images | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Any]:
    """Round the weights of some layers to 4 bits, in place; return what was done.

    Args:
        model: in normal form, with Q/DQ on its other layers where they are INT8.
        graph: the file that it was read from.
        settings: precision and target.
        names: of the layers.
        beside: how the others are quantized; None where they are not.
        images: to round to and to judge by, as `find_images` gives them.
        on_progress: told how far it is.

    Raises:
        BuildError: images are needed, and there are none.
    """
    int4 = settings.int4 or Int4Settings()
    network = Layerwise(graph.path, settings.dialect)
    others = _simulate(network, settings, names, beside)
    choice = choose_int4(network, others, names, int4, images, on_progress=on_progress)
    insert_int4(model, choice.weights, settings.dialect, graph.path)
    return _describe(int4, choice)


def find_images(
    graph: GraphInfo, settings: BuildSettings, table: CalibrationTable | None
) -> Int4Images | None:
    """Return the images of a table, where it is there and rounding needs some.

    Raises:
        DatasetError: they are not where they were.
        StaleArtifactError: the table belongs to another model.
    """
    if table is None or settings.int4 is None or settings.int4.rounding in {NEAREST, MSE}:
        return None
    table.require_match(graph, None)
    try:
        return Int4Images.of_table(table, None, graph.path.parent)
    except DatasetError as error:
        raise DatasetError(
            f"rounding to 4 bits needs the images of the calibration: {error.message}",
            hint="say where they are with --images DIR, or name --int4-rounding nearest",
        ) from error


def _simulate(
    network: Layerwise,
    settings: BuildSettings,
    names: tuple[str, ...],
    beside: Int8Beside | None,
) -> list[LayerSetting]:
    """Return how every layer runs: the 4-bit ones in float, on what the others give them."""
    float_layers = frozenset((*names, *settings.spared))
    if beside is None:
        return [FLOAT] * len(network.layers)
    if beside.table is not None and beside.choice is not None:
        return settings_of(network, beside.table, beside.choice, float_layers)
    return network.settings(beside.ranges or {}, spared=float_layers)


def _describe(int4: Int4Settings, choice: Int4Choice) -> dict[str, Any]:
    return {
        "int4_fc": True,
        "int4_block": int4.block,
        "int4_rounding": choice.rounding,
        "int4_layers": {
            name: {"bits": int4.bits(name), "block": int4.block, "rounding": choice.rounding}
            for name in choice.weights
        },
        "int4_ranking": [dataclasses.asdict(trial) for trial in choice.trials],
        "int4_judged_on": choice.images,
        "int4_fitted_on": choice.fit_images,
    }

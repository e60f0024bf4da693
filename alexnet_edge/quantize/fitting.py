"""Weights rounded to what the network reads, rather than each to the nearest integer.

For every layer the second moments of its float inputs over some calibration images say which errors
of its weights cancel out and which add up (see `gptq`). One layer's moments are in memory at a
time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.gptq import Grid, round_rows
from alexnet_edge.quantize.layerwise import FLOAT, Activations, Layerwise
from alexnet_edge.quantize.moments import InputMoments, Window
from alexnet_edge.quantize.scales import weight_scales


def fit_weights(
    network: Layerwise,
    images: AnyArray,
    weight_ranges: str,
    *,
    on_layer: Callable[[str], None] = lambda _: None,
) -> dict[str, AnyArray]:
    """Round the weights of every layer to its inputs, but for those in blocks or skipping zeros.

    These are the large ones: fitting them takes longer than all the others, and gains little.

    Args:
        network: cut.
        images: calibration images as the network's input.
        weight_ranges: how each channel's scale is found: `minmax` or `mse`.
        on_layer: called with the name of the layer that is next.

    Returns:
        Layer name to integers of the weight's shape, at `scales.weight_scales`' scales.
    """
    fitted = {}
    activations = network.begin(images)
    for index, name in enumerate(network.layers):
        on_layer(name)
        if not network.could_have_blocks(index):
            fitted[name] = _fit_layer(network, index, activations, weight_ranges)
        activations, _ = network.step(index, activations, FLOAT)
    return fitted


def _fit_layer(
    network: Layerwise, index: int, activations: Activations, weight_ranges: str
) -> AnyArray:
    layer, weight = network.layer(index), network.weight(index)
    scales = weight_scales(weight, layer.axis, network.dialect, weight_ranges)
    first = np.moveaxis(weight, layer.axis, 0)
    rows = np.ascontiguousarray(first.reshape(len(scales), -1))
    moments = InputMoments(rows.shape[1], Window.of(layer))
    for chunk in activations:
        moments.add(chunk)
    second = moments.finish().second
    largest = network.dialect.largest_weight
    # A grouped convolution's outputs read their own group's channels only.
    parts = [
        round_rows(part, own, Grid(-largest, largest), part_scales[:, None]).integers
        for part, own, part_scales in zip(
            np.split(rows, len(second)), second, np.split(scales, len(second)), strict=True
        )
    ]
    integers = np.concatenate(parts).reshape(first.shape)
    return np.ascontiguousarray(np.moveaxis(integers, 0, layer.axis))

"""Which fully connected layers read so many zeros that it pays to skip them.

At batch 1 such a layer costs the reading of its weights. Weights in blocks (`int8_blocks`) are read
fastest, all of them; a layer with integer inputs can gather the weights of those that are not zero,
and read no others (`engine.zero_skipping`). Which is faster depends on how many are zero, and that
on the network and its images: so it is measured, on images of the calibration.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.scales import activation_parameters
from alexnet_edge.quantize.table import CalibrationTable

BREAK_EVEN = 0.35
"""Share of the inputs that are not zero up to which skipping is faster than blocks, but for finding
them. Measured at batch 1 within a network, two threads, on the machine of docs/log.md: gathering
and multiplying takes some 60 µs for each MB that is not skipped, and more from 12 MB on, where the
cache no longer holds what is gathered; blocks take 22 µs for each MB of all. Of 38 MB, shares of
0.2, 0.25 and 0.3 took 0.4, 0.2 and 0.1 ms less than blocks, 0.35 took 0.15 ms more."""

WORTH_BYTES = 2_000_000
"""Weights that skipping must save beyond the break-even. Finding what is not zero takes 60 µs, as
long as gathering 1 MB; the rest is there because other images may have fewer zeros."""


def choose_zero_skipping(
    network: Layerwise, table: CalibrationTable, images: AnyArray
) -> tuple[str, ...]:
    """Return the names of the layers that are to skip zeros.

    None where the graph's batch is fixed above 1: zeros of one image are others of the next.

    Args:
        network: cut.
        table: the ranges of its activations.
        images: calibration images as the network's input.
    """
    if (network.graph.input.batch or 1) > 1:
        return ()
    could = [
        index
        for index in range(1, len(network.layers))
        if network.has_blocks(index)
        and _is_worth(0.0, network.weight(index))
        and _starts_at_zero(network, table, index)
    ]
    shares = measure_shares(network, images, could)
    return tuple(
        network.layers[index] for index in could
        if _is_worth(shares[network.layers[index]], network.weight(index))
    )  # fmt: skip


def measure_shares(
    network: Layerwise, images: AnyArray, indices: Collection[int]
) -> dict[str, float]:
    """Return which share of their inputs is not 0 in the float network, by layer name.

    Args:
        network: cut.
        images: as the network's input.
        indices: of the layers.
    """
    shares = {}
    activations = network.begin(images) if indices else []
    for index in range(max(indices, default=-1) + 1):
        if index > 0:
            activations, _ = network.step(index - 1, activations, FLOAT)
        if index in indices:
            nonzero = sum(int(np.count_nonzero(chunk)) for chunk in activations)
            shares[network.layers[index]] = nonzero / sum(chunk.size for chunk in activations)
    return shares


def _is_worth(share: float, weight: AnyArray) -> bool:
    """Whether skipping saves enough; a weight is a byte."""
    return (BREAK_EVEN - share) * weight.size >= WORTH_BYTES


def _starts_at_zero(network: Layerwise, table: CalibrationTable, index: int) -> bool:
    """Whether 0 is the integer 0 of a layer's input, by whichever method its range is found."""
    tensor = network.activations[index]
    found = (part.get(tensor, {}) for part in (table.tensors, table.tensors_without_held_out))
    return all(
        not activation_parameters(one, network.dialect)[1]
        for ranges in found
        for one in ranges.values()
    )

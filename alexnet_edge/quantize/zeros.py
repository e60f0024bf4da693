"""Which fully connected layers read so many zeros that it pays to skip them.

At batch 1 such a layer costs the reading of its weights. Weights in blocks (`int8_blocks`) are read
fastest, all of them; a layer with integer inputs can gather the weights of those that are not zero,
and read no others (`engine.zero_skipping`). Some inputs are zero in most images, others in few: the
weights of these, the hot ones, are read in blocks whatever the image. (Song et al., "PowerInfer",
2024, tell hot from cold neurons likewise.) What is faster depends on the network and its images: so
it is measured, on images of the calibration.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.scales import FloatArray, activation_parameters
from alexnet_edge.quantize.table import CalibrationTable

GATHER_COST = 3.0
"""To gather weights and multiply them takes as long as to read so many times their bytes in blocks.
Measured at batch 1 within a network, two threads, on the machine of docs/log.md: 60 to 76 µs for
each MB that is gathered, 22 for each MB in blocks."""

WORTH_BYTES = 4_000_000
"""What skipping must save, as bytes in blocks. Finding what is not zero takes as long as reading
3 MB; the rest is there because other images may have fewer zeros."""


def choose_zero_skipping(
    network: Layerwise, table: CalibrationTable, images: AnyArray
) -> dict[str, tuple[int, ...]]:
    """Return the layers that are to skip zeros, by name, with their hot inputs, ascending.

    None where the graph's batch is fixed above 1: zeros of one image are others of the next.

    Args:
        network: cut.
        table: the ranges of its activations.
        images: calibration images as the network's input.
    """
    if (network.graph.input.batch or 1) > 1:
        return {}
    could = [
        index
        for index in range(1, len(network.layers))
        if network.has_blocks(index)
        and network.weight(index).size >= WORTH_BYTES
        and _starts_at_zero(network, table, index)
    ]
    chosen = {}
    for name, frequencies in measure_frequencies(network, images, could).items():
        hot = find_hot(frequencies, network.dialect.fc_block or 1)
        outputs = network.weight(network.layers.index(name)).size // len(frequencies)
        if outputs * count_saved(frequencies, hot) >= WORTH_BYTES:
            chosen[name] = tuple(map(int, hot))
    return chosen


def measure_frequencies(
    network: Layerwise, images: AnyArray, indices: Collection[int]
) -> dict[str, FloatArray]:
    """Return in which share of the images each input of a layer is not 0, by layer name.

    Args:
        network: cut; it is run in float.
        images: as the network's input.
        indices: of the layers.
    """
    frequencies = {}
    activations = network.begin(images) if indices else []
    for index in range(max(indices, default=-1) + 1):
        if index > 0:
            activations, _ = network.step(index - 1, activations, FLOAT)
        if index in indices:
            counts = sum(np.count_nonzero(chunk, axis=0) for chunk in activations)
            shares = np.asarray(counts) / sum(map(len, activations))
            frequencies[network.layers[index]] = shares.reshape(-1).astype(np.float32)
    return frequencies


def find_hot(frequencies: FloatArray, block: int) -> AnyArray:
    """Return the inputs that are cheaper to read always than to gather when they are not 0.

    Args:
        frequencies: (inputs,) share of the images in which each is not 0.
        block: inputs come in multiples of it, so that blocks are full; further ones by frequency.

    Returns:
        Their indices, ascending.
    """
    count = int(np.count_nonzero(GATHER_COST * frequencies > 1))
    count = min(-(-count // block) * block, len(frequencies))
    return np.sort(np.argsort(-frequencies, kind="stable")[:count])


def count_saved(frequencies: FloatArray, hot: AnyArray) -> float:
    """Return how many inputs' weights less are read, on average of images, than by blocks alone."""
    gathered = float(frequencies.sum() - frequencies[hot].sum())
    return len(frequencies) - len(hot) - GATHER_COST * gathered


def _starts_at_zero(network: Layerwise, table: CalibrationTable, index: int) -> bool:
    """Whether 0 is the integer 0 of a layer's input, by whichever method its range is found."""
    tensor = network.activations[index]
    found = (part.get(tensor, {}) for part in (table.tensors, table.tensors_without_held_out))
    return all(
        not activation_parameters(one, network.dialect)[1]
        for ranges in found
        for one in ranges.values()
    )

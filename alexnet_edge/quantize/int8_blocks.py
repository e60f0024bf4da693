"""8-bit weights in blocks: what ONNX Runtime reads fastest for one image at a time.

A fully connected layer at batch 1 costs the reading of its weights. `MatMulNBits` reads 8-bit
weights a quarter faster than the integer Gemm does, and rounds its input by itself, block by block,
so neither a range nor a Q stands in front of it. At larger batches the Gemm is the faster one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alexnet_edge.quantize.gptq import Grid, RoundedRows, round_nearest
from alexnet_edge.quantize.scales import MIN_SCALE, FloatArray

BLOCK = 128
"""Weights that share a scale: those are 3 % of the bytes then."""

ONNXRUNTIME = (1, 23)
"""The first version that this was tried with."""

_LARGEST, _ZERO_POINT = 127, 128


def round_blocks(weight: FloatArray, axis: int, block: int) -> RoundedRows:
    """Round a weight of two axes, each value to the nearest of its block's.

    Args:
        weight: float.
        axis: of its outputs.
        block: inputs that share a scale.
    """
    rows = np.ascontiguousarray(np.moveaxis(weight, axis, 0))
    return round_nearest(rows, Grid(-_LARGEST, _LARGEST, block), _find_scales)


def dequantize_blocks(rounded: RoundedRows, axis: int) -> FloatArray:
    """Return the weight that the integers stand for, outputs along ``axis``."""
    return np.ascontiguousarray(np.moveaxis(rounded.weights(), 0, axis))


def pack_bytes(rounded: RoundedRows) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Return weights and scales as `MatMulNBits` stores them.

    Returns:
        (rows, blocks, block) bytes, 128 higher than the integers, and (rows · blocks,) scales. A
        last block that is short is filled with zeros.
    """
    rows, columns = rounded.integers.shape
    blocks = rounded.scales.shape[1]
    block = rounded.grid.block or columns
    raised = np.full((rows, blocks * block), _ZERO_POINT, np.uint8)
    raised[:, :columns] = rounded.integers.astype(np.int16) + _ZERO_POINT
    return raised.reshape(rows, blocks, block), np.ascontiguousarray(rounded.scales.ravel())


def _find_scales(weights: FloatArray) -> FloatArray:
    found: FloatArray = np.maximum(np.abs(weights).max(axis=1) / _LARGEST, MIN_SCALE)
    return found.astype(np.float32)

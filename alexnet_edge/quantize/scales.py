"""From ranges to scales: the arithmetic that the Q/DQ pass writes down and the simulation runs.

A `Dialect` is how a target wants its integers; see `qdq` for what each one writes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses

import numpy as np
import numpy.typing as npt

from alexnet_edge.errors import InputError
from alexnet_edge.machine import usable_cores
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.table import Range

FloatArray = npt.NDArray[np.float32]

MIN_SCALE = 2.0**-40
"""Scales must be positive even for a tensor that is always 0."""

BIAS_MAX = 2**30
"""Of a bias in INT32: the rest is room for the sum of 33,000 products, 127 · 255 at most."""

WEIGHT_RANGES = ("minmax", "mse")
"""How the range of a channel's weights is found: nothing is clipped, or by least squared error."""

_FACTORS = np.linspace(1.0, 0.6, 17, dtype=np.float32)
_CHUNK_VALUES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a target wants its Q/DQ.

    Attributes:
        name: `tensorrt` or `cpu`.
        weight_bits: 8, or 7 where UINT8 × INT8 sums saturate at 16 bits.
        fc_block: inputs of a fully connected layer that share a scale, where such layers have
            weights in blocks and float inputs (see `int8_blocks`); None where they have not.
    """

    name: str
    weight_bits: int = 8
    fc_block: int | None = None

    @property
    def key(self) -> str:
        """What choices of methods are kept by: `cpu`, `cpu-blocks`, `cpu-7` or `tensorrt`."""
        bits = [] if self.weight_bits == 8 else [str(self.weight_bits)]
        return "-".join([self.name, *bits, *["blocks"] * (self.fc_block is not None)])

    @property
    def symmetric(self) -> bool:
        """Whether activations are INT8 with zero point 0, rather than UINT8 over their values."""
        return self.name == "tensorrt"

    @property
    def quantizes_results(self) -> bool:
        """Whether a layer's result is quantized even where a float operator reads it.

        ONNX Runtime's integer convolution writes integers only, and a Gemm that is followed by a
        ReLU becomes an integer one only where Q takes the ReLU's place.
        """
        return self.name == "cpu"

    @property
    def largest_weight(self) -> int:
        """The largest quantized weight: 127 or 63."""
        return int(2 ** (self.weight_bits - 1) - 1)


TENSORRT, CPU = Dialect("tensorrt"), Dialect("cpu")


def activation_parameters(found: Range, dialect: Dialect) -> tuple[np.float32, AnyArray]:
    """Return scale and zero point (0-d int8 or uint8) of an activation."""
    if dialect.symmetric:
        return np.float32(max(found.amax / 127, MIN_SCALE)), np.array(0, np.int8)
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    scale = max((high - low) / 255, MIN_SCALE)
    return np.float32(scale), np.array(round(-low / scale), np.uint8)


def weight_scales(
    weight: FloatArray, axis: int, dialect: Dialect, ranges: str = "minmax"
) -> FloatArray:
    """Return the scale of each output channel.

    Args:
        weight: of any rank.
        axis: its axis of output channels.
        dialect: of the target.
        ranges: `minmax` represents every weight. `mse` narrows the range of each channel by the
            factor, from 1 down to 0.6, that has the least squared error of rounding and clipping.

    Returns:
        (channels,) float32.

    Raises:
        InputError: ``ranges`` is unknown.
    """
    if ranges not in WEIGHT_RANGES:
        raise InputError(
            f"weight ranges '{ranges}' are unknown", hint=f"one of {', '.join(WEIGHT_RANGES)}"
        )
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight).max(axis=others)
    scales: FloatArray = np.maximum(amax / dialect.largest_weight, MIN_SCALE).astype(np.float32)
    if ranges == "mse":
        scales *= _best_factors(weight, scales, axis, dialect.largest_weight)
    return scales


def _best_factors(weight: FloatArray, scales: FloatArray, axis: int, largest: int) -> FloatArray:
    """Return for each channel the factor of its scale with the least squared error."""
    rows = np.moveaxis(weight, axis, 0).reshape(len(scales), -1)
    step = max(1, _CHUNK_VALUES // max(1, rows.shape[1]))

    def search(start: int) -> FloatArray:
        part = np.ascontiguousarray(rows[start : start + step])
        errors = [
            _squared_error(part, scales[start : start + step] * factor, largest)
            for factor in _FACTORS
        ]
        best: FloatArray = _FACTORS[np.argmin(errors, axis=0)]
        return best

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(search, range(0, len(rows), step))))


def _squared_error(rows: FloatArray, scales: FloatArray, largest: int) -> FloatArray:
    scaled = rows / scales[:, None]
    error = np.rint(scaled)
    np.clip(error, -largest, largest, out=error)
    error -= scaled
    found: FloatArray = np.einsum("ij,ij->i", error, error) * scales**2
    return found


def round_weight(weight: FloatArray, scales: FloatArray, axis: int, dialect: Dialect) -> AnyArray:
    """Return the weight as int8, of the same shape."""
    largest = dialect.largest_weight
    # In the `tensorrt` dialect a Q of the graph rounds the weights; that one saturates at -128.
    smallest = -largest - 1 if dialect.symmetric else -largest
    rounded = np.clip(np.rint(weight / _along(scales, axis, weight.ndim)), smallest, largest)
    return np.asarray(rounded, np.int8)


def dequantize_weight(integers: AnyArray, scales: FloatArray, axis: int) -> FloatArray:
    """Return the float32 weight that the integers stand for."""
    return integers.astype(np.float32) * _along(scales, axis, integers.ndim)


def _along(scales: FloatArray, axis: int, rank: int) -> FloatArray:
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])

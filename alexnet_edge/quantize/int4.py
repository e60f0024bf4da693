"""Weights in symmetric 4-bit blocks: how they are scaled, and how two runtimes store them.

A block is some inputs in a row of one output; its weights are integers from -8 to 7 times one
scale. ONNX Runtime's `MatMulNBits` and ONNX's INT4 tensors hold the same integers: the first with
8 added, two to a byte within each block; the second as they are.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses

import ml_dtypes
import numpy as np
import numpy.typing as npt

from alexnet_edge.errors import BuildError
from alexnet_edge.machine import usable_cores
from alexnet_edge.quantize.gptq import Grid, RoundedRows, ScaleSearch
from alexnet_edge.quantize.scales import MIN_SCALE, FloatArray

BLOCKS = (32, 64, 128)
"""Block sizes for which the runtimes have fast kernels."""

DEFAULT_BLOCK = 128
"""0.25 bits a weight of scales: a full-size AlexNet is 35 MB, with blocks of 64 it is 37."""

AUTO, NEAREST, MSE, GPTQ = "auto", "nearest", "mse", "gptq"
ROUNDINGS = (AUTO, NEAREST, MSE, GPTQ)

_LOW, _HIGH = -8, 7
_FACTORS = np.linspace(1.0, 0.7, 13, dtype=np.float32)
_CHUNK_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Int4Settings:
    """How fully connected layers become 4-bit.

    Attributes:
        block: inputs that share a scale: 32, 64 or 128.
        rounding: `nearest` to blocks scaled by their largest weight, `mse` to blocks scaled by
            least squared error, `gptq` to what the layers read; `auto` to choose by evidence.
    """

    block: int = DEFAULT_BLOCK
    rounding: str = AUTO

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise BuildError(
                f"--int4-block is {self.block}", hint=f"one of {', '.join(map(str, BLOCKS))}"
            )
        if self.rounding not in ROUNDINGS:
            raise BuildError(
                f"--int4-rounding '{self.rounding}' is unknown",
                hint=f"one of {', '.join(ROUNDINGS)}",
            )

    @property
    def grid(self) -> Grid:
        """The values that weights may take."""
        return Grid(_LOW, _HIGH, self.block)


def scale_search(rounding: str, *, signed: bool) -> ScaleSearch:
    """Return what finds the scales of blocks.

    Args:
        rounding: `mse`, or any other for the largest weight.
        signed: whether scales may be negative. -8 then stands for the largest weight, whatever its
            sign, and steps are an eighth of it; else they are a seventh, and nothing is clipped.
    """
    if rounding == MSE:
        return _find_mse_signed if signed else _find_mse
    return _find_largest_signed if signed else _find_largest


def pack_nibbles(rounded: RoundedRows) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Return weights and scales as `MatMulNBits` stores them.

    Returns:
        (rows, blocks, block / 2) bytes, of each the lower half first; and (rows · blocks,) scales.
        A last block that is short is filled with zeros.
    """
    rows, columns = rounded.integers.shape
    blocks = rounded.scales.shape[1]
    block = rounded.grid.block or columns
    raised = np.full((rows, blocks * block), -_LOW, np.uint8)
    raised[:, :columns] = rounded.integers - _LOW
    pairs = raised.reshape(rows, blocks, block // 2, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4), np.ascontiguousarray(rounded.scales.ravel())


def as_onnx_int4(integers: npt.NDArray[np.int8]) -> npt.NDArray[ml_dtypes.int4]:
    """Return integers from -8 to 7 in the type that becomes an INT4 tensor."""
    return integers.astype(ml_dtypes.int4)


def _find_largest(weights: FloatArray) -> FloatArray:
    return _at_least(np.abs(weights).max(axis=1) / _HIGH)


def _find_largest_signed(weights: FloatArray) -> FloatArray:
    low, high = weights.min(axis=1), weights.max(axis=1)
    return _at_least(np.where(-low > high, low, high) / _LOW)


def _find_mse(weights: FloatArray) -> FloatArray:
    return _search(weights, [_find_largest(weights)])


def _find_mse_signed(weights: FloatArray) -> FloatArray:
    signed = _find_largest_signed(weights)
    return _search(weights, [signed, -signed])


def _at_least(scales: FloatArray) -> FloatArray:
    """Return scales that nothing is divided by 0 with."""
    found: FloatArray = np.where(np.abs(scales) < MIN_SCALE, MIN_SCALE, scales).astype(np.float32)
    return found


def _search(weights: FloatArray, starts: list[FloatArray]) -> FloatArray:
    """Return for each row the narrowed scale with the least squared error of its weights."""
    candidates = [start * factor for start in starts for factor in _FACTORS]

    def search(first: int) -> FloatArray:
        part = slice(first, first + _CHUNK_ROWS)
        rows = weights[part]
        scales = np.stack([candidate[part] for candidate in candidates])
        best = np.argmin([_squared_error(rows, own) for own in scales], axis=0)
        found: FloatArray = scales[best, np.arange(len(rows))]
        return found

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(search, range(0, len(weights), _CHUNK_ROWS))))


def _squared_error(rows: FloatArray, scales: FloatArray) -> FloatArray:
    scaled = rows / scales[:, None]
    error = np.rint(scaled)
    np.clip(error, _LOW, _HIGH, out=error)
    error -= scaled
    found: FloatArray = np.einsum("ij,ij->i", error, error) * scales**2
    return found

"""Weights in symmetric 4-bit blocks: how they are scaled, and how two runtimes store them.

A block is some inputs in a row of one output; its weights are integers from -8 to 7 times one
scale. ONNX Runtime's `MatMulNBits` and ONNX's INT4 tensors hold the same integers: the first with
8 added, two to a byte within each block; the second as they are. Of `MatMulNBits` a layer may also
have 2 bits, from -2 to 1.
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

INT2_ONNXRUNTIME = (1, 32)
"""The first version whose kernel of 2 bits was tried; 1.23 has none."""

_FACTORS = {
    4: np.linspace(1.0, 0.7, 13, dtype=np.float32),
    2: np.linspace(1.0, 0.4, 13, dtype=np.float32),
}
_CHUNK_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Int4Settings:
    """How fully connected layers become 4-bit.

    Attributes:
        block: inputs that share a scale: 32, 64 or 128.
        rounding: `nearest` to blocks scaled by their largest weight, `mse` to blocks scaled by
            least squared error, `gptq` to what the layers read; `auto` to choose by evidence.
        two_bit: names of those that become 2-bit instead.
    """

    block: int = DEFAULT_BLOCK
    rounding: str = AUTO
    two_bit: tuple[str, ...] = ()

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

    def bits(self, layer: str) -> int:
        """Return how many bits a weight of a layer has."""
        return 2 if layer in self.two_bit else 4

    def grid(self, layer: str) -> Grid:
        """Return the values that weights of a layer may take."""
        half = 2 ** (self.bits(layer) - 1)
        return Grid(-half, half - 1, self.block)


def bits_of(grid: Grid) -> int:
    """Return how many bits an integer of a grid takes."""
    return (grid.high - grid.low).bit_length()


def scale_search(rounding: str, grid: Grid, *, signed: bool) -> ScaleSearch:
    """Return what finds the scales of blocks.

    Args:
        rounding: `mse`, or any other for the largest weight.
        grid: of the integers.
        signed: whether scales may be negative. -8 then stands for the largest weight, whatever its
            sign, and steps are an eighth of it; else they are a seventh, and nothing is clipped.
            (Of 4 bits. Of 2 these are -2, a half and the whole.)
    """

    def find(weights: FloatArray) -> FloatArray:
        largest = _find_largest_signed(weights, grid) if signed else _find_largest(weights, grid)
        if rounding != MSE:
            return largest
        return _search(weights, [largest, -largest] if signed else [largest], grid)

    return find


def pack_bits(rounded: RoundedRows) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Return weights of 2 or 4 bits, and scales, as `MatMulNBits` stores them.

    Returns:
        (rows, blocks, block · bits / 8) bytes, of each the lowest bits first; and (rows · blocks,)
        scales. A last block that is short is filled with zeros.
    """
    rows, columns = rounded.integers.shape
    blocks = rounded.scales.shape[1]
    grid, bits = rounded.grid, bits_of(rounded.grid)
    block, to_a_byte = grid.block or columns, 8 // bits
    raised = np.full((rows, blocks * block), -grid.low, np.uint8)
    raised[:, :columns] = rounded.integers - grid.low
    parts = raised.reshape(rows, blocks, block // to_a_byte, to_a_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return packed, np.ascontiguousarray(rounded.scales.ravel())


def as_onnx_int4(integers: npt.NDArray[np.int8]) -> npt.NDArray[ml_dtypes.int4]:
    """Return integers from -8 to 7 in the type that becomes an INT4 tensor."""
    return integers.astype(ml_dtypes.int4)


def _find_largest(weights: FloatArray, grid: Grid) -> FloatArray:
    return _at_least(np.abs(weights).max(axis=1) / grid.high)


def _find_largest_signed(weights: FloatArray, grid: Grid) -> FloatArray:
    low, high = weights.min(axis=1), weights.max(axis=1)
    return _at_least(np.where(-low > high, low, high) / grid.low)


def _at_least(scales: FloatArray) -> FloatArray:
    """Return scales that nothing is divided by 0 with."""
    found: FloatArray = np.where(np.abs(scales) < MIN_SCALE, MIN_SCALE, scales).astype(np.float32)
    return found


def _search(weights: FloatArray, starts: list[FloatArray], grid: Grid) -> FloatArray:
    """Return for each row the narrowed scale with the least squared error of its weights."""
    candidates = [start * factor for start in starts for factor in _FACTORS[bits_of(grid)]]

    def search(first: int) -> FloatArray:
        part = slice(first, first + _CHUNK_ROWS)
        rows = weights[part]
        scales = np.stack([candidate[part] for candidate in candidates])
        best = np.argmin([_squared_error(rows, own, grid) for own in scales], axis=0)
        found: FloatArray = scales[best, np.arange(len(rows))]
        return found

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(search, range(0, len(weights), _CHUNK_ROWS))))


def _squared_error(rows: FloatArray, scales: FloatArray, grid: Grid) -> FloatArray:
    scaled = rows / scales[:, None]
    error = np.rint(scaled)
    np.clip(error, grid.low, grid.high, out=error)
    error -= scaled
    found: FloatArray = np.einsum("ij,ij->i", error, error) * scales**2
    return found

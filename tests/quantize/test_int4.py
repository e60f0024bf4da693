"""Weights in 4-bit blocks: their scales, and how they are packed."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy
import ml_dtypes
import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
from hypothesis import strategies

from alexnet_edge.errors import BuildError
from alexnet_edge.graph import constant
from alexnet_edge.quantize.gptq import Grid, round_nearest
from alexnet_edge.quantize.int4 import (
    Int4Settings,
    as_onnx_int4,
    bits_of,
    pack_bits,
    scale_search,
)
from tests.needs import HAS_INT2

FOUR, TWO = Grid(-8, 7, 64), Grid(-2, 1, 64)
EITHER = pytest.mark.parametrize("grid", [FOUR, TWO], ids=["4 bits", "2 bits"])
SIGNED = pytest.mark.parametrize("signed", [False, True])
EVERY = pytest.mark.parametrize("rounding", ["nearest", "mse"])


def weights_of(rows: int, columns: int) -> np.ndarray:
    """Return weights with a long tail, as trained ones have."""
    return (np.random.default_rng(columns).standard_t(5, (rows, columns)) / 50).astype(np.float32)


def error(weights: np.ndarray, rounding: str, *, signed: bool, block: int = 64) -> float:
    grid = Grid(-8, 7, block)
    found = round_nearest(weights, grid, scale_search(rounding, grid, signed=signed))
    return float(((found.weights() - weights) ** 2).mean())


def test_nothing_is_clipped_at_scales_of_the_largest_weight():
    weights = weights_of(20, 64)
    scales = scale_search("nearest", FOUR, signed=False)(weights)
    found = round_nearest(weights, Grid(-8, 7, 64), scales[:, None])
    assert (scales > 0).all()
    assert (np.abs(found.weights() - weights) <= scales[:, None] / 2 + 1e-7).all()
    assert found.integers.min() == -7


@EITHER
def test_the_largest_weight_is_exact_at_signed_scales(grid):
    weights = weights_of(20, 64)
    scales = scale_search("nearest", grid, signed=True)(weights)
    found = round_nearest(weights, grid, scales[:, None])
    largest = np.abs(weights).argmax(axis=1)
    rows = np.arange(20)
    np.testing.assert_allclose(found.weights()[rows, largest], weights[rows, largest], rtol=1e-6)
    assert (found.integers[rows, largest] == grid.low).all()
    assert (scales < 0).any()
    assert (scales > 0).any()


def test_signed_scales_are_finer_and_searched_ones_closer():
    weights = weights_of(200, 256)
    assert error(weights, "nearest", signed=True) < error(weights, "nearest", signed=False)
    for signed in (False, True):
        assert error(weights, "mse", signed=signed) < error(weights, "nearest", signed=signed)
    assert error(weights, "mse", signed=True) < error(weights, "mse", signed=False)


@EVERY
def test_smaller_blocks_are_closer(rounding):
    weights = weights_of(50, 256)
    found = [error(weights, rounding, signed=False, block=block) for block in (32, 64, 128)]
    assert found == sorted(found)


@EITHER
@EVERY
@SIGNED
def test_the_search_does_not_depend_on_what_else_is_searched(rounding, signed, grid):
    weights, search = weights_of(600, 64), scale_search(rounding, grid, signed=signed)
    alone = np.concatenate([search(weights[row : row + 1]) for row in range(0, 600, 37)])
    assert np.array_equal(search(weights)[::37], alone)


@EVERY
@SIGNED
def test_a_block_of_zeros_has_a_scale_all_the_same(rounding, signed):
    found = scale_search(rounding, FOUR, signed=signed)(np.zeros((3, 32), np.float32))
    assert (found > 0).all()
    assert np.isfinite(1 / found).all()


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    integers=hypothesis.extra.numpy.arrays(np.int8, (3, 96), elements=strategies.integers(-8, 7)),
    columns=strategies.integers(1, 96),
    block=strategies.sampled_from([32, 64]),
    bits=strategies.sampled_from([2, 4] if HAS_INT2 else [4]),
)
def test_packed_weights_are_what_the_operator_multiplies_with(integers, columns, block, bits):
    """In a real session, at full precision; a short last block is filled with zeros."""
    grid = Int4Settings(block, two_bit=("a",)).grid("a" if bits == 2 else "b")
    assert bits_of(grid) == bits
    integers = np.clip(integers, grid.low, grid.high)
    kept = integers[:, :columns].astype(np.float32)
    scales = np.linspace(-0.5, 0.7, 3 * len(grid.blocks(columns)), dtype=np.float32)
    rounded = round_nearest(
        kept * grid.spread(scales.reshape(3, -1), columns), grid, scales.reshape(3, -1)
    )
    packed, flat = pack_bits(rounded)
    assert packed.shape == (3, len(grid.blocks(columns)), block * bits // 8)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft",
        K=columns, N=3, bits=bits, block_size=block,
    )  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, ["n", columns])], [info("y", 1, None)],
        [onnx.numpy_helper.from_array(packed, "b"), onnx.numpy_helper.from_array(flat, "s")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0]
    np.testing.assert_allclose(found.T, rounded.weights(), atol=1e-6)


def test_the_search_narrows_2_bits_further():
    """Four values for a long tail: the largest weight is far from most of them."""
    weights = weights_of(200, 64)
    found = {}
    for rounding in ("nearest", "mse"):
        search = scale_search(rounding, TWO, signed=True)
        found[rounding] = round_nearest(weights, TWO, search)
    errors = {name: float(((one.weights() - weights) ** 2).sum()) for name, one in found.items()}
    assert errors["mse"] < 0.8 * errors["nearest"]
    assert (np.abs(found["mse"].scales) < np.abs(found["nearest"].scales)).any()


def test_integers_become_an_int4_tensor():
    integers = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    stored = constant("w", as_onnx_int4(integers)).const_value
    assert stored.dtype.name == "INT4"
    assert np.array_equal(stored.numpy().astype(np.int8), integers)
    assert as_onnx_int4(integers).dtype == ml_dtypes.int4


@pytest.mark.parametrize("options", [{"block": 16}, {"block": 256}, {"rounding": "best"}])
def test_settings_that_are_unknown_are_refused(options):
    with pytest.raises(BuildError, match="--int4-"):
        Int4Settings(**options)

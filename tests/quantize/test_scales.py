"""Scales: what they can represent, and what least squares gains over the whole range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_edge.errors import InputError
from alexnet_edge.quantize.scales import (
    CPU,
    MIN_SCALE,
    TENSORRT,
    WEIGHT_RANGES,
    Dialect,
    activation_parameters,
    dequantize_weight,
    round_weight,
    weight_scales,
)
from alexnet_edge.quantize.table import Range

CPU7 = Dialect("cpu", weight_bits=7)
DIALECTS = [TENSORRT, CPU, CPU7]
EVERY = pytest.mark.parametrize("dialect", DIALECTS, ids=["tensorrt", "cpu", "cpu7"])
KINDS = pytest.mark.parametrize("kind", WEIGHT_RANGES)
NUMBERS = st.floats(-(2**20), 2**20, width=32)
WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=NUMBERS)


def draw_weights(shape, seed=0):
    """Return weights with the tails of a trained network's, each channel of another size."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.01, 1, (shape[0], *[1] * (len(shape) - 1)))
    return (rng.standard_t(4, shape) * sizes).astype(np.float32)


def representable(found, dialect):
    """Return least and largest value of an activation, and the step between neighbours."""
    scale, zero_point = activation_parameters(found, dialect)
    limits = (-127, 127) if dialect.symmetric else (0, 255)
    low, high = ((limit - int(zero_point)) * float(scale) for limit in limits)
    return low, high, float(scale)


def squared_errors(weight, scales, axis, dialect):
    """Return the summed error of each channel."""
    integers = round_weight(weight, scales, axis, dialect)
    error = dequantize_weight(integers, scales, axis).astype(np.float64) - weight
    return (error**2).sum(axis=tuple(i for i in range(weight.ndim) if i != axis))


@given(NUMBERS, NUMBERS, st.sampled_from(DIALECTS))
def test_an_activation_range_is_representable_within_half_a_step(one, other, dialect):
    found = Range(max(abs(one), abs(other)), min(one, other), max(one, other))
    low, high, step = representable(found, dialect)
    assert low - 0.501 * step <= found.low
    assert found.high <= high + 0.501 * step
    if not dialect.symmetric:  # and no more than it
        assert min(found.low, 0) - 0.501 * step <= low <= 0 <= high
        assert high - low == pytest.approx(
            255 * max((max(found.high, 0) - min(found.low, 0)) / 255, MIN_SCALE)
        )


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0, 1, 0), (3, 5, 0), (-1, 0, 255), (-5, -3, 255), (-1, 1, 128),
    (-1, 254, 1), (-254, 1, 254)],
)  # fmt: skip
def test_zero_has_an_integer_of_its_own(low, high, zero_point):
    scale, found = activation_parameters(Range(max(abs(low), abs(high)), low, high), CPU)
    assert (found, found.dtype, found.shape) == (zero_point, np.uint8, ())
    assert (scale.dtype, scale > 0) == (np.float32, True)


def test_tensorrt_wants_the_amplitude_and_zero_at_zero():
    scale, zero_point = activation_parameters(Range(2.54, -0.1, 0.2), TENSORRT)
    assert scale == pytest.approx(0.02, rel=1e-6)
    assert (zero_point, zero_point.dtype, zero_point.shape) == (0, np.int8, ())


@EVERY
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1e-45])
def test_tensors_that_are_as_good_as_zero_have_a_positive_scale(value, dialect):
    scale, zero_point = activation_parameters(Range(value, -value, value), dialect)
    assert scale == np.float32(MIN_SCALE)
    assert zero_point == 0


@given(WEIGHTS, st.data(), st.sampled_from(DIALECTS))
def test_weights_come_back_within_half_a_step(weight, data, dialect):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    scales = weight_scales(weight, axis, dialect)
    integers = round_weight(weight, scales, axis, dialect)
    assert (integers.dtype, integers.shape) == (np.int8, weight.shape)
    assert np.abs(integers.astype(int)).max() <= dialect.largest_weight
    restored = dequantize_weight(integers, scales, axis)
    assert restored.dtype == np.float32
    steps = np.moveaxis(np.broadcast_to(scales, (*np.moveaxis(weight, axis, -1).shape,)), -1, axis)
    assert (np.abs(restored.astype(np.float64) - weight) <= 0.501 * steps).all()


@given(WEIGHTS, st.data(), st.sampled_from(DIALECTS))
def test_minmax_gives_the_largest_weight_of_each_channel_the_largest_integer(weight, data, dialect):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    scales = weight_scales(weight, axis, dialect)
    amax = [np.abs(channel).max() for channel in np.moveaxis(weight, axis, 0)]
    expected = np.maximum(np.float32(amax) / dialect.largest_weight, MIN_SCALE)
    np.testing.assert_allclose(scales, expected, rtol=1e-6)
    integers = np.moveaxis(round_weight(weight, scales, axis, dialect), axis, 0)
    largest = np.abs(integers.reshape(len(scales), -1).astype(int)).max(axis=1)
    assert (largest[expected > MIN_SCALE] == dialect.largest_weight).all()


@given(WEIGHTS, st.data(), st.sampled_from(DIALECTS))
def test_mse_is_never_worse_than_minmax_in_any_channel(weight, data, dialect):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    whole, best = (weight_scales(weight, axis, dialect, kind) for kind in WEIGHT_RANGES)
    assert ((best > 0) & (best <= whole)).all()
    before, after = (squared_errors(weight, s, axis, dialect) for s in (whole, best))
    # The search computes in float32.
    assert (after <= before + 1e-4 * whole.astype(np.float64) ** 2 * weight.size).all()


@EVERY
@pytest.mark.parametrize("shape", [(10, 4096), (12, 256, 5, 5)])
def test_mse_is_the_best_of_its_factors(shape, dialect):
    weight = draw_weights(shape)
    whole, best = (weight_scales(weight, 0, dialect, kind) for kind in WEIGHT_RANGES)
    assert (best < whole).any(), "a tail is clipped"
    assert best.min() >= 0.59 * whole.min()
    found = squared_errors(weight, best, 0, dialect)
    for factor in np.linspace(0.6, 1, 17, dtype=np.float32):
        assert (found <= squared_errors(weight, whole * factor, 0, dialect) * 1.001).all()


@KINDS
@pytest.mark.parametrize("shape", [(4,), (1, 5), (6, 4), (3, 2, 5, 5)])
def test_scales_are_of_the_channels_whatever_their_axis(shape, kind):
    weight = draw_weights(shape)
    expected = weight_scales(weight, 0, CPU, kind)
    assert (expected.shape, expected.dtype) == (shape[:1], np.float32)
    for axis in range(1, weight.ndim):
        moved = np.moveaxis(weight, 0, axis)
        np.testing.assert_array_equal(weight_scales(moved, axis, CPU, kind), expected)
        np.testing.assert_array_equal(
            np.moveaxis(round_weight(moved, expected, axis, CPU), axis, 0),
            round_weight(weight, expected, 0, CPU),
        )


@KINDS
@pytest.mark.parametrize("shape", [(5, 300_000), (300, 3000), (1, 700_000)])
def test_channels_of_large_weights_are_scaled_as_if_alone(shape, kind):
    weight = draw_weights(shape)
    scales = weight_scales(weight, 0, CPU, kind)
    for channel in (0, len(weight) // 2, len(weight) - 1):
        alone = weight_scales(weight[channel : channel + 1], 0, CPU, kind)
        assert scales[channel] == alone[0]


@KINDS
@EVERY
def test_a_dead_channel_stays_zero_beside_a_live_one(dialect, kind):
    weight = np.float32([[0, 0, 0], [1, -2, 3], [1e-30, -1e-38, 0]])
    scales = weight_scales(weight, 0, dialect, kind)
    assert (scales > 0).all()
    restored = dequantize_weight(round_weight(weight, scales, 0, dialect), scales, 0)
    np.testing.assert_array_equal(restored[[0, 2]], 0)
    np.testing.assert_allclose(restored[1], weight[1], atol=0.03)


@pytest.mark.parametrize("kind", ["entropy", "", "MSE"])
def test_an_unknown_range_is_refused_by_name(kind):
    with pytest.raises(InputError, match=f"'{kind}' are unknown") as caught:
        weight_scales(np.ones((2, 2), np.float32), 0, CPU, kind)
    assert "minmax, mse" in caught.value.hint

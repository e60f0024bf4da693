"""Rounding that makes up for itself: equal to the paper's loop, and better where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_edge.errors import InputError
from alexnet_edge.quantize.gptq import (
    Grid,
    RoundedRows,
    factor_upper,
    round_nearest,
    round_rows,
)

NATURAL_OR_NOT = pytest.mark.parametrize("by_importance", [False, True])


def find_amax(weights: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(weights).max(axis=1) / 7, 1e-9)


def inputs(columns: int, count: int = 600) -> np.ndarray:
    """Inputs as behind a ReLU: correlated, never negative, of different sizes."""
    rng = np.random.default_rng(columns)
    causes = max(1, columns // 10)
    mixed = rng.normal(0, 1, (count, causes)) @ rng.normal(0, causes**-0.5, (causes, columns))
    mixed += rng.normal(0, 0.1, (count, columns))
    return (np.maximum(mixed, 0) * rng.uniform(0.1, 2, columns)).astype(np.float32)


def second(given: np.ndarray) -> np.ndarray:
    return (given.T @ given / len(given)).astype(np.float32)


def weights_of(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(0, 0.1, (rows, columns)).astype(np.float32)


def change(weights: np.ndarray, rounded: RoundedRows, given: np.ndarray) -> float:
    """Return the mean squared change of the answers."""
    return float((((weights - rounded.weights()) @ given.T) ** 2).mean())


def round_as_the_paper(
    weights: np.ndarray, moments: np.ndarray, grid: Grid, find_scales, order, damping: float
) -> np.ndarray:
    """Return the integers by the plain loop of GPTQ: the inverse, its factor, one column a time."""
    own = weights.astype(np.float64)[:, order].copy()
    hessian = moments.astype(np.float64)[np.ix_(order, order)]
    hessian += damping * np.diag(hessian).mean() * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    integers = np.zeros(own.shape)
    size = grid.block or own.shape[1]
    for column in range(own.shape[1]):
        scale = find_scales(order[column] // size, own[:, column : column + size], column % size)
        integers[:, column] = np.clip(np.rint(own[:, column] / scale), grid.low, grid.high)
        error = (own[:, column] - integers[:, column] * scale) / upper[column, column]
        own[:, column:] -= np.outer(error, upper[column, column:])
    back = np.empty_like(integers)
    back[:, order] = integers
    return back


@NATURAL_OR_NOT
@pytest.mark.parametrize("columns", [20, 300])
@pytest.mark.parametrize("grid", [Grid(-8, 7, 32), Grid(-8, 7), Grid(-127, 127)], ids=str)
def test_the_choices_are_those_of_the_paper(grid, columns, by_importance):
    weights, moments = weights_of(30, columns), second(inputs(columns))
    blocks = grid.blocks(columns)
    scales = np.stack(
        [np.abs(weights[:, block]).max(axis=1) / grid.high for block in blocks], axis=1
    )
    order = np.arange(columns)
    if by_importance:
        order = np.argsort(-np.diag(moments), kind="stable")
    expected = round_as_the_paper(
        weights, moments, grid, lambda block, *_: scales[:, block].astype(np.float64), order, 0.01
    )
    found = round_rows(weights, moments, grid, scales, by_importance=by_importance)
    # Where a value lies halfway between two, the last digit decides, and all behind follows it.
    assert (found.integers != expected).mean() < 0.005
    assert np.array_equal(found.scales, scales)


def test_scales_are_found_in_the_weights_as_earlier_columns_moved_them():
    weights, grid = weights_of(20, 100), Grid(-8, 7, 32)
    moments = second(inputs(100))
    kept = {}

    def find_scales(block, rest, place):
        if place == 0:
            kept[block] = find_amax(rest)
        return kept[block]

    expected = round_as_the_paper(weights, moments, grid, find_scales, np.arange(100), 0.01)
    found = round_rows(weights, moments, grid, find_amax)
    assert (found.integers != expected).mean() < 0.005
    np.testing.assert_allclose(found.scales, np.stack(list(kept.values()), axis=1), rtol=1e-3)


@NATURAL_OR_NOT
@pytest.mark.parametrize("block", [32, 200, None])
def test_answers_change_less_than_by_rounding_to_the_nearest(block, by_importance):
    weights, given, grid = weights_of(40, 300), inputs(300), Grid(-8, 7, block)
    nearest = round_nearest(weights, grid, find_amax)
    found = round_rows(weights, second(given[:400]), grid, find_amax, by_importance=by_importance)
    assert change(weights, found, given[400:]) < 0.7 * change(weights, nearest, given[400:])


def test_inputs_that_have_nothing_to_do_with_each_other_give_the_nearest():
    weights, grid = weights_of(10, 60), Grid(-8, 7, 32)
    found = round_rows(weights, np.diag(np.arange(1, 61)).astype(np.float32), grid, find_amax)
    nearest = round_nearest(weights, grid, find_amax)
    assert np.array_equal(found.integers, nearest.integers)


@pytest.mark.parametrize("silent", [slice(0, 0), slice(10, 40), slice(0, 60)], ids=str)
def test_inputs_that_are_always_zero_leave_weights_finite_and_on_the_grid(silent):
    weights, given = weights_of(10, 60), inputs(60)
    given[:, silent] = 0
    found = round_rows(weights, second(given), Grid(-8, 7, 32), find_amax)
    assert np.isfinite(found.weights()).all()
    assert found.integers.min() >= -8
    assert found.integers.max() <= 7
    if silent == slice(0, 60):
        nearest = round_nearest(weights, Grid(-8, 7, 32), find_amax)
        assert np.array_equal(found.integers, nearest.integers)


def test_fewer_images_than_inputs_are_enough():
    weights, given = weights_of(30, 400), inputs(400, 120)
    nearest = round_nearest(weights, Grid(-8, 7, 64), find_amax)
    found = round_rows(weights, second(given[:60]), Grid(-8, 7, 64), find_amax)
    assert change(weights, found, given[60:]) < change(weights, nearest, given[60:])


def test_int8_channels_of_a_convolution_are_rounded_too():
    """As for INT8 weights: the scale of a row is given, and the row is the whole kernel."""
    weights, given = weights_of(16, 75), inputs(75)
    scales = np.abs(weights).max(axis=1, keepdims=True) / 127
    found = round_rows(weights, second(given), Grid(-127, 127), scales)
    nearest = round_nearest(weights, Grid(-127, 127), scales)
    assert change(weights, found, given) < 0.7 * change(weights, nearest, given)
    assert found.integers.dtype == np.int8


@pytest.mark.parametrize("size", [1, 5, 128, 300])
def test_the_factor_is_upper_and_its_square_the_matrix(size):
    moments = second(inputs(size)) + 0.01 * np.eye(size, dtype=np.float32)
    upper = np.triu(factor_upper(moments.copy()))
    np.testing.assert_allclose(upper @ upper.T, moments, atol=1e-5)


def test_a_matrix_that_float32_leaves_indefinite_is_factored():
    column = np.linspace(0.5, 2, 200, dtype=np.float32)
    upper = np.triu(factor_upper(np.outer(column, column)))
    assert np.abs(upper).max() < 3
    np.testing.assert_allclose(upper[:, -1], column, rtol=1e-5)


def test_nearest_weights_are_within_half_a_step_of_those_given():
    weights, grid = weights_of(8, 100), Grid(-8, 7, 32)
    found = round_nearest(weights, grid, find_amax)
    steps = grid.spread(found.scales, 100)
    assert (np.abs(found.weights() - weights) <= steps / 2 + 1e-7).all()
    assert found.scales.shape == (8, 4)


def test_arguments_are_left_as_they_were():
    weights, scales = weights_of(8, 100), np.full((8, 4), 0.05, np.float32)
    before = weights.copy(), scales.copy()
    round_rows(weights, second(inputs(100)), Grid(-8, 7, 32), scales)
    assert np.array_equal(weights, before[0])
    assert np.array_equal(scales, before[1])


@pytest.mark.parametrize(
    ("moments", "scales", "message"),
    [
        (np.eye(9, dtype=np.float32), np.ones((4, 1), np.float32), "moments of shape"),
        (np.full((10, 10), np.nan, np.float32), np.ones((4, 1), np.float32), "not finite"),
        (np.eye(10, dtype=np.float32), np.ones((4, 2), np.float32), "scales of shape"),
    ],
)
def test_what_does_not_fit_is_refused(moments, scales, message):
    with pytest.raises(InputError, match=message):
        round_rows(weights_of(4, 10), moments, Grid(-8, 7), scales)

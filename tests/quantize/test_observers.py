"""Histograms: independent of order and batching, exact at the ends, within a bin in between."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_edge.quantize.observers import BINS, Histogram
from alexnet_edge.quantize.thresholds import ASYMMETRIC, METHODS, SYMMETRIC, percentile

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=FINITE)
SIMILAR = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(-4, 4, width=32, allow_subnormal=False)
)
ANY = VALUES | SIMILAR
PERCENTS = st.sampled_from([0.1, 50.0, 99.0, 99.9, 99.99, 99.999, 100.0])


def observe(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def state(histogram):
    return histogram.low, histogram.high, histogram.width, histogram.counts.tolist()


def cut(values, positions):
    ends = sorted({position % len(values) for position in positions} - {0})
    return np.split(values, ends)


@given(ANY, st.randoms(use_true_random=False), st.lists(st.integers(0, 1000), max_size=8))
def test_order_and_batches_do_not_matter(values, random, positions):
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert state(observe(*cut(shuffled, positions))) == state(observe(values))


@given(ANY, st.lists(st.integers(0, 1000), max_size=8), st.randoms(use_true_random=False))
def test_merging_parts_is_observing_the_whole(values, positions, random):
    parts = [observe(part) for part in cut(values, positions)]
    random.shuffle(parts)
    merged = Histogram()
    for part in parts:
        merged.merge(part)
    assert state(merged) == state(observe(values))


@given(ANY)
def test_merging_with_an_empty_histogram_changes_nothing(values):
    histogram, empty = observe(values), Histogram()
    histogram.merge(Histogram())
    empty.merge(histogram)
    assert state(histogram) == state(empty) == state(observe(values))


@given(ANY)
def test_extremes_are_exact_and_every_value_is_counted_in_its_bin(values):
    histogram = observe(values)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.amax == METHODS["minmax"](histogram, SYMMETRIC) == np.abs(values).max()
    bins = np.floor(np.abs(values).astype(np.float64) / histogram.width).astype(int)
    assert histogram.counts.tolist() == np.bincount(bins, minlength=BINS).tolist()


@given(ANY, PERCENTS)
def test_percentiles_are_numpys_within_a_bin(values, percent):
    histogram, magnitudes = observe(values), np.abs(values).astype(np.float64)
    found = percentile(histogram, percent)
    low, high = (np.percentile(magnitudes, percent, method=m) for m in ("lower", "higher"))
    assert low - histogram.width <= found <= high + histogram.width
    assert found <= histogram.amax


@pytest.mark.parametrize("percent", [50, 99, 99.9, 99.99])
def test_percentiles_of_many_values_are_numpys_within_a_bin(percent):
    values = np.random.default_rng(0).uniform(-3, 5, 200_000).astype(np.float32)
    histogram = observe(*np.split(values, 50))
    expected = np.percentile(np.abs(values), percent)
    assert percentile(histogram, percent) == pytest.approx(expected, abs=histogram.width)


@given(ANY)
def test_percentiles_rise_to_the_maximum(values):
    histogram = observe(values)
    found = [METHODS[f"percentile-{p}"](histogram, ASYMMETRIC) for p in ("99.9", "99.99", "99.999")]
    assert [0, *found, histogram.amax] == sorted([0, *found, histogram.amax])


@given(st.floats(2**-100, 2**127, width=32))
def test_at_least_half_of_the_bins_are_in_use(value):
    histogram = observe(np.array([value], np.float32))
    assert BINS / 2 <= value / histogram.width < BINS


@pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 5, 6, 7)])
def test_zeros_alone_have_no_range(shape):
    histogram = observe(np.zeros(shape, np.float32), np.negative(np.zeros(shape, np.float32)))
    assert {name: find(histogram, SYMMETRIC) for name, find in METHODS.items()} == dict.fromkeys(
        METHODS, 0
    )
    assert histogram.counts[0] == 2 * math.prod(shape)


def test_zeros_before_the_first_value_stay_in_the_first_bin():
    values = np.array([0, 0, 0, 8], np.float32)
    assert state(observe(values[:3], values[3:])) == state(observe(values))


@pytest.mark.parametrize("values", [[1e-45], [3e-39, 1e-45], [3.4028235e38], [1e-45, -3.4e38]])
def test_tiny_and_huge_values_are_counted(values):
    histogram = observe(np.array(values, np.float32))
    assert histogram.counts.sum() == len(values)
    assert histogram.amax == np.abs(np.float32(values)).max()
    assert all(math.isfinite(find(histogram, SYMMETRIC)) for find in METHODS.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_nothing_is_counted(bad):
    histogram = observe(np.array([1, 2], np.float32))
    before = state(histogram)
    with pytest.raises(ValueError, match="NaN or infinity"):
        histogram.update(np.array([3, bad, 4], np.float32))
    assert state(histogram) == before


def test_an_empty_histogram_has_no_range():
    histogram = Histogram()
    assert (histogram.amax, percentile(histogram, 99.9)) == (0, 0)

"""Thresholds against plain loops, brute force on the values themselves, and published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_edge.quantize.observers import Histogram
from alexnet_edge.quantize.scales import CPU, TENSORRT, activation_parameters
from alexnet_edge.quantize.table import Range
from alexnet_edge.quantize.thresholds import (
    ASYMMETRIC,
    METHODS,
    SYMMETRIC,
    entropy,
    kl_divergences,
    mse,
    squared_errors,
)

GRIDS = pytest.mark.parametrize("grid", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
EITHER = st.sampled_from([SYMMETRIC, ASYMMETRIC])
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
DRAWN = np.random.default_rng(0)
SAMPLES = {
    "gaussian": DRAWN.normal(size=100_000),
    "laplace": DRAWN.laplace(size=100_000),
    "exponential": DRAWN.exponential(size=100_000),
    "negative": -DRAWN.gamma(2, size=100_000),
    "leaning": np.concatenate(
        [DRAWN.exponential(size=60_000), -0.1 * DRAWN.exponential(size=9000)]
    ),
    "relu": np.maximum(DRAWN.normal(size=100_000), 0),
    "one outlier": np.append(DRAWN.normal(size=100_000), 20),
    "uniform": DRAWN.uniform(-1, 1, size=100_000),
}
SAMPLED = pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)


def observe(values):
    histogram = Histogram()
    histogram.update(np.asarray(values, np.float32))
    return histogram


def count(values, counts):
    histogram = Histogram()
    histogram.update_counted(np.asarray(values, np.float32), np.asarray(counts))
    return histogram


def migacz(counts, keep, levels):
    """Return P and Q as in Migacz's pseudocode: bins that are empty in P stay empty in Q."""
    p = [int(n) for n in counts[:keep]]
    p[-1] += int(sum(counts[keep:]))
    q = [0.0] * keep
    for level in range(levels):
        covered = range(keep * level // levels, keep * (level + 1) // levels)
        filled = [b for b in covered if p[b] > 0]
        for b in filled:
            q[b] = sum(int(counts[b]) for b in covered) / len(filled)
    return p, q


def divergence(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return math.inf
    p_sum, q_sum = sum(p), sum(q)
    return math.fsum(
        x / p_sum * math.log((x / p_sum) / (y / q_sum)) for x, y in zip(p, q, strict=True) if x > 0
    )


def squared_error(values, threshold, grid):
    """Return the summed error of clipping and rounding the values as an engine would."""
    dialect = TENSORRT if grid.symmetric else CPU
    low, high = max(values.min(), -threshold), min(values.max(), threshold)
    scale, zero_point = activation_parameters(Range(threshold, low, high), dialect)
    least, most = (-127, 127) if grid.symmetric else (0, 255)
    rounded = np.clip(np.rint(values / float(scale)) + int(zero_point), least, most)
    return float((((rounded - int(zero_point)) * float(scale) - values) ** 2).sum())


@given(
    hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 5) | st.integers(0, 10**9)),
    st.integers(1, 12),
    st.data(),
)
def test_divergences_are_those_of_the_plain_loop(counts, levels, data):
    counts[data.draw(st.integers(0, len(counts) - 1))] += 1
    counts = np.pad(counts, (0, max(0, levels - len(counts))))
    keeps = data.draw(st.lists(st.integers(levels, len(counts)), min_size=1, unique=True))
    expected = [divergence(*migacz(counts, keep, levels)) for keep in keeps]
    found = kl_divergences(counts, np.array(keeps), levels)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found > -1e-12).all()


def test_the_worked_example_of_the_slides():
    p = [1, 0, 2, 3, 5, 3, 1, 7]
    q = [2, 0, 2, 2, 4, 4, 4, 4]
    assert migacz(p, 8, 2) == (p, q)
    found = kl_divergences(np.array(p), np.array([8]), 2)
    assert found == pytest.approx([scipy.stats.entropy(p, q)], rel=1e-12)


@pytest.mark.parametrize(
    ("counts", "keep", "expected"),
    [
        ([4, 4, 0, 0, 5], 4, math.inf),  # outliers alone in the last level
        ([4, 4, 3, 0, 5], 4, scipy.stats.entropy([4, 4, 3, 5], [4, 4, 1.5, 1.5])),
        ([0, 0, 0, 0, 5], 4, math.inf),  # nothing is kept
        ([0, 0, 0, 3, 5], 4, 0),  # everything in one bin
        ([1, 2, 0, 0, 0], 4, scipy.stats.entropy([1, 2], [1.5, 1.5])),
        ([1, 0, 0, 2, 0], 5, 0),
        ([0, 0, 0, 0, 0], 4, math.inf),
    ],
)
def test_divergences_where_bins_are_empty(counts, keep, expected):
    found = kl_divergences(np.array(counts), np.array([keep]), 2)
    assert found == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "exponential", "relu", "one outlier"])
@GRIDS
def test_entropy_clips_what_has_tails(name, grid):
    histogram = observe(SAMPLES[name])
    assert 0.15 * histogram.amax < entropy(histogram, grid) < 0.95 * histogram.amax


@GRIDS
def test_entropy_disregards_an_outlier_however_far_out(grid):
    for outlier in (20, 40, 80):
        assert entropy(observe([*SAMPLES["gaussian"], outlier]), grid) < 7


@GRIDS
@pytest.mark.parametrize("bins", [1, 2, 100, 128])
def test_entropy_cannot_clip_bins_that_are_no_more_than_levels(bins, grid):
    # Bins become no narrower than 2⁻¹¹², so a tiny range fills a few of them.
    histogram = observe(np.ldexp(np.arange(bins) + 0.5, -112))
    assert np.flatnonzero(histogram.counts)[-1] == bins - 1
    assert entropy(histogram, grid) == histogram.amax


@given(
    st.dictionaries(st.integers(-60, 60), st.integers(1, 10**9), min_size=1, max_size=20),
    st.floats(1e-6, 1e6),
    EITHER,
)
def test_entropy_keeps_all_of_a_few_values(counts, unit, grid):
    histogram = count(np.array(list(counts)) * unit, list(counts.values()))
    assert entropy(histogram, grid) == histogram.amax


@GRIDS
def test_ties_do_not_clip_though_rounding_breaks_them(grid):
    levels, clipped = grid.levels(count([1], [1])), []
    for wide in range(2100, 4000, 100):
        # Cut after either value, one bin holds everything, and P is Q.
        histogram = count([levels + 8 * 60 - 1, wide], [511, 303])
        clipped += [wide] if entropy(histogram, grid) < wide else []
    assert clipped == []


@SAMPLED
@GRIDS
def test_mse_is_the_best_that_brute_force_finds(values, grid):
    histogram = observe(values)
    values = values.astype(np.float32).astype(np.float64)
    tried = np.linspace(histogram.amax / 20, histogram.amax, 96)
    least = min(squared_error(values, threshold, grid) for threshold in tried)
    assert squared_error(values, mse(histogram, grid), grid) < 1.01 * least


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "relu"])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.7, 1.0])
@GRIDS
def test_mse_predicts_the_error_of_the_values(name, part, grid):
    values = SAMPLES[name].astype(np.float32).astype(np.float64)
    histogram = observe(values)
    threshold = np.array([part * histogram.amax])
    found = squared_errors(histogram, threshold, grid.steps(histogram, threshold))
    assert found == pytest.approx([squared_error(values, threshold[0], grid)], rel=0.02)


@pytest.mark.parametrize(
    ("law", "published"), [(scipy.stats.norm, 3.92), (scipy.stats.laplace, 9.89)]
)
def test_mse_finds_the_known_optimum_of_eight_bits(law, published):
    """Banner et al., Post-training 4-bit quantization (ACIQ, 2019), minimize this error too."""

    def expected_error(threshold):
        beyond = scipy.integrate.quad(lambda x: (x - threshold) ** 2 * law.pdf(x), threshold, 40)[0]
        return 2 * beyond + (threshold / 127) ** 2 / 12

    optimum = scipy.optimize.minimize_scalar(expected_error, bounds=(1, 20), method="bounded").x
    assert optimum == pytest.approx(published, rel=0.005)
    places = np.linspace(-16, 16, 200_001)
    histogram = count(places, (law.pdf(places) * 2**50).astype(np.int64))
    assert mse(histogram, SYMMETRIC) == pytest.approx(optimum, rel=0.02)


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-9, 9, width=32)).filter(np.any),
    EITHER,
)
def test_mse_is_predicted_to_be_no_worse_than_minmax(values, grid):
    histogram = observe(values)
    thresholds = np.array([mse(histogram, grid), histogram.amax])
    found = squared_errors(histogram, thresholds, grid.steps(histogram, thresholds))
    assert found[0] <= found[1] * (1 + 1e-9)


@given(st.floats(2**-60, 2**60, width=32), EITHER)
def test_mse_keeps_a_constant_within_a_bin(value, grid):
    histogram = observe([value] * 9)
    assert value - 2 * histogram.width <= mse(histogram, grid) <= value


def find_all(values, grid):
    histogram = observe(values)
    return {name: find(histogram, grid) for name, find in METHODS.items()}


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=FINITE).filter(np.any),
    EITHER,
)
def test_thresholds_are_positive_and_at_most_the_maximum(values, grid):
    amax = np.abs(values).max()
    assert {n: found for n, found in find_all(values, grid).items() if not 0 < found <= amax} == {}


@pytest.mark.parametrize("factor", [2, 2**-9, -4])
@SAMPLED
def test_thresholds_scale_exactly_by_powers_of_two(values, factor):
    for grid in (SYMMETRIC, ASYMMETRIC):
        expected = {name: abs(factor) * found for name, found in find_all(values, grid).items()}
        assert find_all(values * factor, grid) == expected


@pytest.mark.parametrize("factor", [3, -1.3])
@SAMPLED
def test_thresholds_scale_with_the_values(values, factor):
    # Other bins hold other counts, to whose noise the divergence is sensitive.
    tolerance = {"minmax": 1e-6, "entropy": 0.15, "mse": 0.05}
    for grid in (SYMMETRIC, ASYMMETRIC):
        before, after = find_all(values, grid), find_all(values * factor, grid)
        for name, found in after.items():
            expected = abs(factor) * before[name]
            assert found == pytest.approx(expected, rel=tolerance.get(name, 0.02)), name

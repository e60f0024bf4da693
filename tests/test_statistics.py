"""Intervals against SciPy's distributions, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alexnet_edge.statistics import (
    clustered_quantile_interval,
    design_effect,
    quantile_interval,
    ratio_interval,
    student_quantile,
)


def coverage(count, quantile, low, high):
    """Of the interval between two order statistics, by the binomial distribution."""
    binomial = stats.binom(count, quantile)
    return binomial.cdf(high - 1) - binomial.cdf(low - 1)


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.99]))
def test_no_interval_of_order_statistics_is_closer_together_and_covers_95_percent(count, quantile):
    found = quantile_interval(np.arange(1.0, count + 1), quantile)
    ranks = np.arange(0, count + 2)
    below = stats.binom(count, quantile).cdf(ranks - 1)  # P(B < rank)
    if found is None:
        assert below[count] - below[1] < 0.95
        return
    low, high = map(int, found)
    assert coverage(count, quantile, low, high) >= 0.95 - 1e-9
    closer = below[1 + (high - low - 1) : count + 1] - below[1 : count + 1 - (high - low - 1)]
    assert (closer < 0.95).all()


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 20), (0.9, 40), (0.99, 450)])
def test_coverage_stays_near_95_percent_for_every_number_of_samples(quantile, count):
    for more in range(count, count + 600, 7):
        low, high = quantile_interval(np.arange(1.0, more + 1), quantile)
        assert 0.95 - 1e-9 <= coverage(more, quantile, low, high) < 0.9727


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 51), (0.5, 400), (0.9, 100), (0.99, 1000)])
def test_simulated_latencies_lie_within_their_intervals_in_93_to_97_percent(quantile, count):
    rng = np.random.default_rng(7)
    true = stats.lognorm(0.4).ppf(quantile)
    covered = 0
    for _ in range(4000):
        low, high = quantile_interval(np.sort(rng.lognormal(0, 0.4, count)), quantile)
        covered += low <= true <= high
    assert 0.93 <= covered / 4000 <= 0.97


def test_a_tie_of_samples_is_an_interval_of_no_width():
    assert quantile_interval(np.full(100, 3.0), 0.9) == (3, 3)


def test_a_million_samples_are_no_trouble():
    low, high = quantile_interval(np.arange(1.0, 1e6 + 1), 0.99)
    assert coverage(10**6, 0.99, low, high) == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize(
    ("quantile", "fewest"), [(0.5, 6), (0.9, 29), (0.99, 299)]
)  # 1 - q^n - (1 - q)^n reaches 0.95 there
def test_too_few_samples_have_no_interval(quantile, fewest):
    assert quantile_interval(np.arange(float(fewest)), quantile) is not None
    assert quantile_interval(np.arange(float(fewest - 1)), quantile) is None


def sampled(rng, blocks, between):
    """Blocks of 60 with a standard deviation of 1 % within, and ``between`` from one to another."""
    centres = rng.normal(0, between, (blocks, 1))
    return list(np.exp(centres + rng.normal(0, 0.01, (blocks, 60))))


@pytest.mark.parametrize("between", [0, 0.003, 0.01])
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_simulated_blocks_that_differ_lie_within_their_intervals(quantile, between):
    rng = np.random.default_rng(5)
    true = np.exp(stats.norm(0, np.hypot(0.01, between)).ppf(quantile))
    found = [clustered_quantile_interval([sampled(rng, 40, between)], quantile) for _ in range(600)]
    covered = [low <= true <= high for low, high in filter(None, found)]
    assert len(covered) > 590
    assert 0.93 <= np.mean(covered) <= 0.985
    plain = [quantile_interval(np.sort(np.concatenate(sampled(rng, 40, between))), quantile)
             for _ in range(600)]  # fmt: skip
    if between == 0.01:
        assert np.mean([low <= true <= high for low, high in plain]) < 0.8


def test_blocks_without_an_order_are_as_good_as_independent_samples():
    samples = np.random.default_rng(2).permutation(np.arange(1.0, 1001))
    blocks = np.split(samples, 20)
    low, high = clustered_quantile_interval([blocks], 0.9)
    plain = quantile_interval(np.sort(samples), 0.9)
    assert low <= plain[0] < plain[1] <= high
    assert high - low < 2 * (plain[1] - plain[0])
    assert clustered_quantile_interval([[samples]], 0.9) == plain


def test_blocks_that_differ_altogether_are_worth_one_sample_each():
    counted, sizes = np.array([50.0, 0] * 10), np.full(20, 50.0)
    normal = (stats.t(19).ppf(0.975) / stats.norm.ppf(0.975)) ** 2
    assert design_effect(counted, sizes) == pytest.approx(50 * 20 / 19 * normal)
    assert clustered_quantile_interval([[np.full(50, float(at)) for at in range(8)]], 0.9) is None


def test_the_grouping_by_which_samples_are_worth_least_counts():
    rng = np.random.default_rng(4)
    blocks = sampled(rng, 12, 0.02)
    mixed = np.split(rng.permutation(np.concatenate(blocks)), 12)
    both = clustered_quantile_interval([mixed, blocks], 0.5)
    assert both == clustered_quantile_interval([blocks], 0.5)
    assert both != clustered_quantile_interval([mixed], 0.5)


@pytest.mark.parametrize("counted", [0.0, 50.0])
def test_a_share_of_none_or_all_has_no_effect(counted):
    assert design_effect(np.full(20, counted), np.full(20, 50.0)) == 1
    assert design_effect(np.array([50.0, 0] * 2), np.full(4, 50.0)) == 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 11, 12, 99, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.995])
def test_students_quantiles_are_scipys(probability, degrees):
    expected = stats.t.ppf(probability, degrees)
    assert student_quantile(probability, degrees) == pytest.approx(expected, abs=1e-6)


def test_a_rates_interval_of_equal_blocks_is_students():
    amounts = [9.0, 11.0, 10.0, 12.0, 8.5]
    found = ratio_interval(amounts, [2.0] * 5)
    expected = stats.t.interval(0.95, 4, np.mean(amounts) / 2, stats.sem(amounts) / 2)
    assert found == pytest.approx(expected)


def test_simulated_rates_lie_within_their_intervals_in_93_to_97_percent():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(4000):
        durations = rng.uniform(0.2, 0.3, 12)
        amounts = rng.poisson(400 * durations)
        low, high = ratio_interval(amounts, durations)
        covered += low <= 400 <= high
    assert 0.93 <= covered / 4000 <= 0.97


def test_two_blocks_give_a_rate_no_interval():
    assert ratio_interval([1, 2], [1, 1]) is None

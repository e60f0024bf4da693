"""Percentiles in bounded memory."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.camera.histogram import MOST_TURNS, WINDOW, Percentiles, Times
from alexnet_edge.statistics import quantile_interval


def filled(values):
    times = Times()
    for value in values:
        times.add(value)
    return times


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=300), st.floats(0.01, 1))
def test_quantiles_are_within_two_percent(values, fraction):
    histogram = filled(values).histogram()
    expected = sorted(values)[max(0, int(np.ceil(fraction * len(values))) - 1)]
    assert histogram.quantile(fraction) == pytest.approx(expected, rel=0.0201)


def test_mean_and_count_are_exact():
    values = [0.5, 3.25, 1e7, 0.0, 1e-9]
    histogram = filled(values).histogram()
    assert histogram.count == 5
    assert histogram.mean_ms == sum(values) / 5


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.25, 0.5, 1, 2.5, 3, 5, 10, 33, 100, 1000, 90000])
def test_round_numbers_are_bounds(bound):
    histogram = filled([bound * 0.999, bound, bound * 1.03]).histogram()
    assert histogram.count_up_to(bound) == 1


def test_what_is_recent_is_exact_and_bounded():
    times = filled(range(10_000))
    recent = times.recent()
    last = np.arange(10_000 - WINDOW, 10_000)
    assert recent.count == WINDOW
    assert recent.p50 == np.median(last)
    assert recent.p99 == pytest.approx(np.percentile(last, 99))
    assert times.whole().count == 10_000
    assert times.whole().p50 == pytest.approx(5000, rel=0.02)


def test_a_short_run_is_exact():
    assert filled([1, 2, 4]).whole() == Percentiles.of([1, 2, 4])
    assert Times().whole() == Percentiles(0, 0, 0, 0, 0)
    assert Times().histogram().quantile(0.5) == 0


def test_memory_does_not_grow():
    times = Times()
    for index in range(5000):
        times.add(float(index))
    assert len(times.histogram().counts) == len(Times().histogram().counts)


# Intervals, and the turns that they rest on -------------------------------------------------------


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def run_of(values_ms, period_s=1 / 30):
    """A histogram of times that ended one period after the other."""
    clock = Clock()
    times = Times(clock)
    for value in values_ms:
        clock.now_s += period_s
        times.add(value)
    return times.histogram()


def test_turns_hold_whole_periods_and_all_of_their_times():
    turns = run_of(np.linspace(5, 6, 100)).turns
    assert turns.suffice
    assert sum(turns.samples) <= 99  # the first one begins them
    assert turns.samples / np.asarray(turns.seconds) == pytest.approx(30)
    assert all(0.5 <= seconds < 0.5 + 1 / 29 for seconds in turns.seconds)
    inner = np.linspace(5, 6, 100)[1 : 1 + sum(turns.samples)]
    assert sum(turns.total_ms) == pytest.approx(inner.sum())


@pytest.mark.parametrize("count", [3_000, 100_000])
def test_a_long_run_has_no_more_turns_and_none_is_lost(count):
    turns = run_of(np.resize([4.0, 40.0, 7.0], count)).turns
    assert MOST_TURNS // 2 <= len(turns.seconds) < MOST_TURNS
    assert turns.samples.sum() > 0.96 * count
    assert turns.counts.shape[0] == len(turns.seconds)
    assert sum(turns.seconds) == pytest.approx(turns.samples.sum() / 30)
    assert sum(turns.total_ms) == pytest.approx(17 * turns.samples.sum(), rel=1e-3)


def test_few_times_have_the_interval_of_order_statistics():
    values = np.sort(np.random.default_rng(4).lognormal(2, 0.5, 80))
    for fraction in (0.5, 0.9):
        low, high = quantile_interval(values, fraction)
        ours = filled(values).histogram().quantile_interval(fraction)
        assert ours[0] <= low <= ours[0] * 1.0201
        assert ours[1] / 1.0201 <= high <= ours[1]
    assert filled(values).histogram().quantile_interval(0.99) is None
    assert Times().histogram().quantile_interval(0.5) is None


@pytest.mark.parametrize(("between", "least"), [(0.0, 0.93), (0.3, 0.88)])
def test_intervals_hold_the_truth_where_neighbours_are_alike(between, least):
    """15 frames at a time share half of what they vary by, or none of it."""
    rng = np.random.default_rng(round(10 * between))
    spread = np.hypot(between, 0.2)
    held = {0.5: [], 0.9: []}
    for _ in range(150):
        drift = np.repeat(rng.normal(0, between, 40), 15)
        run = run_of(10 * np.exp(drift + rng.normal(0, 0.2, 600)))
        for fraction, found in held.items():
            truth = 10 * np.exp(spread * NormalDist().inv_cdf(fraction))
            low, high = run.quantile_interval(fraction)
            found.append(low <= truth <= high)
    assert min(np.mean(found) for found in held.values()) >= least


def test_frames_that_are_alike_are_worth_fewer():
    rng = np.random.default_rng(8)
    drift = np.repeat(rng.normal(0, 0.3, 40), 15)
    noise = rng.normal(0, 0.2, 600)
    alike, shuffled = (10 * np.exp(d + noise) for d in (drift, rng.permutation(drift)))
    widths = [np.diff(run_of(v).quantile_interval(0.5))[0] for v in (alike, shuffled)]
    assert widths[0] > 1.5 * widths[1]

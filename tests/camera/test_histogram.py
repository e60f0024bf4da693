"""Percentiles in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.camera.histogram import WINDOW, Percentiles, Times


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

"""Warm-up goes on until latency has settled."""

from __future__ import annotations

import itertools
import time

import pytest

from alexnet_edge.bench import warmup
from alexnet_edge.bench.warmup import warm_up


def sleeping(*seconds):
    """A query of these times; the last repeats."""
    left = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    return lambda: time.sleep(next(left))


def test_a_steady_query_is_stable_and_runs_for_the_least_time():
    found = warm_up(sleeping(0.02), 0.8, 3)
    assert found.stable
    assert found.seconds >= 0.8


def test_a_query_that_gets_faster_is_waited_for():
    slow = [0.06, 0.055, 0.05, 0.045, 0.04] * 2
    found = warm_up(sleeping(*sorted(slow, reverse=True), 0.02), 0, 3)
    assert found.stable
    assert found.seconds >= sum(slow)


@pytest.mark.parametrize(("longest_s", "duration_s"), [(0.4, 3), (10, 0.02)])
def test_a_query_that_never_settles_is_given_up_on(monkeypatch, longest_s, duration_s):
    monkeypatch.setattr(warmup, "LONGEST_S", longest_s)
    growing = (0.002 * 1.15**index for index in itertools.count())
    found = warm_up(lambda: time.sleep(next(growing)), 0, duration_s)
    assert not found.stable
    assert 0.4 <= found.seconds < 10

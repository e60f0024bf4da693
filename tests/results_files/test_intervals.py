"""Intervals hold the truth about as often as they say, and agree with textbook formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alexnet_edge.results_files import bench_rows, read_results
from alexnet_edge.results_files.estimates import estimate
from alexnet_edge.results_files.intervals import (
    Estimate,
    bootstrap_mean,
    bootstrap_median,
    divide,
    exact,
    paired_difference,
    proportion,
    subtract,
)
from alexnet_edge.statistics import quantile_interval
from tests.results_files import samples

RUNS = 600
# 95 % ± three standard errors of a share of so many runs, and the two points that are promised.
LEAST, MOST = 0.93, 0.985


@pytest.mark.parametrize(
    ("turns", "within", "between"),
    [(12, 0.2, 0.0), (12, 0.2, 0.1), (12, 0.1, 0.1), (40, 0.2, 0.05)],
)
def test_coverage_of_the_change_from_turns(turns, within, between):
    rng = np.random.default_rng(turns + round(100 * between))
    truth = math.log(1.1)
    held = {"median": 0, "mean": 0}
    for _ in range(RUNS):
        sides = []
        for shift in (0.0, truth):
            drift = shift + rng.normal(0, between, (turns, 1))
            taken = np.exp(drift + rng.normal(0, within, (turns, 40)))
            low, high = np.percentile(np.log(taken), (25, 75))
            counts = [40] * turns
            sides.append((
                bootstrap_median(
                    float(np.median(taken)), np.median(taken, axis=1), counts, 0.5 / (high - low)
                ),
                bootstrap_mean(float(taken.mean()), taken.mean(axis=1), counts),
            ))  # fmt: skip
        for kind, (first, second) in zip(held, zip(*sides, strict=True), strict=True):
            ratio = divide(second, first)
            held[kind] += math.log(ratio.low) <= truth <= math.log(ratio.high)
    for kind, count in held.items():
        assert LEAST <= count / RUNS <= MOST, kind


def test_coverage_of_the_change_from_order_statistics():
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        sides = []
        for scale in (1.0, 1.1):
            ordered = np.sort(scale * rng.lognormal(0, 0.3, 200))
            low, high = quantile_interval(ordered, 0.5)
            sides.append(Estimate(float(np.median(ordered)), low, high, "samples"))
        ratio = divide(sides[1], sides[0])
        held += ratio.low <= 1.1 <= ratio.high
    assert 0.935 <= held / 2000 <= 0.975


@pytest.mark.parametrize(("first", "second", "count"), [(0.98, 0.97, 400), (0.9, 0.93, 120)])
def test_coverage_of_the_difference_of_shares(first, second, count):
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(3000):
        found = subtract(
            proportion(rng.binomial(count, second), count),
            proportion(rng.binomial(count, first), count),
        )
        held += found.low <= second - first <= found.high
    assert 0.935 <= held / 3000 <= 0.975


def test_coverage_of_the_paired_difference():
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(3000):
        only_first, only_second, _ = rng.multinomial(400, [0.03, 0.02, 0.95])
        found = paired_difference(int(only_first), int(only_second), 400)
        held += found.low <= -0.01 <= found.high
    assert 0.935 <= held / 3000 <= 0.975


def test_wilson_and_newcombe_agree_with_scipy_and_the_paper():
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.binomtest(56, 70).proportion_ci(method="wilson")
    ours = proportion(56, 70)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    # Newcombe, Statistics in Medicine 17, 1998, table II: 56/70 - 48/80, method 10.
    found = subtract(proportion(56, 70), proportion(48, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_mean_of_turns_agrees_with_students_t():
    stats = pytest.importorskip("scipy.stats")
    turns = np.random.default_rng(2).normal(10, 0.5, 12)
    ours = bootstrap_mean(float(turns.mean()), turns, [30] * 12)
    theirs = stats.ttest_1samp(turns, 0).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_what_is_exact_stays_exact():
    ratio = divide(exact(50), exact(100))
    assert (ratio.value, ratio.low, ratio.high, ratio.basis) == (0.5, 0.5, 0.5, "exact")


def test_an_unknown_error_stays_unknown():
    assert divide(Estimate(2.0), exact(1.0)).known is False
    assert divide(Estimate(2.0), exact(0.0)) is None
    assert subtract(Estimate(2.0), exact(0.0)).low is None


def test_the_interval_of_many_turns_takes_neighbours_together():
    # A slow wave: neighbours are alike, so that the turns are worth far less than their number.
    turns = 10 + np.sin(np.linspace(0, 6 * math.pi, 3000))
    found = bootstrap_mean(float(turns.mean()), turns, [5] * 3000)
    alone = 2 * 1.96 * turns.std() / math.sqrt(3000)
    assert found.high - found.low > 4 * alone


def test_the_basis_is_the_best_that_the_file_supports(tmp_path):
    rows = [samples.full_row(), samples.minimal_row()]
    full, old = bench_rows(
        read_results(samples.write(tmp_path / "bench.json", samples.bench(*rows)))
    )
    assert estimate(full, "p50").basis == "turns"
    assert estimate(full, "p90").basis == "samples"
    assert estimate(full, "throughput").basis == "turns"
    assert estimate(old, "p50").basis == "samples"
    assert not estimate(old, "p90").known
    assert not estimate(old, "throughput").known
    assert estimate(old, "energy") is None
    for row in (full, old):
        for figure in ("p50", "mean", "throughput"):
            found = estimate(row, figure)
            assert not found.known or found.low < found.value < found.high


def test_throughput_of_an_open_loop_is_not_the_inverse_of_the_latency(tmp_path):
    row = samples.full_row() | {"throughput_ci95_ips": [90.0, 110.0], "throughput_ips": 100.0}
    value = samples.bench(row, scenario={"name": "server", "loop": "open"})
    found = estimate(
        bench_rows(read_results(samples.write(tmp_path / "b.json", value)))[0], "throughput"
    )
    assert (found.low, found.high) == (90.0, 110.0)

"""The statistics against independent ones: scipy's, published figures, and simulation."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from alexnet_edge.parity.statistics import (
    Flips,
    bootstrap_interval,
    drop_interval,
    images_needed,
    judge,
    mcnemar_exact,
    minimum_detectable_drop_pp,
    noninferiority_p,
)

Z = stats.norm.ppf(0.975)
COUNTS = [
    (0, 0, 60),
    (1, 0, 44),
    (0, 3, 359),
    (2, 1, 418),
    (12, 2, 50),
    (40, 20, 160),
    (9, 9, 9999),
]


def cached_interval():
    return functools.cache(lambda broken, fixed, n: drop_interval(Flips(fixed, broken), n))


@pytest.mark.parametrize("fixed", [0, 1, 2, 5, 30, 200])
@pytest.mark.parametrize("broken", [0, 1, 3, 5, 31, 260])
def test_mcnemar_is_scipys_binomial_test(fixed, broken):
    expected = stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert mcnemar_exact(Flips(fixed, broken)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_takes_thousands_of_flips():
    expected = stats.binomtest(4900, 10_000).pvalue
    assert mcnemar_exact(Flips(4900, 5100)) == pytest.approx(expected, rel=1e-9)


def score_by_likelihood(broken, fixed, n, drop):
    """Tango's statistic with the restricted estimate found by maximizing the likelihood."""

    def loss(rate):
        rest = 1 - 2 * rate - drop
        return -sum(
            count * math.log(max(p, 1e-300))
            for count, p in ((broken, rate + drop), (fixed, rate), (n - broken - fixed, rest))
            if count
        )

    low, high = max(0.0, -drop), (1 - drop) / 2
    rate = optimize.minimize_scalar(loss, (low, high), (low, high), method="bounded",
                                    options={"xatol": 1e-13}).x  # fmt: skip
    return (broken - fixed - n * drop) / math.sqrt(n * (2 * rate + drop - drop**2))


@pytest.mark.parametrize(("broken", "fixed", "n"), COUNTS)
def test_limits_are_where_the_score_of_the_likelihood_is_196(broken, fixed, n):
    low, high = drop_interval(Flips(fixed, broken), n)
    assert score_by_likelihood(broken, fixed, n, low / 100) == pytest.approx(Z, abs=2e-3)
    assert score_by_likelihood(broken, fixed, n, high / 100) == pytest.approx(-Z, abs=2e-3)


def test_interval_is_the_published_one():
    """Of 21 pairs 1 and 7 are discordant: −0.517 to −0.026 (Fagerland, Lydersen, Laake, 2014)."""
    low, high = drop_interval(Flips(fixed=7, broken=1), 21)
    assert (round(low / 100, 3), round(high / 100, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("broken", range(0, 30, 3))
@pytest.mark.parametrize("fixed", range(0, 30, 4))
def test_interval_leaves_0_out_where_mcnemars_score_test_rejects(broken, fixed):
    low, high = drop_interval(Flips(fixed, broken), 500)
    discordant = broken + fixed
    rejects = discordant > 0 and abs(broken - fixed) / math.sqrt(discordant) > Z
    assert (low > 0 or high < 0) == rejects


def test_interval_holds_the_drop_and_turns_with_its_sign():
    low, high = drop_interval(Flips(20, 60), 1000)
    assert low < 4.0 < high
    assert drop_interval(Flips(60, 20), 1000) == pytest.approx((-high, -low), abs=1e-6)


def test_interval_narrows_with_images_and_never_to_nothing():
    for n in (10, 100, 1000, 50_000):
        low, high = drop_interval(Flips(0, 0), n)
        expected = 100 * Z**2 / (n + Z**2)
        assert (low, high) == pytest.approx((-expected, expected), rel=1e-6)


def test_interval_of_an_engine_that_breaks_all_ends_at_100():
    low, high = drop_interval(Flips(0, 50), 50)
    assert high == 100
    assert 85 < low < 100
    assert drop_interval(Flips(50, 0), 50)[0] == -100


# Figures of docs/decisions/005: rates of discordant images, and drop, as fractions.
FEW_FLIPS = [(100, 0.01, 0.0), (100, 0.01, 0.01), (100, 0.02, 0.01), (200, 0.01, 0.005)]
ENOUGH_FLIPS = [
    (n, rate, drop)
    for n in (100, 200, 418, 1000, 2000)
    for rate in (0.01, 0.02, 0.05)
    for drop in (0.0, 0.005, 0.01, 0.02)
    if drop <= rate and n * rate >= 4
]  # fmt: skip


def coverage(n, rate, drop, interval, draws=3000):
    """How often an interval holds the true drop, by simulation."""
    broken, fixed = (rate + drop) / 2, (rate - drop) / 2
    rng = np.random.default_rng([n, round(1e4 * rate), round(1e4 * drop)])
    drawn = rng.multinomial(n, [broken, fixed, 1 - broken - fixed], size=draws)[:, :2]
    held = 0
    for (b, f), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        low, high = interval(int(b), int(f), n)
        held += times * (low - 1e-9 <= 100 * drop <= high + 1e-9)
    return held / draws


@pytest.mark.parametrize(("n", "rate", "drop"), ENOUGH_FLIPS)
def test_95_percent_intervals_cover_93_to_97(n, rate, drop):
    # Simulation adds an error of its own: three standard errors of 3000 draws are 1.2 %.
    found = coverage(n, rate, drop, cached_interval())
    assert 0.93 - 0.006 <= found <= 0.97 + 0.006


@pytest.mark.parametrize(("n", "rate", "drop"), FEW_FLIPS)
def test_with_one_or_two_flips_expected_intervals_are_too_wide_rather_than_too_narrow(
    n, rate, drop
):
    assert coverage(n, rate, drop, cached_interval()) > 0.97


def test_the_bootstrap_would_not_reach_that():
    """Why the verdict rests on the score: with all flips one way, the bootstrap is too narrow."""

    @functools.cache
    def bootstrap(broken, fixed, n):
        return bootstrap_interval(Flips(fixed, broken), n, seed=0)

    assert coverage(200, 0.01, 0.01, bootstrap) < 0.9
    assert coverage(200, 0.01, 0.01, cached_interval()) > 0.93


def test_a_bad_engine_passes_in_one_of_forty_runs_at_most():
    """Where the drop is the margin itself, `pass` is an error: 2.5 % of it may happen."""
    for n, rate, drop in ((418, 0.0101, 0.01), (1000, 0.01, 0.005), (1000, 0.03, 0.01)):
        broken, fixed = (rate + drop) / 2, (rate - drop) / 2
        drawn = np.random.default_rng(n).multinomial(n, [broken, fixed, 1 - rate], size=4000)
        interval = cached_interval()
        passes = sum(judge(interval(int(b), int(f), n), 100 * drop) == "pass" for b, f, _ in drawn)
        assert passes / 4000 < 0.033


@pytest.mark.parametrize("flips", [Flips(40, 90), Flips(100, 100), Flips(120, 30)])
def test_bootstrap_interval_is_that_of_resampled_images(flips):
    count = 2000
    outcomes = np.repeat(
        [100.0, -100.0, 0.0], [flips.broken, flips.fixed, count - flips.broken - flips.fixed]
    )
    rng = np.random.default_rng(1)
    drops = [rng.choice(outcomes, count).mean() for _ in range(3000)]
    expected = np.percentile(drops, (2.5, 97.5))
    assert bootstrap_interval(flips, count, seed=0) == pytest.approx(expected, abs=0.1)
    assert drop_interval(flips, count) == pytest.approx(expected, abs=0.15)


def test_bootstrap_interval_depends_on_its_seed_alone():
    found = [bootstrap_interval(Flips(3, 9), 100, seed=seed) for seed in (4, 4, 5)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(found[2], abs=1.1)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-1.0, 0.5), "pass"),
        ((-3.0, -1.0), "pass"),
        ((0.5, 2.0), "inconclusive"),
        ((-1.0, 0.6), "inconclusive"),
        ((0.51, 2.0), "fail"),
    ],
)
def test_verdict_says_where_the_whole_interval_lies(interval, verdict):
    assert judge(interval, 0.5) == verdict


@pytest.mark.parametrize(("broken", "fixed", "n"), COUNTS)
@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0, 5.0, 40.0])
def test_p_value_and_verdict_agree(broken, fixed, n, margin):
    flips = Flips(fixed, broken)
    p = noninferiority_p(flips, n, margin)
    assert 0 <= p <= 1
    assert (p <= 0.025) == (judge(drop_interval(flips, n), margin) == "pass")


def decided(n, broken, fixed, margin, draws=2000):
    drawn = np.random.default_rng(n).multinomial(n, [broken, fixed, 1 - broken - fixed], draws)
    interval = cached_interval()
    verdicts = [judge(interval(int(b), int(f), n), margin) for b, f, _ in drawn]
    return verdicts.count("pass") / draws, verdicts.count("fail") / draws


@pytest.mark.parametrize(
    ("flips", "n", "margin"),
    [
        (Flips(12, 12), 1000, 0.5), (Flips(20, 24), 1000, 1.0), (Flips(4, 4), 400, 1.0),
        (Flips(0, 3), 1000, 0.5), (Flips(10, 40), 1000, 2.0),
    ],
)  # fmt: skip
def test_so_many_images_decide_four_times_in_five(flips, n, margin):
    needed = images_needed(flips, n, margin)
    passes, fails = decided(needed, flips.broken / n, flips.fixed / n, margin)
    drop = 100 * (flips.broken - flips.fixed) / n
    assert (passes if drop < margin else fails) == pytest.approx(0.8, abs=0.06)
    passes, fails = decided(needed // 3, flips.broken / n, flips.fixed / n, margin)
    assert max(passes, fails) < 0.55


def test_images_needed_has_its_ends():
    least = math.ceil(Z**2 * 0.995 / 0.005)
    assert images_needed(Flips(0, 0), 10, 0.5) == least == 765
    assert judge(drop_interval(Flips(0, 0), least), 0.5) == "pass"
    assert judge(drop_interval(Flips(0, 0), least - 1), 0.5) == "inconclusive"
    assert images_needed(Flips(0, 5), 1000, 0.5) == 10**9, "a drop that is the margin"
    assert images_needed(Flips(1, 3), 400, 0.5) == 10**9


@pytest.mark.parametrize(
    ("flips", "n"),
    [
        (Flips(10, 10), 1000),
        (Flips(30, 40), 1000),
        (Flips(2, 2), 418),
        (Flips(0, 0), 418),
        (Flips(100, 90), 50_000),
    ],
)
def test_the_minimum_detectable_drop_is_detected_four_times_in_five(flips, n):
    drop = minimum_detectable_drop_pp(flips, n) / 100
    rate = max((flips.broken + flips.fixed) / n, drop)
    broken, fixed = (rate + drop) / 2, (rate - drop) / 2
    drawn = np.random.default_rng(n).multinomial(n, [broken, fixed, 1 - rate], 4000)
    interval = cached_interval()
    seen = np.mean([interval(int(b), int(f), n)[0] > 0 for b, f, _ in drawn])
    assert seen == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize(
    ("n", "drop_pp"), [(100, 5.45), (200, 2.74), (418, 1.315), (1000, 0.551), (4, 94.57)]
)
def test_without_a_flip_four_broken_ones_must_be_likely(n, drop_pp):
    """Fewer than four broken ones, and none fixed, leave 0 within the interval."""
    found = minimum_detectable_drop_pp(Flips(0, 0), n)
    assert stats.binom.sf(3, n, found / 100) == pytest.approx(0.8, abs=1e-6)
    assert found == pytest.approx(drop_pp, abs=0.01)


@pytest.mark.parametrize("flips", [Flips(0, 1), Flips(1, 4), Flips(6, 6), Flips(30, 30)])
@pytest.mark.parametrize("n", [60, 418, 5000])
def test_the_power_at_the_minimum_detectable_drop_is_the_exact_sum(flips, n):
    drop = minimum_detectable_drop_pp(flips, n) / 100
    rate = max((flips.broken + flips.fixed) / n, drop)
    power = 0.0
    for total in range(4, min(n, 400) + 1):
        least = math.floor((total + Z * math.sqrt(total)) / 2)
        conditional = stats.binom.sf(least, total, (1 + drop / rate) / 2)
        power += stats.binom.pmf(total, n, rate) * conditional
    assert power == pytest.approx(0.8, abs=1e-6)


def test_the_minimum_detectable_drop_has_no_step_where_the_normal_distribution_takes_over():
    found = [minimum_detectable_drop_pp(Flips(k, k), 5000) for k in range(46, 55)]
    assert found == sorted(found)
    assert max(np.diff(found)) < 0.02


def test_the_minimum_detectable_drop_shrinks_with_images_and_grows_with_flips():
    found = [minimum_detectable_drop_pp(Flips(n // 100, n // 100), n) for n in (100, 1000, 50_000)]
    assert found == sorted(found, reverse=True)
    calm, noisy = (minimum_detectable_drop_pp(Flips(k, k), 1000) for k in (2, 40))
    assert calm < noisy
    assert minimum_detectable_drop_pp(Flips(0, 0), 3) is None
    assert minimum_detectable_drop_pp(Flips(0, 3), 3) is None

"""What a number of broken and fixed answers says about an engine, and what it does not.

Every image is answered twice, so the data are paired: only images on which one is right and the
other wrong (discordant pairs) say anything of the difference. The interval, the test against the
margin and the number of images that are needed all rest on one statistic, the score of Tango
(Statistics in Medicine 17, 1998), so they never contradict each other: the verdict is `pass` just
where the one-sided p-value is below 2.5 %. Why this interval: docs/decisions/005.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable

import numpy as np

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

POWER = 0.8
"""Probability with which a drop shall be detected, or a verdict reached."""

Interval = tuple[float, float]

_NORMAL = statistics.NormalDist()
_Z = _NORMAL.inv_cdf(0.975)
_Z_POWER = _NORMAL.inv_cdf(POWER)
_RESAMPLES = 20_000
_BISECTIONS = 60
_MOST_IMAGES = 10**9
_MANY_FLIPS = 100
"""Expected flips from which the normal distribution stands for the exact one."""


@dataclasses.dataclass(frozen=True)
class Flips:
    """Labelled images whose correctness changed."""

    fixed: int
    broken: int


def drop_interval(flips: Flips, count: int) -> Interval:
    """Return the 95 % interval of the top-1 drop in percentage points, by Tango's score.

    It holds every drop that the score test does not reject at 5 %. Its width never vanishes:
    without a flip among n images it reaches to ±3.84 / (n + 3.84).

    Args:
        flips: among ``count`` images.
        count: of the images.
    """
    observed = (flips.broken - flips.fixed) / count
    low = _bisect(lambda drop: _score(flips, count, drop) - _Z, -1.0, observed)
    high = _bisect(lambda drop: _score(flips, count, drop) + _Z, observed, 1.0)
    return 100 * low, 100 * high


def bootstrap_interval(flips: Flips, count: int, *, seed: int) -> Interval:
    """Return the 95 % interval of the top-1 drop in percentage points, by paired bootstrap.

    Resampling the images draws the outcomes (broken, fixed, unchanged) from a multinomial, so that
    is drawn at once. Half a count is added to each of the four cells of the paired table first, or
    no flip among ten images would give an interval of no width (Agresti and Min, Statistics in
    Medicine 24, 2005).
    """
    total = count + 2
    broken, fixed = (flips.broken + 0.5) / total, (flips.fixed + 0.5) / total
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(total, [broken, fixed, 1 - broken - fixed], size=_RESAMPLES)
    drops = 100 * (drawn[:, 0] - drawn[:, 1]) / total
    low, high = np.percentile(drops, (2.5, 97.5))
    return float(low), float(high)


def judge(interval: Interval, margin_pp: float) -> str:
    """Return the verdict: on which side of the margin the whole interval lies, if on one."""
    low, high = interval
    if high <= margin_pp:
        return PASS
    return FAIL if low > margin_pp else INCONCLUSIVE


def noninferiority_p(flips: Flips, count: int, margin_pp: float) -> float:
    """Return the one-sided p-value of a drop of ``margin_pp`` or more, by Tango's score."""
    return _NORMAL.cdf(_score(flips, count, margin_pp / 100))


def mcnemar_exact(flips: Flips) -> float:
    """Return the exact two-sided p-value of McNemar's test (binomial, p = 1/2)."""
    discordant = flips.fixed + flips.broken
    tail = term = 1  # binomial coefficients, each from the one before: n may be thousands
    for k in range(min(flips.fixed, flips.broken)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**discordant))


def images_needed(flips: Flips, count: int, margin_pp: float) -> int:
    """Return how many images it takes to decide, were the true rates those observed so far.

    That many give a verdict with a probability of `POWER`: `pass` where the observed drop is below
    the margin, `fail` where it is above. They are never fewer than would pass without a single
    flip. Where drop and margin are equal, no number decides; 10⁹ is returned. After Nam (Biometrics
    53, 1997), with the variance that the score has at the margin.
    """
    margin = margin_pp / 100
    least = math.ceil(_Z**2 * (1 - margin) / margin)
    broken, fixed = flips.broken / count, flips.fixed / count
    return max(least, _images_to_tell(broken, fixed, margin))


def minimum_detectable_drop_pp(flips: Flips, count: int) -> float | None:
    """Return the smallest drop that this many images show to be one, with probability `POWER`.

    Shown means that the 95 % interval lies above 0. The rate of flips is taken as observed, but is
    at least the drop itself: an engine cannot lose 1 % of the answers without changing 1 %. The
    power is summed exactly where few flips are expected, which come in steps; with `_MANY_FLIPS`
    and more it is that of Connor (Biometrics 43, 1987: the sample size of McNemar's test).

    Returns:
        Percentage points; None with three images and fewer, which show nothing even of an engine
        that breaks them all.
    """
    if math.sqrt(count) <= _Z:  # the score of an engine that breaks them all
        return None
    discordance = (flips.broken + flips.fixed) / count
    estimate = _estimate_detectable(discordance, count)
    if count * max(discordance, estimate) > _MANY_FLIPS:
        return 100 * estimate

    def excess(drop: float) -> float:
        return _detection_power(count, max(discordance, drop), drop) - POWER

    highest = min(1.0, 2 * estimate + 10 / count)
    return 100 * (_bisect(excess, 0.0, highest) if excess(highest) > 0 else estimate)


def _estimate_detectable(discordance: float, count: int) -> float:
    """Return the detectable drop as a fraction, were the score normally distributed."""

    def missing(drop: float) -> float:
        rate = max(discordance, drop)
        needed = _images_to_tell((rate + drop) / 2, (rate - drop) / 2, 0.0)
        return float(count - needed)

    return _bisect(missing, 1e-9, 1.0) if missing(1.0) > 0 else 1.0


def _detection_power(count: int, rate: float, drop: float) -> float:
    """Return the exact probability that the 95 % interval lies above 0.

    The number of flips is binomial, and so is how many of them are broken ones; the interval leaves
    0 out where (broken - fixed) / sqrt(flips) exceeds 1.96.

    Args:
        count: images.
        rate: of flips, a fraction.
        drop: a fraction, at most ``rate``.
    """
    rate = min(rate, 1 - 1e-12)
    share = min((1 + drop / rate) / 2, 1 - 1e-15)
    expected = count * rate
    most = min(count, math.ceil(expected + 10 * math.sqrt(expected) + 20))
    numbers = np.arange(most + 1)
    before = numbers[:-1]
    steps = np.log((count - before) / (before + 1)) + math.log(rate / (1 - rate))
    of_flips = count * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    factorial = np.concatenate([[0.0], np.cumsum(np.log(numbers[1:]))])
    total, broken = numbers[:, None], numbers[None, :]
    total, broken = np.nonzero((broken <= total) & (2 * broken - total > _Z * np.sqrt(total)))
    fixed = total - broken
    ways = factorial[total] - factorial[broken] - factorial[fixed]
    split = broken * math.log(share) + fixed * math.log1p(-share)
    return float(np.exp(of_flips[total] + ways + split).sum())


def _images_to_tell(broken: float, fixed: float, margin: float) -> int:
    """Return how many images tell a drop of these rates from ``margin``, with power `POWER`."""
    drop = broken - fixed
    if abs(margin - drop) < 1e-9:
        return _MOST_IMAGES
    at_margin = _restricted_variance(broken, fixed, 1.0, margin)
    as_is = max(broken + fixed - drop**2, 0.0)
    root = _Z * math.sqrt(at_margin) + _Z_POWER * math.sqrt(as_is)
    return min(_MOST_IMAGES, math.ceil((root / (margin - drop)) ** 2))


def _score(flips: Flips, count: int, drop: float) -> float:
    """Return Tango's statistic: standard normal where the true drop is ``drop``."""
    above = flips.broken - flips.fixed - count * drop
    variance = count * _restricted_variance(flips.broken, flips.fixed, count, drop)
    if variance <= 0:  # at ±1, and at 0 without a flip
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)


def _restricted_variance(broken: float, fixed: float, count: float, drop: float) -> float:
    """Return the variance of one image's difference, were the true drop ``drop``.

    With the rate of fixed images that is most likely then: the larger root of a quadratic equation
    (Tango, 1998). Counts may be rates, with a ``count`` of 1.
    """
    a = 2 * count
    b = -broken - fixed + (2 * count - broken + fixed) * drop
    c = -fixed * drop * (1 - drop)
    rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return 2 * rate + drop * (1 - drop)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a monotonic function changes its sign, to the last digits of a float."""
    rises = function(high) > 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (function(middle) > 0) == rises:
            high = middle
        else:
            low = middle
    return (low + high) / 2

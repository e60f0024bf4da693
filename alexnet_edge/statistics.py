"""Intervals of what was sampled: quantiles by order statistics, rates over repeated blocks.

Nothing here assumes a distribution of latencies: they are skewed, often have two modes, and always
a tail. Intervals assume that samples are independent of each other or, where these come in blocks,
that the blocks are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95

FEWEST_BLOCKS = 6
"""Fewer blocks of samples than this say too little of how blocks differ."""


def quantile_interval(
    ordered: Floats, quantile: float, effect: float = 1.0
) -> tuple[float, float] | None:
    """Return a distribution-free 95 % confidence interval of a quantile, from order statistics.

    The number of samples below the true quantile is Binomial(n, q), whatever the distribution, so
    the l-th and u-th smallest enclose it with probability P(l ≤ B < u). Of the pairs that reach the
    confidence the closest together is taken, and of several the one that exceeds it least: the
    coverage stays near it also where one tail holds few samples. (Hahn and Meeker, Statistical
    Intervals, chapter 5.)

    Args:
        ordered: the samples, ascending.
        quantile: 0.5 for the median, 0.99 for p99.
        effect: so many times fewer independent samples are these worth; see `design_effect`.

    Returns:
        None where the samples are too few: 6 for the median, 29 for p90 and 299 for p99 can do.
    """
    ranks = worth_ranks(len(ordered), quantile, effect)
    if ranks is None:
        return None
    return float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])


def clustered_quantile_interval(
    groupings: Sequence[Sequence[Floats]], quantile: float
) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a quantile of samples that come in blocks.

    Samples of a block are alike, so that their mere number promises too much: the order statistics
    are those of as many independent samples as all are worth by how blocks differ. (Woodruff,
    Journal of the American Statistical Association 47, 1952.)

    Args:
        groupings: the same samples in blocks, in one or several ways, of which the one counts by
            which they are worth least; fewer than 3 blocks say nothing of how they differ.
        quantile: 0.5 for the median, 0.99 for p99.

    Returns:
        None where the samples are too few, or blocks differ too much.
    """
    ordered = np.sort(np.concatenate(groupings[0]))
    at = float(np.quantile(ordered, quantile))
    # Where many samples are equal, those that are no smaller may tell what the larger ones do not.
    effect = max(
        design_effect(
            np.array([np.count_nonzero(is_counted(block, at)) for block in blocks]),
            np.array([len(block) for block in blocks], np.float64),
            fewest=3,
        )
        for blocks in groupings
        for is_counted in (np.greater, np.greater_equal)
    )
    return quantile_interval(ordered, quantile, effect)


def design_effect(counted: Floats, sizes: Floats, *, fewest: int = FEWEST_BLOCKS) -> float:
    """Return how many times the variance of independent samples a share of all of them has.

    The variance of a ratio over blocks against a binomial share's (Kish's deff: Cochran, Sampling
    Techniques, chapters 6 and 9), times what Student's t is wider for so many blocks than a normal
    distribution. At least 1.

    Args:
        counted: how many samples of each block are counted.
        sizes: how many there are.
        fewest: the effect of fewer blocks is 1.
    """
    blocks, total = len(sizes), float(sizes.sum())
    share = float(counted.sum()) / total if total else 0.0
    if blocks < fewest or not 0 < share < 1:
        return 1.0
    residuals = counted - share * sizes
    ratio = float(residuals @ residuals) / (share * (1 - share) * total)
    normal = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    wider = student_quantile((1 + CONFIDENCE) / 2, blocks - 1) / normal
    return max(1.0, ratio * blocks / (blocks - 1) * wider**2)


def worth_ranks(count: int, quantile: float, effect: float) -> tuple[int, int] | None:
    """Return `quantile_ranks` of ``count`` samples that are worth ``effect`` times fewer."""
    worth = int(count / effect)
    ranks = quantile_ranks(worth, quantile)
    if ranks is None:
        return None
    return (ranks[0] - 1) * count // worth + 1, -(-ranks[1] * count // worth)


def ratio_interval(
    amounts: Sequence[float], durations: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Return the confidence interval of a rate, Σ amounts / Σ durations, over repeated blocks.

    Blocks rather than single samples, because neighbours in time resemble each other. Student's t
    over the linearized ratio (Cochran, Sampling Techniques, chapter 6).

    Returns:
        None of fewer than three blocks.
    """
    count = len(amounts)
    if count < 3:
        return None
    amount, duration = np.asarray(amounts, np.float64), np.asarray(durations, np.float64)
    rate = float(amount.sum() / duration.sum())
    residuals = amount - rate * duration
    error = math.sqrt(float(residuals @ residuals) / (count * (count - 1))) / float(duration.mean())
    half = student_quantile(0.5 + confidence / 2, count - 1) * error
    return rate - half, rate + half


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution, for a probability of 0.5 or more.

    By bisection of the closed form for whole degrees of freedom (Abramowitz and Stegun, Handbook of
    Mathematical Functions, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 + _central_student(middle, degrees) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _central_student(angle: float, degrees: int) -> float:
    """Return P(-t < T < t) for t = tan(angle) · √degrees."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for step in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def quantile_ranks(
    count: int, quantile: float, confidence: float = CONFIDENCE
) -> tuple[int, int] | None:
    """Return the ranks, from 1, of the order statistics that `quantile_interval` returns."""
    first, below = _binomial_cdf(count, quantile)  # below[i] = P(B ≤ first + i)
    # An interval from rank l to rank u leaves out P(B ≤ l - 1) and P(B ≥ u).
    lower_ranks = np.arange(first + 1, first + 1 + len(below))
    lower_tails = below
    if first == 0 and count:
        usable = (lower_ranks >= 1) & (lower_ranks <= count)
        lower_ranks, lower_tails = lower_ranks[usable], lower_tails[usable]
    found = np.searchsorted(below, lower_tails + confidence - 1e-12)
    upper_ranks = first + found + 1
    valid = (found < len(below)) & (upper_ranks <= count) & (upper_ranks > lower_ranks)
    if not valid.any():
        return None
    lower_ranks, upper_ranks = lower_ranks[valid], upper_ranks[valid]
    coverage = below[found[valid]] - lower_tails[valid]
    best = np.lexsort((np.round(coverage, 12), upper_ranks - lower_ranks))[0]
    return int(lower_ranks[best]), int(upper_ranks[best])


def _binomial_cdf(count: int, probability: float) -> tuple[int, Floats]:
    """Return P(B ≤ k) for the k that matter, from the first of them on.

    Ten standard deviations around the mean hold all but 1e-20; the terms follow from the mode's by
    their ratios, and are scaled to sum to 1, which no logarithm of a factorial is needed for.
    """
    reach = 10 * math.sqrt(count * probability * (1 - probability)) + 20
    mode = min(count, int((count + 1) * probability))
    first, last = max(0, int(mode - reach)), min(count, int(mode + reach))
    odds = probability / (1 - probability)
    up = np.arange(mode, last, dtype=np.float64)
    down = np.arange(mode, first, -1, dtype=np.float64)
    terms = np.concatenate(
        [
            np.cumprod(down / (count - down + 1) / odds)[::-1],
            [1.0],
            np.cumprod((count - up) / (up + 1) * odds),
        ]
    )
    return first, np.cumsum(terms / terms.sum())

"""95 % intervals of what was measured, and of the change between two measurements.

Every figure has its own interval first; the interval of a change is put together from the two, by
the method of variance estimates recovery (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).
It keeps the asymmetry of both and is Newcombe's interval where they are Wilson's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from alexnet_edge.statistics import CONFIDENCE, FEWEST_BLOCKS, Floats, student_quantile

Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

FEWEST_TURNS = FEWEST_BLOCKS

_MOST_BLOCKS = 100
_MOST_LOG = 50.0
"""A factor of 10²¹ either way says nothing any more."""
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Attributes:
        value: as measured.
        low, high: the interval; None where nothing is known of the error.
        basis: what the interval rests on: `turns` (bootstrap), `samples` (order statistics),
            `images`, `frames`, `exact` (no error), or `` for none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    basis: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None


def exact(value: float) -> Estimate:
    """Return a figure that has no error, as the size of a file."""
    return Estimate(value, value, value, "exact")


def subtract(second: Estimate, first: Estimate) -> Estimate:
    """Return ``second - first`` of independent estimates, with its interval (MOVER)."""
    value = second.value - first.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value)
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value, value - down, value + up, _weaker(first.basis, second.basis))


def divide(second: Estimate, first: Estimate) -> Estimate | None:
    """Return ``second / first`` of independent estimates; None where one is not positive.

    On the logarithmic scale, on which latencies are nearer to symmetric.
    """
    if first.value <= 0 or second.value <= 0:
        return None
    logs = [_log(estimate) for estimate in (second, first)]
    difference = subtract(*logs)
    if difference.basis == "exact":
        return exact(second.value / first.value)
    low = None if difference.low is None else math.exp(difference.low)
    high = None if difference.high is None else math.exp(difference.high)
    return Estimate(second.value / first.value, low, high, difference.basis)


def _log(estimate: Estimate) -> Estimate:
    bounds = [estimate.low, estimate.high]
    if any(bound is None or bound <= 0 for bound in bounds):
        return Estimate(math.log(estimate.value))
    low, high = (math.log(bound) for bound in bounds if bound is not None)
    return Estimate(math.log(estimate.value), low, high, estimate.basis)


def _weaker(first: str, second: str) -> str:
    order = ("samples", "images", "frames", "turns", "exact", "")
    return min(first, second, key=order.index)


def proportion(successes: float, count: int) -> Estimate:
    """Return a share of ``count`` images with Wilson's score interval."""
    share = successes / count
    denominator = 1 + Z**2 / count
    centre = (share + Z**2 / (2 * count)) / denominator
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / denominator
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), "images")


def paired_difference(only_first: int, only_second: int, count: int) -> Estimate:
    """Return the difference of two shares of the same images, second less first.

    Wald's interval after half a count was added to each of the four cells, so that no difference
    among few images does not give an interval of no width. (Agresti and Min, Statistics in
    Medicine 24, 2005.)

    Args:
        only_first, only_second: images that only the first, and only the second, has right.
        count: images in all.
    """
    total = count + 2
    centre = (only_second - only_first) / total
    discordant = (only_first + only_second + 1) / total
    half = Z * math.sqrt(max(0.0, discordant - centre**2) / total)
    value = (only_second - only_first) / count
    return Estimate(value, min(centre - half, value), max(centre + half, value), "images")


def bootstrap_median(
    median: float, turns: Sequence[float], counts: Sequence[float], density: float
) -> Estimate:
    """Return the median of all samples with an interval from the medians of turns.

    What a turn adds to the error of the whole median is the share of its samples above it, less a
    half, over the density there. Each turn is taken as a logistic distribution around its own
    median, as wide as makes the density of all of them together the one that was measured: where
    samples spread far more than turns do, this is the mean of the turns' medians, and where turns
    differ more, it is their median.

    Args:
        median: of all samples.
        turns, counts: median and number of samples of each turn.
        density: of the logarithm of all samples, at the median; infinite where they are equal.
    """
    logs = np.log(np.asarray(turns, np.float64)) - math.log(median)
    weights = np.asarray(counts, np.float64)
    if math.isfinite(density) and density > 0:
        width = _turn_width(logs, weights, density)
        at_median = float(np.average(_logistic_density(logs / width), weights=weights)) / width
        logs = (1 / (1 + np.exp(-np.clip(logs / width, -500, 500))) - 0.5) / at_median
    low, high = np.exp(np.clip(_bootstrap_mean(logs, weights), -_MOST_LOG, _MOST_LOG))
    return Estimate(median, median * float(low), median * float(high), "turns")


def bootstrap_mean(mean: float, turns: Sequence[float], counts: Sequence[float]) -> Estimate:
    """Return the mean of all samples with an interval from the means of turns."""
    relative = np.asarray(turns, np.float64) / mean
    low, high = _bootstrap_mean(relative, np.asarray(counts, np.float64))
    return Estimate(mean, mean * (1 + low), mean * (1 + high), "turns")


def _turn_width(logs: Floats, weights: Floats, density: float) -> float:
    """Return the width of a turn's distribution that gives ``density`` at 0 in the mixture."""
    best, best_density = 1 / (4 * density), 0.0
    for step in range(80):
        width = 0.92**step / (4 * density)  # at step 0 the mixture is no denser than asked
        mixture = float(np.average(_logistic_density(logs / width), weights=weights)) / width
        if mixture >= density:
            return width
        if mixture > best_density:
            best, best_density = width, mixture
    return best


def _logistic_density(x: Floats) -> Floats:
    half = np.clip(x / 2, -250, 250)
    density: Floats = 0.25 / np.cosh(half) ** 2
    return density


def _bootstrap_mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return by how much the weighted mean may be too low and too high: expanded percentiles.

    Plain percentiles are too narrow for few turns; they are taken as far out as makes the interval
    as wide as Student's t would. (Hesterberg, The American Statistician 69, 2015, section 5.2.)
    Many turns are taken together in blocks of neighbours, which also keeps slow drift whole.
    """
    values, weights = _in_blocks(values, weights)
    count = len(values)
    drawn = _draw_turns(count)
    means = drawn @ (values * weights) / (drawn @ weights)
    tail = NormalDist().cdf(
        -math.sqrt(count / (count - 1)) * student_quantile((1 + CONFIDENCE) / 2, count - 1)
    )
    low, high = np.quantile(means, (tail, 1 - tail))
    centre = float(np.average(values, weights=weights))
    return float(low) - centre, float(high) - centre


@functools.lru_cache(maxsize=8)
def _draw_turns(count: int) -> Floats:
    """Return how often each turn is drawn in each resample; the same for every row."""
    rng = np.random.default_rng(0)
    drawn: Floats = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float64)
    return drawn


def _in_blocks(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    size = math.ceil(len(values) / _MOST_BLOCKS)
    starts = np.arange(0, len(values), size)
    totals = np.add.reduceat(weights, starts)
    return np.add.reduceat(values * weights, starts) / totals, totals

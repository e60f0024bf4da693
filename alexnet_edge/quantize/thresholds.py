"""Where to clip: a threshold for |x| from its histogram, by each method.

All methods read the same histogram, so one pass over the images serves them all. A threshold
depends on the quantizer's grid too: eight bits over both signs have a step of c / 127, over the
values of a ReLU alone c / 255, so the second gains less by clipping. A `Grid` says which is meant.

    METHODS["mse"](histogram, SYMMETRIC)    # amax for TensorRT
    METHODS["mse"](histogram, ASYMMETRIC)   # the ends of a UINT8 range

A value that is exactly 0 is represented exactly whatever the threshold. ReLU makes so many of them
that the entropy would see little else; it disregards the first bin's height (see `entropy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alexnet_edge.quantize.observers import BINS, Histogram

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Grid:
    """What an eight-bit quantizer represents when |x| is clipped at a threshold.

    Attributes:
        symmetric: INT8 with zero point 0; else UINT8 over the values that occur.
    """

    symmetric: bool

    def steps(self, histogram: Histogram, thresholds: FloatArray) -> FloatArray:
        """Return the distance of neighbouring levels for each threshold."""
        if self.symmetric:
            return thresholds / 127
        low = np.maximum(min(histogram.low, 0.0), -thresholds)
        high = np.minimum(max(histogram.high, 0.0), thresholds)
        return (high - low) / 255

    def levels(self, histogram: Histogram) -> int:
        """Return how many levels |x| has: 128, or 256 where all of them serve one sign."""
        one_sided = histogram.low >= 0 or histogram.high <= 0
        return 256 if one_sided and not self.symmetric else 128


SYMMETRIC, ASYMMETRIC = Grid(symmetric=True), Grid(symmetric=False)

ENTROPY_STRIDE = 8
"""Bins between the thresholds that `entropy` tries: at worst 0.4 % of the largest |x|."""

_TIE_NATS = 1e-12
"""Divergences that differ by less are equal, but for rounding."""

MSE_THRESHOLDS = 20
"""How many thresholds `mse` tries in each of its two rounds."""

Method = Callable[[Histogram, Grid], float]


def minmax(histogram: Histogram, grid: Grid) -> float:
    """Return the largest |x|: nothing is clipped."""
    del grid
    return histogram.amax


def percentile(histogram: Histogram, percent: float) -> float:
    """Return the |x| below which ``percent`` of the values lie, at most the largest.

    Interpolated linearly within a bin.
    """
    cumulative = np.cumsum(histogram.counts)
    wanted = percent / 100 * cumulative[-1]
    index = int(np.searchsorted(cumulative, wanted))
    before = cumulative[index - 1] if index else 0
    inside = (wanted - before) / max(1, histogram.counts[index])
    return min((index + float(inside)) * histogram.width, histogram.amax)


def entropy(histogram: Histogram, grid: Grid) -> float:
    """Return the threshold whose quantized distribution diverges least from the real one.

    The Kullback-Leibler divergence of Migacz, 8-bit Inference with TensorRT (GTC 2017): for each
    number of bins i, P is the histogram with everything beyond bin i added to its last bin, and Q
    spreads the mass that each level collects evenly over the non-empty bins that it covers. The
    first bin, which holds the exact zeros, counts as much as the second.
    """
    counts = histogram.counts.copy()
    counts[0] = counts[1]
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    levels = grid.levels(histogram)
    if used <= levels:
        return histogram.amax
    candidates = np.unique(np.append(np.arange(levels, used, ENTROPY_STRIDE), used))
    divergences = kl_divergences(counts, candidates, levels)
    # The widest of those that are best: ties must not clip, and rounding breaks them.
    best = int(candidates[np.flatnonzero(divergences <= divergences.min() + _TIE_NATS)[-1]])
    return min(best * histogram.width, histogram.amax)


def kl_divergences(counts: IntArray, candidates: IntArray, levels: int) -> FloatArray:
    """Return KL(P‖Q) for clipping after each number of bins.

    All bins that one level covers share one q, so the sum of p·log q over them needs only the
    level's mass and its number of non-empty bins: two cumulative sums give every candidate at
    once, a (candidates, levels) array instead of loops over bins.

    Args:
        counts: (bins,) the histogram.
        candidates: (C,) how many bins to keep, each at least ``levels``.
        levels: how many values the kept bins are merged to.

    Returns:
        (C,) divergences in nats; infinite where Q gives no probability to what P has.
    """
    total = counts.sum()
    mass = np.concatenate(([0], np.cumsum(counts)))
    filled = np.concatenate(([0], np.cumsum(counts > 0)))
    p_log_p = np.concatenate(([0.0], np.cumsum(_x_log_x(counts.astype(np.float64)))))
    edges = candidates[:, None] * np.arange(levels + 1) // levels
    kept = np.diff(mass[edges], axis=1).astype(np.float64)  # Q is made of what was not clipped
    bins = np.diff(filled[edges], axis=1).astype(np.float64)
    p_mass = kept.copy()
    clipped = (total - mass[candidates]).astype(np.float64)
    p_mass[:, -1] += clipped
    last = counts[candidates - 1].astype(np.float64)
    bins[:, -1] += (last == 0) & (clipped > 0)  # the outliers fill an empty last bin
    sum_p_log_p = (
        p_log_p[candidates] - _x_log_x(last) + _x_log_x(last + clipped)
    )  # of counts, not yet of probabilities
    kept_total = mass[candidates].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = kept / bins
        terms = np.where(p_mass > 0, p_mass * np.log(q), 0.0)
        divergence = (sum_p_log_p - terms.sum(axis=1)) / total
        shifted: FloatArray = divergence - np.log(total) + np.log(kept_total)
    shifted[~np.isfinite(shifted)] = np.inf
    return shifted


def _x_log_x(values: FloatArray) -> FloatArray:
    """Return x · ln x, which is 0 at 0."""
    found: FloatArray = values * np.log(np.where(values > 0, values, 1.0))
    return found


def mse(histogram: Histogram, grid: Grid) -> float:
    """Return the threshold with the least mean squared error of rounding and clipping.

    Values are taken to be spread evenly within a bin; the error is then integrated exactly (see
    `squared_errors`). Thresholds are tried from 1/32 of the largest |x| up, then once more, finer,
    around the best.
    """
    if histogram.amax == 0:
        return 0.0
    low, high = histogram.amax / 32, histogram.amax
    for _ in range(2):
        tried = np.linspace(low, high, MSE_THRESHOLDS)
        errors = squared_errors(histogram, tried, grid.steps(histogram, tried))
        best = len(tried) - 1 - int(np.argmin(errors[::-1]))
        low, high = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    return float(tried[best])


def squared_errors(histogram: Histogram, thresholds: FloatArray, steps: FloatArray) -> FloatArray:
    """Return the summed squared error of quantizing |x| for each threshold and step.

    Within a bin the density is constant, so the error of rounding is the integral of
    (x - s·round(x / s))², which is piecewise cubic, and that of clipping at c the integral of
    (x - c)².

    Returns:
        (C,) sums over all values.
    """
    counts = histogram.counts.reshape(-1, 2).sum(axis=1)  # half the bins are fine enough here
    width = 2 * histogram.width
    filled = np.flatnonzero(counts)
    edges = np.arange(filled[-1] + 2 if filled.size else 1) * width
    c, s = thresholds[:, None], steps[:, None]
    integral = _rounding_integral(np.minimum(edges, c), s) + _cube(np.maximum(edges - c, 0)) / 3
    found: FloatArray = np.diff(integral, axis=1)[:, filled] @ (counts[filled] / width)
    return found


def _rounding_integral(x: FloatArray, step: FloatArray) -> FloatArray:
    """Return the integral from 0 to x of the squared distance to the nearest multiple of step."""
    nearest = np.rint(x / step)
    found: FloatArray = nearest * (_cube(step) / 12) + _cube(x - nearest * step) / 3
    return found


def _cube(x: FloatArray) -> FloatArray:
    """Return x³; NumPy's power takes ten times as long."""
    return x * x * x


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "percentile-99.9": lambda histogram, _: percentile(histogram, 99.9),
    "percentile-99.99": lambda histogram, _: percentile(histogram, 99.99),
    "percentile-99.999": lambda histogram, _: percentile(histogram, 99.999),
    "entropy": entropy,
    "mse": mse,
}
"""Name to the |x| beyond which values are clipped. A new method is one entry here."""

PARAMETERS: dict[str, object] = {
    "bins": BINS,
    "bin_width": "power of two",
    "entropy": "KL, 128 levels (UINT8 of one sign: 256), first bin as the second",
    "entropy_stride": ENTROPY_STRIDE,
    "mse": "uniform within bins",
    "mse_thresholds": MSE_THRESHOLDS,
}
"""What the ranges of a table depend on besides the images; a table of others is stale."""

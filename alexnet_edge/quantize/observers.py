"""Ranges of activations from a stream of batches, in bounded memory.

A `Histogram` counts |x| in bins whose width is a power of two. When a larger value comes, the width
doubles and neighbouring bins are added: every value lands in the bin where it would have landed had
the final width been known from the start, because floor(floor(x / w) / 2) = floor(x / 2w) and
scaling by a power of two is exact. So the result does not depend on the order of the images, on
how they were batched, or on how partial histograms were merged.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from alexnet_edge.preprocess import AnyArray

BINS = 4096
"""At least half of them are in use, so the resolution is at worst amax / 2048."""

_LOG2_BINS = BINS.bit_length() - 1

_CHUNK_VALUES = 1 << 15
"""Counted at a time: what is made of them stays in the cache."""


class Histogram:
    """Counts of |x|, with the exact extremes of x.

    Attributes:
        low, high: smallest and largest x seen; infinite before the first.
        counts: (BINS,) int64; bin i holds i · width ≤ |x| < (i + 1) · width.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self._exponent: int | None = None

    @property
    def amax(self) -> float:
        """Largest |x|; 0 before the first value."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self._exponent or 0)

    def update(self, values: AnyArray) -> None:
        """Add the values of a float32 array of any shape.

        Raises:
            ValueError: there is a NaN or an infinity among them.
        """
        flat = values.reshape(-1)
        self._widen(flat)
        for start in range(0, flat.size, _CHUNK_VALUES):
            bins = self._bins(flat[start : start + _CHUNK_VALUES])
            self.counts += np.bincount(bins, minlength=BINS)

    def update_counted(self, values: AnyArray, counts: npt.NDArray[np.int64]) -> None:
        """Add values that occur many times each: those of an image's bytes, say.

        Args:
            values: (K,) float32.
            counts: (K,) how often each occurs; 0 is as if it were not there.

        Raises:
            ValueError: there is a NaN or an infinity among them.
        """
        present = counts > 0
        if present.any():
            self._widen(values[present])
            np.add.at(self.counts, self._bins(values[present]), counts[present])

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has seen."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._grow(other._exponent)
        counts = other.counts
        if other._exponent is not None and self._exponent is not None:
            counts = _coarsen(counts, self._exponent - other._exponent)
        self.counts = self.counts + counts

    def _widen(self, flat: AnyArray) -> None:
        """Grow to hold the values."""
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(_exponent_for(max(abs(low), abs(high))))

    def _bins(self, flat: AnyArray) -> npt.NDArray[np.intp]:
        """Return the bin of each value."""
        scaled = flat * np.float32(1 / self.width)
        if self.low < 0:
            np.abs(scaled, out=scaled)
        bins: npt.NDArray[np.intp] = scaled.astype(np.intp)
        return bins

    def _grow(self, exponent: int | None) -> None:
        if exponent is None or (self._exponent is not None and exponent <= self._exponent):
            return
        if self._exponent is not None:
            self.counts = _coarsen(self.counts, exponent - self._exponent)
        self._exponent = exponent


def _exponent_for(amax: float) -> int | None:
    """Return the smallest e with amax < BINS · 2^e, or None where every width will do."""
    if amax == 0:
        return None
    # Normal float32 only: 1 / width must be finite, and a range below 2^-100 is no range.
    return max(math.frexp(amax)[1] - _LOG2_BINS, -112)


def _coarsen(counts: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    merged = np.zeros_like(counts)
    factor = 2 ** min(doublings, _LOG2_BINS)
    merged[: BINS // factor] = counts.reshape(-1, factor).sum(axis=1)
    return merged

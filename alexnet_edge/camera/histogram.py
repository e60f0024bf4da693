"""Times in bounded memory: exact over a window, and within 2 % over a run of any length."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_FIRST_DECADE = -2  # 0.01 ms
_DECADES = 8  # up to 1,000 s
_BINS_PER_DECADE = 450  # steps of 0.02 from 1 to 10: round numbers are bounds
_BINS = _DECADES * _BINS_PER_DECADE + 2  # one below and one above

WINDOW = 512
"""Answers that the recent percentiles are over."""


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Some times in ms; all 0 where ``count`` is 0."""

    mean: float
    p50: float
    p90: float
    p99: float
    count: int

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Percentiles:
        """Return the exact percentiles of ``values_ms``, interpolated between neighbours."""
        if not values_ms:
            return cls(0.0, 0.0, 0.0, 0.0, 0)
        p50, p90, p99 = (float(v) for v in np.percentile(values_ms, (50, 90, 99)))
        return cls(float(np.mean(values_ms)), p50, p90, p99, len(values_ms))


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of times in bins with fixed bounds: each decade from 0.01 ms in 450 equal steps.

    Attributes:
        counts: one a bin.
        total_ms: sum of the times themselves, so that the mean is exact.
    """

    counts: npt.NDArray[np.int64]
    total_ms: float

    @property
    def count(self) -> int:
        """How many times were added."""
        return int(self.counts.sum())

    @property
    def mean_ms(self) -> float:
        """Exact mean, 0 where there is none."""
        return self.total_ms / self.count if self.count else 0.0

    def count_up_to(self, bound_ms: float) -> int:
        """Return how many times were below ``bound_ms``: exact for bounds of two digits."""
        return int(self.counts[: _bin_of(bound_ms)].sum())

    def quantile(self, fraction: float) -> float:
        """Return the time in ms that ``fraction`` of the times do not exceed, within 2 %."""
        if self.count == 0:
            return 0.0
        cumulative = np.cumsum(self.counts)
        rank = max(1.0, fraction * float(cumulative[-1]))
        index = int(np.searchsorted(cumulative, rank))
        below = float(cumulative[index - 1]) if index else 0.0
        low, high = _bounds_of(index)
        return low + (high - low) * (rank - below) / float(self.counts[index])

    def percentiles(self) -> Percentiles:
        """Return the mean, exact, and p50, p90 and p99 within 2 %."""
        return Percentiles(
            self.mean_ms, self.quantile(0.5), self.quantile(0.9), self.quantile(0.99), self.count
        )


class Times:
    """Collects times of one stage; its memory does not grow. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._total_ms = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._count = 0

    def add(self, value_ms: float) -> None:
        """Add one time."""
        self._counts[_bin_of(value_ms)] += 1
        self._total_ms += value_ms
        self._window.append(value_ms)
        self._count += 1

    def recent(self) -> Percentiles:
        """Return the last `WINDOW` times' exact percentiles."""
        return Percentiles.of(self._window)

    def histogram(self) -> Histogram:
        """Return a copy of the counts of the whole run."""
        return Histogram(self._counts.copy(), self._total_ms)

    def whole(self) -> Percentiles:
        """Return percentiles of the whole run: exact while it fits the window, then within 2 %."""
        return self.recent() if self._count <= WINDOW else self.histogram().percentiles()


def _bin_of(value_ms: float) -> int:
    """Return the bin whose lower bound is the last one not above ``value_ms``."""
    if not value_ms >= 10.0**_FIRST_DECADE:
        return 0
    decade = math.floor(math.log10(value_ms))
    # A tiny nudge: 0.3 / 0.1 is 2.9999999999999996, and a bound belongs to the bin above it.
    step = int((value_ms / 10.0**decade - 1) * 50 + 1e-9)
    if step < 0 or step >= _BINS_PER_DECADE:  # log10 rounded across the decade
        decade, step = (decade - 1, _BINS_PER_DECADE - 1) if step < 0 else (decade + 1, 0)
    index = (decade - _FIRST_DECADE) * _BINS_PER_DECADE + step + 1
    return min(max(index, 0), _BINS - 1)


def _bounds_of(index: int) -> tuple[float, float]:
    if index == 0:
        return 0.0, 10.0**_FIRST_DECADE
    decade, step = divmod(index - 1, _BINS_PER_DECADE)
    if decade >= _DECADES:
        longest = 10.0 ** (_FIRST_DECADE + _DECADES)
        return longest, longest
    unit = 10.0 ** (_FIRST_DECADE + decade)
    return unit * (1 + step / 50), unit * (1 + (step + 1) / 50)

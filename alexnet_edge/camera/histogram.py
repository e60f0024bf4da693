"""Times in bounded memory: exact over a window, and within 2 % over a run of any length.

A run is also cut into turns, which tell how sure its figures are: frames that follow each other are
alike, so that intervals from their mere number would be too narrow.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from alexnet_edge.results_files.intervals import FEWEST_TURNS
from alexnet_edge.statistics import design_effect, worth_ranks

_FIRST_DECADE = -2  # 0.01 ms
_DECADES = 8  # up to 1,000 s
_BINS_PER_DECADE = 450  # steps of 0.02 from 1 to 10: round numbers are bounds
_BINS = _DECADES * _BINS_PER_DECADE + 2  # one below and one above

WINDOW = 512
"""Answers that the recent percentiles are over."""

SHORTEST_TURN_S = 0.5
MOST_TURNS = 64
"""Where a run would have more, neighbours are taken together and turns last twice as long."""


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
class Turns:
    """A run's times in turns.

    Not among them are the first time, before which no turn can begin, and those after the last
    whole turn.

    Attributes:
        seconds: from the last time before a turn to its own last one.
        total_ms: sum of each turn's times.
        counts: (turns, bins), from ``first_bin`` of the histogram on.
        first_bin: below it, and beyond the last of ``counts``, there are none.
    """

    seconds: tuple[float, ...] = ()
    total_ms: tuple[float, ...] = ()
    counts: npt.NDArray[np.int32] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0), np.int32)
    )
    first_bin: int = 0

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """How many times each turn has."""
        samples: npt.NDArray[np.int64] = self.counts.sum(axis=1, dtype=np.int64)
        return samples

    @property
    def suffice(self) -> bool:
        """Whether they are enough to tell how turns differ."""
        return len(self.seconds) >= FEWEST_TURNS

    def design_effect(self, index: int) -> float:
        """Return how many times the variance of independent times the share from a bin on has.

        See `statistics.design_effect`.
        """
        above = self.counts[:, max(0, index - self.first_bin) :].sum(axis=1, dtype=np.float64)
        return design_effect(above, self.samples.astype(np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of times in bins with fixed bounds: each decade from 0.01 ms in 450 equal steps.

    Attributes:
        counts: one a bin.
        total_ms: sum of the times themselves, so that the mean is exact.
        turns: the same run in turns.
    """

    counts: npt.NDArray[np.int64]
    total_ms: float
    turns: Turns = dataclasses.field(default_factory=Turns)

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

    def quantile_interval(self, fraction: float) -> tuple[float, float] | None:
        """Return a quantile's 95 % interval in ms; None where the times are too few.

        Order statistics of as many independent times as the run is worth by its turns (Woodruff,
        Journal of the American Statistical Association 47, 1952), out to the bounds of their bins.
        """
        count = self.count
        if count == 0:
            return None
        cumulative = np.cumsum(self.counts)
        index = int(np.searchsorted(cumulative, max(1.0, fraction * count)))
        effect = max(self.turns.design_effect(at) for at in (index, index + 1))
        ranks = worth_ranks(count, fraction, effect)
        if ranks is None:
            return None
        first, last = np.searchsorted(cumulative, ranks)
        return _bounds_of(int(first))[0], _bounds_of(int(last))[1]

    def percentiles(self) -> Percentiles:
        """Return the mean, exact, and p50, p90 and p99 within 2 %."""
        return Percentiles(
            self.mean_ms, self.quantile(0.5), self.quantile(0.9), self.quantile(0.99), self.count
        )


class Times:
    """Collects times of one stage; its memory does not grow. Not thread-safe by itself.

    Args:
        clock: returns the seconds by which turns are cut.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._total_ms = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._count = 0
        self._turns = _TurnKeeper(clock)

    def add(self, value_ms: float) -> None:
        """Add one time, which has just ended."""
        index = _bin_of(value_ms)
        self._counts[index] += 1
        self._turns.add(value_ms, index)
        self._total_ms += value_ms
        self._window.append(value_ms)
        self._count += 1

    def recent(self) -> Percentiles:
        """Return the last `WINDOW` times' exact percentiles."""
        return Percentiles.of(self._window)

    def histogram(self) -> Histogram:
        """Return a copy of the counts of the whole run."""
        return Histogram(self._counts.copy(), self._total_ms, self._turns.copy())

    def whole(self) -> Percentiles:
        """Return percentiles of the whole run: exact while it fits the window, then within 2 %."""
        return self.recent() if self._count <= WINDOW else self.histogram().percentiles()


class _TurnKeeper:
    """Cuts times into turns as they come.

    Turns end with a time and not with the clock: a rate over them has no error of counting.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts = np.zeros((MOST_TURNS, _BINS), np.int32)  # memory is taken as it is used
        self._seconds: list[float] = []
        self._totals_ms: list[float] = []
        self._total_ms = 0.0
        self._shortest_s = SHORTEST_TURN_S
        self._began_s: float | None = None
        self._first, self._last = _BINS, -1  # of the bins that hold any

    def add(self, value_ms: float, index: int) -> None:
        now_s = self._clock()
        if self._began_s is None:
            self._began_s = now_s
            return
        self._first, self._last = min(self._first, index), max(self._last, index)
        self._counts[len(self._seconds), index] += 1
        self._total_ms += value_ms
        if now_s - self._began_s >= self._shortest_s:
            self._seconds.append(now_s - self._began_s)
            self._totals_ms.append(self._total_ms)
            self._began_s, self._total_ms = now_s, 0.0
            if len(self._seconds) == MOST_TURNS:
                self._join_neighbours()

    def copy(self) -> Turns:
        counts = self._counts[: len(self._seconds), self._first : self._last + 1].copy()
        return Turns(tuple(self._seconds), tuple(self._totals_ms), counts, self._first)

    def _join_neighbours(self) -> None:
        half = MOST_TURNS // 2
        self._counts[:half] = self._counts[0::2] + self._counts[1::2]
        self._counts[half:] = 0
        self._seconds = [sum(self._seconds[at : at + 2]) for at in range(0, MOST_TURNS, 2)]
        self._totals_ms = [sum(self._totals_ms[at : at + 2]) for at in range(0, MOST_TURNS, 2)]
        self._shortest_s *= 2


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

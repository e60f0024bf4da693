"""Untimed queries, until their latency no longer changes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from alexnet_edge.bench.results import WarmUp
from alexnet_edge.bench.turns import run_closed

WINDOW_S, WINDOW_SAMPLES = 0.05, 5
"""A window lasts as long, and holds as many queries, at least."""

WINDOWS = 3
AGREEMENT = 0.05
"""So many windows in a row, whose medians lie within this share of each other, are stable."""

LONGEST_S = 10.0
LONGEST_SHARE = 20
"""Beyond the seconds that were asked for, but no more than so many times what is then measured: an
engine that has not settled by then is not stable, and says so."""


def warm_up(
    query: Callable[[], object],
    least_s: float,
    duration_s: float,
    flush: Callable[[], None] | None = None,
) -> WarmUp:
    """Run queries until the medians of consecutive windows agree.

    Args:
        query: one of them.
        least_s: how long at least.
        duration_s: for how long it will be measured.
        flush: empties the caches before each query.
    """
    started = time.perf_counter()
    most_s = least_s + min(LONGEST_S, LONGEST_SHARE * duration_s)
    medians: list[float] = []
    while True:
        medians.append(_window_median(query, flush))
        seconds = time.perf_counter() - started
        stable = _agree(medians[-WINDOWS:])
        if (stable and seconds >= least_s) or seconds >= most_s:
            return WarmUp(seconds, stable)


def _window_median(query: Callable[[], object], flush: Callable[[], None] | None) -> float:
    taken: list[int] = []
    while len(taken) < WINDOW_SAMPLES:
        taken += run_closed(query, WINDOW_S, flush).latency_ns
    return statistics.median(taken)


def _agree(medians: list[float]) -> bool:
    return len(medians) == WINDOWS and max(medians) <= min(medians) * (1 + AGREEMENT)

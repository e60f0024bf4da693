"""Whether figures can be relied on, and if not, why not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet_edge.bench.contenders import Contender
from alexnet_edge.bench.results import EngineBench, Variation
from alexnet_edge.bench.settings import SERVER, BenchSettings, Bounds
from alexnet_edge.bench.turns import Turn

_FEWEST_TURNS = 4
"""Of fewer turns neither drift nor variation says anything."""

_MOST_EFFICIENCY = 1.1
"""Nothing is faster than its floor, which has an error of its own."""


def measure_variation(turns: Sequence[Turn]) -> Variation:
    """Return how steady latencies were within and between turns.

    Of a server the service times are looked at: that queues come and go is its scenario.
    """
    samples = [np.asarray(turn.service_ns or turn.latency_ns, np.float64) for turn in turns]
    samples = [taken for taken in samples if len(taken)]
    if not samples:
        return Variation()
    low, middle, high = np.percentile(np.concatenate(samples), (25, 50, 75))
    spread = float((high - low) / middle)
    if len(samples) < _FEWEST_TURNS:
        return Variation(spread=spread)
    medians = np.array([np.median(taken) for taken in samples])
    half = len(medians) // 2
    drift = np.median(medians[-half:]) / np.median(medians[:half]) - 1
    return Variation(float(drift), float(medians.std(ddof=1) / medians.mean()), spread)


def measure_utilization(contender: Contender, rate_qps: float) -> float | None:
    """Return the arrivals of a server over what it can serve; 1 is all that it can."""
    service = [took for turn in contender.turns for took in turn.service_ns]
    if not service:
        return None
    return rate_qps * float(np.mean(service)) / 1e9 / contender.engine.contexts


def judge_engine(
    contender: Contender,
    variation: Variation,
    utilization: float | None,
    settings: BenchSettings,
) -> list[str]:
    """Return why the figures of one engine cannot be relied on; empty where they can."""
    reasons = []
    warmup, bounds = contender.warmup, settings.bounds
    if warmup is not None and not warmup.stable:
        reasons.append(f"latency had not settled after {warmup.seconds:.1f} s of warm-up")
    if variation.drift is not None and abs(variation.drift) > bounds.drift:
        reasons.append(
            f"drift: the median changed by {variation.drift:+.1%} during the run, "
            f"{bounds.drift:.0%} is allowed"
        )
    if variation.variation is not None and variation.variation > bounds.variation:
        reasons.append(
            f"variation: the medians of its turns vary by {variation.variation:.1%}, "
            f"{bounds.variation:.0%} is allowed"
        )
    if variation.spread > bounds.spread:
        reasons.append(
            f"spread: the middle half of its samples spans {variation.spread:.0%} of the median, "
            f"{bounds.spread:.0%} is allowed"
        )
    if settings.scenario.name == SERVER:
        reasons += _judge_load(contender, utilization, settings)
    return reasons


def _judge_load(
    contender: Contender, utilization: float | None, settings: BenchSettings
) -> list[str]:
    rate, bound = settings.scenario.rate_qps, settings.bounds.utilization
    load = "" if utilization is None else f", {utilization:.0%} of what it serves"
    if contender.is_overloaded:
        unserved = sum(turn.unserved for turn in contender.turns)
        return [
            f"overload: {rate:g} queries a second arrive{load}; "
            f"{unserved} were given up as the queue grew"
        ]
    if utilization is not None and utilization > bound:
        return [
            f"overload: {rate:g} queries a second arrive{load}; beyond {bound:.0%} the queue "
            "does not settle"
        ]
    return []


def judge_run(
    throttled: Sequence[str], idle_cores: float, other_share: float | None, bounds: Bounds
) -> list[str]:
    """Return why no figure of a run can be relied on; empty where they can."""
    reasons = [f"throttled: {reason}" for reason in throttled]
    if idle_cores > bounds.idle_cpu:
        reasons.append(
            f"spinning: idle engines kept {idle_cores:.2f} cores busy, which they take from each "
            f"other; {bounds.idle_cpu:g} is allowed"
        )
    if other_share is not None and other_share > bounds.other_cpu:
        reasons.append(
            f"other programs had {other_share:.0%} of the cores, {bounds.other_cpu:.0%} is allowed"
        )
    return reasons


def judge_extras(row: EngineBench, other_share: float | None, bounds: Bounds) -> list[str]:
    """Return why what was measured after the latencies cannot be relied on."""
    named = [
        name
        for name, is_there in (("layers", row.layers is not None), ("floor", row.floor is not None))
        if is_there
    ]
    reasons = []
    if named and other_share is not None and other_share > bounds.other_cpu:
        reasons.append(
            f"{' and '.join(named)}: other programs had {other_share:.0%} of the cores meanwhile, "
            f"{bounds.other_cpu:.0%} is allowed"
        )
    # The floor of an engine that skips zeros counts all weights.
    is_bound = row.floor is not None and row.floor.is_measured and not row.depends_on_input
    if row.floor and is_bound and row.floor.efficiency > _MOST_EFFICIENCY:
        reasons.append(
            f"floor: {row.floor.efficiency:.0%} of the latency; the machine was slower while the "
            "floor was measured"
        )
    return reasons

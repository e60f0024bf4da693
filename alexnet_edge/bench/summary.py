"""From turns to figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet_edge.bench.contenders import Contender
from alexnet_edge.bench.inputs import depends_on_input
from alexnet_edge.bench.results import EngineBench, Histogram, Latency, Slices
from alexnet_edge.bench.settings import SERVER, BenchSettings
from alexnet_edge.bench.turns import Turn
from alexnet_edge.bench.validity import judge_engine, measure_utilization, measure_variation
from alexnet_edge.manifest import find_manifest
from alexnet_edge.runtimes.base import EngineInfo
from alexnet_edge.statistics import (
    Floats,
    clustered_quantile_interval,
    ratio_interval,
)

if TYPE_CHECKING:
    from alexnet_edge.sensors import SensorLog

_BINS = 50
_BLOCKS = 12
"""Fewer turns are cut, until there are about as many parts."""


def summarize_latency(samples_ns: Sequence[int], turns: Sequence[int] = ()) -> Latency:
    """Return mean, percentiles and their intervals of latencies.

    Args:
        samples_ns: in nanoseconds, in the order in which they were measured.
        turns: how many of them each turn has; none where they are independent.
    """
    milliseconds = np.asarray(samples_ns, np.float64) / 1e6
    p50, p90, p99 = (float(x) for x in np.percentile(milliseconds, (50, 90, 99)))
    groupings = _group(milliseconds, turns)
    intervals = [clustered_quantile_interval(groupings, q) for q in (0.5, 0.9, 0.99)]
    return Latency(
        mean=float(milliseconds.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        ci95_p50=intervals[0] or (float(milliseconds.min()), float(milliseconds.max())),
        ci95_p90=intervals[1],
        ci95_p99=intervals[2],
        basis="turns" if len(groupings[-1]) > 1 else "samples",
    )


def _group(samples: Floats, turns: Sequence[int]) -> list[list[Floats]]:
    """Return the turns and, where they are few, parts of them: neighbours in time are alike too."""
    if not turns:
        return [[samples]]
    whole = np.split(samples, np.cumsum(turns)[:-1])
    count = math.ceil(_BLOCKS / len(turns))
    parts = [part for turn in whole for part in np.array_split(turn, count) if len(part)]
    return [whole] if count == 1 else [whole, parts]


def summarize_slices(turns: Sequence[Turn]) -> Slices:
    """Return the figures of each turn."""
    turns = [turn for turn in turns if turn.latency_ns]
    taken = [np.asarray(turn.latency_ns, np.float64) / 1e6 for turn in turns]
    return Slices(
        p50_ms=tuple(float(np.median(samples)) for samples in taken),
        mean_ms=tuple(float(samples.mean()) for samples in taken),
        samples=tuple(len(samples) for samples in taken),
        at_s=tuple(round(turn.start_s - turns[0].start_s, 3) for turn in turns),
    )


def count_histogram(samples_ns: Sequence[int]) -> Histogram:
    """Return at most 50 bins from the shortest to the longest latency, on a logarithmic scale."""
    milliseconds = np.asarray(samples_ns, np.float64) / 1e6
    low, high = max(float(milliseconds.min()), 1e-6), float(milliseconds.max())
    if high <= low * (1 + 1e-9):
        return Histogram((low, max(high, low)), (len(milliseconds),))
    edges = np.geomspace(low, high, min(_BINS, max(5, len(milliseconds) // 4)) + 1)
    edges[0], edges[-1] = min(low, float(milliseconds.min())), high
    counts, _ = np.histogram(milliseconds, edges)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def summarize_engine(
    contender: Contender, settings: BenchSettings, log: SensorLog, run_reasons: Sequence[str]
) -> EngineBench:
    """Return the row of an engine.

    Args:
        contender: measured.
        settings: of the run.
        log: of the sensors over the run.
        run_reasons: why no figure of the run can be relied on.
    """
    info, turns = contender.engine.info, contender.turns
    samples = [took for turn in turns for took in turn.latency_ns]
    rate = settings.scenario.rate_qps
    variation = measure_variation(turns)
    utilization = None if rate is None else measure_utilization(contender, rate)
    reasons = [*judge_engine(contender, variation, utilization, settings), *run_reasons]
    served = [turn for turn in turns if turn.latency_ns]
    sizes = [len(turn.latency_ns) for turn in served]
    queue, service = (
        [took for turn in turns for took in getattr(turn, name)]
        for name in ("queue_ns", "service_ns")
    )
    is_server = settings.scenario.name == SERVER
    return EngineBench(
        engine=str(info.path),
        runtime=info.runtime,
        precision=info.precision,
        batch=len(contender.batch),
        latency_ms=summarize_latency(samples, sizes),
        throughput_ips=contender.images * len(samples) / contender.elapsed_s,
        samples=len(samples),
        size_bytes=info.size_bytes,
        settings=contender.engine.describe(),
        input=contender.input.kind,
        input_images=contender.input.images,
        input_sha256=contender.input.sha256,
        input_skipped=contender.input.skipped,
        depends_on_input=depends_on_input(info),
        images_per_query=contender.images,
        throughput_ci95_ips=ratio_interval(
            [contender.images * len(turn.latency_ns) for turn in served],
            [turn.elapsed_ns / 1e9 for turn in served],
        ),
        slices=summarize_slices(turns),
        histogram=count_histogram(samples),
        warmup=contender.warmup,
        variation=variation,
        cache=settings.cache,
        energy_j_per_inference=_measure_energy(contender, len(samples), log),
        queue_ms=summarize_latency(queue, sizes) if is_server else None,
        service_ms=summarize_latency(service, sizes) if is_server else None,
        utilization=utilization,
        unserved=sum(turn.unserved for turn in turns),
        engine_sha256=_engine_sha256(info),
        model_sha256=info.model_sha256,
        valid=not reasons,
        invalid_because=tuple(reasons),
    )


def _measure_energy(contender: Contender, queries: int, log: SensorLog) -> float | None:
    """Return joules an inference, of all that is measured and over the engine's own turns.

    None where flushing the cache took part of it, or nothing measures power.
    """
    if contender.flush is not None:
        return None
    joules = [log.energy_j(turn.start_s, turn.end_s) for turn in contender.turns]
    known = [spent for spent in joules if spent is not None]
    if not known or len(known) < len(joules):
        return None
    return sum(known) / (queries * len(contender.parts))


def _engine_sha256(info: EngineInfo) -> str | None:
    """Return the hash of a file; opening an engine verified what its manifest says of it."""
    manifest = find_manifest(info.path)
    return manifest.engine_sha256 if manifest else info.model_sha256 or None

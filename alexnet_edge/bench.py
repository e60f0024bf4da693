"""Latency and throughput of engines, interleaved in one run.

A closed loop: one batch is in flight, the next is sent when its answer is there. What is timed is
`Runtime.infer`: host memory in, host memory out. Several engines take turns in short slices, in
the order A B … B A, so that drift of the machine falls on all of them alike; sessions are opened
so that idle ones do not spin on the cores (see `runtimes/ort.py`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from alexnet_edge.errors import InputError
from alexnet_edge.machine import environment
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import Runtime

SLICE_S = 0.25
"""How long an engine runs before the next one takes its turn."""


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """How long to measure, and with what.

    Attributes:
        batch: images per inference; None for an engine's fixed batch size, or 1.
        warmup_s: seconds of untimed inferences for each engine.
        duration_s: least seconds of timed inferences for each engine.
        min_samples: least timed inferences for each engine.
        seed: of the random input.
    """

    batch: int | None = None
    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_samples: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= 4096:
            raise InputError(f"batch is {self.batch}", hint="give 1 to 4096")
        timed = 0 <= self.warmup_s < math.inf and 0 < self.duration_s < math.inf
        if not timed or self.min_samples < 1:
            raise InputError(
                "warm-up, duration and samples must be positive and finite",
                hint="see bench --help",
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", hint="give 0 or more")


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latency of one inference in milliseconds.

    Attributes:
        mean, p50, p90, p99: over all samples; percentiles interpolated linearly.
        ci95_p50: distribution-free 95 % confidence interval of the median.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    ci95_p50: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class EngineBench:
    """Figures of one engine.

    Attributes:
        engine: its file.
        runtime, precision: what ran.
        batch: images per inference.
        latency_ms: of one inference.
        throughput_ips: images per second while it ran.
        samples: timed inferences.
        size_bytes: of the engine's file.
        settings: of the runtime: provider, threads.
        input: what was fed; `synthetic` (uniform random of the input's type).
    """

    engine: str
    runtime: str
    precision: str
    batch: int
    latency_ms: Latency
    throughput_ips: float
    samples: int
    size_bytes: int
    settings: dict[str, object]
    input: str = "synthetic"


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """Figures of all engines, and where they were measured."""

    engines: tuple[EngineBench, ...]
    environment: dict[str, object]
    scenario: dict[str, object]


@dataclasses.dataclass(frozen=True)
class BenchProgress:
    """How far a run is."""

    done_s: float
    total_s: float


def bench(
    engines: Sequence[Runtime],
    settings: BenchSettings,
    *,
    on_progress: Callable[[BenchProgress], None] = lambda _: None,
) -> BenchResult:
    """Measure engines side by side.

    Raises:
        InputError: the batch size is not one that an engine takes.
    """
    batches = [synthetic_input(e.info.input, settings.batch, seed=settings.seed) for e in engines]
    for engine, batch in zip(engines, batches, strict=True):
        engine.check(batch)
        _run_for(engine, batch, settings.warmup_s)
    samples: list[list[int]] = [[] for _ in engines]
    turn = list(range(len(engines)))
    total = settings.duration_s * len(engines)
    while not all(_is_enough(taken, settings) for taken in samples):
        for index in turn:
            if not _is_enough(samples[index], settings):
                samples[index] += _run_for(engines[index], batches[index], SLICE_S)
        turn.reverse()
        on_progress(BenchProgress(min(total, sum(map(sum, samples)) / 1e9), total))
    return BenchResult(
        engines=tuple(map(_summarize, engines, batches, samples)),
        environment=environment(),
        scenario={
            "name": "single-stream",
            "loop": "closed",
            "timed": "infer, host to host",
            "interleaved": len(engines) > 1,
            **dataclasses.asdict(settings),
        },
    )


def synthetic_input(spec: TensorSpec, batch: int | None, *, seed: int) -> AnyArray:
    """Return a random batch: uniform bytes, or standard normal floats as normalized images are."""
    rng = np.random.default_rng(seed)
    shape = (batch or spec.batch or 1, *(size or 1 for size in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def summarize_latency(samples_ns: Sequence[int]) -> Latency:
    """Return mean, percentiles and the median's interval of latencies in nanoseconds."""
    milliseconds = np.sort(np.asarray(samples_ns, np.float64)) / 1e6
    p50, p90, p99 = (float(x) for x in np.percentile(milliseconds, (50, 90, 99)))
    return Latency(
        float(milliseconds.mean()), p50, p90, p99, ci95_p50=median_interval(milliseconds)
    )


def median_interval(ordered: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median from order statistics.

    The number of samples below the true median is Binomial(n, 1/2), whatever the distribution;
    the interval lies between the order statistics that leave 2.5 % on each side. Below 6 samples
    even the extremes cover less than 95 %; they are returned then. (Conover, Practical
    Nonparametric Statistics, section 3.2.)
    """
    count = len(ordered)
    log_half = count * math.log(0.5)
    below, rank = 0.0, 0
    while rank < count // 2:
        term = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(term + log_half)
        if below > 0.025:
            break
        rank += 1
    rank = max(rank, 1)
    return float(ordered[rank - 1]), float(ordered[count - rank])


def _is_enough(taken: Sequence[int], settings: BenchSettings) -> bool:
    return len(taken) >= settings.min_samples and sum(taken) >= settings.duration_s * 1e9


def _run_for(engine: Runtime, batch: AnyArray, seconds: float) -> list[int]:
    """Return the duration of each inference in nanoseconds; one at least."""
    taken = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        started = time.perf_counter_ns()
        engine.infer(batch)
        finished = time.perf_counter_ns()
        taken.append(finished - started)
        if finished >= end:
            return taken


def _summarize(engine: Runtime, batch: AnyArray, samples: Sequence[int]) -> EngineBench:
    info = engine.info
    return EngineBench(
        engine=str(info.path),
        runtime=info.runtime,
        precision=info.precision,
        batch=len(batch),
        latency_ms=summarize_latency(samples),
        throughput_ips=len(batch) * len(samples) / (sum(samples) / 1e9),
        samples=len(samples),
        size_bytes=info.size_bytes,
        settings=engine.describe(),
    )

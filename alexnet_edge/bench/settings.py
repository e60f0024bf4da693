"""What to measure, and how: the scenario, and everything that bounds a run."""

from __future__ import annotations

import dataclasses
import math

from alexnet_edge.errors import InputError

SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER = (
    "single-stream",
    "multi-stream",
    "offline",
    "server",
)
METRICS = {
    SINGLE_STREAM: "latency_ms.p90",
    MULTI_STREAM: "latency_ms.p99",
    OFFLINE: "throughput_ips",
    SERVER: "latency_ms.p99",
}
"""The scenarios, and the figure that MLPerf judges each by."""

CACHES = ("warm", "flushed")
MAX_BATCH = 4096

_LONGEST_WAIT_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Scenario:
    """How queries arrive, as MLPerf Inference names it (Reddi et al., ISCA 2020).

    Attributes:
        name: `single-stream`: the next query is sent when the answer to the last is there.
            `multi-stream`: likewise, and a query holds several images. `offline`: all images are
            there at the start, batches run back to back. `server`: queries arrive at random times
            (Poisson), whether or not earlier ones were answered.
        rate_qps: queries a second, of `server`.
        images_per_query: of `multi-stream`.
    """

    name: str = SINGLE_STREAM
    rate_qps: float | None = None
    images_per_query: int = 8

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise InputError(
                f"scenario '{self.name}' is unknown", hint=f"one of {', '.join(METRICS)}"
            )
        if self.name == SERVER:
            if self.rate_qps is None:
                raise InputError("server needs a rate of arrivals", hint="give one: --rate 50")
            if not 0 < self.rate_qps <= 1e5:
                raise InputError(
                    f"rate is {self.rate_qps}", hint="give queries a second, above 0 to 100000"
                )
        elif self.rate_qps is not None:
            raise InputError(
                f"{self.name} has no rate: it is a closed loop",
                hint="leave the rate out, or use --scenario server",
            )
        if not 1 <= self.images_per_query <= MAX_BATCH:
            raise InputError(
                f"a query of {self.images_per_query} images", hint=f"give 1 to {MAX_BATCH}"
            )


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a run must keep within to be valid.

    Attributes:
        drift: change of the median from the first half of the turns to the second.
        variation: coefficient of variation of the turns' medians.
        spread: interquartile range over the median.
        idle_cpu: cores that are busy while no engine runs; an engine that spins takes them from
            the others.
        other_cpu: share of the usable cores that other programs took.
        utilization: of `server`: arrivals over what can be served; beyond it the queue does not
            settle.
    """

    drift: float = 0.05
    variation: float = 0.05
    spread: float = 0.25
    idle_cpu: float = 0.15
    other_cpu: float = 0.10
    utilization: float = 0.95


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """How long to measure, and with what.

    Attributes:
        batch: images per inference; None for an engine's fixed batch size, or 1.
        warmup_s: least seconds of untimed inferences for each engine; they go on until stable.
        duration_s: least seconds of timed inferences for each engine.
        min_samples: least timed queries for each engine.
        seed: of the random input and of the arrivals.
        scenario: how queries arrive.
        sweep: batch sizes to measure one after the other; engines of a fixed batch take only their
            own.
        cache: `warm`, or `flushed`: the last-level cache is emptied before every query, untimed.
        layers: time every layer as well, in a pass of its own.
        floor: measure what this machine could do at best, and compare.
        target: profile whose memory bandwidth stands for the machine's.
        bounds: what makes a run invalid.
    """

    batch: int | None = None
    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_samples: int = 50
    seed: int = 0
    scenario: Scenario = Scenario()
    sweep: tuple[int, ...] = ()
    cache: str = "warm"
    layers: bool = False
    floor: bool = False
    target: str | None = None
    bounds: Bounds = Bounds()

    def __post_init__(self) -> None:
        for batch in (*self.sweep, *([] if self.batch is None else [self.batch])):
            if not 1 <= batch <= MAX_BATCH:
                raise InputError(f"batch is {batch}", hint=f"give 1 to {MAX_BATCH}")
        if len(set(self.sweep)) < len(self.sweep):
            raise InputError("a batch size is named twice", hint="name each once: --batch 1,2,4")
        if self.sweep and self.batch is not None:
            raise InputError("one batch size and a sweep", hint="give one of the two")
        timed = 0 <= self.warmup_s < math.inf and 0 < self.duration_s < math.inf
        if not timed or self.min_samples < 1:
            raise InputError(
                "warm-up, duration and samples must be positive and finite",
                hint="see bench --help",
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", hint="give 0 or more")
        self._require_sense()

    def _require_sense(self) -> None:
        """Refuse what is of range, but contradicts itself."""
        if self.cache not in CACHES:
            raise InputError(f"cache '{self.cache}' is unknown", hint=f"one of {', '.join(CACHES)}")
        name = self.scenario.name
        if self.cache == "flushed" and name in {OFFLINE, SERVER}:
            raise InputError(
                f"{name} leaves no time to flush the cache between queries",
                hint=f"flush it with --scenario {SINGLE_STREAM}",
            )
        largest = max((*self.sweep, self.batch or 1))
        if name == MULTI_STREAM and largest > self.scenario.images_per_query:
            raise InputError(
                f"a query holds {self.scenario.images_per_query} images, the batch is {largest}",
                hint="give a larger --streams, or a smaller --batch",
            )
        rate = self.scenario.rate_qps
        if rate is not None and self.min_samples / rate > _LONGEST_WAIT_S:
            raise InputError(
                f"{self.min_samples} queries at {rate:g} a second take "
                f"{self.min_samples / rate / 3600:.1f} hours",
                hint="give a higher --rate, or fewer --min-samples",
            )

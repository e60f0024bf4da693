"""What a run found: figures, and what they are worth."""

from __future__ import annotations

import dataclasses

from alexnet_edge.bench.inputs import SYNTHETIC
from alexnet_edge.runtimes.base import LayerTime

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latency of one query in milliseconds.

    Attributes:
        mean, p50, p90, p99: over all samples; percentiles interpolated linearly.
        basis: what the intervals take to be independent: `turns`, parts of them where these are
            few, or `samples`.
        ci95_p50, ci95_p90, ci95_p99: distribution-free 95 % confidence intervals; None where there
            are too few samples for one.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    ci95_p50: Interval
    ci95_p90: Interval | None = None
    ci95_p99: Interval | None = None
    basis: str = "samples"


@dataclasses.dataclass(frozen=True)
class Slices:
    """Figures of each turn that an engine had, in order; a comparison can resample them.

    Attributes:
        p50_ms, mean_ms: of the turn's queries.
        samples: how many.
        at_s: when the turn began, in seconds after the first.
    """

    p50_ms: tuple[float, ...] = ()
    mean_ms: tuple[float, ...] = ()
    samples: tuple[int, ...] = ()
    at_s: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How latencies are distributed: edges on a logarithmic scale, one more than counts."""

    edges_ms: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """How long an engine ran untimed, and whether its latency had settled then."""

    seconds: float
    stable: bool


@dataclasses.dataclass(frozen=True)
class Variation:
    """How steady the latencies were (of `server`, the service times); None of too few turns.

    Attributes:
        drift, variation, spread: as `Bounds` has them.
    """

    drift: float | None = None
    variation: float | None = None
    spread: float = 0.0


@dataclasses.dataclass(frozen=True)
class LayerShare:
    """What a layer took.

    Attributes:
        name, op: as the runtime names them.
        mean_us: of one inference.
        share: of all layers.
    """

    name: str
    op: str
    mean_us: float
    share: float

    @staticmethod
    def of(times: tuple[LayerTime, ...]) -> tuple[LayerShare, ...]:
        """Return layers with their shares."""
        total = sum(layer.mean_us for layer in times) or 1.0
        return tuple(
            LayerShare(layer.name, layer.op, layer.mean_us, layer.mean_us / total)
            for layer in times
        )


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least time that this machine's memory and arithmetic allow for one inference.

    Attributes:
        bytes: of weights, each read once.
        macs: multiply-accumulates.
        bandwidth_gb_s: of reading them.
        compute_gmac_s: that the layers' precisions allow, averaged over the MACs; None where it is
            not known and the floor is the bandwidth's alone.
        floor_ms: Σ over layers of the larger of bytes/bandwidth and MACs/rate.
        efficiency: floor of a query over the median of its latency, or of a server's service time.
        source: where bandwidth and rates are from.
    """

    bytes: int
    macs: int
    bandwidth_gb_s: float
    compute_gmac_s: float | None
    floor_ms: float
    efficiency: float
    source: str

    @property
    def is_measured(self) -> bool:
        """Whether it is this machine's at that time, and not what a profile says."""
        return self.source.startswith("measured")


@dataclasses.dataclass(frozen=True)
class EngineBench:
    """Figures of one engine at one batch size.

    Attributes:
        engine: its file.
        runtime, precision: what ran.
        batch: images per inference.
        latency_ms: of one query; of `server`, from its scheduled arrival.
        throughput_ips: images per second while it ran.
        samples: timed queries.
        size_bytes: of the engine's file.
        settings: of the runtime: provider, threads, transfers, spin-wait, CUDA graph.
        input: what was fed: `synthetic` (random of the input's type) or `images`.
        input_images, input_sha256: how many different images, and the hash of their contents.
        input_skipped: images that could not be read.
        depends_on_input: whether the latency does, because layers skip zeros.
        images_per_query: as many as were answered by one timed query.
        throughput_ci95_ips: 95 % confidence interval over the turns; None of fewer than three.
        slices, histogram, warmup, variation: see there.
        cache: `warm` or `flushed`.
        layers, layers_reason: of each layer, or why there are none.
        floor, floor_reason: the floor, or why there is none.
        energy_j_per_inference: joules; None where nothing measures power.
        queue_ms, service_ms: of `server`: the wait in the queue, and what came after it.
        utilization: of `server`: arrivals over what can be served.
        unserved: of `server`: queries that an overloaded engine did not get to.
        engine_sha256: of the engine's file.
        model_sha256: of the FP32 model it was made from.
        valid, invalid_because: whether the figures can be relied on, and if not, why.
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
    input: str = SYNTHETIC
    input_images: int = 0
    input_sha256: str | None = None
    input_skipped: tuple[str, ...] = ()
    depends_on_input: bool = False
    images_per_query: int = 1
    throughput_ci95_ips: Interval | None = None
    slices: Slices = Slices()
    histogram: Histogram = Histogram()
    warmup: WarmUp | None = None
    variation: Variation = Variation()
    cache: str = "warm"
    layers: tuple[LayerShare, ...] | None = None
    layers_reason: str | None = None
    floor: Floor | None = None
    floor_reason: str | None = None
    energy_j_per_inference: float | None = None
    queue_ms: Latency | None = None
    service_ms: Latency | None = None
    utilization: float | None = None
    unserved: int = 0
    engine_sha256: str | None = None
    model_sha256: str | None = None
    valid: bool = True
    invalid_because: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """Figures of all engines, where they were measured, and whether they can be relied on.

    Attributes:
        engines: one row for each engine and batch size.
        environment: the machine.
        scenario: what was measured and how, and of which images.
        sensors: clocks, temperature, throttling, power over the run.
        valid, invalid_because: of the run; all that any row is invalid for.
        kind: tells the result from other commands'.
    """

    engines: tuple[EngineBench, ...]
    environment: dict[str, object]
    scenario: dict[str, object]
    valid: bool = True
    invalid_because: tuple[str, ...] = ()
    sensors: dict[str, object] = dataclasses.field(default_factory=dict)
    kind: str = "bench"


@dataclasses.dataclass(frozen=True)
class BenchProgress:
    """How far a run is.

    Attributes:
        done_s, total_s: timed seconds, over all engines.
        stage: what is going on.
    """

    done_s: float
    total_s: float
    stage: str = "measuring"

"""The least time that an engine could take here, and how near it comes.

A layer takes at least as long as its weights take to be read, and as long as its products take to
be summed; the longer of the two, where both go on at once. (Williams, Waterman and Patterson,
"Roofline", 2009.) Activations are left out: they stay in caches.
"""

from __future__ import annotations

import dataclasses

from alexnet_edge.bench.caches import read_last_level_cache
from alexnet_edge.bench.contenders import Contender
from alexnet_edge.bench.results import EngineBench, Floor
from alexnet_edge.bench.roofline import measure_bandwidth, measure_compute
from alexnet_edge.bench.settings import BenchSettings
from alexnet_edge.bench.work import LayerWork, read_work
from alexnet_edge.engine.profile import load_profile
from alexnet_edge.errors import AlexnetEdgeError, InputError
from alexnet_edge.machine import usable_cores
from alexnet_edge.manifest import find_manifest

_BEYOND_CACHES = 8
"""So many times the last-level cache is read from memory alone."""

_FALLBACK_CACHE_BYTES, _MOST_BYTES = 64 << 20, 1 << 30


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What bounds an engine.

    Attributes:
        bandwidth: bytes a second.
        rates: precision to MACs a second, of those that are known.
        source: where they are from.
    """

    bandwidth: float
    rates: dict[str, float]
    source: str


def add_floor(row: EngineBench, contender: Contender, settings: BenchSettings) -> EngineBench:
    """Return a row with the engine's floor, or with why there is none."""
    try:
        work = read_work(contender.engine.info)
        limits = None if work.reason else _find_limits(contender, work.layers, settings)
    except AlexnetEdgeError as error:
        return dataclasses.replace(row, floor_reason=error.message)
    if limits is None:
        reason = work.reason or (
            "the memory bandwidth of this GPU is not known; a profile with it can be named "
            "(--profile-target)"
        )
        return dataclasses.replace(row, floor_reason=reason)
    seconds, computing = _sum_layers(work.layers, limits, len(contender.batch))
    # A query of several inferences reads the weights in each of them.
    query_s = sum(_sum_layers(work.layers, limits, images)[0] for images in contender.parts)
    latency = row.service_ms or row.latency_ms
    macs = sum(layer.macs for layer in work.layers) * len(contender.batch)
    floor = Floor(
        bytes=sum(layer.weight_bytes for layer in work.layers),
        macs=macs,
        bandwidth_gb_s=limits.bandwidth / 1e9,
        compute_gmac_s=macs / computing / 1e9 if computing else None,
        floor_ms=seconds * 1e3,
        efficiency=query_s * 1e3 / latency.p50,
        source=limits.source,
    )
    return dataclasses.replace(row, floor=floor, floor_reason=None)


def require_target(name: str) -> float:
    """Return the memory bandwidth of a profile in bytes a second.

    Raises:
        InputError: the profile is unknown, or names none.
    """
    profile = load_profile(name)
    if profile.memory_bandwidth_gbs is None:
        raise InputError(
            f"profile {name} names no memory bandwidth",
            hint="add memory_bandwidth_gbs to a profile of your own",
        )
    return profile.memory_bandwidth_gbs * 1e9


def _sum_layers(
    layers: tuple[LayerWork, ...], limits: _Limits, images: int
) -> tuple[float, float | None]:
    """Return the floor in seconds, and how much of it the products alone would take."""
    total = computing = 0.0
    known = all(layer.precision in limits.rates for layer in layers)
    for layer in layers:
        reading = layer.weight_bytes / limits.bandwidth
        rate = limits.rates.get(layer.precision)
        products = layer.macs * images / rate if rate else 0.0
        total += max(reading, products)
        computing += products
    return total, computing if known else None


def _find_limits(
    contender: Contender, layers: tuple[LayerWork, ...], settings: BenchSettings
) -> _Limits | None:
    """Return what bounds an engine; None for a GPU whose bandwidth nothing tells."""
    engine = contender.engine
    target = settings.target or _built_for(contender)
    if engine.on_gpu:
        if target is None or load_profile(target).memory_bandwidth_gbs is None:
            return None
        return _Limits(require_target(target), {}, f"profile {target}: bandwidth alone")
    threads = engine.describe().get("threads")
    threads = threads if isinstance(threads, int) else usable_cores()
    rates = {
        precision: rate
        for precision in {layer.precision for layer in layers}
        if (rate := measure_compute(precision, threads)) is not None
    }
    how = f"read by {threads} thread{'s' if threads > 1 else ''}"
    if settings.target is not None:
        source = f"profile {target}: bandwidth; convolutions measured, {threads} threads"
        return _Limits(require_target(settings.target), rates, source)
    size = sum(layer.weight_bytes for layer in layers)
    if settings.cache == "flushed":
        cache = read_last_level_cache()
        cache_bytes = cache.size_bytes if cache else _FALLBACK_CACHE_BYTES
        size = min(_BEYOND_CACHES * cache_bytes, max(_MOST_BYTES, 2 * cache_bytes))
        return _Limits(
            measure_bandwidth(size, threads), rates, f"measured: memory {how}, convolutions"
        )
    return _Limits(
        measure_bandwidth(size, threads), rates,
        f"measured: memory of the weights' size {how} over and over, convolutions",
    )  # fmt: skip


def _built_for(contender: Contender) -> str | None:
    """Return the profile that an engine was built for."""
    manifest = find_manifest(contender.engine.info.path)
    profile = manifest.options.get("profile") if manifest else None
    return str(profile) if profile else None

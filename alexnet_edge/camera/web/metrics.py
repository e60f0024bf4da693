"""The loop's counters for Prometheus, named as its conventions ask: base units, `_total`.

Every scrape reads one snapshot of the loop, so its figures belong together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from alexnet_edge.camera.frames import STAGES, LoopState, LoopStats
from alexnet_edge.camera.histogram import Histogram

BOUNDS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000)
"""Upper bounds of the buckets: two digits at most, which the loop's bins have exactly."""


@dataclasses.dataclass(frozen=True)
class Clients:
    """Who is being served.

    Attributes:
        connections: open ones, idle ones included.
        queued_bytes: what waits in this process for clients to read.
        streams: those that watch the picture.
        pictures: JPEGs that were made.
        slow: readers that were cut off because they did not read.
    """

    connections: int
    queued_bytes: int
    streams: int
    pictures: int
    slow: int


def render_metrics(stats: LoopStats, clients: Clients, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its content type, in the format that ``accept`` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(stats, clients))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Snapshot(Collector):
    def __init__(self, stats: LoopStats, clients: Clients) -> None:
        self._stats = stats
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        yield from _counters(self._stats)
        yield from _gauges(self._stats)
        yield from _histograms(self._stats)
        yield from _web(self._clients)


def _counters(stats: LoopStats) -> Iterator[Metric]:
    for name, text, value in (
        ("frames_captured", "Frames that the source delivered.", stats.captured),
        ("frames_answered", "Frames that the engine answered.", stats.answered),
        ("frames_dropped", "Frames that a newer one replaced before an answer.", stats.dropped),
        ("frames_corrupt", "Frames or packets that could not be decoded.", stats.corrupt),
        ("source_reconnects", "Times that the source was opened again.", stats.reconnects),
    ):
        yield CounterMetricFamily(f"alexnet_edge_{name}", text, value)


def _gauges(stats: LoopStats) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "alexnet_edge_state", "1 for the state that the loop is in.", labels=["state"]
    )
    for name in get_args(LoopState):
        state.add_metric([name], float(name == stats.state))
    yield state
    info = GaugeMetricFamily(
        "alexnet_edge_engine_info", "1; the labels say what runs.", labels=["engine", "source"]
    )
    info.add_metric([_valid(stats.engine), _valid(stats.source)], 1)
    yield info
    yield GaugeMetricFamily(
        "alexnet_edge_frame_rate_hertz", "Answers a second, over the last seconds.", stats.fps
    )
    yield GaugeMetricFamily(
        "alexnet_edge_uptime_seconds", "Since the loop was started.", stats.uptime_s
    )
    yield GaugeMetricFamily(
        "alexnet_edge_resident_memory_bytes", "Resident memory of the process.", stats.rss_bytes
    )
    if stats.last_answer is not None:
        yield GaugeMetricFamily(
            "alexnet_edge_last_frame_timestamp_seconds",
            "Unix time at which the last answered frame was captured.",
            stats.last_answer.frame.wall_time,
        )


def _histograms(stats: LoopStats) -> Iterator[Metric]:
    age = HistogramMetricFamily(
        "alexnet_edge_frame_age_seconds", "From a frame's capture to its answer."
    )
    age.add_metric([], *_buckets(stats.histograms["age"]))
    yield age
    stages = HistogramMetricFamily(
        "alexnet_edge_stage_duration_seconds", "Time that a stage took.", labels=["stage"]
    )
    for stage in STAGES:
        stages.add_metric([stage], *_buckets(stats.histograms[stage]))
    yield stages


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets = [(str(ms / 1000), float(histogram.count_up_to(ms))) for ms in BOUNDS_MS]
    return [*buckets, ("+Inf", float(histogram.count))], histogram.total_ms / 1000


def _web(clients: Clients) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "alexnet_edge_web_connections", "Open connections.", clients.connections
    )
    yield GaugeMetricFamily(
        "alexnet_edge_web_queued_bytes", "What waits for clients to read.", clients.queued_bytes
    )
    yield GaugeMetricFamily(
        "alexnet_edge_web_streams", "Clients that watch the picture.", clients.streams
    )
    yield CounterMetricFamily(
        "alexnet_edge_web_pictures", "JPEGs that were made.", clients.pictures
    )
    yield CounterMetricFamily(
        "alexnet_edge_web_slow_clients", "Clients cut off for not reading.", clients.slow
    )


def _valid(text: str) -> str:
    """Return a label's value; names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()

"""Figures of a bench row and of a camera's run, each with the best interval that its file supports.

Turns say how the machine varied while it was measured, so they come first; order statistics of
the samples take these as independent and come second.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_edge.results_files.camera import AGE, CameraRow
from alexnet_edge.results_files.intervals import (
    FEWEST_TURNS,
    Estimate,
    Z,
    bootstrap_mean,
    bootstrap_median,
    exact,
    proportion,
)
from alexnet_edge.results_files.rows import BenchRow

BENCH_FIGURES = ("p50", "p90", "p99", "mean", "throughput", "size", "energy")


def estimate(row: BenchRow, figure: str) -> Estimate | None:
    """Return a figure of a row: milliseconds, images per second, bytes, joules.

    Returns:
        None where the file does not have it.
    """
    if figure == "size":
        return exact(row.size_bytes)
    if figure == "energy":
        return None if row.energy_j is None else Estimate(row.energy_j)
    if figure == "throughput":
        return _throughput(row)
    if figure == "mean":
        return _mean(row)
    if figure == "p50" and (turns := _turns(row)):
        return bootstrap_median(
            row.latency_ms("p50"), turns["p50_ms"], turns["samples"], _density(row)
        )
    basis = "turns" if row.raw["latency_ms"].get("basis") == "turns" else "samples"
    return _stated(row.latency_ms(figure), row.latency_interval(figure), basis)


def camera_fps(row: CameraRow) -> Estimate:
    """Return the answers a second of a run."""
    turns = _camera_turns(row.sampling(AGE))
    if turns is None or row.fps <= 0:
        return Estimate(row.fps)
    pairs = zip(turns["samples"], turns["seconds"], strict=True)
    return bootstrap_mean(row.fps, [count / seconds for count, seconds in pairs], turns["seconds"])


def camera_time(row: CameraRow, name: str, figure: str) -> Estimate | None:
    """Return `p50`, `p90`, `p99` or `mean` of `age` or a stage, in milliseconds.

    Returns:
        None where the file does not have it.
    """
    value = row.time_ms(name, figure)
    if value is None:
        return None
    sampling = row.sampling(name)
    if figure != "mean":
        basis = "turns" if sampling.get("basis") == "turns" else "samples"
        return _stated(value, row.interval_ms(name, figure), basis)
    turns = _camera_turns(sampling)
    if turns is None or value <= 0:
        return Estimate(value)
    return bootstrap_mean(value, turns["mean_ms"], turns["samples"])


def camera_dropped(row: CameraRow) -> Estimate | None:
    """Return the share of the captured frames that was dropped; None where nothing is known.

    Frames are dropped in bursts, which their counts say nothing of: a source that delivers evenly
    drops what is not answered, so turns tell of the one as of the other. The wider of both.
    """
    captured, dropped = row.frames("captured"), row.frames("dropped")
    if not captured or dropped is None or dropped > captured:
        return None
    counted = dataclasses.replace(proportion(dropped, captured), basis="frames")
    fps = camera_fps(row)
    if fps.low is None or fps.high is None or counted.low is None or counted.high is None:
        return counted
    up, down = (end / fps.value - 1 for end in (fps.high, fps.low))
    answered = 1 - counted.value
    return Estimate(
        counted.value,
        max(0.0, min(counted.low, counted.value - up * answered)),
        min(1.0, max(counted.high, counted.value - down * answered)),
        "turns",
    )


def _camera_turns(sampling: Mapping[str, Any]) -> Mapping[str, Any] | None:
    turns = sampling.get("slices") or {}
    if len(turns.get("seconds") or []) < FEWEST_TURNS:
        return None
    if min(min(turns[key]) for key in ("seconds", "samples", "mean_ms")) <= 0:
        return None
    return dict(turns)


def _stated(value: float, interval: tuple[float, float] | None, basis: str) -> Estimate:
    if interval is None:
        return Estimate(value)
    return Estimate(value, min(interval[0], value), max(interval[1], value), basis)


def _turns(row: BenchRow) -> dict[str, Any] | None:
    slices = row.raw.get("slices") or {}
    if len(slices.get("p50_ms") or []) < FEWEST_TURNS:
        return None
    if min(*slices["p50_ms"], *slices["mean_ms"], *slices["samples"]) <= 0:
        return None
    return dict(slices)


def _mean(row: BenchRow) -> Estimate:
    value = row.latency_ms("mean")
    turns = _turns(row)
    if turns is None:
        return Estimate(value)
    return bootstrap_mean(value, turns["mean_ms"], turns["samples"])


def _throughput(row: BenchRow) -> Estimate:
    """In a closed loop throughput is the mean latency's inverse; elsewhere bench states it."""
    closed = row.scenario.get("loop", "closed") == "closed"
    mean = _mean(row)
    value = row.throughput_ips
    if closed and mean.low and mean.high:
        return Estimate(
            value, value * mean.value / mean.high, value * mean.value / mean.low, mean.basis
        )
    return _stated(value, row.throughput_interval, "turns")


def _density(row: BenchRow) -> float:
    """Return the density of the logarithm of the latencies at their median.

    From the middle half of the histogram, which a cluster of equal turns does not upset; without
    one, from how near the bounds of the median's interval are.
    """
    histogram = row.raw.get("histogram") or {}
    counts = np.asarray(histogram.get("counts") or [], np.float64)
    if counts.sum() > 0 and min(histogram["edges_ms"]) > 0:
        edges = np.log(np.asarray(histogram["edges_ms"], np.float64))
        reached = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
        low, high = np.interp((0.25, 0.75), reached, edges)
        return 0.5 / float(high - low) if high > low else math.inf
    interval = row.latency_interval("p50")
    if interval is None or not 0 < interval[0] < interval[1]:
        return math.inf
    return Z / (math.log(interval[1] / interval[0]) * math.sqrt(row.samples))

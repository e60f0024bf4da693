"""A run of the loop as JSON values, which `report` and `compare` read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.camera.frames import LoopStats
from alexnet_edge.camera.histogram import Histogram, Percentiles
from alexnet_edge.camera.loop import LoopOptions, LoopResult
from alexnet_edge.camera.sources import parse_source
from alexnet_edge.classifier import Classifier
from alexnet_edge.errors import InputError
from alexnet_edge.machine import environment


def describe_run(
    classifier: Classifier, options: LoopOptions, result: LoopResult
) -> dict[str, Any]:
    """Return the figures of a run, what ran, and where."""
    info, stats = classifier.info, result.stats
    settings = dataclasses.asdict(options)
    return {
        "kind": "camera",
        "engine": str(info.path),
        "runtime": info.runtime,
        "precision": info.precision,
        "source": stats.source,
        "source_settings": _describe_source(stats),
        "seconds": round(result.seconds, 3),
        "frames": {
            "captured": stats.captured,
            "answered": stats.answered,
            "dropped": stats.dropped,
            "corrupt": stats.corrupt,
        },
        "fps": round(result.fps, 3),
        "frame_age_ms": _describe(result.age_ms),
        "stages_ms": {name: _describe(times) for name, times in result.stages_ms.items()},
        "sampling": {name: _describe_sampling(times) for name, times in stats.histograms.items()},
        "cpu_percent": round(result.cpu_percent, 1),
        "rss_bytes": stats.rss_bytes,
        "reconnects": stats.reconnects,
        "ended": result.reason,
        "failed_outputs": dict(result.failed_sinks),
        "environment": environment(),
        "engine_sha256": sha256_file(info.path),
        "model_sha256": info.model_sha256,
        "settings": {
            **{key: value for key, value in settings.items() if key != "capture"},
            **settings["capture"],
            **classifier.describe(),
            "preprocess": classifier.spec.to_dict(),
        },
    }


def _describe(times: Percentiles) -> dict[str, float]:
    return {name: round(getattr(times, name), 4) for name in ("mean", "p50", "p90", "p99")}


def _describe_sampling(times: Histogram) -> dict[str, Any]:
    """Return what tells how sure the percentiles of a stage, or of the age, are."""
    intervals = {f"ci95_p{at}": times.quantile_interval(at / 100) for at in (50, 90, 99)}
    turns = times.turns
    return {
        "samples": times.count,
        "basis": "turns" if turns.suffice else "samples",
        **{name: pair and _round(pair) for name, pair in intervals.items()},
        "slices": {
            "seconds": _round(turns.seconds),
            "samples": turns.samples.tolist(),
            "mean_ms": _round(np.asarray(turns.total_ms) / turns.samples),
        },
    }


def _describe_source(stats: LoopStats) -> dict[str, Any] | None:
    """Return what a source's figures depend on; None where its file is gone meanwhile."""
    try:
        name = parse_source(stats.source)
    except InputError:
        return None
    on_disk = name.kind in {"video", "folder", "raw"}
    size = None
    # Images of a folder may have any size; the last one's says nothing of the others.
    if stats.last_answer is not None and name.kind != "folder":
        height, width = stats.last_answer.frame.pixels.shape[:2]
        size = [width, height]
    return {
        "kind": name.kind,
        "location": PurePath(name.location).name if on_disk else name.location,
        "options": dict(name.options),
        "frame_size": size,
    }


def _round(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]

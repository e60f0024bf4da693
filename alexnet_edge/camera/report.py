"""A run of the loop as JSON values, which `report` and `compare` read."""

from __future__ import annotations

import dataclasses
from typing import Any

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.camera.histogram import Percentiles
from alexnet_edge.camera.loop import LoopOptions, LoopResult
from alexnet_edge.classifier import Classifier
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

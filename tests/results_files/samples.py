"""Results as bench and parity write them, from latencies that are drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MACHINE = {
    "date": "2026-03-01T10:00:00+00:00", "cpu": "Test CPU", "cores": 4, "board": None, "gpus": [],
    "os": "Linux", "python": "3.11.7", "load_1min": 0.2, "packages": {"onnxruntime": "1.20.0"},
}  # fmt: skip
SCENARIO = {"name": "single-stream", "loop": "closed", "timed": "infer, host to host"}


def minimal_row(engine="alexnet.int8.onnx", precision="int8", batch=1, p50=10.0) -> dict[str, Any]:
    """What the design documents, and no more: as older versions wrote it."""
    return {
        "engine": engine, "runtime": "onnxruntime", "precision": precision, "batch": batch,
        "latency_ms": {"mean": 1.05 * p50, "p50": p50, "p90": 1.2 * p50, "p99": 1.5 * p50,
                       "ci95_p50": [0.99 * p50, 1.01 * p50]},
        "throughput_ips": batch * 1e3 / (1.05 * p50), "samples": 400, "size_bytes": 58_000_000,
    }  # fmt: skip


def full_row(
    engine="alexnet.int8.onnx",
    precision="int8",
    batch=1,
    p50=10.0,
    *,
    seed=0,
    turns=20,
    spread=0.05,
) -> dict[str, Any]:
    """With all that newer versions add."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, spread / 2, (turns, 1))
    samples = p50 * np.exp(drift + rng.normal(0, spread, (turns, 30)))
    ordered = np.sort(samples.ravel())
    edges = np.geomspace(ordered[0], ordered[-1], 21)
    edges[-1] = ordered[-1]
    quantiles = {f"p{q}": float(np.percentile(ordered, q)) for q in (50, 90, 99)}
    row = minimal_row(engine, precision, batch)
    return row | {
        "latency_ms": {
            "mean": float(samples.mean()), **quantiles,
            **{f"ci95_{name}": [0.98 * value, 1.02 * value] for name, value in quantiles.items()},
        },
        "throughput_ips": batch * 1e3 / float(samples.mean()),
        "samples": samples.size,
        "size_bytes": 233_000_000 if precision == "fp32" else 58_000_000,
        "settings": {"provider": "CPUExecutionProvider", "threads": 4},
        "input": "images",
        "input_images": 32,
        "input_sha256": "d" * 64,
        "cache": "warm",
        "slices": {
            "p50_ms": np.median(samples, axis=1).tolist(), "mean_ms": samples.mean(axis=1).tolist(),
            "samples": [30] * turns, "at_s": [0.5 * at for at in range(turns)],
        },
        "histogram": {"edges_ms": edges.tolist(),
                      "counts": np.histogram(ordered, edges)[0].tolist()},
        "layers": [{"name": f"features.{at}", "op": "Conv", "mean_us": 100.0 * (at + 1),
                    "share": 0.25} for at in range(4)],
        "floor": {"bytes": 58_000_000, "macs": 10**9, "bandwidth_gb_s": 20.0,
                  "compute_gmac_s": 200.0, "floor_ms": 5.0, "efficiency": 5.0 / p50,
                  "source": "measured"},
        "energy_j_per_inference": 0.08 if precision == "int8" else 0.2,
        "model_sha256": "a" * 64,
        "valid": True,
        "invalid_because": [],
    }  # fmt: skip


def bench(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A result of bench."""
    result = {"kind": "bench", "engines": list(rows), "environment": MACHINE, "scenario": SCENARIO}
    return result | changes


def parity(**changes: Any) -> dict[str, Any]:
    """A result of parity: 400 labelled images, 3 broken and 1 fixed."""
    flips = [("broken", at) for at in range(3)] + [("fixed", 3)]
    result = {
        "kind": "parity", "images": 400, "labelled": 400,
        "reference": {"top1": 0.95, "top5": 1.0}, "engine": {"top1": 0.945, "top5": 1.0},
        "agreement": 0.99, "sqnr_db": 42.5, "logit_sqnr_db": 40.25, "max_abs": 0.125,
        "drop_pp": 0.5, "drop_ci95_pp": [-0.5, 1.75], "flips": {"broken": 3, "fixed": 1},
        "mcnemar_p": 0.625, "margin_pp": 1.0, "verdict": "inconclusive",
        "per_class": [{"class": str(at), "images": 40, "reference_top1": 0.95,
                       "engine_top1": 0.9 if at == 3 else 0.95, "drop_pp": 5.0 if at == 3 else 0.0,
                       "fixed": 0, "broken": 2 if at == 3 else 0} for at in range(10)],
        "flipped": [{"image": f"3/{at}.png", "label": "3", "reference": "3", "engine": "5",
                     "kind": kind, "confidence": 0.5, "reference_confidence": 0.625}
                    for kind, at in flips],
        "worst": [{"image": f"3/{at}.png", "max_abs": 0.125 - at / 100} for at in range(3)],
        "layers": [{"name": f"features.{at}", "sqnr_db": 50.0 - at} for at in range(4)],
        "divergence": {"first": "engine", "images": 8, "stages": [
            {"name": "Q/DQ graph", "compared_with": "FP32 ONNX", "max_abs": 0.001, "sqnr_db": 48.5,
             "tolerance": "at least 20 dB", "within": True, "reason": "rounding"},
            {"name": "engine", "compared_with": "Q/DQ graph", "max_abs": 0.5, "sqnr_db": 12.0,
             "tolerance": "at least 25 dB", "within": False, "reason": "sums in other order"}]},
        "engine_path": "out/alexnet.int8.onnx", "reference_path": "alexnet.onnx",
        "images_name": "val", "images_sha256": "b" * 64,
    }  # fmt: skip
    return result | changes


def camera(**changes: Any) -> dict[str, Any]:
    """A result of the camera."""
    times = {"p50": 4.0, "p90": 5.0, "p99": 9.0, "mean": 4.25}
    result = {
        "kind": "camera", "engine": "alexnet.int8.onnx", "runtime": "onnxruntime",
        "precision": "int8", "source": "video.mp4", "seconds": 12.5,
        "frames": {"captured": 300, "answered": 280, "dropped": 20, "corrupt": 0}, "fps": 22.4,
        "frame_age_ms": {"mean": 41.0, "p50": 39.5, "p90": 52.0, "p99": 77.5},
        "stages_ms": dict.fromkeys(("capture", "preprocess", "inference", "output"), times),
        "cpu_percent": 180.5, "rss_bytes": 420_000_000, "reconnects": 0, "environment": MACHINE,
    }  # fmt: skip
    return result | changes


def pareto() -> dict[str, Any]:
    """A result of pareto."""
    points = [
        ("fp32", 233_000_000, 50.0, 0.95, True), ("int8", 58_000_000, 15.0, 0.945, True),
        ("minmax", 58_000_000, 15.5, 0.93, False),
    ]  # fmt: skip
    return {"kind": "pareto", "points": [
        {"name": name, "size_bytes": size, "latency_ms": {"1": p50, "8": 6 * p50}, "top1": top1,
         "agreement": 0.99, "logit_sqnr_db": 40.0, "on_front": front}
        for name, size, p50, top1, front in points
    ]}  # fmt: skip


def write(path: Path, value: Any) -> Path:
    """Write a result and return where."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path

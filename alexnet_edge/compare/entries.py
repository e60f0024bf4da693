"""A result as a line of the history."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from alexnet_edge.compare.kinds import require_kinds
from alexnet_edge.results_files import (
    BenchRow,
    CameraRow,
    HistoryEntry,
    ParityRow,
    bench_rows,
    camera_rows,
    parity_rows,
    read_results,
)
from alexnet_edge.results_files.camera import AGE, PERCENTILES
from alexnet_edge.results_files.estimates import camera_fps, camera_time
from alexnet_edge.results_files.reading import BENCH, CAMERA


def describe_run(path: Path) -> HistoryEntry:
    """Return a result's figures as a line of the history.

    Raises:
        InputError: it is of no kind that is compared.
    """
    file = read_results(path)
    require_kinds([file])
    environment = file.data.get("environment") or {}
    if file.kind == BENCH:
        rows = [_bench_figures(row) for row in bench_rows(file)]
    elif file.kind == CAMERA:
        rows = [_camera_figures(row) for row in camera_rows(file)]
    else:
        rows = [_parity_figures(row) for row in parity_rows(file)]
        environment = parity_rows(file)[0].raw.get("environment") or environment if rows else {}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return HistoryEntry(
        date=str(environment.get("date") or now),
        source=file.name,
        sha256=file.sha256,
        kind=file.kind,
        machine={
            "cpu": environment.get("cpu"),
            "cores": environment.get("cores"),
            "board": environment.get("board"),
            "gpus": [gpu.get("name") for gpu in environment.get("gpus") or []],
        },
        rows=tuple(rows),
    )


def _bench_figures(row: BenchRow) -> dict[str, Any]:
    intervals = {"p50_ms": row.latency_interval("p50")}
    return {
        "label": row.label,
        "engine": row.engine,
        "runtime": row.runtime,
        "precision": row.precision,
        "batch": row.batch,
        "scenario": row.scenario.get("name"),
        "cache": row.cache,
        "model_sha256": row.raw.get("model_sha256"),
        "valid": row.raw.get("valid", True),
        "figures": {
            **{f"{name}_ms": row.latency_ms(name) for name in ("p50", "p90", "p99", "mean")},
            "throughput_ips": row.throughput_ips,
            "size_bytes": row.size_bytes,
            "energy_j_per_inference": row.energy_j,
        },
        "ci95": {name: interval for name, interval in intervals.items() if interval},
    }


def _parity_figures(row: ParityRow) -> dict[str, Any]:
    raw = row.raw
    return {
        "label": row.label,
        "engine": row.engine,
        "images_sha256": raw.get("images_sha256"),
        "verdict": raw["verdict"],
        "figures": {
            "top1": row.accuracy("engine"),
            "drop_pp": raw.get("drop_pp"),
            "agreement": raw["agreement"],
            "logit_sqnr_db": raw.get("logit_sqnr_db"),
        },
        "ci95": {"drop_pp": row.drop_interval_pp} if row.drop_interval_pp else {},
    }


def _camera_figures(row: CameraRow) -> dict[str, Any]:
    fps, age = camera_fps(row), camera_time(row, AGE, "p50")
    intervals = {"fps": fps, "age_p50_ms": age}
    return {
        "label": row.label,
        "engine": row.engine,
        "runtime": row.raw.get("runtime"),
        "precision": row.raw.get("precision"),
        "source": row.source,
        "throughput": row.throughput,
        "model_sha256": row.raw.get("model_sha256"),
        "valid": not row.invalid_because,
        "figures": {
            "fps": row.fps,
            **{f"age_{name}_ms": row.time_ms(AGE, name) for name in PERCENTILES},
            "cpu_percent": row.raw.get("cpu_percent"),
            "rss_bytes": row.raw.get("rss_bytes"),
        },
        "ci95": {name: (it.low, it.high) for name, it in intervals.items() if it and it.known},
    }

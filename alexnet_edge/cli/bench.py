"""`alexnet-edge bench`: latency and throughput, engines interleaved."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_edge.cli._shared import (
    DeviceOption,
    JsonOption,
    Output,
    ThreadsOption,
    new_table,
    progress_bar,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Latency and throughput, side by side.")(bench)


def bench(
    engines: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ENGINE", help="Engines (default: all in this folder)."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per inference (default: 1, or the fixed one).")
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.01, help="Seconds of timed inferences, for each engine.")
    ] = 3.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of untimed ones before.")] = 0.5,
    min_samples: Annotated[int, typer.Option(min=1, help="Least timed inferences.")] = 50,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Measure latency and throughput; several engines take turns in one run.

    Example: alexnet-edge bench alexnet.fp32.onnx alexnet.int8.onnx
    """
    from alexnet_edge.bench import BenchSettings
    from alexnet_edge.bench import bench as run
    from alexnet_edge.runtimes.base import RuntimeOptions
    from alexnet_edge.runtimes.loader import open_engine

    output = Output(json)
    settings = BenchSettings(
        batch=batch, warmup_s=warmup, duration_s=duration, min_samples=min_samples
    )
    paths = engines or _find_engines(output)
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(open_engine(path, RuntimeOptions(device, threads)))
            for path in paths
        ]
        with progress_bar("measuring") as update:
            result = run(
                opened, settings,
                on_progress=lambda at: update(at.done_s, at.total_s, f"{at.done_s:.0f} s"),
            )  # fmt: skip
    show_latencies(output, result)
    output.finish(result)


def show_latencies(output: Output, result: Any) -> None:
    """Print a row per engine."""
    table = new_table(
        "engine", "precision", "batch", "p50 ms", "95 % interval", "p90 ms", "p99 ms", "images/s",
        "MB",
    )  # fmt: skip
    for row in result.engines:
        latency = row.latency_ms
        table.add_row(
            Path(row.engine).name, row.precision, str(row.batch), f"{latency.p50:.2f}",
            f"{latency.ci95_p50[0]:.2f}–{latency.ci95_p50[1]:.2f}", f"{latency.p90:.2f}",
            f"{latency.p99:.2f}", f"{row.throughput_ips:.1f}", f"{row.size_bytes / 1e6:.1f}",
        )  # fmt: skip
    output.show(table)
    where = result.environment
    output.say(
        f"{where['cpu']}, {where['cores']} cores, load {where['load_1min']}; closed loop, "
        f"{'interleaved, ' if len(result.engines) > 1 else ''}synthetic input"
    )


def _find_engines(output: Output) -> list[Path]:
    """Return the engines in this folder that run here; say which do not, and why."""
    from alexnet_edge.errors import InputError
    from alexnet_edge.manifest import read_manifest
    from alexnet_edge.runtimes.loader import availability

    found = []
    for path in sorted(Path.cwd().glob("*.json")):
        engine = Path(path.stem)
        if not engine.is_file() or b'"engine_sha256"' not in path.read_bytes():
            continue
        runtime = availability(read_manifest(path).runtime)
        if runtime.runs:
            found.append(engine)
        else:
            output.say(f"left out {engine}: {runtime.runtime}: {runtime.reason}")
    if not found:
        raise InputError(
            "this folder holds no engine that runs here",
            hint="build one with: alexnet-edge build MODEL.onnx, or name one",
        )
    return found

"""`alexnet-edge bench`: latency and throughput, engines interleaved."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._shared import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    Output,
    ThreadsOption,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.bench import BenchResult, BenchSettings, EngineBench
    from alexnet_edge.runtimes.base import RuntimeOptions

_SLOWEST_LAYERS = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Latency and throughput, side by side.")(bench)


def parse_batches(text: str | None) -> tuple[int, ...]:
    """Return the batch sizes of `1` or `1,2,4`; none of None."""
    if text is None:
        return ()
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise typer.BadParameter(f"'{text}' is no batch size above 0, nor several like 1,2,4")
    return batches


def bench(
    engines: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ENGINE", help="Engines (default: all in this folder)."),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N…]",
            help="Images per inference, several for a sweep (default: 1, or the fixed one).",
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.01, help="Seconds of timed inferences, for each engine.")
    ] = 3.0,
    warmup: Annotated[
        float, typer.Option(min=0, help="Seconds of untimed ones before; more until stable.")
    ] = 0.5,
    min_samples: Annotated[int, typer.Option(min=1, help="Least timed inferences.")] = 50,
    scenario: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="single-stream, multi-stream, offline or server (Poisson arrivals at --rate).",
        ),
    ] = "single-stream",
    rate: Annotated[
        float | None, typer.Option(metavar="QPS", help="Arrivals per second, of server.")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images per query, of multi-stream (default: 8)."),
    ] = None,
    images: ImagesOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the input and the arrivals.")] = 0,
    cache: Annotated[
        str,
        typer.Option(metavar="STATE", help="warm, or flushed: caches emptied before each query."),
    ] = "warm",
    profile: Annotated[bool, typer.Option("--profile", help="Time every layer as well.")] = False,
    floor: Annotated[
        bool, typer.Option(help="Measure what this machine could do at best, and compare.")
    ] = True,
    profile_target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Engine profile whose memory bandwidth the floor is made of."
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    contexts: Annotated[
        int,
        typer.Option(min=1, help="Callers at a time, of TensorRT or a CPU; for offline, server."),
    ] = 1,
    cuda_graph: Annotated[
        str, typer.Option(metavar="STATE", help="auto, on or off, of TensorRT.")
    ] = "auto",
    zero_copy: Annotated[
        bool | None,
        typer.Option(help="TensorRT works in host memory (default: where the GPU shares it)."),
    ] = None,
    spin: Annotated[
        bool,
        typer.Option(
            help="ONNX Runtime's threads spin between inferences: quicker for one engine alone."
        ),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Measure latency and throughput; several engines take turns in one run.

    A run that throttled, drifted or was disturbed is marked invalid, with the reason.

    Example: alexnet-edge bench alexnet.fp32.onnx alexnet.int8.onnx
    """
    from alexnet_edge.bench import BenchSettings, Scenario
    from alexnet_edge.errors import InputError
    from alexnet_edge.runtimes.base import RuntimeOptions

    batches = parse_batches(batch)
    if streams is not None and scenario != "multi-stream":
        raise InputError(f"--streams is not for {scenario}", hint="use --scenario multi-stream")
    settings = BenchSettings(
        batch=batches[0] if len(batches) == 1 else None,
        warmup_s=warmup,
        duration_s=duration,
        min_samples=min_samples,
        seed=seed,
        scenario=Scenario(scenario, rate, streams or 8),
        sweep=batches if len(batches) > 1 else (),
        cache=cache,
        layers=profile,
        floor=floor,
        target=profile_target,
    )
    options = RuntimeOptions(
        device, threads, contexts=contexts, cuda_graph=cuda_graph, zero_copy=zero_copy, spin=spin
    )
    output = Output(json, *engines or ())
    result = _measure(engines or _find_engines(output), options, settings, images)
    _show(output, result)
    output.finish(result)


def _measure(
    paths: Sequence[Path], options: RuntimeOptions, settings: BenchSettings, images: str | None
) -> BenchResult:
    from alexnet_edge.bench import Inputs
    from alexnet_edge.bench import bench as run
    from alexnet_edge.dataset import open_images
    from alexnet_edge.runtimes.loader import open_engine

    inputs = Inputs(None if images is None else open_images(images), settings.seed)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_engine(path, options)) for path in paths]
        with progress_bar("bench") as update:
            return run(
                opened, settings, inputs=inputs,
                on_progress=lambda at: update(
                    at.done_s, at.total_s, f"{at.done_s:.0f} of {at.total_s:.0f} s, {at.stage}"
                ),
            )  # fmt: skip


def _show(output: Output, result: BenchResult) -> None:
    """Print a row per engine and batch, what the scenario adds, and what is invalid."""
    _show_latencies(output, result)
    if any(row.queue_ms for row in result.engines):
        _show_queues(output, result)
    for row in result.engines:
        if row.layers:
            _show_layers(output, row, _names(result)[row.engine])
    where = result.environment
    scenario = result.scenario
    output.say(
        f"{where['cpu']}, {where['cores']} cores, load {where['load_1min']}; "
        f"{_describe_threads(result)}"
        f"{scenario['name']}, {scenario['loop']} loop, {scenario['cache']} cache, "
        f"{'interleaved, ' if scenario['interleaved'] else ''}{_describe_input(result)}"
    )
    _show_missing(output, result)
    if not result.valid:
        output.say("warning: INVALID, these figures cannot be relied on:")
        for reason in result.invalid_because:
            output.say(f"  {reason}")


def _describe_input(result: BenchResult) -> str:
    """Return what engines were fed, and of which that tells little."""
    row = result.engines[0]
    if row.input_images:
        count = "1 image" if row.input_images == 1 else f"{row.input_images} images"
        said = f"{count} of {result.scenario['images_name']}"
        skipped = ", ".join(row.input_skipped)
        return f"{said}, without {skipped}, which cannot be read" if skipped else said
    names = _names(result)
    skipping = {names[row.engine] for row in result.engines if row.depends_on_input}
    if not skipping:
        return "synthetic input"
    return (
        f"synthetic input; {', '.join(sorted(skipping))} skips zeros, and takes another time on "
        "images: --images DIR"
    )


def _describe_threads(result: BenchResult) -> str:
    """Return how many threads answer an inference; several contexts share the cores."""
    counts = {row.settings.get("threads") for row in result.engines} - {None}
    return "".join(f"{'1 thread' if count == 1 else f'{count} threads'}, " for count in counts)


def _names(result: BenchResult) -> dict[str, str]:
    from alexnet_edge.naming import short_names

    return short_names(row.engine for row in result.engines)


def _show_missing(output: Output, result: BenchResult) -> None:
    """Say what was asked for and could not be had."""
    said = [f"no floor: {row.floor_reason}" for row in result.engines if row.floor_reason]
    if not result.scenario["floor"]:
        said = []
    said += [f"no layers: {row.layers_reason}" for row in result.engines if row.layers_reason]
    for line in dict.fromkeys(said):
        output.say(line)


def _show_latencies(output: Output, result: BenchResult) -> None:
    columns = [
        "engine", "precision", "batch", "p50 ms", "95 % interval", "p90 ms", "p99 ms", "images/s",
        "MB",
    ]  # fmt: skip
    has_floor = any(row.floor for row in result.engines)
    has_energy = any(row.energy_j_per_inference for row in result.engines)
    columns += ["floor ms", "of floor"] * has_floor + ["mJ"] * has_energy
    table = new_table(*columns, "valid")
    names = _names(result)
    for row in result.engines:
        latency, energy = row.latency_ms, row.energy_j_per_inference
        cells = [
            names[row.engine], row.precision, str(row.batch), _digits(latency.p50),
            f"{_digits(latency.ci95_p50[0])}–{_digits(latency.ci95_p50[1])}", _digits(latency.p90),
            _digits(latency.p99), f"{row.throughput_ips:.1f}", f"{row.size_bytes / 1e6:.1f}",
        ]  # fmt: skip
        if has_floor:
            cells += _floor_cells(row)
        if has_energy:
            cells.append(f"{energy * 1e3:.1f}" if energy else "–")
        table.add_row(*cells, "yes" if row.valid else "INVALID")
    output.show(table)


def _floor_cells(row: EngineBench) -> list[str]:
    """Return the floor of a query, which may be several inferences, and the share that it is."""
    if row.floor is None:
        return ["–", "–"]
    share = row.floor.efficiency
    return [_digits(share * (row.service_ms or row.latency_ms).p50), f"{share:.0%}"]


def _show_queues(output: Output, result: BenchResult) -> None:
    """Print how the latencies of a server are made up."""
    table = new_table(
        "engine", "queue p50 ms", "p99 ms", "service p50 ms", "p99 ms", "utilization", "unserved"
    )
    names = _names(result)
    for row in result.engines:
        if row.queue_ms is None or row.service_ms is None:
            continue
        queue, service = row.queue_ms, row.service_ms
        table.add_row(
            names[row.engine], _digits(queue.p50), _digits(queue.p99), _digits(service.p50),
            _digits(service.p99), "–" if row.utilization is None else f"{row.utilization:.0%}",
            str(row.unserved),
        )  # fmt: skip
    output.show(table)


def _show_layers(output: Output, row: EngineBench, name: str) -> None:
    """Print the layers that take longest."""
    layers = sorted(row.layers or (), key=lambda layer: -layer.mean_us)
    table = new_table(f"{name} at batch {row.batch}: slowest layers", "op", "µs", "share")
    for layer in layers[:_SLOWEST_LAYERS]:
        table.add_row(layer.name, layer.op, f"{layer.mean_us:.0f}", f"{layer.share:.1%}")
    output.show(table)


def _digits(milliseconds: float) -> str:
    """Return a time with two digits after the point, more where it is short."""
    return f"{milliseconds:.2f}" if milliseconds >= 1 else f"{milliseconds:.3f}"


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

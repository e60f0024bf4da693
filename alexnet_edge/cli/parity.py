"""`alexnet-edge parity`: do engines still answer as the FP32 model did?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._parity_output import show_divergence, show_layers, show_result
from alexnet_edge.cli._ranges import default_table
from alexnet_edge.cli._shared import (
    EXIT_VERDICT,
    BatchSizeOption,
    ClassesOption,
    DeviceOption,
    JsonOption,
    MaxBadOption,
    MaxImagesOption,
    Output,
    ThreadsOption,
    duration,
    progress_bar,
)
from alexnet_edge.cli._text import printable

if TYPE_CHECKING:
    from alexnet_edge.dataset import ImageSet
    from alexnet_edge.parity import ParityProgress, ParityResult, Trace, TraceSettings
    from alexnet_edge.runtimes.base import Runtime


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Accuracy against FP32, with a verdict.")(parity)


def parity(
    engine: Annotated[list[Path], typer.Argument(help="The engines to judge.")],
    reference: Annotated[
        Path, typer.Option(metavar="MODEL", help="FP32: an ONNX graph or a checkpoint.")
    ],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Class folders or images, or digits:val.")
    ],
    margin: Annotated[
        float, typer.Option(help="Largest acceptable loss of top-1, in percentage points.")
    ] = 0.5,
    batch_size: BatchSizeOption = 8,
    max_images: MaxImagesOption = None,
    max_bad: MaxBadOption = 0.01,
    seed: Annotated[int, typer.Option(help="Of the choice of images and the bootstrap.")] = 0,
    classes: ClassesOption = None,
    flips: Annotated[
        int, typer.Option(min=0, help="Changed answers to print; the JSON has up to 1000.")
    ] = 5,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the state of the run in this file, and go on from it if it is there; "
            "removed when done.",
        ),
    ] = None,
    diverge: Annotated[
        bool,
        typer.Option("--diverge", help="Trace bytes, decode, …, engine: where do answers part?"),
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Measure the SQNR of each layer against FP32.")
    ] = False,
    trace_images: Annotated[
        int, typer.Option(min=1, max=1024, help="Images for --diverge and --layers.")
    ] = 16,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The engine's calibration table, for its Q/DQ graph "
            "(default: the one beside the reference).",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The model's checkpoint, to trace PyTorch too."),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Compare engines' answers with FP32; exit 0 only when every verdict is pass, else 3.

    Example: alexnet-edge parity alexnet.int8.onnx --reference alexnet.onnx --images val/
    """
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.parity import PASS, ParitySettings, TraceSettings, compare_engines
    from alexnet_edge.runtimes.base import RuntimeOptions
    from alexnet_edge.runtimes.loader import open_engine

    traced = diverge or layers
    if not traced and (table or checkpoint):
        raise typer.BadParameter("--table and --checkpoint are for --diverge and --layers")
    settings = ParitySettings(margin, batch_size, max_images, seed, max_bad)
    image_set = open_images(images)
    read = [*engine, reference, *filter(None, (classes, table, checkpoint))]
    _require_own_targets({"--json": json, "--resume": resume}, read, image_set)
    output = Output(json)
    names = read_classes(classes) if classes else None
    options = RuntimeOptions(device, threads)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_engine(path, options)) for path in engine]
        truth = stack.enter_context(open_engine(reference))
        traces: list[Trace] = []
        if traced:
            beside = default_table(reference)
            found = table or (beside if beside.exists() else None)
            origin = stack.enter_context(open_engine(checkpoint)) if checkpoint else None
            wanted = TraceSettings(trace_images, seed, found, origin)
            traces = _trace(opened, truth, image_set, wanted)
            for found_trace, path in zip(traces, engine, strict=True):
                # Before the long run, which two preprocessings would not even begin.
                if diverge:
                    show_divergence(output, found_trace.divergence, str(path))
                if layers:
                    show_layers(output, found_trace, str(path))
        with progress_bar("comparing") as update, _explaining(resume):
            results = compare_engines(
                opened, truth, image_set, settings, classes=names, state=resume,
                on_progress=lambda at: update(at.done, at.total, _describe_pace(at)),
            )  # fmt: skip
    for index, found_trace in enumerate(traces):
        results = _with_trace(results, index, found_trace, diverge=diverge, layers=layers)
    for result in results:
        show_result(output, result, flips=flips)
    output.finish(_to_dict(results))
    if resume is not None:
        _remove_state(resume)
    if any(result.verdict != PASS for result in results):
        raise typer.Exit(EXIT_VERDICT)


def _require_own_targets(
    targets: dict[str, Path | None], read: Sequence[Path], images: ImageSet
) -> None:
    """Refuse to write over what the command reads, or two things into one file.

    Raises:
        BadParameter: both options name one file.
        InputError: a file to write is an input: a network, what lies beside it, an image.
    """
    from alexnet_edge.errors import InputError
    from alexnet_edge.manifest import manifest_path

    named = {option: path for option, path in targets.items() if path and str(path) != "-"}
    if len(named) == 2 and len({_identify(path) for path in named.values()}) == 1:
        raise typer.BadParameter(f"{' and '.join(named)} name the same file; give each its own")
    beside = [found for path in read for found in (manifest_path(path), default_table(path))]
    inputs = {_identify(path) for path in (*read, *beside)}
    if any(path.exists() for path in named.values()):
        files = (item.source for item in images.items)
        inputs |= {_identify(path) for path in files if isinstance(path, Path)}
    for option, path in named.items():
        if _identify(path) in inputs:
            raise InputError(
                f"{path}: is an input of the comparison, which {option} would replace",
                hint=f"name another file with {option}",
            )


def _identify(path: Path) -> object:
    """Return the same for two paths just where they are one file, links followed."""
    try:
        found = path.stat()
    except OSError:
        return path.absolute().parent.resolve() / path.name
    return found.st_dev, found.st_ino


def _remove_state(path: Path) -> None:
    """Remove what there is nothing more to go on from."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        typer.echo(f"warning: {printable(path)}: could not be removed ({reason})", err=True)


def _trace(
    engines: Sequence[Runtime], reference: Runtime, images: ImageSet, settings: TraceSettings
) -> list[Trace]:
    """Trace each engine."""
    from alexnet_edge.parity import trace_stages

    traces = []
    with progress_bar("tracing") as update:
        for index, runtime in enumerate(engines):
            update(index, len(engines), printable(runtime.info.path.name))
            traces.append(trace_stages(runtime, reference, images, settings))
    return traces


def _with_trace(
    results: tuple[ParityResult, ...], index: int, trace: Trace, *, diverge: bool, layers: bool
) -> tuple[ParityResult, ...]:
    result = results[index]
    if layers:
        result = dataclasses.replace(result, layers=trace.layers, layers_note=trace.layers_note)
    if diverge:
        result = dataclasses.replace(result, divergence=trace.divergence)
    return (*results[:index], result, *results[index + 1 :])


def _to_dict(results: tuple[ParityResult, ...]) -> Any:
    """Return one engine's result as it is; of several, a list of them."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    return {
        "kind": "parity",
        "parity": results,
        "environment": first.environment,
        "seconds": first.seconds,
    }


@contextlib.contextmanager
def _explaining(resume: Path | None) -> Iterator[None]:
    """Say how to go on after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        if resume is not None and resume.exists():
            typer.echo(f"the same command goes on from {printable(resume)}", err=True)
        elif resume is None:
            typer.echo("to go on after an interruption, give --resume FILE", err=True)
        raise


def _describe_pace(at: ParityProgress) -> str:
    return (
        f"{at.done:,} of {at.total:,} · {at.images_per_second:.0f} images/s · "
        f"{duration(at.seconds_left)} left"
    )

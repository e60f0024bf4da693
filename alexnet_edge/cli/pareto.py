"""`alexnet-edge pareto`: what size and speed cost in accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import RangeSource, decibels
from alexnet_edge.cli._shared import (
    AnyVersionsOption,
    ClassesOption,
    GraphArgument,
    JsonOption,
    MaxJudgedOption,
    Output,
    RecipeOption,
    RuntimeOption,
    TableOrMeasuredOption,
    ThreadsOption,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.pareto import Candidate, Pareto


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Size, speed and accuracy of every way to build.")(
        with_preprocess_options(pareto)
    )


def pareto(
    model: GraphArgument = Path("alexnet.onnx"),
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="To judge by: class folders, images, digits:val; needed."),
    ] = None,
    table: TableOrMeasuredOption = None,
    recipe: RecipeOption = "default",
    runtime: RuntimeOption = "onnxruntime",
    max_images: MaxJudgedOption = 512,
    duration: Annotated[
        float, typer.Option(min=0, help="Seconds of timing for each engine and batch; 0 for none.")
    ] = 2.0,
    any_versions: AnyVersionsOption = False,
    classes: ClassesOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Build FP32, INT8, 4-bit and what lies between; measure all of them in one run.

    Example: alexnet-edge pareto alexnet.onnx --images photos/val
    """
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.errors import InputError

    output = Output(json)
    if images is None:
        raise InputError(
            "pareto needs images to judge by", hint=f"alexnet-edge pareto {model} --images DIR"
        )
    source = RangeSource(
        model, table, images, recipe=recipe, preprocess=preprocessing.alone(),
        any_versions=any_versions, judged=True,
    )  # fmt: skip
    found, _ = run_pareto(
        output, source, BuildSettings("int8", runtime, any_versions=any_versions), classes,
        max_images=max_images, duration_s=duration, threads=threads,
    )  # fmt: skip
    show_pareto(output, found)
    output.finish(found)


def run_pareto(
    output: Output,
    source: RangeSource,
    build: BuildSettings,
    classes: Path | None,
    *,
    max_images: int | None = 512,
    duration_s: float = 2.0,
    threads: int | None = None,
) -> tuple[Pareto, list[Candidate]]:
    """Measure with a progress bar; return what was found, and the candidates."""
    from alexnet_edge.cli._int4 import find_int4_images
    from alexnet_edge.cli._ranges import default_table
    from alexnet_edge.cli._shared import label_images
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.graph import load_onnx, read_graph
    from alexnet_edge.pareto import ParetoSettings, list_candidates, measure_pareto
    from alexnet_edge.quantize.int4 import Int4Settings
    from alexnet_edge.quantize.layers import prepare, weighted_layers

    names = read_classes(classes) if classes else None
    judged = label_images(open_images(source.images or ""), read_graph(source.model), names)
    ranges = source.open(output, default_table(source.model), build.dialect)
    prepared = prepare(load_onnx(source.model), source.model)
    layers = weighted_layers(prepared, source.model)
    linear = [layer.name for layer in layers if layer.fully_connected]
    candidates = list_candidates(build, [layer.name for layer in layers], linear)
    with progress_bar("measuring") as update:
        found = measure_pareto(
            source.model, ranges, judged.sample(max_images),
            ParetoSettings(build, duration_s=duration_s, threads=threads), candidates,
            int4_images=find_int4_images(source, ranges, Int4Settings()),
            on_progress=lambda what, done, total: update(done, total, what),
        )  # fmt: skip
    return found, candidates


def show_pareto(output: Output, found: Pareto) -> None:
    """Print a row per candidate."""
    batches = list(next((point.latency_ms for point in found.points if point.latency_ms), {}))
    listing = new_table(
        found.runtime, "MB", *(f"ms at {batch}" for batch in batches), "top-1",
        "drop pp" if found.labelled else "changed %", "agreement", "logit SQNR dB", "front",
    )  # fmt: skip
    for point in found.points:
        judged = point.agreement is not None
        listing.add_row(
            point.name, f"{point.size_bytes / 1e6:.1f}",
            *(f"{point.latency_ms[batch]:.2f}" for batch in batches),
            "–" if point.top1 is None else f"{point.top1:.2%}",
            "–" if point.drop_pp is None else f"{point.drop_pp:+.2f}",
            "–" if point.agreement is None else f"{point.agreement:.2%}",
            decibels(point.logit_sqnr_db) if judged else "–", "✓" if point.on_front else "",
        )  # fmt: skip
    output.show(listing)
    for item in found.skipped:
        output.say(f"left out: {item.name}: {item.reason}")
    judged_on = f"{found.images} images, " if found.images else ""
    output.say(f"{judged_on}{found.measured}")
    for reason in found.invalid_because:
        output.say(f"not to be relied on: {reason}")

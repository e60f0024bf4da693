"""`alexnet-edge sensitivity`: which layers INT8 hurts, and what sparing them costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import RangeSource, decibels, default_table
from alexnet_edge.cli._shared import (
    AnyVersionsOption,
    BatchSizeOption,
    ClassesOption,
    GraphArgument,
    JsonOption,
    MaxBadOption,
    MaxJudgedOption,
    Output,
    RecipeOption,
    RuntimeOption,
    TableOrMeasuredOption,
    ThreadsOption,
    label_images,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.quantize.damage import Damage
    from alexnet_edge.sensitivity import Cost, Sensitivity


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Which layers INT8 hurts, and the price of sparing them.")(
        with_preprocess_options(sensitivity)
    )


def sensitivity(
    model: GraphArgument = Path("alexnet.onnx"),
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Class folders or images, or digits:val; needed."),
    ] = None,
    table: TableOrMeasuredOption = None,
    method: Annotated[
        str, typer.Option(help="Whose ranges: auto, or one of the table's.")
    ] = "auto",
    recipe: RecipeOption = "default",
    runtime: RuntimeOption = "onnxruntime",
    max_images: MaxJudgedOption = 512,
    max_bad: MaxBadOption = 0.01,
    batch_size: BatchSizeOption = 32,
    duration: Annotated[
        float, typer.Option(min=0, help="Seconds of timing for each engine; 0 for no timing.")
    ] = 2.0,
    any_versions: AnyVersionsOption = False,
    classes: ClassesOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Measure what quantizing or sparing each layer does, and what it costs in latency.

    Example: alexnet-edge sensitivity alexnet.onnx --images photos/val
    """
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.errors import InputError
    from alexnet_edge.graph import read_graph
    from alexnet_edge.sensitivity import SensitivitySettings, measure_sensitivity

    output = Output(json)
    if images is None:
        raise InputError(
            "sensitivity needs images to judge by",
            hint=f"alexnet-edge sensitivity {model} --images DIR",
        )
    settings = SensitivitySettings(
        BuildSettings("int8", runtime, any_versions=any_versions),
        batch_size=batch_size, max_bad=max_bad, duration_s=duration, threads=threads,
    )  # fmt: skip
    names = read_classes(classes) if classes else None
    judged = label_images(open_images(images), read_graph(model), names).sample(max_images)
    source = RangeSource(
        model, table, images, recipe=recipe, method=method, preprocess=preprocessing.alone(),
        any_versions=any_versions, judged=True,
    )  # fmt: skip
    ranges = source.open(output, default_table(model), settings.build.dialect)
    with progress_bar("measuring") as update:
        result = measure_sensitivity(
            model, ranges["table"], ranges["choice"], judged, settings,
            on_progress=lambda what, done, total: update(done, total, what),
        )  # fmt: skip
    _show(output, result)
    output.finish(result)


def _show(output: Output, result: Sensitivity) -> None:
    labelled = result.labelled > 0
    drop = "drop pp" if labelled else "changed %"
    listing = new_table(
        "layer", "only it: dB", "KL", drop, "all but it: dB", "KL", drop, "latency", "MB"
    )
    for row in result.layers:
        listing.add_row(row.layer, *_damage(row.only), *_damage(row.spared), *_cost(row.cost))
    output.show(listing)
    front = new_table("layers in float", "logit SQNR dB", drop, "latency", "MB", "Pareto")
    for point in result.pareto:
        everything = point.damage is None
        front.add_row(
            "all" if everything else ", ".join(point.spared) or "none",
            "∞" if point.damage is None else decibels(point.damage.logit_sqnr_db),
            "0" if point.damage is None else f"{point.damage.drop_pp:+.2f}",
            *_cost(point.cost), "✓" if point.optimal else "",
        )  # fmt: skip
    output.show(front)
    output.say(
        f"damage: {result.damage_by} on {result.images} images; latency: {result.latency}, "
        "as a multiple of INT8's"
    )


def _damage(damage: Damage) -> tuple[str, str, str]:
    return decibels(damage.logit_sqnr_db), f"{damage.kl:.2g}", f"{damage.drop_pp:+.2f}"


def _cost(cost: Cost) -> tuple[str, str]:
    ratio = "–" if cost.ratio is None else f"{cost.ratio:.2f}×"
    return ratio, f"{cost.size_bytes / 1e6:.1f}"

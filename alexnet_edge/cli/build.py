"""`alexnet-edge build`: a graph into an engine and its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._build_options import (
    AskedPrecision,
    name_criterion,
    parse_batch_range,
    require_sense,
)
from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import RangeSource
from alexnet_edge.cli._shared import (
    AnyVersionsOption,
    ClassesOption,
    GraphArgument,
    ImagesOption,
    JsonOption,
    Output,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="A graph into an engine and its manifest.")(
        with_preprocess_options(build)
    )


def build(
    model: GraphArgument = Path("alexnet.onnx"),
    fp32: Annotated[bool, typer.Option("--fp32", help="The default.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="On TensorRT's runtimes.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Needs --table or --images.")] = False,
    int4_fc: Annotated[
        bool,
        typer.Option("--int4-fc", help="Alone or with these: 4-bit weights of linear layers."),
    ] = False,
    int4_block: Annotated[
        int | None,
        typer.Option(metavar="N", help="Weights that share a scale: 32, 64 or 128 (default)."),
    ] = None,
    int4_rounding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="nearest, mse or gptq (default: by the loss on held-out images)."
        ),
    ] = None,
    int2: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Of --int4-fc's, one that gets 2 bits; repeatable."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Calibration table (default: MODEL.table.json).")
    ] = None,
    images: ImagesOption = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto: by the loss on held-out calibration images; or minmax, entropy, mse, "
            "percentile-99.9, -99.99, -99.999."
        ),
    ] = "auto",
    spare: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Leave this layer in floating point; repeatable."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="PP", min=0, help="Spare the fewest layers that keep top-1 on --images within."
        ),
    ] = None,
    smallest: Annotated[
        bool,
        typer.Option("--smallest", help="With --max-drop: of every way to build, the smallest."),
    ] = False,
    fastest: Annotated[
        bool,
        typer.Option("--fastest", help="Likewise the fastest at batch 1, measured here."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ranges of a TensorRT calibration cache, unchecked."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="For calibrating on --images.")] = "default",
    runtime: Annotated[
        str | None,
        typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx (default: onnxruntime)."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Target board: a name in engines/profiles, or a TOML file.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN,OPT,MAX", help="Of dynamic TensorRT engines.")
    ] = None,
    optimize: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="latency (of one image), or throughput (of batches): how INT8 is laid out "
            "for the CPU.",
        ),
    ] = "latency",
    weight_bits: Annotated[
        int | None, typer.Option(min=7, max=8, help="For the CPU (default: 8 with VNNI, else 7).")
    ] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Accept layers that stay wider than asked.")
    ] = False,
    any_versions: AnyVersionsOption = False,
    fp16_rest: Annotated[
        bool, typer.Option("--fp16-rest", help="With --int8: FP16 for what is not INT8.")
    ] = False,
    sparse: Annotated[
        bool,
        typer.Option(
            "--sparse", help="Prune weights to 2:4 sparsity; the loss is measured on --images."
        ),
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For later versions and the lean runtime.")
    ] = False,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How long TensorRT searches for kernels.")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Kernel times: read if it exists, and written."),
    ] = None,
    dla_core: Annotated[
        int | None, typer.Option(min=0, help="Of a profile with a DLA (default: 0).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be built; build nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="ENGINE", help="(default: beside the model).")
    ] = None,
    classes: ClassesOption = None,
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Build an engine, and say what every layer really runs in.

    Example: alexnet-edge build alexnet.onnx --int8 --runtime tensorrt-rtx
    """
    from alexnet_edge.cli._build_choice import pick_settings
    from alexnet_edge.cli._build_output import show_manifest
    from alexnet_edge.engine.build import BuildSettings, default_out
    from alexnet_edge.engine.profile import load_profile
    from alexnet_edge.engine.vendor import TensorRTOptions

    output = Output(json)
    source = RangeSource(
        model, table, images, cache, recipe, method, preprocessing.alone(),
        any_versions=any_versions, judged=max_drop is not None,
    )  # fmt: skip
    asked = AskedPrecision(fp32, fp16, int8, int4_fc, int4_block, int4_rounding, tuple(int2 or ()))
    precision, int4 = asked.name(), asked.int4()
    by = name_criterion(
        smallest=smallest, fastest=fastest,
        contradicted=asked.given or bool(spare) or sparse or dry_run,
    )  # fmt: skip
    if by is not None:
        precision = "int8"
    require_sense(source, precision, max_drop, sparse=sparse, int4=int4 is not None)
    board = load_profile(profile) if profile is not None else None
    settings = BuildSettings(
        precision=precision,
        runtime=runtime or (board.runtime if board else "onnxruntime"),
        method=method,
        int4=int4,
        spared=tuple(spare or ()),
        batch=parse_batch_range(batch, board),
        profile=board,
        weight_bits=weight_bits,
        optimize=optimize,
        allow_fallback=allow_fallback,
        any_versions=any_versions,
        tensorrt=TensorRTOptions(
            fp16_rest, sparse, version_compatible, optimization_level, timing_cache, dla_core
        ),
    )
    if by is not None:
        settings = pick_settings(output, source, settings, classes, max_drop=max_drop, by=by)
        max_drop = None
    engine = out or default_out(model, settings)
    if dry_run:
        _show_plan(output, source, engine, settings, max_drop)
        return
    manifest = _build(output, source, engine, settings, max_drop, classes)
    show_manifest(output, engine, manifest)
    output.finish(manifest)


def _build(
    output: Output,
    source: RangeSource,
    engine: Path,
    settings: BuildSettings,
    max_drop: float | None,
    classes: Path | None,
) -> Manifest:
    """Find the ranges and what else the engine is made from, and build it with a progress bar."""
    from alexnet_edge.cli._build_choice import spare_fewest
    from alexnet_edge.cli._int4 import find_int4_images
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.engine.build import build_engine

    names = read_classes(classes) if classes else None
    ranges: dict[str, Any] = {}
    if settings.precision == "int8":
        measured = engine.with_name(f"{engine.name}.table.json")
        ranges = source.open(output, measured, settings.dialect)
    if max_drop is not None and ranges:
        settings = spare_fewest(output, source, settings, ranges, max_drop, names)
    pruned_on = source.images if settings.tensorrt.sparse else None
    int4_images = None
    if settings.int4 is not None:
        int4_images = find_int4_images(source, ranges, settings.int4)
    with progress_bar("building") as update:
        return build_engine(
            source.model, engine, settings, **ranges, preprocess=source.preprocess, classes=names,
            images=None if pruned_on is None else open_images(pruned_on), int4_images=int4_images,
            on_progress=lambda what, done, total: update(done, total, what),
        )  # fmt: skip


def _show_plan(
    output: Output,
    source: RangeSource,
    engine: Path,
    settings: BuildSettings,
    max_drop: float | None,
) -> None:
    """Print what a build would do, and do none of it."""
    from alexnet_edge.cli._build_output import show_plan
    from alexnet_edge.engine.plan import plan_build
    from alexnet_edge.engine.precision import Given

    table, told = source.foresee(engine) if settings.precision == "int8" else (None, None)
    given = Given(table=table, preprocess=source.preprocess)
    plan = plan_build(source.model, engine, settings, given, ranges=told)
    show_plan(output, plan)
    if max_drop is not None:
        output.say(
            f"layers to spare would be chosen on {source.images}: the fewest that keep the drop "
            f"of top-1 within {max_drop:g} pp"
        )
    output.finish(plan)

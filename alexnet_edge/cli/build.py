"""`alexnet-edge build`: a graph into an engine and its manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import RangeSource, default_table
from alexnet_edge.cli._shared import (
    ClassesOption,
    ImagesOption,
    JsonOption,
    Output,
    label_images,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.engine.profile import BatchRange, Profile
    from alexnet_edge.quantize.int4 import Int4Settings
    from alexnet_edge.quantize.table import CalibrationTable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="A graph into an engine and its manifest.")(
        with_preprocess_options(build)
    )


def build(
    model: Annotated[Path, typer.Argument(help="The FP32 ONNX graph.")] = Path("alexnet.onnx"),
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
    any_versions: Annotated[
        bool, typer.Option("--any-versions", help="Accept a table that other versions measured.")
    ] = False,
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
    from alexnet_edge.cli._build_output import show_manifest
    from alexnet_edge.cli._int4 import find_int4_images
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
    from alexnet_edge.engine.profile import load_profile
    from alexnet_edge.engine.vendor import TensorRTOptions

    output = Output(json)
    source = RangeSource(
        model, table, images, cache, recipe, method, preprocessing.alone(),
        any_versions=any_versions, judged=max_drop is not None,
    )  # fmt: skip
    precision = _precision(fp32=fp32, fp16=fp16, int8=int8)
    int4 = _int4_settings(int4_fc=int4_fc, block=int4_block, rounding=int4_rounding)
    by = None
    if smallest or fastest:
        named = (fp32, fp16, int8, int4_fc, bool(spare), sparse, dry_run, smallest and fastest)
        by = _what_to_choose_by(smallest=smallest, contradicted=any(named))
        precision = "int8"
    _require_sense(source, precision, max_drop, sparse=sparse, int4=int4 is not None)
    board = load_profile(profile) if profile is not None else None
    settings = BuildSettings(
        precision=precision,
        runtime=runtime or (board.runtime if board else "onnxruntime"),
        method=method,
        int4=int4,
        spared=tuple(spare or ()),
        batch=_batch_range(batch, board),
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
        settings = _pick(output, source, settings, classes, max_drop=max_drop, by=by)
        int4, max_drop = settings.int4, None
    engine = out or default_out(model, settings)
    if dry_run:
        _show_plan(output, source, engine, settings, max_drop)
        return
    names = read_classes(classes) if classes else None
    ranges: dict[str, Any] = {}
    if settings.precision == "int8":
        measured = engine.with_name(f"{engine.name}.table.json")
        ranges = source.open(output, measured, settings.dialect)
    if max_drop is not None and ranges:
        settings = _spare(output, source, settings, ranges, max_drop, names)
    judged = open_images(images) if sparse and images is not None else None
    int4_images = None if int4 is None else find_int4_images(source, ranges, int4)
    with progress_bar("building") as update:
        manifest = build_engine(
            model, engine, settings, **ranges, preprocess=source.preprocess, classes=names,
            images=judged, int4_images=int4_images,
            on_progress=lambda what, done, total: update(done, total, what),
        )  # fmt: skip
    show_manifest(output, engine, manifest)
    output.finish(manifest)


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

    table, told = _find_ranges(source, engine) if settings.precision == "int8" else (None, None)
    given = Given(table=table, preprocess=source.preprocess)
    plan = plan_build(source.model, engine, settings, given, ranges=told)
    show_plan(output, plan)
    if max_drop is not None:
        output.say(
            f"layers to spare would be chosen on {source.images}: the fewest that keep the drop "
            f"of top-1 within {max_drop:g} pp"
        )
    output.finish(plan)


def _find_ranges(source: RangeSource, engine: Path) -> tuple[CalibrationTable | None, str | None]:
    """Return the table that a build would use, if it exists, and where ranges come from."""
    from alexnet_edge.quantize.table import load_table
    from alexnet_edge.quantize.trt_cache import load_cache

    if source.cache is not None:
        cache = load_cache(source.cache)
        return None, f"calibration cache {source.cache}, {len(cache.amax)} tensors"
    beside = default_table(source.model)
    measures = source.images is not None and not (source.judged and beside.exists())
    if source.table is None and measures:
        return None, f"to be measured on {source.images} into {engine.name}.table.json"
    file = source.table or (beside if beside.exists() else None)
    if file is None:
        return None, None
    return load_table(file), f"table {file}, method {source.method}"


def _int4_settings(
    *, int4_fc: bool, block: int | None, rounding: str | None
) -> Int4Settings | None:
    from alexnet_edge.quantize.int4 import AUTO, DEFAULT_BLOCK, Int4Settings

    if not int4_fc:
        if block is not None or rounding is not None:
            raise typer.BadParameter("--int4-block and --int4-rounding are for --int4-fc")
        return None
    return Int4Settings(DEFAULT_BLOCK if block is None else block, rounding or AUTO)


def _what_to_choose_by(*, smallest: bool, contradicted: bool) -> str:
    if contradicted:
        raise typer.BadParameter(
            "--smallest or --fastest choose the precision: no --fp32, --fp16, --int8, --int4-fc, "
            "--spare, --sparse or --dry-run with them, and one of the two"
        )
    return "size" if smallest else "latency"


def _pick(
    output: Output,
    source: RangeSource,
    settings: BuildSettings,
    classes: Path | None,
    *,
    max_drop: float | None,
    by: str,
) -> BuildSettings:
    """Measure every way to build for the target; return the settings of the best within bound."""
    from alexnet_edge.cli.pareto import run_pareto, show_pareto
    from alexnet_edge.pareto import choose_point

    if max_drop is None:
        raise typer.BadParameter("--smallest and --fastest need --max-drop PP and --images DIR")
    found, candidates = run_pareto(output, source, settings, classes)
    show_pareto(output, found)
    point = choose_point(found, max_drop_pp=max_drop, by=by)
    chosen = next(one for one in candidates if one.name == point.name)
    output.say(
        f"chosen by {by}: {point.name}; top-1 falls by {point.drop_pp:.2f} pp on {found.images} "
        f"images (at most {max_drop:g} asked for)"
    )
    judgement = {
        "chosen_by": by, "max_drop_pp": max_drop, "drop_pp": point.drop_pp,
        "images": found.images, "candidate": point.name,
    }  # fmt: skip
    return dataclasses.replace(chosen.settings, judgement=judgement)


def _require_sense(
    source: RangeSource, precision: str, max_drop: float | None, *, sparse: bool, int4: bool
) -> None:
    """Refuse options that contradict each other."""
    given = [source.cache, max_drop, None if sparse or int4 else source.images]
    given += [None if int4 else source.table]
    if precision != "int8" and any(value is not None for value in given):
        raise typer.BadParameter(
            f"--table, --cache, --max-drop, and --images without --sparse or --int4-fc, are for "
            f"--int8, not --{precision}"
        )
    if max_drop is not None and int4:
        raise typer.BadParameter(
            "--max-drop chooses among INT8 layers, --int4-fc has others: name those to --spare"
        )
    if source.cache is not None and any(v is not None for v in (source.table, max_drop)):
        raise typer.BadParameter("--cache stands alone: no --table and no --max-drop with it")
    if max_drop is not None and source.images is None:
        raise typer.BadParameter("--max-drop needs --images DIR, labelled by class folders")


def _spare(
    output: Output,
    source: RangeSource,
    settings: BuildSettings,
    ranges: dict[str, Any],
    max_drop: float,
    classes: tuple[str, ...] | None,
) -> BuildSettings:
    """Return the settings with the fewest layers spared that keep the drop within bound."""
    from alexnet_edge.dataset import ImageReader, open_images
    from alexnet_edge.quantize.damage import choose_spared
    from alexnet_edge.quantize.layerwise import Layerwise

    network = Layerwise(source.model, settings.dialect)
    images = label_images(open_images(source.images or ""), network.graph, classes)
    table = ranges["table"]
    reader = ImageReader(images, table.preprocess, batch_size=32)
    with progress_bar("judging") as update:
        spared, damage = choose_spared(
            network, table, ranges["choice"], lambda: reader, max_drop,
            on_progress=lambda count, done: update(done, len(images), f"{count} layers spared"),
        )  # fmt: skip
    output.say(
        f"spared: {', '.join(spared) or 'none'}; top-1 falls by {damage.drop_pp:.2f} pp on "
        f"{damage.images} images, simulated (at most {max_drop:g} asked for)"
    )
    return dataclasses.replace(
        settings,
        spared=spared,
        judgement={"max_drop_pp": max_drop, "simulated": dataclasses.asdict(damage)},
    )


def _precision(*, fp32: bool, fp16: bool, int8: bool) -> str:
    wanted = [name for name, given in (("fp32", fp32), ("fp16", fp16), ("int8", int8)) if given]
    if len(wanted) > 1:
        raise typer.BadParameter(f"give one of --{', --'.join(wanted)}")
    return wanted[0] if wanted else "fp32"


def _batch_range(text: str | None, board: Profile | None) -> BatchRange:
    from alexnet_edge.engine.profile import BatchRange

    if text is None:
        return board.batch if board is not None else BatchRange()
    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not MIN,OPT,MAX", param_hint="--batch") from None
    return BatchRange(low, best, high)

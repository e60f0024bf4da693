"""`alexnet-edge build`: a graph into an engine and its manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import RangeSource
from alexnet_edge.cli._shared import (
    ClassesOption,
    ImagesOption,
    JsonOption,
    Output,
    label_images,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.engine.profile import BatchRange, Profile


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
    weight_bits: Annotated[
        int | None, typer.Option(min=7, max=8, help="For the CPU (default: 8 with VNNI, else 7).")
    ] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Accept layers that do not become INT8.")
    ] = False,
    any_versions: Annotated[
        bool, typer.Option("--any-versions", help="Accept a table that other versions measured.")
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
    from alexnet_edge.dataset import read_classes
    from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
    from alexnet_edge.engine.profile import load_profile

    output = Output(json)
    source = RangeSource(
        model, table, images, cache, recipe, method, preprocessing.alone(),
        any_versions=any_versions, judged=max_drop is not None,
    )  # fmt: skip
    precision = _precision(fp32=fp32, fp16=fp16, int8=int8)
    _require_sense(source, precision, max_drop)
    board = load_profile(profile) if profile is not None else None
    settings = BuildSettings(
        precision=precision,
        runtime=runtime or (board.runtime if board else "onnxruntime"),
        method=method,
        spared=tuple(spare or ()),
        batch=_batch_range(batch, board),
        profile=board,
        weight_bits=weight_bits,
        allow_fallback=allow_fallback,
        any_versions=any_versions,
    )
    engine = out or default_out(model, settings)
    names = read_classes(classes) if classes else None
    ranges: dict[str, Any] = {}
    if precision == "int8":
        measured = engine.with_name(f"{engine.name}.table.json")
        ranges = source.open(output, measured, settings.dialect)
    if max_drop is not None and ranges:
        settings = _spare(output, source, settings, ranges, max_drop, names)
    manifest = build_engine(
        model, engine, settings, **ranges, preprocess=source.preprocess, classes=names
    )
    listing = new_table("layer", "op", "precision")
    for layer in manifest.layers:
        listing.add_row(layer.name, layer.op, layer.precision)
    output.show(listing)
    output.say(
        f"{engine}: {engine.stat().st_size / 1e6:.1f} MB, {precision}, {manifest.runtime} "
        f"{manifest.runtime_version}; manifest {engine.name}.json"
    )
    if manifest.preprocess is None:
        output.say("nothing says how images are prepared for it; parity will ask")
    output.finish(manifest)


def _require_sense(source: RangeSource, precision: str, max_drop: float | None) -> None:
    """Refuse options that contradict each other."""
    given = [source.table, source.images, source.cache, max_drop]
    if precision != "int8" and any(value is not None for value in given):
        raise typer.BadParameter(
            f"--table, --images, --cache and --max-drop are for --int8, not --{precision}"
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

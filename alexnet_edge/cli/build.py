"""`alexnet-edge build`: a graph into an engine and its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._shared import (
    ClassesOption,
    ImagesOption,
    JsonOption,
    Output,
    new_table,
)
from alexnet_edge.cli.calibrate import calibrate_into, default_table

if TYPE_CHECKING:
    from alexnet_edge.engine.profile import BatchRange, Profile
    from alexnet_edge.preprocess import PreprocessSpec
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
    table: Annotated[
        Path | None, typer.Option(help="Calibration table (default: MODEL.table.json).")
    ] = None,
    images: ImagesOption = None,
    method: Annotated[
        str, typer.Option(help="minmax, or percentile-99.9, -99.99 or -99.999.")
    ] = "minmax",
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
    precision = _precision(fp32=fp32, fp16=fp16, int8=int8, images=images, table=table)
    board = load_profile(profile) if profile is not None else None
    settings = BuildSettings(
        precision=precision,
        runtime=runtime or (board.runtime if board else "onnxruntime"),
        method=method,
        batch=_batch_range(batch, board),
        profile=board,
        weight_bits=weight_bits,
        allow_fallback=allow_fallback,
    )
    preprocess = preprocessing.alone()
    engine = out or default_out(model, settings)
    ranges = None
    if precision == "int8":
        ranges = _ranges(output, model, engine, table, images, recipe, preprocess)
    manifest = build_engine(
        model, engine, settings, table=ranges, preprocess=preprocess,
        classes=read_classes(classes) if classes else None,
    )  # fmt: skip
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


def _precision(
    *, fp32: bool, fp16: bool, int8: bool, images: str | None, table: Path | None
) -> str:
    wanted = [name for name, given in (("fp32", fp32), ("fp16", fp16), ("int8", int8)) if given]
    if len(wanted) > 1:
        raise typer.BadParameter(f"give one of --{', --'.join(wanted)}")
    if images is not None and table is not None:
        raise typer.BadParameter("give --table or --images, not both")
    precision = wanted[0] if wanted else "fp32"
    if precision != "int8" and (images is not None or table is not None):
        raise typer.BadParameter(f"--table and --images are for --int8, not --{precision}")
    return precision


def _batch_range(text: str | None, board: Profile | None) -> BatchRange:
    from alexnet_edge.engine.profile import BatchRange

    if text is None:
        return board.batch if board is not None else BatchRange()
    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not MIN,OPT,MAX", param_hint="--batch") from None
    return BatchRange(low, best, high)


def _ranges(
    output: Output,
    model: Path,
    engine: Path,
    table: Path | None,
    images: str | None,
    recipe: str,
    preprocess: PreprocessSpec | None,
) -> CalibrationTable | None:
    """Return the table that was named, measured now, or found beside the model, if any."""
    from alexnet_edge.quantize.recipe import load_recipe
    from alexnet_edge.quantize.table import load_table

    if images is not None:
        target = engine.with_name(f"{engine.name}.table.json")
        return calibrate_into(output, model, images, target, load_recipe(recipe), preprocess)
    if table is not None:
        return load_table(table)
    found = default_table(model)
    return load_table(found) if found.exists() else None

"""`alexnet-edge calibrate`: images into a calibration table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._ranges import calibrate_into, choose_method, default_table
from alexnet_edge.cli._shared import JsonOption, Output, new_table

if TYPE_CHECKING:
    from alexnet_edge.dataset import ImageSet
    from alexnet_edge.quantize.table import CalibrationTable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Images into INT8 ranges, with provenance.")(
        with_preprocess_options(calibrate)
    )


def calibrate(
    model: Annotated[Path, typer.Argument(help="The FP32 ONNX graph.")] = Path("alexnet.onnx"),
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of images, or digits:train, digits:val; needed."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The table (default: MODEL.table.json).")] = None,
    recipe: Annotated[
        str, typer.Option(help="A name in calibration/recipes, or a TOML file.")
    ] = "default",
    max_images: Annotated[int | None, typer.Option(min=1, help="Images to take.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per inference.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of images.")] = None,
    max_bad: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share that may fail to decode.")
    ] = None,
    image_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take just these of the images: sha256sum's format."),
    ] = None,
    save_image_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write which images were taken.")
    ] = None,
    rank: Annotated[
        bool,
        typer.Option("--rank", help="Choose methods now, for builds where the images are not."),
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a TensorRT calibration cache too.")
    ] = None,
    cache_version: Annotated[
        str, typer.Option(metavar="X.Y.Z", help="The TensorRT that will read the cache.")
    ] = "10.3.0",
    cache_method: Annotated[str, typer.Option(help="Whose ranges the cache holds.")] = "entropy",
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Measure the ranges of every tensor that INT8 will represent.

    Example: alexnet-edge calibrate alexnet.onnx --images photos/ --max-images 256
    """
    import dataclasses

    from alexnet_edge.errors import InputError
    from alexnet_edge.machine import limit_malloc_arenas
    from alexnet_edge.quantize.image_list import write_image_list
    from alexnet_edge.quantize.recipe import load_recipe
    from alexnet_edge.quantize.trt_cache import encode_version, parse_version

    output = Output(json)
    if images is None:
        raise InputError(
            "calibration needs images", hint=f"alexnet-edge calibrate {model} --images DIR"
        )
    encode_version(parse_version(cache_version))
    _require_method(cache_method)
    given: dict[str, Any] = {
        "max_images": max_images, "batch_size": batch_size, "workers": workers, "seed": seed,
        "max_bad": max_bad,
    }  # fmt: skip
    settings = dataclasses.replace(
        load_recipe(recipe), **{key: value for key, value in given.items() if value is not None}
    )
    settings = dataclasses.replace(settings, every_tensor=cache is not None)
    limit_malloc_arenas(2)  # thousands of images would leave their marks in each thread's heap
    if image_list is not None:
        settings = dataclasses.replace(settings, max_images=max_images)
    target = out or default_table(model)
    table = calibrate_into(
        output, model, open_listed(images, image_list), target, settings, preprocessing.alone()
    )
    if save_image_list is not None:
        write_image_list(save_image_list, table.images["files"])
        output.say(f"{save_image_list}: {table.images['count']} images")
    if rank:
        table = _rank_into(output, model, table, target)
    listing = new_table("tensor", *table.methods)
    for name, ranges in table.tensors.items():
        listing.add_row(name, *(f"{ranges[method].amax:.4g}" for method in table.methods))
    output.show(listing)
    if cache is not None:
        _write_cache(output, table, cache, cache_version, cache_method)
    output.finish(table.to_dict())


def open_listed(images: str, image_list: Path | None) -> ImageSet:
    """Open a set of images, or just those of a list."""
    from alexnet_edge.dataset import open_images
    from alexnet_edge.quantize.image_list import pick_images, read_image_list

    if image_list is None:
        return open_images(images)
    digests = read_image_list(image_list)
    return pick_images(
        open_images(images), digests, hint=f"give the folder that {image_list} lists"
    )


def _require_method(name: str) -> None:
    from alexnet_edge.errors import TableError
    from alexnet_edge.quantize.thresholds import METHODS

    if name not in METHODS:
        raise TableError(f"method '{name}' is unknown", hint=f"one of {', '.join(METHODS)}")


def _rank_into(
    output: Output, model: Path, table: CalibrationTable, target: Path
) -> CalibrationTable:
    """Choose for this CPU and for TensorRT, and save the choices with the table."""
    import dataclasses

    from alexnet_edge.engine.build import BuildSettings
    from alexnet_edge.quantize.table import load_table

    dialects = (BuildSettings("int8", runtime).dialect for runtime in ("onnxruntime", "tensorrt"))
    choices = {
        dialect.key: choose_method(output, model, table, dialect, fit=False).to_dict()
        for dialect in dialects
    }
    dataclasses.replace(table, choices=choices).save(target)
    return load_table(target)


def _write_cache(
    output: Output, table: CalibrationTable, path: Path, version: str, method: str
) -> None:
    from alexnet_edge.quantize.trt_cache import CalibrationCache, parse_version

    algorithm = "MinMaxCalibration" if method == "minmax" else "EntropyCalibration2"
    amax = {name: found.amax for name, found in table.ranges(method).items()}
    CalibrationCache(parse_version(version), algorithm, amax).save(path)
    output.say(f"{path}: {len(amax)} tensors, {algorithm} of TensorRT {version}, method {method}")

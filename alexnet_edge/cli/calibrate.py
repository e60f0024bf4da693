"""`alexnet-edge calibrate`: images into a calibration table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._shared import (
    JsonOption,
    Output,
    duration,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.preprocess import PreprocessSpec
    from alexnet_edge.quantize.calibrate import CalibrationSettings
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
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Measure the ranges of every tensor that INT8 will represent.

    Example: alexnet-edge calibrate alexnet.onnx --images photos/ --max-images 256
    """
    import dataclasses

    from alexnet_edge.errors import InputError
    from alexnet_edge.quantize.recipe import load_recipe

    output = Output(json)
    if images is None:
        raise InputError(
            "calibration needs images", hint=f"alexnet-edge calibrate {model} --images DIR"
        )
    given: dict[str, Any] = {
        "max_images": max_images, "batch_size": batch_size, "workers": workers, "seed": seed,
        "max_bad": max_bad,
    }  # fmt: skip
    settings = dataclasses.replace(
        load_recipe(recipe), **{key: value for key, value in given.items() if value is not None}
    )
    target = out or default_table(model)
    table = calibrate_into(output, model, images, target, settings, preprocessing.alone())
    listing = new_table("tensor", *table.methods)
    for name, ranges in table.tensors.items():
        listing.add_row(name, *(f"{ranges[method].amax:.4g}" for method in table.methods))
    output.show(listing)
    output.finish(table.to_dict())


def default_table(model: Path) -> Path:
    """Return where the table of a model is looked for."""
    return model.with_name(f"{model.stem}.table.json")


def calibrate_into(
    output: Output,
    model: Path,
    images: str,
    target: Path,
    settings: CalibrationSettings,
    preprocess: PreprocessSpec | None,
) -> CalibrationTable:
    """Calibrate with a progress bar and save the table."""
    from alexnet_edge.dataset import open_images
    from alexnet_edge.quantize.calibrate import calibrate as run
    from alexnet_edge.quantize.table import load_table

    with progress_bar("calibrating") as update:
        table = run(
            model, open_images(images), settings, preprocess=preprocess,
            on_progress=lambda at: update(
                at.done, at.total,
                f"{at.images_per_second:.0f} images/s · {duration(at.seconds_left)} left",
            ),
        )  # fmt: skip
    table.save(target)
    skipped = table.images["skipped"]
    for item in skipped:
        output.say(f"skipped: {item['reason']}")
    output.say(
        f"{target}: {len(table.tensors)} tensors, {len(table.methods)} methods, "
        f"{table.images['count']} images" + (f", {len(skipped)} skipped" if skipped else "")
    )
    return load_table(target)

"""`alexnet-edge export`: a checkpoint into a checked FP32 ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._shared import (
    ClassesOption,
    ImagesOption,
    JsonOption,
    Output,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="A checkpoint into an FP32 ONNX, checked.")(
        with_preprocess_options(export)
    )


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")] = Path(
        "alexnet.pt"
    ),
    out: Annotated[
        Path | None,
        typer.Option(
            help="The ONNX file (default: CHECKPOINT.onnx, or CHECKPOINT.dla.onnx with --dla)."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="A fixed batch size (default: a dynamic axis; 1 with --dla)."),
    ] = None,
    dla: Annotated[
        bool,
        typer.Option(
            "--dla", help="For the DLA of a Jetson: linear layers as convolutions, a fixed batch."
        ),
    ] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Leave the softmax out.")] = False,
    input: Annotated[
        str, typer.Option(help="float32 NCHW, or uint8 NHWC normalized in the graph.")
    ] = "float32",
    opset: Annotated[int, typer.Option(help="ONNX operator set; TensorRT 8.5 reads 17.")] = 17,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Export to ONNX, and check the graph against PyTorch on random and real input.

    Example: alexnet-edge export alexnet.pt --out alexnet.onnx
    """
    import dataclasses

    import numpy as np

    from alexnet_edge.dataset import ImageReader, open_images, read_classes
    from alexnet_edge.errors import InputError
    from alexnet_edge.export import ExportSettings, export_onnx
    from alexnet_edge.model import load_checkpoint

    output = Output(json)
    loaded = load_checkpoint(checkpoint)
    if classes is not None:
        names = read_classes(classes)
        if len(names) != loaded.architecture.classes:
            raise InputError(
                f"{classes}: names {len(names)} classes, {checkpoint} has "
                f"{loaded.architecture.classes}",
                hint="give one name a line for each output, in order",
            )
        loaded = dataclasses.replace(loaded, classes=names)
    spec = preprocessing.applied_to(loaded.default_preprocess()).with_input(input)
    crops = None
    if images is not None:
        reader = ImageReader(open_images(images).sample(8), spec.with_input("uint8"))
        crops = np.concatenate([part.tensor for part in reader])
    settings = ExportSettings(batch, logits, opset, dla)
    target = out or checkpoint.with_suffix(".dla.onnx" if dla else ".onnx")
    result = export_onnx(loaded, spec, settings, target, crops=crops)
    kinds = sorted({check.input for check in result.checks}, reverse=True)
    output.say(
        f"{result.onnx}: {result.size_bytes / 1e6:.1f} MB, opset {result.opset}, "
        f"input {spec.input} {'×'.join(map(str, spec.input_shape))}, "
        + (f"batch {settings.fixed_batch}" if settings.fixed_batch else "any batch")
    )
    output.say(
        f"checked against PyTorch on {' and '.join(kinds)}: relative error "
        f"{result.relative_error:.1e} at most, over {len(result.checks)} batches"
    )
    if "images" not in kinds:
        output.say("no real images were at hand to check on; give some with --images DIR")
    output.finish({**dataclasses.asdict(result), "relative_error": result.relative_error})

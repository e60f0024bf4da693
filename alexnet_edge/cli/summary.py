"""`alexnet-edge summary`: the layer table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_edge.cli._shared import (
    ArchOption,
    JsonOption,
    Output,
    WidthOption,
    new_table,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="The layer table: shapes, parameters, MACs.")(summary)


def summary(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="CKPT", help="A checkpoint (default: --arch).")
    ] = None,
    arch: ArchOption = "alexnet",
    classes: Annotated[int, typer.Option(help="Number of outputs.")] = 1000,
    width: WidthOption = 1.0,
    json: JsonOption = None,
) -> None:
    """Print each layer's kernel, stride, padding, output shape, parameters and MACs.

    Example: alexnet-edge summary --arch alexnet
    """
    from alexnet_edge.model import Architecture, load_checkpoint

    output = Output(json)
    if checkpoint is None:
        architecture = Architecture(arch, classes, width)
    else:
        architecture = load_checkpoint(checkpoint).architecture
    table = new_table(
        "layer", "op", "kernel", "stride", "pad", "groups", "output", "params", "MACs"
    )
    rows = []
    for described in architecture.shapes():
        layer = described.layer
        shape = "×".join(map(str, described.output))
        windowed = layer.op in {"conv", "maxpool"}
        table.add_row(
            layer.name, layer.op,
            *(map(str, (layer.kernel, layer.stride, layer.padding)) if windowed else ("", "", "")),
            str(layer.groups) if layer.op == "conv" else "", shape,
            f"{described.parameters:,}" if described.parameters else "",
            f"{described.macs:,}" if described.macs else "",
        )  # fmt: skip
        rows.append(described)
    output.show(table)
    macs = sum(row.macs for row in rows)
    weighted = sum(bool(row.weight) for row in rows)
    side = architecture.input_size
    output.say(
        f"{architecture.name}: input {side}×{side}×3, {weighted} learnable layers, "
        f"{architecture.parameters:,} parameters, {macs / 1e9:.3f} GMAC, softmax over "
        f"{architecture.classes} classes"
    )
    output.finish(
        {
            "architecture": architecture.name,
            "width": architecture.width,
            "classes": architecture.classes,
            "input": [3, side, side],
            "parameters": architecture.parameters,
            "macs": macs,
            "layers": rows,
        }
    )

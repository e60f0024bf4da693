"""`alexnet-edge inspect`: what an artifact is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_edge.cli._shared import JsonOption, Output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="What a file is and came from; does it run?")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint, ONNX file, table or engine.")],
    json: JsonOption = None,
) -> None:
    """Say what a file is, what it came from, and whether it runs here.

    Example: alexnet-edge inspect alexnet.int8.onnx
    """
    from alexnet_edge.inspection import inspect_file

    output = Output(json)
    found = inspect_file(file)
    output.say(f"{found.path}: {found.kind}, {found.size_bytes / 1e6:.1f} MB")
    output.say(f"sha256: {found.sha256}")
    for key, value in found.facts.items():
        _say_fact(output, key, value)
    for key, digest in found.made_from.items():
        output.say(f"{key}: {digest or 'not stated'}")
    if found.runs_here is not None:
        output.say(f"runs here: {'yes' if found.runs_here else f'no ({found.reason})'}")
    output.finish(found)


def _say_fact(output: Output, key: str, value: Any) -> None:
    if key == "layers":
        for layer in value:
            output.say(f"  {layer['name']}: {layer['op']}, {layer['precision']}")
    elif isinstance(value, dict):
        text = ", ".join(f"{name} {item}" for name, item in value.items())
        output.say(f"{key}: {text}")
    elif isinstance(value, list):
        shown = ", ".join(map(str, value[:10]))
        output.say(f"{key}: {shown}{f', … {len(value)} in all' if len(value) > 10 else ''}")
    else:
        output.say(f"{key}: {'not stated' if value is None else value}")

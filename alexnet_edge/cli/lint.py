"""`alexnet-edge lint`: what a target will not take of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._shared import EXIT_VERDICT, JsonOption, Output

if TYPE_CHECKING:
    from alexnet_edge.engine.lint import LintReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="What a target will not take, before the build.")(lint)


def lint(
    target: Annotated[
        str,
        typer.Option(metavar="PROFILE", help="A name in engines/profiles, or a TOML file."),
    ],
    model: Annotated[Path, typer.Argument(help="An ONNX graph, FP32 or quantized.")] = Path(
        "alexnet.onnx"
    ),
    json: JsonOption = None,
) -> None:
    """Hold a graph against the rules of a target; exits with 3 where one is broken.

    Example: alexnet-edge lint alexnet.onnx --target orin-nano
    """
    from alexnet_edge.engine.lint import lint_file
    from alexnet_edge.engine.profile import load_profile

    output = Output(json)
    report = lint_file(model, load_profile(target))
    _show(output, report)
    output.finish(report)
    if report.errors:
        raise typer.Exit(EXIT_VERDICT)


def _show(output: Output, report: LintReport) -> None:
    for found in report.findings:
        output.say(f"{found.node}: {found.rule} ({found.severity}): {found.message}; {found.mend}")
    if report.findings:
        output.say(
            f"{report.model}: {_count(report.errors, 'error')}, "
            f"{_count(report.warnings, 'warning')} for {report.target}"
        )
    else:
        output.say(f"{report.model}: nothing to mend for {report.target}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

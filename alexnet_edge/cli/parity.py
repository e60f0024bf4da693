"""`alexnet-edge parity`: does the engine still answer as the FP32 model did?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._shared import (
    EXIT_VERDICT,
    ClassesOption,
    DeviceOption,
    JsonOption,
    MaxBadOption,
    Output,
    ThreadsOption,
    duration,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.parity import Accuracy, ParityResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Accuracy against FP32, with a verdict.")(parity)


def parity(
    engine: Annotated[Path, typer.Argument(help="The engine to judge.")],
    reference: Annotated[
        Path, typer.Option(metavar="MODEL", help="FP32: an ONNX graph or a checkpoint.")
    ],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Class folders or images, or digits:val.")
    ],
    margin: Annotated[
        float, typer.Option(help="Largest acceptable loss of top-1, in percentage points.")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per inference.")] = 8,
    max_images: Annotated[int | None, typer.Option(min=1, help="Images to take.")] = None,
    max_bad: MaxBadOption = 0.01,
    seed: Annotated[int, typer.Option(help="Of the choice of images and the bootstrap.")] = 0,
    classes: ClassesOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Compare an engine's answers with FP32; exit 0 only when the verdict is pass, else 3.

    Example: alexnet-edge parity alexnet.int8.onnx --reference alexnet.onnx --images val/
    """
    from alexnet_edge.dataset import open_images, read_classes
    from alexnet_edge.parity import PASS, ParitySettings, compare_answers
    from alexnet_edge.runtimes.base import RuntimeOptions
    from alexnet_edge.runtimes.loader import open_engine

    output = Output(json)
    settings = ParitySettings(margin, batch_size, max_images, seed, max_bad)
    image_set = open_images(images)
    names = read_classes(classes) if classes else None
    options = RuntimeOptions(device, threads)
    with (
        open_engine(engine, options) as opened,
        open_engine(reference) as truth,
        progress_bar("comparing") as update,
    ):
        result = compare_answers(
                opened, truth, image_set, settings, classes=names,
                on_progress=lambda at: update(
                    at.done, at.total, f"{duration(at.seconds_left)} left"
                ),
            )  # fmt: skip
    _show(output, result)
    output.finish(result)
    if result.verdict != PASS:
        raise typer.Exit(EXIT_VERDICT)


def _show(output: Output, result: ParityResult) -> None:
    for skipped in result.skipped:
        output.say(f"skipped: {skipped.reason}")
    table = new_table("", "reference", "engine")
    if result.reference is not None and result.engine is not None:
        table.add_row("top-1", f"{result.reference.top1:.2%}", f"{result.engine.top1:.2%}")
        table.add_row("top-5", _percent(result.reference), _percent(result.engine))
        output.show(table)
    output.say(
        f"agreement {result.agreement:.2%} of {result.images} images; SQNR of the "
        f"{result.output_kind} {_decibels(result.sqnr_db)}, of the logits "
        f"{_decibels(result.logit_sqnr_db)}; largest difference {result.max_abs:.2g}"
    )
    if result.flips is not None and result.drop_ci95_pp is not None:
        low, high = result.drop_ci95_pp
        output.say(
            f"drop {result.drop_pp:+.2f} pp, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"{result.flips.broken} broken, {result.flips.fixed} fixed, "
            f"McNemar p = {result.mcnemar_p:.2g}"
        )
    unit = "top-1" if result.basis == "top1" else "agreement, for want of labels"
    output.say(f"verdict: {result.verdict} at a margin of {result.margin_pp:g} pp of {unit}")
    if result.verdict == "inconclusive":
        output.say("the interval lies on both sides of the margin: give more images")


def _percent(accuracy: Accuracy) -> str:
    return "–" if accuracy.top5 is None else f"{accuracy.top5:.2%}"


def _decibels(value: float | None) -> str:
    return "∞ (equal)" if value is None else f"{value:.1f} dB"

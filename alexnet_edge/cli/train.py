"""`alexnet-edge train`: class folders or digits into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._preprocess import PreprocessOptions, with_preprocess_options
from alexnet_edge.cli._shared import (
    ArchOption,
    JsonOption,
    MaxBadOption,
    Output,
    WidthOption,
    duration,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.train import TrainProgress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Class folders or digits into a checkpoint.")(
        with_preprocess_options(train)
    )


def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="digits|DIR", help="digits, class folders, or a folder with train/ and val/."
        ),
    ] = "digits",
    out: Annotated[Path, typer.Option(help="The best checkpoint.")] = Path("alexnet.pt"),
    val: Annotated[
        str | None, typer.Option(metavar="DIR", help="Validation class folders.")
    ] = None,
    arch: ArchOption = "alexnet",
    width: WidthOption = 1.0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images (default: 14; digits 4).")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step (default: 32; digits 16).")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak of the one-cycle rate (default: 0.01; digits 0.02).")
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 5e-4,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Mirror half of the images (default: not digits)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, crops and dropout.")] = 0,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="bfloat16 autocast (default: where it helps)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_bad: MaxBadOption = 0.01,
    resume: Annotated[bool, typer.Option(help="Go on from OUT's .last checkpoint.")] = False,
    json: JsonOption = None,
    *,
    preprocessing: PreprocessOptions,
) -> None:
    """Train an AlexNet with SGD, and keep the best and the last checkpoint.

    Example: alexnet-edge train --data photos/ --out alexnet.pt
    """
    import dataclasses

    from alexnet_edge.train import (
        choose_device,
        default_preprocess,
        default_settings,
        last_path,
        open_training_sets,
    )
    from alexnet_edge.train import train as run

    output = Output(json)
    spec = preprocessing.applied_to(default_preprocess(data, arch))
    chosen_device, bf16_helps = choose_device(device)
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": lr,
        "flip": flip,
        "bf16": bf16_helps if bf16 is None else bf16,
    }
    settings = dataclasses.replace(
        default_settings(data),
        arch=arch,
        width=width,
        momentum=momentum,
        weight_decay=weight_decay,
        seed=seed,
        device=chosen_device,
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    images, validation = open_training_sets(data, val, seed=seed)
    output.say(
        f"{len(images)} images, {len(validation)} for validation, "
        f"{len(images.classes or ())} classes"
    )
    try:
        with progress_bar("training") as update:
            result = run(
                images, validation, spec, settings, out, resume=resume, max_bad=max_bad,
                on_progress=lambda at: _report(output, update, at, settings.epochs),
            )  # fmt: skip
    except KeyboardInterrupt:
        last = last_path(out)
        if last.exists():
            typer.echo(f"stopped; go on from the last whole epoch with --resume ({last})", err=True)
        raise
    for item in result.skipped:
        output.say(f"skipped: {item.reason}")
    output.say(
        f"{out}: {result.parameters:,} parameters, validation top-1 "
        f"{result.best.validation:.2%} at epoch {result.best.epoch}, in {duration(result.seconds)}"
    )
    output.finish(result)


def _report(output: Output, update: object, at: TrainProgress, epochs: int) -> None:
    if at.validation is not None:
        output.say(
            f"epoch {at.epoch}/{epochs}: loss {at.loss:.3f}, accuracy {at.accuracy:.1%}, "
            f"validation {at.validation:.1%}"
        )
        return
    if callable(update):
        update(
            (at.epoch - 1) * at.steps + at.step,
            epochs * at.steps,
            f"epoch {at.epoch}/{epochs} · loss {at.loss:.3f} · accuracy {at.accuracy:.1%} · "
            f"{duration(at.seconds_left)} left",
        )

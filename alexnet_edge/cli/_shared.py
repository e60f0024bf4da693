"""What the commands have in common: output, progress, preprocessing options.

Nothing heavy is imported before a command runs; `--help` must answer at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from alexnet_edge.preprocess import PreprocessSpec

EXIT_ERROR, EXIT_USAGE, EXIT_VERDICT, EXIT_INTERRUPTED = 1, 2, 3, 130

_PREPROCESSING = "Preprocessing"

JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for standard output."),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder of images or class folders, or digits:train, digits:val.",
    ),
]
ClassesOption = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="Class names in label order, one a line."),
]
MaxBadOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of images that may fail to decode.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads (default: one per core).")
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda; what is asked for runs, or fails.")]
ResizeOption = Annotated[
    int | None,
    typer.Option(help="Shorter side after resizing, in pixels.", rich_help_panel=_PREPROCESSING),
]
CropOption = Annotated[
    int | None,
    typer.Option(help="Centre square, in pixels.", rich_help_panel=_PREPROCESSING),
]
InterpolationOption = Annotated[
    str | None,
    typer.Option(help="bilinear, bicubic or box.", rich_help_panel=_PREPROCESSING),
]
ColorOption = Annotated[
    str | None,
    typer.Option(help="RGB, or BGR for networks from Caffe.", rich_help_panel=_PREPROCESSING),
]


def _check_triple(text: str | None) -> str | None:
    if text is not None:
        _triple(text)
    return text


def _triple(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise typer.BadParameter(f"'{text}' is not three numbers")
    return values


def _channels_option(help: str) -> Any:
    return typer.Option(
        metavar="A,B,C", help=help, callback=_check_triple, rich_help_panel=_PREPROCESSING
    )


MeanOption = Annotated[str | None, _channels_option("Mean per channel, of values in 0–1.")]
StdOption = Annotated[str | None, _channels_option("Deviation per channel, of values in 0–1.")]


class Output:
    """Where a command's figures go: a table for people, JSON for programs.

    With ``--json -`` standard output holds the JSON and nothing else.
    """

    def __init__(self, json_path: Path | None) -> None:
        from rich.console import Console

        self._json_path = json_path
        self._json_to_stdout = json_path is not None and str(json_path) == "-"
        # File and class names are text, never markup; a pipe has no width to fit in.
        self.console: Console = Console(
            stderr=self._json_to_stdout, highlight=False, soft_wrap=True, markup=False
        )
        if not self.console.is_terminal:
            self.console.width = 160

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text)

    def show(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table, soft_wrap=False)

    def finish(self, result: Any) -> None:
        """Write the JSON where it was asked for."""
        if self._json_path is None:
            return
        from alexnet_edge.artifacts import write_json
        from alexnet_edge.results import to_json

        if self._json_to_stdout:
            sys.stdout.write(json.dumps(to_json(result), indent=2) + "\n")
        else:
            write_json(self._json_path, to_json(result))


def new_table(*columns: str, title: str | None = None) -> Table:
    """Return a table whose first column is left-aligned and whose others are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, float, str], None]]:
    """Yield ``update(done, total, text)`` for a bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None, text="")

        def update(done: float, total: float, text: str) -> None:
            progress.update(task, completed=done, total=total, text=text)

        yield update


def duration(seconds: float) -> str:
    """Return `4 s` or `3 min 10 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def preprocess_from_options(
    base: PreprocessSpec | None,
    *,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    color: str | None,
    mean: str | None,
    std: str | None,
    input_kind: str | None = None,
) -> PreprocessSpec | None:
    """Return ``base`` with the options that were given in its place, or None if there are none.

    Raises:
        InputError: there is no base, and the options leave open what must not be guessed.
    """
    import dataclasses

    from alexnet_edge.errors import InputError
    from alexnet_edge.preprocess import PreprocessSpec

    given: dict[str, Any] = {
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "color": color,
        "mean": None if mean is None else _triple(mean),
        "std": None if std is None else _triple(std),
        "input": input_kind,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if base is not None:
        return dataclasses.replace(base, **given)
    if not given.keys() - {"input"}:
        return None
    missing = [f"--{key}" for key in ("resize", "crop", "mean", "std") if key not in given]
    if missing:
        raise InputError(
            f"{', '.join(missing)} must be given too: the model's metadata has no preprocessing",
            hint="e.g. --resize 256 --crop 227 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        )
    return PreprocessSpec(**given)

"""What the commands have in common: options, output, progress.

Nothing heavy is imported before a command runs; `--help` must answer at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from alexnet_edge.dataset import ImageSet
    from alexnet_edge.graph import GraphInfo

EXIT_ERROR, EXIT_USAGE, EXIT_VERDICT, EXIT_INTERRUPTED = 1, 2, 3, 130

GraphArgument = Annotated[Path, typer.Argument(help="The FP32 ONNX graph.")]
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
MaxImagesOption = Annotated[int | None, typer.Option(min=1, help="Images to take.")]
MaxJudgedOption = Annotated[int | None, typer.Option(min=1, help="Images to judge on.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images per inference.")]
ClassesOption = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="Class names in label order, one a line."),
]
MaxBadOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of images that may fail to decode.")
]
TableOrMeasuredOption = Annotated[
    Path | None,
    typer.Option(help="Calibration table (default: MODEL.table.json, else measured now)."),
]
RecipeOption = Annotated[str, typer.Option(help="For measuring a table.")]
AnyVersionsOption = Annotated[
    bool, typer.Option("--any-versions", help="Accept a table that other versions measured.")
]
RuntimeOption = Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")]
ArchOption = Annotated[str, typer.Option(help="alexnet, torchvision or caffe.")]
WidthOption = Annotated[float, typer.Option(help="Factor on the channels.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads (default: one per core).")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda, or through ONNX Runtime tensorrt or tensorrt,cuda; cuda:1 is the second "
        "GPU. What is asked for runs, or fails (default: what the engine is for).",
    ),
]


class Output:
    """Where a command's figures go: a table for people, JSON for programs.

    With ``--json -`` standard output holds the JSON and nothing else.

    Args:
        json_path: where to write JSON to.
        inputs: files that the command reads.

    Raises:
        InputError: the JSON would replace one of them, or another file that is no result, or its
            folder does not exist.
    """

    def __init__(self, json_path: Path | None, *inputs: Path | None) -> None:
        from rich.console import Console

        self._json_path = json_path
        self._json_to_stdout = json_path is not None and str(json_path) == "-"
        if json_path is not None and not self._json_to_stdout:
            _require_json_target(json_path, inputs)
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


def _require_json_target(path: Path, inputs: Sequence[Path | None]) -> None:
    from alexnet_edge.artifacts import require_target
    from alexnet_edge.errors import InputError

    require_target(path)
    if not path.is_file():
        return
    is_input = any(item is not None and item.exists() and item.samefile(path) for item in inputs)
    if is_input or _is_artifact(path):
        raise InputError(
            f"{path}: is {'an input' if is_input else 'no result'}, which --json would replace",
            hint="name another file",
        )


def _is_artifact(path: Path) -> bool:
    """Return whether a file is a model, an image, a table, or the manifest of what lies beside it.

    By where it is, for `build` and `calibrate` write manifests and tables as their results too.
    """
    with path.open("rb") as file:
        head = file.read(1024).lstrip()
    is_json = head.startswith(b"{") or not head
    return not is_json or path.with_suffix("").is_file() or path.name.endswith(".table.json")


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
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(description, total=None, text="")

        def update(done: float, total: float, text: str) -> None:
            progress.update(task, completed=done, total=total, text=text)

        yield update


def label_images(images: ImageSet, graph: GraphInfo, classes: tuple[str, ...] | None) -> ImageSet:
    """Return the images with labels that are indices of the model's classes.

    Raises:
        DatasetError: they lie in class folders, and nothing names the model's classes.
    """
    from alexnet_edge.errors import DatasetError

    names = classes or graph.classes
    if images.classes is not None and names is None:
        raise DatasetError(
            f"{images.name}: has class folders, but {graph.path} does not name its classes",
            hint="name them in label order: --classes FILE, one a line",
        )
    return images.with_classes(names) if names is not None else images


def duration(seconds: float) -> str:
    """Return `4 s` or `3 min 10 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

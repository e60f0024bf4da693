"""The command line: one file per command, and the only place that prints or exits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from alexnet_edge import __version__
from alexnet_edge.cli import (
    bench,
    build,
    calibrate,
    camera,
    compare,
    demo,
    doctor,
    export,
    inspect,
    lint,
    pareto,
    parity,
    report,
    sensitivity,
    summary,
    train,
)
from alexnet_edge.cli._shared import EXIT_ERROR, EXIT_INTERRUPTED
from alexnet_edge.cli._signals import TERMINATION
from alexnet_edge.cli._text import printable
from alexnet_edge.deferred import COMPUTER_ALGEBRA, deferred
from alexnet_edge.errors import AlexnetEdgeError

app = typer.Typer(
    name="alexnet-edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    train, summary, export, calibrate, sensitivity, pareto, lint, build, bench, parity, camera,
    compare, report, inspect, doctor, demo,
):  # fmt: skip
    _module.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alexnet-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """From a trained PyTorch AlexNet to an INT8 engine that still answers as FP32 did.

    Example: alexnet-edge demo
    """
    if debug:
        os.environ["ALEXNET_EDGE_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 error, 2 usage, 3 failed verdict, 130 interrupted.

    SIGTERM ends a command as it ends any program; `camera` makes 0 of it.
    """
    with TERMINATION.watching():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    try:
        with deferred(COMPUTER_ALGEBRA, importer="onnx_ir._core"):
            app(args=None if arguments is None else list(arguments))
    except SystemExit as done:
        if done.code == EXIT_INTERRUPTED:  # typer's, too, of a KeyboardInterrupt
            _end_interrupted()
        raise
    except KeyboardInterrupt:
        _end_interrupted()
    except AlexnetEdgeError as error:
        _fail(error, error.message, error.hint)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(error, f"{where}{error.strerror or error}", "check the path, its rights and the disk")
    except MemoryError as error:
        _fail(error, "out of memory", "use a smaller --batch-size, or close other programs")
    except Exception as error:
        _fail(error, f"internal error: {type(error).__name__}: {error}",
              "this is a bug; run again as: alexnet-edge --debug … and report it")  # fmt: skip
    sys.exit(0)


def _end_interrupted() -> NoReturn:
    terminated = TERMINATION.received == signal.SIGTERM
    if terminated and TERMINATION.exit_cleanly_on_sigterm:
        sys.exit(0)
    how = "terminated" if terminated else "interrupted"
    _say(f"{how}: no half-written file was left behind")
    if terminated:
        TERMINATION.end()
    sys.exit(EXIT_INTERRUPTED)


def _fail(error: BaseException, message: str, hint: str) -> NoReturn:
    if TERMINATION.received is not None:  # an import that it falls into may fail otherwise
        _end_interrupted()
    if os.environ.get("ALEXNET_EDGE_DEBUG"):
        raise error
    _say(f"error: {' '.join(message.split())}")
    if hint:
        _say(f"hint: {hint}")
    sys.exit(EXIT_ERROR)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)  # noqa: T201 - this is the place

"""`alexnet-edge camera`: live answers from a camera, a stream, a video or a folder."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_edge.cli._shared import (
    EXIT_INTERRUPTED,
    ClassesOption,
    DeviceOption,
    JsonOption,
    Output,
    ThreadsOption,
    new_table,
)
from alexnet_edge.cli._signals import TERMINATION

if TYPE_CHECKING:
    from alexnet_edge.camera.frames import Answer, Event, Sink
    from alexnet_edge.camera.loop import CameraLoop, LoopOptions, LoopResult
    from alexnet_edge.camera.sources.base import Source
    from alexnet_edge.classifier import Classifier

EXIT_STALLED = 4
"""The watchdog's: no frame came for --stall-timeout."""

_CALLERS_MOST = 4
"""Inferences at a time with --throughput on a CPU: each has eight frames in flight."""
_BENCH_DURATION_S = 10.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="Live answers from a camera, stream, video or folder.")(camera)


def camera(
    engine: Annotated[Path, typer.Argument(help="An engine, or an ONNX graph.")],
    source: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="csi://0, 0 or v4l2:///dev/video0, rtsp://…, http://… (MJPEG), a video, a folder "
            "of images, or -?width=W&height=H for raw frames on standard input.",
        ),
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Classes in an answer.")] = 3,
    smooth: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA|N",
            help="Average over time: below 1 the weight of the newest frame, else a number of "
            "frames.",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Probability from which an answer is accepted.")
    ] = 0.0,
    throughput: Annotated[
        bool,
        typer.Option(
            "--throughput", help="More frames a second, each older: several in flight at a time."
        ),
    ] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Answers to end after.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds to run, from the first frame.")
    ] = None,
    stall_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds without a frame after which to exit with 4; 0 for never."
        ),
    ] = 60.0,
    read_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a frame after which to reconnect.")
    ] = 5.0,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Open a lost camera or stream again.")
    ] = True,
    max_backoff: Annotated[
        float, typer.Option(min=0.1, help="Longest wait between two attempts, in seconds.")
    ] = 30.0,
    jsonl: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON line for every answer; - for standard output."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.mp4", help="Record the frames with their answers.")
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Show frames and answers in a browser."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ALEXNET_EDGE_TOKEN", help="What --serve asks for, beyond this machine."
        ),
    ] = None,
    view: Annotated[
        bool, typer.Option("--view/--quiet", help="Answers and rates in the terminal.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be opened, and open nothing.")
    ] = False,
    bench: Annotated[
        bool,
        typer.Option("--bench", help="A table of figures at the end; 10 s unless --duration."),
    ] = False,
    classes: ClassesOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Classify what a camera sees, and go on doing so: lost cameras are opened again.

    Exit codes: 0 the source ended, a limit was reached, or SIGTERM; 1 an error; 4 no frame came
    for --stall-timeout; 130 Ctrl-C.

    Example: alexnet-edge camera alexnet.int8.onnx --source rtsp://192.0.2.1/stream
    """
    # Before what takes time: imports, and opening the engine.
    TERMINATION.exit_cleanly_on_sigterm = True
    from alexnet_edge.camera.capture import CaptureOptions
    from alexnet_edge.camera.loop import LoopOptions
    from alexnet_edge.camera.sources import Timeouts, make_source
    from alexnet_edge.machine import usable_cores
    from alexnet_edge.runtimes.base import RuntimeOptions

    outputs = _Outputs(jsonl, record, serve, token, view=view and not bench)
    outputs.require_one_user_of_stdout(json)
    if bench and duration is None and max_frames is None:
        duration = _BENCH_DURATION_S
    options = LoopOptions(
        top_k=top_k, smooth=smooth, threshold=threshold, throughput=throughput,
        max_frames=max_frames, duration_s=duration, stall_timeout_s=stall_timeout or None,
        capture=CaptureOptions(retry, max_backoff, read_timeout),
    )  # fmt: skip
    described = make_source(source, Timeouts(max(2 * read_timeout, 1.0), read_timeout))
    output = Output(json)
    on_cpu = engine.suffix == ".onnx" and device in {None, "cpu"}
    callers = min(_CALLERS_MOST, usable_cores()) if throughput and on_cpu else 1
    with _open(engine, RuntimeOptions(device, threads, callers), classes) as classifier:
        if dry_run:
            _show_plan(output, classifier, described)
            return
        result, interrupted = _run(output, classifier, described, options, outputs)
        _finish(output, classifier, options, result, show=bench)
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.reason == "stalled":
        raise typer.Exit(EXIT_STALLED)


def _open(engine: Path, options: Any, classes: Path | None) -> Classifier:
    from alexnet_edge.classifier import Classifier
    from alexnet_edge.dataset import read_classes

    return Classifier(engine, options, classes=read_classes(classes) if classes else None)


class _Outputs:
    """The outputs that were asked for."""

    def __init__(
        self,
        jsonl: Path | None,
        record: Path | None,
        serve: str | None,
        token: str | None,
        *,
        view: bool,
    ) -> None:
        self._jsonl, self._record, self._serve, self._token = jsonl, record, serve, token
        self._view = view
        self._address = None if serve is None else _split_address(serve)

    def require_one_user_of_stdout(self, json: Path | None) -> None:
        if str(self._jsonl) == "-" and str(json) == "-":
            raise typer.BadParameter("--jsonl and --json cannot both be standard output")

    def open(self, output: Output, loop: CameraLoop, source: Source) -> Iterator[Sink]:
        """Yield each output as it is opened."""
        if self._jsonl is not None:
            from alexnet_edge.camera.sinks import JsonLines

            yield JsonLines("-" if str(self._jsonl) == "-" else self._jsonl)
        if self._record is not None:
            from alexnet_edge.camera.sinks import VideoRecorder

            # A nominal rate: each frame keeps its own time.
            yield VideoRecorder(self._record, source.fps or 30.0)
        if self._address is not None:
            from alexnet_edge.camera.web import WebServer

            server = WebServer(*self._address, loop.stats, token=self._token)
            host, port = server.start()
            _say(f"serving http://{host}:{port}/")
            yield server
        if self._view:
            from rich.console import Console

            from alexnet_edge.camera.sinks import TerminalView

            quiet = str(self._jsonl) == "-"
            yield TerminalView(Console(stderr=True) if quiet else output.console, loop.stats)
        else:
            # An answer that nobody can read any more is no reason to go on.
            alone = str(self._jsonl) == "-" and self._record is None and self._serve is None
            yield _EventLines(loop.stop if alone else None)


class _EventLines:
    """Says on standard error what happened, where no view does.

    Args:
        on_failure: called when an output failed.
    """

    name = "standard error"

    def __init__(self, on_failure: Callable[[], None] | None) -> None:
        self._on_failure = on_failure

    def write(self, answer: Answer) -> None:
        """Answers are for the other outputs."""

    def note(self, event: Event) -> None:
        """Print a line."""
        _say(f"{event.kind}: {event.message}")
        if event.kind == "sink-failed" and self._on_failure is not None:
            self._on_failure()

    def close(self) -> None:
        """Nothing is held."""


def _run(
    output: Output,
    classifier: Classifier,
    source: Source,
    options: LoopOptions,
    outputs: _Outputs,
) -> tuple[LoopResult, bool]:
    """Run the loop to its end; return its result, and whether Ctrl-C ended it."""
    from alexnet_edge.camera.loop import CameraLoop

    loop = CameraLoop(classifier, source, options)
    opened: list[Sink] = []
    try:
        for sink in outputs.open(output, loop, source):
            opened.append(sink)
            loop.add_sink(sink)
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    with _stopping_on_signals(loop.stop) as received:
        result = loop.run()
    return result, signal.SIGINT in received


@contextlib.contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Turn the first Ctrl-C and SIGTERM into a stop; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_plan(output: Output, classifier: Classifier, source: Source) -> None:
    info, spec = classifier.info, classifier.spec
    for line in source.describe():
        output.say(line)
    frames = "the newest frame, older ones are dropped" if source.live else "every frame"
    output.say(f"delivers: {frames}")
    output.say(
        f"engine: {info.path} ({info.runtime}, {info.precision}), takes {info.input}; resize "
        f"{spec.resize}, crop {spec.crop}, {spec.interpolation}, {spec.color}"
    )
    output.finish({"kind": "camera-plan", "source": source.name, "live": source.live,
                   "opens": source.describe(), "engine": str(info.path)})  # fmt: skip


def _finish(
    output: Output,
    classifier: Classifier,
    options: LoopOptions,
    result: LoopResult,
    *,
    show: bool,
) -> None:
    from alexnet_edge.camera.report import describe_run

    described = describe_run(classifier, options, result)
    if show:
        _show_figures(output, described)
    stats = result.stats
    _say(
        f"{result.reason}: {stats.answered} of {stats.captured} frames answered, {stats.dropped} "
        f"dropped, {stats.corrupt} corrupt, {stats.reconnects} reconnects; {result.fps:.1f} fps "
        f"over {result.seconds:.1f} s, age p50 {result.age_ms.p50:.1f} ms"
    )
    for reason in result.failed_sinks.values():
        _say(f"failed: {reason}")
    output.finish(described)


def _show_figures(output: Output, run: dict[str, Any]) -> None:
    table = new_table("ms", "mean", "p50", "p90", "p99")
    for name, times in {**run["stages_ms"], "age, photon to answer": run["frame_age_ms"]}.items():
        table.add_row(name, *(f"{times[key]:.2f}" for key in ("mean", "p50", "p90", "p99")))
    output.show(table)
    output.say(
        f"{run['fps']:.1f} answers/s, CPU {run['cpu_percent']:.0f} % of a core, "
        f"{run['rss_bytes'] / 1e6:.0f} MB resident"
    )


def _split_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"'{text}' is not HOST:PORT", param_hint="--serve")
    return host.strip("[]") or "127.0.0.1", int(port)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the place

"""`alexnet-edge demo`: the whole chain on bundled data."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._ranges import calibrate_into, choose_method
from alexnet_edge.cli._shared import (
    JsonOption,
    Output,
    duration,
    new_table,
    progress_bar,
)

if TYPE_CHECKING:
    from alexnet_edge.bench import BenchResult
    from alexnet_edge.manifest import Manifest
    from alexnet_edge.parity import ParityResult
    from alexnet_edge.quantize.table import CalibrationTable

CALIBRATION_IMAGES = 128
MARGIN_PP = 2.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="The whole chain on bundled data.")(demo)


def demo(
    workdir: Annotated[Path, typer.Option(help="Where the artifacts go.")] = Path("demo"),
    width: Annotated[float, typer.Option(help="Factor on the channels; 1 is full size.")] = 1.0,
    json: JsonOption = None,
) -> None:
    """Train on digits, export, calibrate, build FP32 and INT8, measure and judge.

    Steps whose results are still valid are not repeated. Example: alexnet-edge demo
    """
    from alexnet_edge.artifacts import write_json
    from alexnet_edge.results import to_json

    output = Output(json)
    started = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    steps = _Demo(output, workdir, width)
    steps.checkpoint()
    steps.graph()
    table = steps.table()
    engines = [steps.engine("fp32", None), steps.engine("int8", table)]
    benched = steps.bench(engines)
    judged = steps.parity(engines[1])
    result = {"bench": benched, "parity": judged, "seconds": time.monotonic() - started}
    write_json(workdir / "bench.result.json", to_json(benched))
    write_json(workdir / "parity.result.json", to_json(judged))
    _show(output, benched, judged)
    output.say(f"done in {duration(time.monotonic() - started)}; go on in {workdir}/, e.g.:")
    output.say(f"  cd {workdir} && alexnet-edge build --int8 --runtime tensorrt-rtx")
    output.finish(result)


class _Demo:
    """The steps, each of which keeps what is still valid."""

    def __init__(self, output: Output, workdir: Path, width: float) -> None:
        self.output = output
        self.width = width
        self.path = workdir / "alexnet.pt"
        self.onnx = workdir / "alexnet.onnx"
        self.table_path = workdir / "alexnet.table.json"

    def checkpoint(self) -> None:
        """Train one epoch, or keep a checkpoint of the very same run."""
        import dataclasses
        import json

        from alexnet_edge.dataset import open_images
        from alexnet_edge.errors import AlexnetEdgeError
        from alexnet_edge.model import read_extra
        from alexnet_edge.train import (
            DIGITS_SETTINGS,
            choose_device,
            default_preprocess,
            run_identity,
            train,
        )

        device, bf16 = choose_device("auto")
        settings = dataclasses.replace(
            DIGITS_SETTINGS, width=self.width, epochs=1, bf16=bf16, device=device
        )
        spec = default_preprocess("digits", settings.arch)
        images, validation = open_images("digits:train"), open_images("digits:val")
        wanted = run_identity(images, spec, settings)
        with contextlib.suppress(AlexnetEdgeError):
            found = read_extra(self.path, "recipe")
            if found is not None and json.loads(found) == wanted:
                self._kept("training", self.path)
                return
        with progress_bar("training") as update:
            result = train(
                images, validation, spec, settings, self.path,
                on_progress=lambda at: update(
                    at.step, at.steps,
                    f"loss {at.loss:.3f} · accuracy {at.accuracy:.1%} · "
                    f"{duration(at.seconds_left)} left",
                ),
            )  # fmt: skip
        self._done("training", self.path, f"validation top-1 {result.best.validation:.2%}")

    def graph(self) -> None:
        """Export, or keep a graph of this checkpoint."""
        from alexnet_edge.errors import AlexnetEdgeError
        from alexnet_edge.export import ExportSettings, export_onnx
        from alexnet_edge.graph import read_graph
        from alexnet_edge.model import load_checkpoint

        checkpoint = load_checkpoint(self.path)
        with contextlib.suppress(AlexnetEdgeError):
            if read_graph(self.onnx).checkpoint_sha256 == checkpoint.sha256:
                self._kept("export", self.onnx)
                return
        result = export_onnx(
            checkpoint, checkpoint.default_preprocess(), ExportSettings(), self.onnx
        )
        self._done("export", self.onnx, f"relative error {result.relative_error:.1e}")

    def table(self) -> CalibrationTable:
        """Calibrate, or keep a table of this graph."""
        from alexnet_edge.dataset import open_images
        from alexnet_edge.errors import AlexnetEdgeError
        from alexnet_edge.graph import read_graph
        from alexnet_edge.quantize.calibrate import CalibrationSettings
        from alexnet_edge.quantize.table import load_table

        with contextlib.suppress(AlexnetEdgeError):
            table = load_table(self.table_path)
            graph = read_graph(self.onnx)
            table.require_match(graph, graph.preprocess)
            if table.images["count"] == CALIBRATION_IMAGES:
                self._kept("calibration", self.table_path)
                return table
        settings = CalibrationSettings(max_images=CALIBRATION_IMAGES)
        return calibrate_into(
            self.output, self.onnx, open_images("digits:train"), self.table_path, settings, None
        )

    def engine(self, precision: str, table: CalibrationTable | None) -> Path:
        """Build, or keep an engine of this graph and table."""
        from alexnet_edge.artifacts import sha256_file
        from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
        from alexnet_edge.errors import AlexnetEdgeError
        from alexnet_edge.manifest import load_manifest

        settings = BuildSettings(precision)
        out = default_out(self.onnx, settings)
        with contextlib.suppress(AlexnetEdgeError):
            manifest: Manifest = load_manifest(out)
            made_from = (sha256_file(self.onnx), table.sha256 if table else None)
            if (manifest.model_sha256, manifest.table_sha256) == made_from:
                self._kept(f"build {precision}", out)
                return out
        choice = None
        if table is not None:
            choice = choose_method(self.output, self.onnx, table, settings.dialect)
        manifest = build_engine(self.onnx, out, settings, table=table, choice=choice)
        layers = sum(layer.precision == precision for layer in manifest.layers)
        self._done(f"build {precision}", out, f"{layers} weighted layers in {precision}")
        return out

    def bench(self, engines: list[Path]) -> BenchResult:
        """Measure the engines side by side."""
        from alexnet_edge.bench import BenchSettings, Inputs, bench
        from alexnet_edge.dataset import open_images
        from alexnet_edge.runtimes.loader import open_engine

        with contextlib.ExitStack() as stack, progress_bar("measuring") as update:
            opened = [stack.enter_context(open_engine(path)) for path in engines]
            return bench(
                opened, BenchSettings(), inputs=Inputs(open_images("digits:val")),
                on_progress=lambda at: update(at.done_s, at.total_s, ""),
            )  # fmt: skip

    def parity(self, engine: Path) -> ParityResult:
        """Judge INT8 against the FP32 graph on the validation digits."""
        from alexnet_edge.dataset import open_images
        from alexnet_edge.parity import ParitySettings, compare_answers
        from alexnet_edge.runtimes.loader import open_engine

        with (
            open_engine(engine) as opened,
            open_engine(self.onnx) as reference,
            progress_bar("comparing") as update,
        ):
            return compare_answers(
                    opened, reference, open_images("digits:val"), ParitySettings(MARGIN_PP),
                    on_progress=lambda at: update(at.done, at.total, ""),
                )  # fmt: skip

    def _done(self, step: str, path: Path, what: str) -> None:
        self.output.say(f"{step}: {path}, {what}")

    def _kept(self, step: str, path: Path) -> None:
        self.output.say(f"{step}: {path} is still valid")


def _show(output: Output, benched: BenchResult, judged: ParityResult) -> None:
    table = new_table("engine", "size MB", "p50 ms", "images/s", "top-1", "verdict")
    accuracies = (judged.reference, judged.engine)
    verdicts = ("reference", f"{judged.verdict} (margin {judged.margin_pp:g} pp)")
    for row, accuracy, verdict in zip(benched.engines, accuracies, verdicts, strict=True):
        table.add_row(
            f"{row.precision.upper()}  {Path(row.engine).name}", f"{row.size_bytes / 1e6:.1f}",
            f"{row.latency_ms.p50:.2f}", f"{row.throughput_ips:.1f}",
            "–" if accuracy is None else f"{accuracy.top1:.2%}", verdict,
        )  # fmt: skip
    output.show(table)
    fp32, int8 = benched.engines
    output.say(
        f"INT8 is {fp32.latency_ms.p50 / int8.latency_ms.p50:.2f}× faster and "
        f"{fp32.size_bytes / int8.size_bytes:.2f}× smaller; it agrees with FP32 on "
        f"{judged.agreement:.2%} of {judged.images} images"
    )

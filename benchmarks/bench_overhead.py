"""Does `bench` tell the truth? Its own overhead, an independent loop, engines alone and together.

    python benchmarks/bench_overhead.py                        # about 4 minutes on two quiet cores
    python benchmarks/bench_overhead.py a.onnx b.int8.onnx     # with engines of your own

Without engines it builds FP32 and INT8 of a full-size AlexNet with random weights, once, in
build/bench-overhead. Each pair of figures is taken in turns, several times over, and the median of
their ratios counts. The last line is one JSON object; the exit code is 1 if a target is missed.
Other programs disturb it: whether any did is in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.bench import BenchResult, BenchSettings, Bounds, bench, synthetic_input
from alexnet_edge.bench.interference import CoreWatch
from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import build_engine
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.machine import environment
from alexnet_edge.model import Architecture, Checkpoint, build_module, import_torch
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo, Runtime
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.ort import import_onnxruntime

ROOT = Path(__file__).parents[1]
WORKDIR = ROOT / "build/bench-overhead"

OVERHEAD_US, AGREEMENT, TOGETHER = 20.0, 0.05, 0.10
"""The targets: microseconds a sample; shares of the median."""


class NoOp(Runtime):
    """Does nothing, and notes when it was asked to."""

    name = "no-op"

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"")
        image = TensorSpec("input", "float32", (None, 3, 227, 227))
        answers = TensorSpec("output", "float32", (None, 10))
        super().__init__(EngineInfo(path, self.name, "fp32", image, answers, "logits", ""))
        self._answers = np.zeros((1, 10), np.float32)
        self.asked_ns: list[int] = []

    def _execute(self, batch: Any) -> Any:
        self.asked_ns.append(time.perf_counter_ns())
        return self._answers


class Spinning(Runtime):
    """ONNX Runtime as it is by default: the threads of an idle session spin."""

    name = "onnxruntime"

    def __init__(self, info: EngineInfo) -> None:
        super().__init__(info)
        ort = import_onnxruntime("the trap")
        self._session = ort.InferenceSession(str(info.path), providers=["CPUExecutionProvider"])

    def _execute(self, batch: Any) -> Any:
        return self._session.run(None, {self.info.input.name: batch})[0]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long each measurement takes, and how often pairs are repeated."""

    seconds: float
    rounds: int

    @property
    def settings(self) -> BenchSettings:
        """Of each run of `bench`."""
        return BenchSettings(duration_s=self.seconds, min_samples=20)


def measure_overhead(plan: Plan) -> dict[str, Any]:
    """Measure what `bench` takes beside the engine: all of it, and what is in a reading."""
    with tempfile.TemporaryDirectory() as folder, NoOp(Path(folder) / "no-op") as engine:
        row = bench([engine], dataclasses.replace(plan.settings, warmup_s=0.2)).engines[0]
        asked = engine.asked_ns[-row.samples :]
    return {
        # From the first query of the first turn to the last one: with the gaps between turns.
        "us_per_sample": (asked[-1] - asked[0]) / (len(asked) - 1) / 1e3,
        "in_a_reading_us": row.latency_ms.p50 * 1e3,
        "samples": row.samples,
    }


def time_alone(engine: Runtime, seconds: float) -> float:
    """Return the median of an independent loop, in milliseconds."""
    images = synthetic_input(engine.info.input, None, seed=1)
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 20:
        started = time.perf_counter()
        engine.infer(images)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e3


def measure_agreement(engines: Sequence[Runtime], plan: Plan) -> dict[str, Any]:
    """Compare `bench` with an independent loop, engine by engine."""
    found: dict[str, list[tuple[float, float]]] = {name_of(engine): [] for engine in engines}
    for index in range(plan.rounds):
        for engine in engines:
            if index % 2:
                benched = bench([engine], plan.settings).engines[0].latency_ms.p50
                loop = time_alone(engine, plan.seconds)
            else:
                time_alone(engine, 0.5)
                loop = time_alone(engine, plan.seconds)
                benched = bench([engine], plan.settings).engines[0].latency_ms.p50
            found[name_of(engine)].append((benched, loop))
    return {name: summarize_pairs(pairs, "bench_ms", "loop_ms") for name, pairs in found.items()}


def measure_together(engines: Sequence[Runtime], plan: Plan) -> dict[str, Any]:
    """Compare engines that share a run with each alone."""
    found: dict[str, list[tuple[float, float]]] = {name_of(engine): [] for engine in engines}
    idle_cores = 0.0
    for _ in range(plan.rounds):
        alone = [bench([engine], plan.settings).engines[0].latency_ms.p50 for engine in engines]
        result = bench(engines, plan.settings)
        idle_cores = max(idle_cores, idle_of(result))
        for engine, row, single in zip(engines, result.engines, alone, strict=True):
            found[name_of(engine)].append((row.latency_ms.p50, single))
    pairs = {
        name: summarize_pairs(pairs, "together_ms", "alone_ms") for name, pairs in found.items()
    }
    return {"engines": pairs, "idle_cores": idle_cores}


def measure_trap(engines: Sequence[Runtime], plan: Plan) -> dict[str, Any]:
    """Show that sessions which spin are called invalid."""
    with contextlib.ExitStack() as stack:
        spinning = [
            stack.enter_context(Spinning(engine.info))
            for engine in engines
            if engine.info.runtime == "onnxruntime"
        ]
        result = bench(spinning, plan.settings)
    return {
        "idle_cores": idle_of(result),
        "noticed": any(reason.startswith("spinning") for reason in result.invalid_because),
    }


def idle_of(result: BenchResult) -> float:
    return float(str(result.scenario["idle_cores"]))


def name_of(engine: Runtime) -> str:
    return engine.info.path.name


def summarize_pairs(
    pairs: Sequence[tuple[float, float]], first: str, second: str
) -> dict[str, Any]:
    """Return the medians of both figures and of their ratios."""
    return {
        first: statistics.median(a for a, _ in pairs),
        second: statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratios": [round(a / b, 4) for a, b in pairs],
    }


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    overhead = result["overhead"]["us_per_sample"]
    targets = [
        (
            f"overhead under {OVERHEAD_US:g} µs a sample",
            f"{overhead:.2f} µs",
            overhead < OVERHEAD_US,
        )
    ]
    for name, found in result["agreement"].items():
        off = found["ratio"] - 1
        targets.append(
            (f"{name}: as an independent loop within {AGREEMENT:.0%}", f"{off:+.1%}",
             abs(off) <= AGREEMENT)
        )  # fmt: skip
    for name, found in result["together"]["engines"].items():
        off = found["ratio"] - 1
        targets.append(
            (f"{name}: together as alone within {TOGETHER:.0%}", f"{off:+.1%}",
             abs(off) <= TOGETHER)
        )  # fmt: skip
    if (trap := result["trap"]) is not None:
        targets.append(
            ("sessions that spin are called invalid", f"{trap['idle_cores']:.2f} cores",
             trap["noticed"])
        )  # fmt: skip
    return targets


def make_engines(workdir: Path) -> list[Path]:
    """Build FP32 and INT8 of a full-size network with random weights, unless they are there."""
    paths = [workdir / f"random.{precision}.onnx" for precision in ("fp32", "int8")]
    if all(path.exists() and path.with_name(f"{path.name}.json").exists() for path in paths):
        return paths
    workdir.mkdir(parents=True, exist_ok=True)
    import_torch("a network to measure").manual_seed(0)
    architecture = Architecture()
    weights = build_module(architecture).state_dict()
    graph = workdir / "random.onnx"
    spec = PreprocessSpec(crop=architecture.input_size)
    export_onnx(Checkpoint(architecture, weights), spec, ExportSettings(), graph)
    table = calibrate(graph, open_images("digits:train"), CalibrationSettings(max_images=32))
    build_engine(graph, paths[0], BuildSettings())
    build_engine(graph, paths[1], BuildSettings("int8", method="minmax"), table=table)
    return paths


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Runtime]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_engine(path)) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    plan = Plan(options.seconds, options.rounds)
    paths = options.engines or make_engines(WORKDIR)
    watch = CoreWatch()
    with opened(paths) as engines:
        result: dict[str, Any] = {
            "overhead": measure_overhead(plan),
            "agreement": measure_agreement(engines, plan),
            "together": measure_together(engines, plan),
            "trap": None,
        }
        if len([engine for engine in engines if engine.info.runtime == "onnxruntime"]) > 1:
            result["trap"] = measure_trap(engines, plan)
    result["other_share"] = watch.other_share()
    result["environment"] = environment()
    targets = judge(result)
    result["targets"] = [
        {"target": target, "seen": seen, "reached": reached} for target, seen, reached in targets
    ]
    for target, seen, reached in targets:
        print(f"{'reached' if reached else 'MISSED '}  {target}: {seen}")
    if (share := result["other_share"]) is not None and share > Bounds().other_cpu:
        print(f"disturbed: other programs had {share:.0%} of the cores; misses prove nothing")
    print(json.dumps(result))
    sys.exit(0 if all(reached for *_, reached in targets) else 1)


if __name__ == "__main__":
    main()

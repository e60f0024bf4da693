"""Latency and throughput of engines, interleaved in one run.

What is timed is `Runtime.infer`: host memory in, host memory out. Several engines take turns in
short slices, in the order A B … B A, so that drift of the machine falls on all of them alike;
sessions are opened so that idle ones do not spin on the cores (see `runtimes/ort.py`), which is
verified in every run. A run that cannot be relied on says so, and why.

    with open_engine(Path("alexnet.int8.onnx")) as engine:
        result = bench([engine], BenchSettings())
    print(result.engines[0].latency_ms.p50, result.valid)
"""

from alexnet_edge.bench.inputs import Inputs, synthetic_input
from alexnet_edge.bench.results import (
    BenchProgress,
    BenchResult,
    EngineBench,
    Floor,
    Histogram,
    Latency,
    LayerShare,
    Slices,
    Variation,
    WarmUp,
)
from alexnet_edge.bench.run import bench
from alexnet_edge.bench.settings import METRICS, BenchSettings, Bounds, Scenario
from alexnet_edge.bench.summary import summarize_latency

__all__ = [
    "METRICS",
    "BenchProgress",
    "BenchResult",
    "BenchSettings",
    "Bounds",
    "EngineBench",
    "Floor",
    "Histogram",
    "Inputs",
    "Latency",
    "LayerShare",
    "Scenario",
    "Slices",
    "Variation",
    "WarmUp",
    "bench",
    "summarize_latency",
    "synthetic_input",
]

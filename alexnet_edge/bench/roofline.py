"""What this machine can do at best: bytes read and products summed in a second.

Measured, because what a processor's data sheet says holds neither for the cores that a container
has nor for the memory that neighbours share. Both are taken as the best of several tries: they
bound what is measured from below, so noise must not lower them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session, session_options

if TYPE_CHECKING:
    import onnx

_ROUNDS = 8
_ROUND_S = 0.04
_SMALLEST_BYTES = 256 << 10
_DEPTH = 3
"""Convolutions in a row, so that the copies at both ends of a graph weigh little."""


@functools.cache
def measure_bandwidth(size_bytes: int, threads: int) -> float:
    """Return how fast memory of a size is read over and over, in bytes a second.

    What fits in a cache is read from there, as an engine's weights are in a loop.

    Args:
        size_bytes: of the memory; at least 256 KiB are taken.
        threads: that read it, each a part.
    """
    memory = np.ones(max(size_bytes, _SMALLEST_BYTES) // 8, np.int64)
    parts = np.array_split(memory, threads)
    barrier = threading.Barrier(threads)
    spans: list[list[tuple[float, float, int]]] = [[] for _ in range(_ROUNDS)]

    def work(part: np.ndarray[Any, Any]) -> None:
        for round_spans in spans:
            barrier.wait()
            started, read = time.perf_counter(), 0
            while (now := time.perf_counter()) < started + _ROUND_S or not read:
                np.bitwise_or.reduce(part)
                read += part.nbytes
            round_spans.append((started, now, read))

    workers = [threading.Thread(target=work, args=(part,)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(
        sum(read for *_, read in found)
        / (max(end for _, end, _ in found) - min(start for start, *_ in found))
        for found in spans
    )


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Convolutions of as many channels in as out; their weights and images fit in a cache."""

    channels: int
    kernel: int
    side: int

    @property
    def macs(self) -> int:
        return _DEPTH * (self.channels * self.kernel * self.side) ** 2


_SHAPES = (_Shape(256, 3, 27), _Shape(128, 5, 27), _Shape(384, 3, 13))


@functools.cache
def measure_compute(precision: str, threads: int) -> float | None:
    """Return the multiply-accumulates a second of ONNX Runtime's best convolution on the CPU.

    Args:
        precision: `fp32` or `int8`; of others the CPU has no kernels.
        threads: that it may use.

    Returns:
        None of another precision.
    """
    makers: dict[str, Callable[[_Shape], onnx.ModelProto]] = {
        "fp32": _make_float,
        "int8": _make_integer,
    }
    if precision not in makers:
        return None
    options = RuntimeOptions(device="cpu", threads=threads)
    best = 0.0
    for shape in _SHAPES:
        model = makers[precision](shape)
        session = create_session(model.SerializeToString(), options, session_options(options))
        dtype = np.uint8 if precision == "int8" else np.float32
        image = np.ones((1, shape.channels, shape.side, shape.side), dtype)
        best = max(best, shape.macs / _shortest(lambda: session.run(None, {"x": image})))  # noqa: B023
    return best


def _shortest(run: Callable[[], object]) -> float:
    """Return the shortest of many runs, in seconds."""
    run()
    shortest = float("inf")
    end = time.perf_counter() + _ROUNDS * _ROUND_S / 2
    while (started := time.perf_counter()) < end:
        run()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def _make_float(shape: _Shape) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.full((shape.channels, shape.channels, shape.kernel, shape.kernel), 1e-4, np.float32)
    nodes = [
        helper.make_node("Conv", [before, "w"], [after], pads=[shape.kernel // 2] * 4)
        for before, after in _chain()
    ]
    return _make_model(nodes, [numpy_helper.from_array(weight, "w")], TensorProto.FLOAT, shape)


def _make_integer(shape: _Shape) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    size = (shape.channels, shape.channels, shape.kernel, shape.kernel)
    constants = {
        "w": np.ones(size, np.int8),
        "s": np.float32(0.01),
        "z": np.uint8(0),
        "ws": np.full(shape.channels, 0.01, np.float32),
        "wz": np.zeros(shape.channels, np.int8),
    }
    nodes = [
        helper.make_node(
            "QLinearConv", [before, "s", "z", "w", "ws", "wz", "s", "z"], [after],
            pads=[shape.kernel // 2] * 4,
        )
        for before, after in _chain()
    ]  # fmt: skip
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    return _make_model(nodes, tensors, TensorProto.UINT8, shape)


def _chain() -> list[tuple[str, str]]:
    names = ["x", *(f"y{index}" for index in range(1, _DEPTH)), "y"]
    return list(itertools.pairwise(names))


def _make_model(nodes: list[Any], tensors: list[Any], kind: int, shape: _Shape) -> onnx.ModelProto:
    from onnx import helper

    size = [1, shape.channels, shape.side, shape.side]
    graph = helper.make_graph(
        nodes, "peak",
        [helper.make_tensor_value_info("x", kind, size)],
        [helper.make_tensor_value_info("y", kind, size)],
        tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

"""What the weighted layers of a graph answer, in the middle of it.

A graph is opened with the result of each weighted layer among its outputs: an FP32 graph, a Q/DQ
graph, or an engine of ONNX Runtime, whose integers are turned back into the numbers that they stand
for. Layers keep their names all the way (see `quantize.layers.prepare`), so the same layer is found
in each.

    probe = LayerProbe(proto, names, "alexnet.onnx")
    found = probe.run(batch)      # layer name to (N, …) float32, in the network's order
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from alexnet_edge.errors import GraphError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.scales import FloatArray
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session, import_onnxruntime, session_options
from alexnet_edge.similarity import sqnr_db

INPUT, OUTPUT = "<input>", "<output>"
"""By these names the first layer's input and the answers are among the results."""

_LEAST_DB = -200.0
"""Where there is noise and no signal: JSON has no infinity."""

_RESULT_SCALE = {"QLinearConv": 6, "QGemm": 7, "QLinearMatMul": 6}
"""Which input of an integer operator is the scale of its result; its zero point is the next one."""

_MOVES = ("Cast", "Transpose", "Reshape", "Pad")
_COLORS = 3

_ACTIVATION_SCALE = {"QLinearConv": 1, "QGemm": 1, "QLinearMatMul": 1}


@dataclasses.dataclass(frozen=True)
class LayerSqnr:
    """How close a layer's result is.

    Attributes:
        name: the layer's.
        sqnr_db: of its result against that of the same layer elsewhere; None where they are equal.
    """

    name: str
    sqnr_db: float | None


@dataclasses.dataclass(frozen=True)
class _Tap:
    """A tensor, and what its integers stand for.

    Attributes:
        tensor: its name.
        scale, zero_point: of its integers; None where it holds floats.
        width: pixels in a row, where it holds blocks of them (see `engine.pixel_columns`).
    """

    tensor: str
    scale: FloatArray | None = None
    zero_point: AnyArray | None = None
    width: int | None = None

    def restore(self, values: AnyArray) -> FloatArray:
        if self.width is not None:
            count, _, height, _ = values.shape
            rows = values.transpose(0, 2, 3, 1).reshape(count, height, -1, _COLORS)
            values = rows[:, :, : self.width].transpose(0, 3, 1, 2)
        if self.scale is None or self.zero_point is None:
            return np.asarray(values, np.float32)
        return (values.astype(np.float32) - self.zero_point.astype(np.float32)) * self.scale


class LayerProbe:
    """A graph that shows what its layers answer.

    Args:
        model: of ONNX; changed.
        names: of the weighted layers.
        what: the model's name, for errors.
        folder: where external data is.

    Attributes:
        reads_pixels: whether the first layer reads the image's bytes as they come, because
            normalization is part of its weights (see `quantize.pixels`).

    Raises:
        GraphError: it has none of the layers.
    """

    def __init__(
        self, model: onnx.ModelProto, names: Sequence[str], what: str, folder: Path | None = None
    ) -> None:
        self._taps = _find_taps(model.graph, names)
        if not self._taps:
            raise GraphError(
                f"{what}: has none of the layers {', '.join(names)}",
                hint="give the graph that the engine was built from as --reference",
            )
        pixels = _find_pixels(model.graph, self._taps[INPUT])
        self.reads_pixels = pixels is not None
        self._taps[INPUT] = pixels or self._taps[INPUT]
        self._input = model.graph.input[0].name
        self._batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None
        self._taps[OUTPUT] = _Tap(model.graph.output[0].name)
        have = {value.name for value in model.graph.output}
        for tensor in sorted({tap.tensor for tap in self._taps.values()} - have):
            if tensor != self._input:
                model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        options = RuntimeOptions()
        settings = session_options(options)
        # As it stands: fused layers would have no results to show, and rounding would move.
        level = import_onnxruntime("comparing layers").GraphOptimizationLevel
        settings.graph_optimization_level = level.ORT_DISABLE_ALL
        self._session = create_session(model.SerializeToString(), options, settings, folder)

    def run(self, batch: AnyArray) -> dict[str, FloatArray]:
        """Return each layer's result, and what `INPUT` and `OUTPUT` name."""
        size = self._batch or len(batch)
        parts = [self._run(batch[start : start + size]) for start in range(0, len(batch), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._taps}

    def _run(self, batch: AnyArray) -> dict[str, FloatArray]:
        wanted = sorted({tap.tensor for tap in self._taps.values()} - {self._input})
        count = len(batch)
        if self._batch is not None:
            batch = batch.take(range(self._batch), axis=0, mode="wrap")
        found = dict(zip(wanted, self._session.run(wanted, {self._input: batch}), strict=True))
        found[self._input] = batch
        return {name: tap.restore(found[tap.tensor][:count]) for name, tap in self._taps.items()}


class LayerTally:
    """Sums over batches of what layers of one graph differ in from those of another."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, reference: Mapping[str, FloatArray], found: Mapping[str, FloatArray]) -> None:
        """Count one batch of results; layers that only one of them has are left out."""
        for name, values in reference.items():
            others = found.get(name)
            if name in {INPUT, OUTPUT} or others is None or others.size != values.size:
                continue
            wanted = values.astype(np.float64)
            # A fully connected layer may be a convolution elsewhere: (N, C, 1, 1).
            other = others.astype(np.float64).reshape(wanted.shape)
            signal, noise = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (
                signal + float((wanted**2).sum()),
                noise + float(((other - wanted) ** 2).sum()),
            )

    def result(self) -> tuple[LayerSqnr, ...]:
        """Return each layer's SQNR, in the network's order."""
        found = {name: sqnr_db(*sums) for name, sums in self._sums.items()}
        return tuple(
            LayerSqnr(name, None if value is None else max(value, _LEAST_DB))
            for name, value in found.items()
        )


def _find_taps(graph: onnx.GraphProto, names: Sequence[str]) -> dict[str, _Tap]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name.removeprefix("fused "): node for node in graph.node}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    taps: dict[str, _Tap] = {}
    for name in names:
        node = nodes.get(name) or next(
            (other for key, other in nodes.items() if key.startswith(f"{name}_")), None
        )
        if node is None:
            continue
        if not taps:
            at = _ACTIVATION_SCALE.get(node.op_type)
            taps[INPUT] = _Tap(node.input[0], *_read_parameters(node, at, constants))
        taps[name] = _find_result(node, readers, constants)
    return taps


def _find_pixels(graph: onnx.GraphProto, tap: _Tap) -> _Tap | None:
    """Return a tap that gives pixels one by one, of a tensor that holds those of `uint8` input.

    None where it holds others: those of the input are cast, moved and put in blocks at most.
    """
    producers = {name: node for node in graph.node for name in node.output}
    tensor, in_blocks = tap.tensor, False
    while tensor in producers and producers[tensor].op_type in _MOVES:
        in_blocks = in_blocks or producers[tensor].op_type == "Reshape"
        tensor = producers[tensor].input[0]
    source = graph.input[0]
    is_image = source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    is_scaled = tap.scale is not None and tap.scale != 1
    if tensor != source.name or not is_image or is_scaled or tap.zero_point:
        return None
    if not in_blocks:
        return tap
    _, _, width, _ = source.type.tensor_type.shape.dim
    return dataclasses.replace(tap, width=width.dim_value)


def _find_result(
    node: onnx.NodeProto,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    constants: Mapping[str, onnx.TensorProto],
) -> _Tap:
    """Return what the next layer gets of a result: behind its ReLU, and rounded where it is.

    In an engine a Q may have taken the ReLU's place (its zero point clips what is negative), and
    what follows goes on with the integers.
    """
    at = _RESULT_SCALE.get(node.op_type)
    if at is not None:
        return _Tap(node.output[0], *_read_parameters(node, at, constants))
    relu = _only_reader(node.output[0], "Relu", readers)
    tensor = node.output[0] if relu is None else relu.output[0]
    quantize = _only_reader(tensor, "QuantizeLinear", readers)
    if quantize is None:
        return _Tap(tensor)
    return _Tap(quantize.output[0], *_read_parameters(quantize, 1, constants))


def _only_reader(
    tensor: str, operator: str, readers: Mapping[str, Sequence[onnx.NodeProto]]
) -> onnx.NodeProto | None:
    """Return the one node that reads a tensor, if it is of this operator."""
    users = readers.get(tensor, ())
    return users[0] if len(users) == 1 and users[0].op_type == operator else None


def _read_parameters(
    node: onnx.NodeProto, at: int | None, constants: Mapping[str, onnx.TensorProto]
) -> tuple[FloatArray | None, AnyArray | None]:
    """Return scale and zero point, or None each where the tensor is in floating point."""
    if at is None or len(node.input) <= at + 1 or not node.input[at]:
        return None, None
    scale, zero_point = (
        onnx.numpy_helper.to_array(constants[name]) for name in node.input[at : at + 2]
    )
    return np.asarray(scale, np.float32), zero_point

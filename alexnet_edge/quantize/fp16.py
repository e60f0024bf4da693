"""Put weighted layers in FP16, for runtimes that take precision from the graph.

requires  a graph in normal form (`layers.prepare`), FP32 throughout, or with Q/DQ of the
          `tensorrt` dialect (`qdq.insert_qdq`)
call      convert_to_fp16(model, path)
ensures   weighted layers and what only moves their values run in FP16; inputs, outputs, softmax
          and response normalization (whose squares overflow FP16) stay FP32

Strongly typed networks (TensorRT-RTX, TensorRT 11) have no FP16 flag: the types in the graph are
the precision. Where there is Q/DQ, the integer layers stay integer, and what is not integer
becomes FP16:

1. DQ gives FP16: its scale is the type of what it gives.
2. Q reads FP16 where that is what comes, and has a scale of that type; an FP32 tensor (the input,
   a normalization's result) is quantized as it is, without a cast.
3. Q and DQ of a tensor keep one scale: the FP32 one takes the FP16 one's value. It is rounded
   upwards, so that nothing is clipped that was not before, and is positive.
4. Weights stay FP32 in front of their Q: they are rounded once, to integers.
5. FP16 scales came with opset 19, which the graph is raised to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from alexnet_edge.errors import GraphError
from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.opsets import raise_opset

QDQ_OPSET = 19
"""The first opset whose Q and DQ take FP16 scales."""

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_WEIGHTED = frozenset(("Conv", "Gemm", "MatMul"))
_FOLLOWS_INPUT = frozenset(
    ("Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
)


def convert_to_fp16(model: ir.Model, path: Path) -> list[str]:
    """Convert in place; return the names of the layers whose products are FP16 now.

    Raises:
        GraphError: a weight or scale is outside FP16's range, or NaN; or Q/DQ is there, and an
            operator that means something else at opset 19.
    """
    converter = _Converter(model.graph, path)
    names = []
    quantized = False
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            converter.convert_quantize(node)
        elif node.op_type == "DequantizeLinear":
            converter.convert_dequantize(node)
            quantized = True
        elif _is_weighted(node):
            if not _reads_integers(node):
                names.append(node.name or "")
            converter.convert_layer(node)
        elif node.op_type in _FOLLOWS_INPUT:
            converter.follow(node)
        else:
            converter.require_fp32(node)
    converter.finish()
    if quantized:
        raise_opset(
            model, QDQ_OPSET, path, why="FP16 beside INT8",
            hint=f"export with --opset {QDQ_OPSET}, or build without --fp16-rest",
        )  # fmt: skip
    return names


def _is_weighted(node: ir.Node) -> bool:
    if node.op_type not in _WEIGHTED or node.domain not in {"", "ai.onnx"}:
        return False
    weight = node.inputs[1]
    return weight is not None and (weight.const_value is not None or _reads_integers(node))


def _reads_integers(node: ir.Node) -> bool:
    """Say whether a layer's weight comes out of a DQ."""
    source = node.inputs[1].producer() if node.inputs[1] is not None else None
    return source is not None and source.op_type == "DequantizeLinear"


class _Converter:
    def __init__(self, graph: ir.Graph, path: Path) -> None:
        self._graph = graph
        self._path = path
        self._half: set[int] = set()
        self._casts: dict[tuple[int, ir.DataType], ir.Value] = {}
        self._scales: dict[int, tuple[ir.Value, ir.Value]] = {}

    def convert_layer(self, node: ir.Node) -> None:
        """Run ``node`` in FP16."""
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value.const_value is not None:
                node.replace_input_with(index, self._constant(value))
            elif id(value) not in self._half:
                node.replace_input_with(index, self._cast(node, value, ir.DataType.FLOAT16))
        self._mark(node)

    def convert_quantize(self, node: ir.Node) -> None:
        """Give Q a scale of the type that it reads."""
        half, single = self._scale(node)
        node.replace_input_with(1, half if id(node.inputs[0]) in self._half else single)

    def convert_dequantize(self, node: ir.Node) -> None:
        """Let DQ give FP16."""
        node.replace_input_with(1, self._scale(node)[0])
        self._mark(node)

    def follow(self, node: ir.Node) -> None:
        """Give the outputs the type of the first input."""
        if id(node.inputs[0]) in self._half:
            self._mark(node)

    def require_fp32(self, node: ir.Node) -> None:
        """Feed ``node`` with FP32."""
        for index, value in enumerate(node.inputs):
            if value is not None and id(value) in self._half:
                node.replace_input_with(index, self._cast(node, value, ir.DataType.FLOAT))

    def finish(self) -> None:
        """Turn graph outputs that are FP16 now back to FP32, and drop what nothing reads now."""
        for index, value in enumerate(self._graph.outputs):
            if id(value) in self._half:
                node = ir.node(
                    "Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}.fp32"
                )
                output = node.outputs[0]
                output.name, value.name = value.name, f"{value.name}.fp16"
                output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
                self._graph.append(node)
                self._graph.outputs[index] = output
        for pair in self._scales.values():
            for value in pair:
                if not value.uses():
                    self._graph.initializers.pop(value.name or "", None)

    def _mark(self, node: ir.Node) -> None:
        for output in node.outputs:
            self._half.add(id(output))
            output.type = ir.TensorType(ir.DataType.FLOAT16)

    def _cast(self, before: ir.Node, value: ir.Value, to: ir.DataType) -> ir.Value:
        key = (id(value), to)
        if key not in self._casts:
            suffix = "fp16" if to == ir.DataType.FLOAT16 else "fp32"
            node = ir.node("Cast", [value], {"to": to}, name=f"{value.name}.to_{suffix}")
            node.outputs[0].name = f"{value.name}.{suffix}"
            self._graph.insert_before(before, node)
            self._casts[key] = node.outputs[0]
        return self._casts[key]

    def _scale(self, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """Return a Q's or DQ's scale as FP16 and as FP32, of one value."""
        value = node.inputs[1]
        if value is None or value.const_value is None:
            raise GraphError(
                f"{self._path}: the scale of '{node.name}' is not constant",
                hint="give the FP32 graph",
            )
        if id(value) not in self._scales:
            rounded = _round_up(value.const_value.numpy())
            self._require_range(value, rounded)
            pair = (
                constant(f"{value.name}.fp16", rounded),
                constant(f"{value.name}.fp32", rounded.astype(np.float32)),
            )
            for new in pair:
                self._graph.register_initializer(new)
                self._scales[id(new)] = pair
            self._scales[id(value)] = pair
            for reader, index in list(value.uses()):
                reader.replace_input_with(index, pair[1])
            del self._graph.initializers[value.name or ""]
        return self._scales[id(value)]

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            return value
        key = (id(value), ir.DataType.FLOAT16)
        if key not in self._casts:
            array = tensor.numpy()
            self._require_range(value, array)
            stored = constant(f"{value.name}.fp16", array.astype(np.float16))
            self._graph.register_initializer(stored)
            self._casts[key] = stored
            del self._graph.initializers[value.name or ""]
        return self._casts[key]

    def _require_range(self, value: ir.Value, array: AnyArray) -> None:
        if not np.abs(array).max(initial=0) <= _LARGEST:  # NaN is refused too
            raise GraphError(
                f"{self._path}: '{value.name}' holds values outside FP16's range",
                hint="build with --fp32 or --int8",
            )


def _round_up(scale: AnyArray) -> npt.NDArray[np.float16]:
    """Return the next FP16 that is no less; at least the smallest that there is."""
    with np.errstate(over="ignore"):
        nearest = np.asarray(scale, np.float32).astype(np.float16)
        above = np.nextafter(nearest, np.float16(np.inf))
    rounded = np.where(nearest.astype(np.float32) < scale, above, nearest)
    found: npt.NDArray[np.float16] = np.maximum(rounded, np.float16(_SMALLEST)).astype(np.float16)
    return found

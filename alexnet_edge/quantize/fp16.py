"""Put weighted layers in FP16, for runtimes that take precision from the graph.

requires  a graph in normal form (`layers.prepare`), FP32 throughout
call      convert_to_fp16(model, path)
ensures   weighted layers and what only moves their values run in FP16; inputs, outputs, softmax
          and response normalization (whose squares overflow FP16) stay FP32

Strongly typed networks (TensorRT-RTX, TensorRT 11) have no FP16 flag: the types in the graph are
the precision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from alexnet_edge.errors import GraphError
from alexnet_edge.graph import constant
from alexnet_edge.quantize.layers import weighted_layers

_LARGEST = float(np.finfo(np.float16).max)
_FOLLOWS_INPUT = frozenset(
    ("Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
)


def convert_to_fp16(model: ir.Model, path: Path) -> list[str]:
    """Convert in place; return the names of the layers that are FP16 now.

    Raises:
        GraphError: a weight is outside FP16's range, or NaN.
    """
    layers = {id(layer.node): layer for layer in weighted_layers(model, path)}
    converter = _Converter(model.graph, path)
    for node in list(model.graph):
        if id(node) in layers:
            converter.convert_layer(node)
        elif node.op_type in _FOLLOWS_INPUT:
            converter.follow(node)
        else:
            converter.require_fp32(node)
    converter.finish()
    return [layer.name for layer in layers.values()]


class _Converter:
    def __init__(self, graph: ir.Graph, path: Path) -> None:
        self._graph = graph
        self._path = path
        self._half: set[int] = set()
        self._casts: dict[tuple[int, ir.DataType], ir.Value] = {}

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
        """Turn graph outputs that are FP16 now back to FP32, under the same names."""
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

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            return value
        key = (id(value), ir.DataType.FLOAT16)
        if key not in self._casts:
            array = tensor.numpy()
            if not np.abs(array).max(initial=0) <= _LARGEST:  # NaN is refused too
                raise GraphError(
                    f"{self._path}: '{value.name}' holds values outside FP16's range",
                    hint="build with --fp32 or --int8",
                )
            stored = constant(f"{value.name}.fp16", array.astype(np.float16))
            self._graph.register_initializer(stored)
            self._casts[key] = stored
            del self._graph.initializers[value.name or ""]
        return self._casts[key]

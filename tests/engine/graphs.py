"""Graphs for lint: exports with Q/DQ, small ones by hand, and ways to spoil them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir

from alexnet_edge.graph import load_onnx
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.table import load_table

FLOAT = onnx.TensorProto.FLOAT


def quantize(path: Path, table: Path, dialect, **options) -> onnx.ModelProto:
    """Return the graph of a file with Q/DQ, as a build writes it."""
    model = prepare(load_onnx(path), path)
    insert_qdq(model, load_table(table).ranges("minmax"), dialect, path, QdqOptions(**options))
    return ir.to_proto(model)


def set_constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Replace an initializer's values."""
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    stored.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), name))


def set_opset(model: onnx.ModelProto, version: int) -> None:
    """Call the graph one of another operator set."""
    model.opset_import[0].version = version


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """Return a node."""
    return next(node for node in model.graph.node if node.name == name)


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Set or replace an attribute."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


class Small:
    """Writes a graph node by node; every node's one output is named as the node."""

    def __init__(self, *shape: int | str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.input = onnx.helper.make_tensor_value_info("input", FLOAT, shape)

    def node(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Add a weight of which only type and shape are there: it may be large."""
        self.initializers.append(onnx.TensorProto(name=name, data_type=FLOAT, dims=shape))
        return name

    def pair(self, value: str, name: str, scale: object = np.float32(0.1), **axis: int) -> str:
        """Add Q and DQ with INT8 zero points of 0; return the DQ's output."""
        zeros = np.zeros(np.shape(scale), np.int8)
        inputs = (
            self.constant(f"{name}.scale", np.asarray(scale, np.float32)),
            self.constant(f"{name}.zero_point", zeros),
        )
        quantized = self.node("QuantizeLinear", f"{name}.q", value, *inputs, **axis)
        return self.node("DequantizeLinear", f"{name}.dq", quantized, *inputs, **axis)

    def conv(self, value: str, name: str, *shape: int, **attributes: object) -> str:
        """Add a Conv whose weight is quantized per channel."""
        weight = self.pair(
            self.weight(f"{name}.weight", *shape), f"{name}.weight", np.ones(shape[0]), axis=0
        )
        return self.node("Conv", name, value, weight, **attributes)

    def model(self, output: str, opset: int = 17) -> onnx.ModelProto:
        graph = onnx.helper.make_graph(
            self.nodes, "small", [self.input],
            [onnx.helper.make_tensor_value_info(output, FLOAT, None)], self.initializers,
        )  # fmt: skip
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
        )

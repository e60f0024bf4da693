"""A graph as rules ask about it, and what a rule finds."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from onnx.external_data_helper import uses_external_data

from alexnet_edge.engine.profile import Profile
from alexnet_edge.graph import opset_of
from alexnet_edge.preprocess import AnyArray

ERROR, WARNING = "error", "warning"
GRAPH = "(graph)"
"""Stands for the node where a finding is about no single one."""

WEIGHTED = ("Conv", "Gemm", "MatMul")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_MOVES = (
    "Cast", "Dropout", "Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Operators that move or choose values: quantization commutes with them."""

_CONSTANT_KINDS = {
    "value_float": np.float32, "value_floats": np.float32,
    "value_int": np.int64, "value_ints": np.int64,
}  # fmt: skip

_PRECISIONS = {
    "INT8": "int8", "UINT8": "int8", "FLOAT16": "fp16", "BFLOAT16": "bf16", "FLOAT8E4M3FN": "fp8",
    "FLOAT8E4M3FNUZ": "fp8", "FLOAT8E5M2": "fp8", "FLOAT8E5M2FNUZ": "fp8", "INT4": "int4",
    "UINT4": "int4", "FLOAT4E2M1": "fp4",
}  # fmt: skip

ACTIVATION, WEIGHT, BIAS = "activation", "weight", "bias"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: its id.
        severity: `error` where the target refuses the graph, computes something else or runs in
            float what is quantized; `warning` where it is only slower, or may be meant so.
        node: the node's name.
        message: what is wrong with it.
        mend: what to do about it.
    """

    rule: str
    severity: str
    node: str
    message: str
    mend: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with constant weights.

    Attributes:
        node: it.
        weight: its constant, as the graph stores it.
        axis: the stored weight's axis of output channels.
        activation_dq, weight_dq: the DequantizeLinear that each comes from; None where none is.
    """

    node: onnx.NodeProto
    weight: onnx.TensorProto
    axis: int
    activation_dq: onnx.NodeProto | None
    weight_dq: onnx.NodeProto | None


class GraphView:
    """A graph, indexed by tensor names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = opset_of(model)
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = collections.defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._readers[name].append(node)
            if node.op_type == "Constant" and (tensor := _constant_of(node)) is not None:
                self.constants[node.output[0]] = tensor
        self.quantizers = [node for node in self.nodes if node.op_type in QUANTIZERS]
        self.layers = list(self._find_layers())
        self._biases = {
            id(node)
            for layer in self.layers
            if (node := self.dequantizer(_input(layer.node, 2))) is not None
        }

    @property
    def quantized(self) -> bool:
        """Whether there is a Q or a DQ."""
        return bool(self.quantizers)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that writes a tensor."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return self._readers.get(name, [])

    def array(self, name: str) -> AnyArray | None:
        """Return a constant's values; None where it is none, or its values lie in another file."""
        tensor = self.constants.get(name)
        if tensor is None or uses_external_data(tensor):
            return None
        return np.asarray(onnx.numpy_helper.to_array(tensor))

    def element_type(self, name: str) -> int | None:
        """Return a constant's element type, of `onnx.TensorProto`; None where it is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else tensor.data_type

    def parameters(self, index: int) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Yield each scale (index 1) or zero point (2), with the first node that reads it.

        A Q and its DQ share theirs, and one thing wrong shall be said once.
        """
        seen = set()
        for node in self.quantizers:
            key = (_input(node, index), self.role(node))
            if key[0] and key not in seen:
                seen.add(key)
                yield node, key[0]

    def depends_on_input(self, name: str) -> bool:
        """Return whether a tensor is computed from the graph's input."""
        inputs = {value.name for value in self.inputs}
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop()
            node = self.producer(name)
            if name in inputs:
                return True
            if node is not None and name not in seen:
                waiting += node.input
            seen.add(name)
        return False

    def role(self, node: onnx.NodeProto) -> str:
        """Return what a Q or DQ is for: an `activation`, a `weight` or a `bias`."""
        if id(node) in self._biases:
            return BIAS
        name = node.input[0]
        before = self.producer(name)
        while before is not None and before.op_type in (*QUANTIZERS, *_MOVES):
            name = before.input[0]
            before = self.producer(name)
        return WEIGHT if name in self.constants else ACTIVATION

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that a tensor comes from, but for moves of its values."""
        node = self.producer(name)
        while node is not None and node.op_type in _MOVES:
            node = self.producer(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def feeds_layer(self, name: str) -> bool:
        """Return whether a tensor is a weighted layer's activation, but for Q/DQ and moves."""
        for reader in self.readers(name):
            if reader.op_type in WEIGHTED and reader.input[0] == name:
                return True
            if reader.op_type in (*QUANTIZERS, *_MOVES) and self.feeds_layer(reader.output[0]):
                return True
        return False

    def reaches_layer(self, node: onnx.NodeProto) -> bool:
        """Return whether a weighted layer comes after a node, however far."""
        waiting, seen = list(node.output), set()
        while waiting:
            name = waiting.pop()
            for reader in self.readers(name):
                if reader.op_type in WEIGHTED:
                    return True
                if id(reader) not in seen:
                    seen.add(id(reader))
                    waiting += reader.output
        return False

    def follows_layer(self, node: onnx.NodeProto) -> bool:
        """Return whether a weighted layer comes before a node, however far."""
        waiting, seen = list(node.input), set()
        while waiting:
            before = self.producer(waiting.pop())
            if before is None or id(before) in seen:
                continue
            if before.op_type in WEIGHTED:
                return True
            seen.add(id(before))
            waiting += before.input
        return False

    def _find_layers(self) -> Iterator[Layer]:
        for node in self.nodes:
            if node.op_type not in WEIGHTED or node.domain not in {"", "ai.onnx"}:
                continue
            name, axis = _input(node, 1), _output_axis(node)
            before = self.producer(name)
            while before is not None and before.op_type in {"Cast", "Transpose"}:
                if before.op_type == "Transpose":
                    axis = attribute(before, "perm", [1, 0])[axis]
                name = before.input[0]
                before = self.producer(name)
            last = before
            while before is not None and before.op_type in QUANTIZERS:
                name = before.input[0]
                before = self.producer(name)
            if name in self.constants:
                stored = self.constants[name]
                quantized = last is not None and last.op_type == "DequantizeLinear"
                yield Layer(
                    node=node,
                    weight=stored,
                    axis=axis % max(1, len(stored.dims)),
                    activation_dq=self.dequantizer(node.input[0]),
                    weight_dq=last if quantized else None,
                )


Rule = Callable[[GraphView, Profile], Iterator[Finding]]


def label(node: onnx.NodeProto) -> str:
    """Return a node's name, or its operator and output where it has none."""
    return node.name or f"{node.op_type} → {node.output[0]}"


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return a node's attribute, or the default."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def type_name(element_type: int | None) -> str:
    """Return `INT8` for 3."""
    return "no constant" if element_type is None else onnx.TensorProto.DataType.Name(element_type)


def precision_of(element_type: int | None) -> str | None:
    """Return the precision that an element type makes, or None for FP32 and what is no weight."""
    return _PRECISIONS.get(type_name(element_type))


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of output channels of a weighted operator's second input."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return -1


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if len(node.input) > index else ""


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node, if numbers are in it."""
    stored = attribute(node, "value", None)
    if isinstance(stored, onnx.TensorProto):
        return stored
    for name, kind in _CONSTANT_KINDS.items():
        values = attribute(node, name, None)
        if values is not None:
            return onnx.numpy_helper.from_array(np.asarray(values, kind), node.output[0])
    return None

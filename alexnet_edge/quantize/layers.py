"""The weighted layers of a graph, in a form that every later step agrees on.

`prepare` brings any classifier's graph (an export of ours, or another tool's with an old opset,
Dropout nodes and weights listed as inputs) to one normal form; calibration and the Q/DQ pass both
start from it, so they speak of the same tensors by the same names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.helper
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common

from alexnet_edge.errors import GraphError
from alexnet_edge.graph import opset_of

QDQ_OPSET = 13
"""The first opset with per-channel QuantizeLinear and DequantizeLinear."""

_UPGRADE_OPSET = 17
_IDENTITIES = ("Dropout", "Identity")
_TRANSPARENT = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""Operators that quantization commutes with: they move or choose values, and compute none."""


@dataclasses.dataclass(frozen=True)
class WeightedLayer:
    """A Conv, Gemm or MatMul with constant weights.

    Attributes:
        node: it.
        axis: the weight's axis of output channels.
    """

    node: ir.Node
    axis: int

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""

    @property
    def activation(self) -> ir.Value:
        """The tensor that it reads."""
        return _present(self.node.inputs[0])

    @property
    def fully_connected(self) -> bool:
        """Whether it is a matrix product, with a weight of two axes."""
        return self.node.op_type != "Conv" and len(self.weight.shape or ()) == 2

    @property
    def weight(self) -> ir.Value:
        """Its constant weight."""
        return _present(self.node.inputs[1])

    @property
    def bias(self) -> ir.Value | None:
        """Its bias, if it has one."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def result(self) -> ir.Value:
        """Its output, after the ReLU that runs in the same kernel where one follows."""
        output = self.node.outputs[0]
        users = [user for user, _ in output.uses()]
        if len(users) == 1 and users[0].op_type == "Relu":
            return users[0].outputs[0]
        return output


def prepare(model: onnx.ModelProto, path: Path) -> ir.Model:
    """Bring a graph to normal form: opset 13 or later, no Dropout or Identity, named nodes.

    Args:
        model: whole, or bare where its opset needs no conversion.
        path: its file, for errors.

    Raises:
        GraphError: its opset is older and cannot be converted.
    """
    if opset_of(model) < QDQ_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _UPGRADE_OPSET)
        except Exception as error:  # the converter's C++ errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise GraphError(
                f"{path}: opset {opset_of(model)} cannot be converted to {_UPGRADE_OPSET} "
                f"({reason})",
                hint=f"export it again with opset {QDQ_OPSET} or later",
            ) from error
    prepared = ir.from_proto(model)
    # IR version 3 wants the initializers among the inputs, from which they are removed here.
    prepared.ir_version = max(
        prepared.ir_version or 0,
        onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset_of(model))]),
    )
    onnx_ir.passes.common.LiftConstantsToInitializersPass(size_limit=0)(prepared)
    initializers = {value.name for value in prepared.graph.initializers.values()}
    for value in [v for v in prepared.graph.inputs if v.name in initializers]:
        prepared.graph.inputs.remove(value)
    _remove_identities(prepared.graph)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(prepared)  # Dropout's ratio, say
    for index, node in enumerate(prepared.graph):
        node.name = node.name or f"{node.op_type}_{index}"
    return prepared


def weighted_layers(model: ir.Model, path: Path) -> list[WeightedLayer]:
    """Return the layers whose weights are constant, in graph order.

    Raises:
        GraphError: there are none, or one is of a form that Q/DQ cannot express.
    """
    layers = []
    for node in model.graph:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.domain not in {"", "ai.onnx"}:
            continue
        weight = node.inputs[1]
        if weight is None or weight.const_value is None:
            continue
        if node.op_type == "Gemm" and not _is_plain_gemm(node):
            raise GraphError(
                f"{path}: node '{node.name}' is a Gemm with transA, alpha or beta",
                hint="export the linear layer as Gemm with alpha = beta = 1, or as MatMul and Add",
            )
        rank = len(weight.const_value.shape)
        transposed = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
        layers.append(WeightedLayer(node, 0 if transposed else rank - 1))
    if not layers:
        raise GraphError(
            f"{path}: has no Conv, Gemm or MatMul with constant weights; nothing to quantize",
            hint="give the FP32 graph of a trained classifier",
        )
    return layers


def require_spared(
    path: Path, names: Sequence[str], spared: Sequence[str], *, instead: str = "--fp32"
) -> None:
    """Refuse to spare layers that there are not, or all.

    Args:
        path: the model's file, for errors.
        names: the layers that there are.
        spared: those that are to stay in float.
        instead: what to build where all would be spared.

    Raises:
        GraphError: naming the layers that there are.
    """
    unknown = [name for name in spared if name not in names]
    if unknown:
        raise GraphError(
            f"{path}: has no layer '{unknown[0]}' to spare", hint=f"it has {', '.join(names)}"
        )
    if set(spared) == set(names):
        raise GraphError(
            f"{path}: every layer would be spared, nothing quantized", hint=f"build {instead}"
        )


def quantization_points(layers: list[WeightedLayer]) -> list[tuple[ir.Value, ir.Value]]:
    """Return the tensors to quantize, each with the tensor whose range it takes.

    These are the input of every weighted layer, and the result of every convolution: an integer
    convolution writes integers. Where only pooling and reshaping lie between a result and the next
    layer's input, both take that input's range, so nothing is rounded twice.
    """
    activations = {id(layer.activation): layer.activation for layer in layers}
    points = {key: (value, value) for key, value in activations.items()}
    origins = {id(_origin(value)): value for value in activations.values()}
    for layer in layers:
        result = layer.result
        if layer.node.op_type == "Conv" and not result.is_graph_output():
            points.setdefault(id(result), (result, origins.get(id(result), result)))
    return list(points.values())


def float_tensors(model: ir.Model) -> list[str]:
    """Return the names of all float activations: the input's and every node's, in graph order."""
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model)).graph
    constants = {tensor.name for tensor in inferred.initializer}
    return [
        value.name
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and value.name not in constants
    ]


def bypassed_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors of a graph that `prepare` drops, each with the one it equals.

    They are the results of Dropout and Identity, by whose names other tools still ask.
    """
    outputs = {value.name for value in model.graph.output}
    sources: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in _IDENTITIES and node.output[0] not in outputs:
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
    return sources


def _origin(value: ir.Value) -> ir.Value:
    """Walk back through operators that quantization commutes with."""
    node = value.producer()
    while node is not None and node.op_type in _TRANSPARENT and node.inputs[0] is not None:
        if len(node.inputs[0].uses()) > 1:
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def _is_plain_gemm(node: ir.Node) -> bool:
    return (
        node.attributes.get_int("transA", 0) == 0
        and node.attributes.get_float("alpha", 1.0) == 1.0
        and node.attributes.get_float("beta", 1.0) == 1.0
    )


def _remove_identities(graph: ir.Graph) -> None:
    """Bypass nodes that do nothing at inference; a graph output keeps its name and its node."""
    outputs = set(graph.outputs)
    for node in list(graph):
        if node.op_type in _IDENTITIES and not outputs & set(node.outputs):
            source = _present(node.inputs[0])
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            graph.remove(node, safe=True)


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise GraphError("a node lacks an input", hint="the graph is damaged; export it again")
    return value

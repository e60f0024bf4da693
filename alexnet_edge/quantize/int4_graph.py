"""Let fully connected layers read weights in blocks, of 4 bits or, on the CPU, of 2 or 8.

requires  a graph in normal form (`layers.prepare`), FP32 or with Q/DQ on other layers
          (`qdq.insert_qdq` with these spared)
call      insert_int4(model, weights, dialect, path)
ensures   each layer that has such weights reads them, and float activations; nothing else changes

Two forms, because the targets have different operators for it:

`cpu`
    1. The layer becomes ONNX Runtime's `MatMulNBits` of the same name, bias included.
    2. `accuracy_level` 4 lets it round its input to INT8 by itself, block by block, so no Q stands
       in front of it: that is the kernel that is fast.
`tensorrt`
    1. The layer stays; its weight comes out of a DequantizeLinear over an INT4 constant, in blocks
       along the inputs. Parsers take whole blocks only.
    2. `block_size` came with opset 21, which the graph is raised to.
    3. Scales are FP32 and positive; zero points are there, and 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from alexnet_edge.errors import BuildError, GraphError
from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.gptq import RoundedRows
from alexnet_edge.quantize.int4 import BLOCKS, as_onnx_int4, bits_of, pack_bits
from alexnet_edge.quantize.int8_blocks import pack_bytes
from alexnet_edge.quantize.layers import WeightedLayer, weighted_layers
from alexnet_edge.quantize.opsets import raise_opset
from alexnet_edge.quantize.scales import Dialect

OPSET = 21
"""The first with blocks in DequantizeLinear, and with INT4."""

DOMAIN = "com.microsoft"
_INT8_COMPUTE = 4
"""Of `accuracy_level`: the lowest precision that the input may be rounded to."""


def fully_connected(model: ir.Model, path: Path) -> list[WeightedLayer]:
    """Return the layers that can have 4-bit weights: Gemm and MatMul of two axes, in order.

    Raises:
        GraphError: there are none.
    """
    found = [layer for layer in weighted_layers(model, path) if layer.fully_connected]
    if not found:
        raise GraphError(
            f"{path}: has no fully connected layer (Gemm or MatMul) for 4-bit weights",
            hint="build without --int4-fc; export without --dla, which writes them as convolutions",
        )
    return found


def require_blocks(layers: list[WeightedLayer], block: int, dialect: Dialect) -> None:
    """Refuse blocks that do not fit, where the target takes whole ones only.

    Raises:
        BuildError: naming the layer, and the blocks that would fit.
    """
    if dialect.name != "tensorrt":
        return
    for layer in layers:
        inputs = _shape(layer.weight)[1 - layer.axis]
        if inputs % block:
            fitting = [str(size) for size in BLOCKS if inputs % size == 0]
            raise BuildError(
                f"'{layer.name}' has {inputs} inputs, which are no whole blocks of {block}, and "
                "TensorRT takes no others",
                hint=f"give --int4-block {' or '.join(fitting)}"
                if fitting
                else f"leave it out with --spare {layer.name}",
            )


def insert_int4(
    model: ir.Model, weights: Mapping[str, RoundedRows], dialect: Dialect, path: Path
) -> None:
    """Change the graph in place.

    Args:
        model: in normal form.
        weights: layer name to its weights, one row for each output.
        dialect: of the target.
        path: the model's file, for errors.

    Raises:
        BuildError: blocks do not fit.
        GraphError: an operator means something else at opset 21.
    """
    layers = [layer for layer in fully_connected(model, path) if layer.name in weights]
    for layer in layers:
        rounded = weights[layer.name]
        if dialect.name == "tensorrt":
            require_blocks([layer], rounded.grid.block or 0, dialect)
            _dequantize(model.graph, layer, rounded)
        else:
            _replace(model.graph, layer, rounded)
    if dialect.name == "tensorrt":
        raise_opset(
            model, OPSET, path, why="INT4 in blocks",
            hint=f"export with --opset {OPSET}, or build without --int4-fc",
        )  # fmt: skip
    else:
        model.graph.opset_imports.setdefault(DOMAIN, 1)


def _replace(graph: ir.Graph, layer: WeightedLayer, rounded: RoundedRows) -> None:
    """Put a MatMulNBits in the layer's place."""
    bits = bits_of(rounded.grid)
    packed, scales = pack_bytes(rounded) if bits == 8 else pack_bits(rounded)
    outputs, inputs = rounded.integers.shape
    bias = layer.bias
    if bias is not None and bias.const_value is not None:
        flat = np.broadcast_to(bias.const_value.numpy().reshape(-1), (outputs,))
        bias = _register(graph, f"{layer.name}.bias.float", np.ascontiguousarray(flat))
    node = make_blocks_node(
        layer.activation,
        _register(graph, f"{layer.name}.weight.int{bits}", packed),
        _register(graph, f"{layer.name}.weight.scale", scales),
        bias, shape=(outputs, inputs), bits=bits, block=rounded.grid.block or inputs,
        name=layer.name,
    )  # fmt: skip
    before = layer.node
    ir.convenience.replace_nodes_and_values(
        graph, before, [before], [node], before.outputs, node.outputs
    )
    _drop_unread(graph)


def make_blocks_node(
    activation: ir.Value,
    weight: ir.Value,
    scale: ir.Value,
    bias: ir.Value | None = None,
    *,
    shape: tuple[int, ...],
    bits: int,
    block: int,
    name: str,
) -> ir.Node:
    """Return a MatMulNBits.

    Args:
        activation: float, (images, inputs).
        weight, scale: as `pack_bytes` and `pack_bits` give them.
        bias: float, (outputs,), or None.
        shape: outputs and inputs.
        bits: of a weight.
        block: inputs that share a scale.
        name: of the node.
    """
    outputs, inputs = shape
    given: list[ir.Value | None] = [activation, weight, scale]
    if bias is not None:
        # Neither zero points, which are half of what the bits hold, nor an order of inputs.
        given += [None, None, bias]
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block,
                  "accuracy_level": _INT8_COMPUTE}  # fmt: skip
    return ir.node("MatMulNBits", given, attributes, domain=DOMAIN, name=name)


def _dequantize(graph: ir.Graph, layer: WeightedLayer, rounded: RoundedRows) -> None:
    """Let the layer read its weight through a DequantizeLinear in blocks."""
    along = 1 - layer.axis
    integers, scales = (_turn(array, layer.axis) for array in (rounded.integers, rounded.scales))
    zeros = np.zeros(scales.shape, np.int8)
    given = [
        _register(graph, f"{layer.name}.weight.int4", as_onnx_int4(integers)),
        _register(graph, f"{layer.name}.weight.scale", scales),
        _register(graph, f"{layer.name}.weight.zero_point", as_onnx_int4(zeros)),
    ]
    node = ir.node(
        "DequantizeLinear",
        given,
        {"axis": along, "block_size": rounded.grid.block or rounded.integers.shape[1]},
        name=f"{layer.name}.weight.dequantize",
    )
    node.outputs[0].name = f"{layer.name}.weight.dequantized"
    graph.insert_before(layer.node, node)
    layer.node.replace_input_with(1, node.outputs[0])
    _drop_unread(graph)


def _turn(rows: AnyArray, axis: int) -> AnyArray:
    """Return (outputs, inputs) as the layer's weight has its axes."""
    return np.ascontiguousarray(rows if axis == 0 else rows.T)


def _shape(value: ir.Value) -> list[int]:
    return [] if value.const_value is None else list(value.const_value.numpy().shape)


def _register(graph: ir.Graph, name: str, array: AnyArray) -> ir.Value:
    value = constant(name, array)
    graph.register_initializer(value)
    return value


def _drop_unread(graph: ir.Graph) -> None:
    """Drop initializers that nothing reads now."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]

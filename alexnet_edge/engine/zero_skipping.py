"""Fully connected layers that read no weights of zeros, for one image alone on the CPU.

requires  a graph with Q/DQ (`qdq.insert_qdq`), the layers integer ones
call      skip_zeros(model, hot, threads)
ensures   each layer that reads UINT8 with zero point 0, and INT8 weights, finds its sums of
          products another way; nothing else changes

At batch 1 such a layer costs the reading of its weights, and behind a ReLU and a pooling most of
what it multiplies them with are zeros. Which ones differs from image to image, but some inputs, the
hot ones, are seldom 0. So the graph looks:

    warm = MatMulNBits(dequantized Gather(x, hot), weights of hot inputs)
    cold = Gather(x, the other inputs)
    flat = Reshape(cold, [-1])       found = Squeeze(NonZero(flat))
    few  = 0 < Size(found)  and  Size(found) + Size(flat) < K + limit
    y    = If(few, then:  Gather(flat, found) · Gather(weight, found) + warm,
                   else:  cold · weight + warm)

1. ``few`` says two things: that there is one image, K cold values, and that gathering pays. Without
   any value there is no product; ONNX Runtime leaves its answer to that undefined.
2. Both branches end in the layer's bias, scale and hot part, so that the `If` has its name and its
   result.
3. The products are a plain `MatMulInteger` without zero points: only so ONNX Runtime multiplies a
   vector by weights as they lie, rather than packing them first. The bias is added to its INT32,
   which also keeps ONNX Runtime from fusing it with the scale into another operator.
4. What is gathered is multiplied in as many parts as there are threads, and these are added up:
   ONNX Runtime lets each thread gather some rows and multiply some columns, so a single product
   would read what the other thread has just written, from the other core's cache. In parts, each
   thread multiplies the rows that it gathered. Values of 0 make the parts equal.
5. A weight is stored once: of cold inputs (K, N), whichever way the layer had it, of hot ones in
   blocks that all have the output's scale.
6. `MatMulNBits` rounds its input once more, block by block, to -127 … 127 times a 127th of the
   block's largest. So hot integers are read as 127 less: a block in which any is 0 then goes from
   -127 on, and is rounded to what it is already (but where one is 255, and by half a step at
   most). The bias makes up for the 127.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.gptq import Grid, RoundedRows
from alexnet_edge.quantize.int4_graph import DOMAIN, make_blocks_node
from alexnet_edge.quantize.int8_blocks import BLOCK, pack_bytes
from alexnet_edge.quantize.scales import FloatArray

_MIDDLE = 127
"""Of what the integers of hot inputs are read as."""

_LIMIT = 3 / 8
"""Share of values that are not 0 from which on all weights are read. Of 38 MB within a network, on
the machine of docs/log.md, gathering and multiplying a share of 0.2 took 0.6 ms less than reading
all, 0.3 took 0.25 ms less, 0.35 as long, 0.4 and 0.5 took 0.2 and 0.6 ms more."""


def skip_zeros(model: ir.Model, hot: Mapping[str, Sequence[int]], threads: int) -> tuple[str, ...]:
    """Change layers in place.

    Args:
        model: with Q/DQ.
        hot: by the names of layers, their inputs that are seldom 0, ascending.
        threads: that will share an inference: what is gathered is multiplied in so many parts.

    Returns:
        The names of those that skip zeros now; the others have not the form that it takes.
    """
    layers = [layer for node in model.graph if node.name in hot if (layer := _read(node))]
    for layer in layers:
        _Writer(model.graph, layer, hot[layer.name], threads).write()
        if hot[layer.name]:
            model.graph.opset_imports.setdefault(DOMAIN, 1)
    if layers:
        onnx_ir.passes.common.RemoveUnusedNodesPass()(model)
    return tuple(layer.name for layer in layers)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer, understood.

    Attributes:
        node: a Gemm or MatMul.
        integers: UINT8, (images, K), whose zero point is 0.
        step: of the integers, ().
        weight: (K, N).
        weight_scale: (N,).
        bias: (N,) INT32 at the product of both scales, or None.
    """

    node: ir.Node
    integers: ir.Value
    step: FloatArray
    weight: AnyArray
    weight_scale: FloatArray
    bias: AnyArray | None

    @property
    def name(self) -> str:
        return self.node.name or ""


def _read(node: ir.Node) -> _Layer | None:
    """Return the layer that a node is, where it can skip zeros."""
    if node.op_type not in {"Gemm", "MatMul"}:
        return None
    activation, weight, *rest = (_dequantized(value) for value in node.inputs)
    if activation is None or weight is None or weight.integers.const_value is None:
        return None
    stored = weight.integers.const_value.numpy()
    if stored.dtype != np.int8 or stored.ndim != 2 or weight.zero_point.any():
        return None
    if activation.zero_point.dtype != np.uint8 or activation.zero_point.any():
        return None
    bias = None
    if rest:
        if rest[0] is None or rest[0].integers.const_value is None:
            return None
        bias = rest[0].integers.const_value.numpy()
    if node.attributes.get_int("transB", 0):
        stored = np.ascontiguousarray(stored.T)
    return _Layer(node, activation.integers, activation.scale, stored, weight.scale, bias)


@dataclasses.dataclass(frozen=True)
class _Dequantized:
    """What a DequantizeLinear reads."""

    integers: ir.Value
    scale: FloatArray
    zero_point: AnyArray


def _dequantized(value: ir.Value | None) -> _Dequantized | None:
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return None
    integers, scale, zero_point = node.inputs
    if integers is None or scale is None or zero_point is None:
        return None
    if scale.const_value is None or zero_point.const_value is None:
        return None
    return _Dequantized(integers, scale.const_value.numpy(), zero_point.const_value.numpy())


@dataclasses.dataclass(frozen=True)
class _Found:
    """What of an image's cold values is not 0.

    Attributes:
        flat: all values, (K,).
        places: of those that are not 0.
        count: how many these are, ().
    """

    flat: ir.Value
    places: ir.Value
    count: ir.Value


class _Writer:
    """Puts an If in a layer's place, and what it needs in front of it."""

    def __init__(self, graph: ir.Graph, layer: _Layer, hot: Sequence[int], parts: int) -> None:
        self._graph, self._layer, self._parts = graph, layer, parts
        self._hot = np.array(hot, np.int64)
        self._cold = np.delete(np.arange(len(layer.weight)), self._hot)
        self._weight = self._constant("weight.int8", layer.weight[self._cold])
        scale = (layer.step * layer.weight_scale).astype(np.float32)
        self._scale = self._constant("scale", scale)
        bias = layer.bias
        if hot:
            raised = _MIDDLE * layer.weight[self._hot].sum(axis=0, dtype=np.int32)
            bias = raised if bias is None else bias + raised
        self._bias = None if bias is None else self._constant("bias.int32", bias)

    def write(self) -> None:
        layer = self._layer
        nodes, cold, warm = self._split()
        looking, found, few = self._look(cold)
        product = self._node("MatMulInteger", [cold, self._weight], "all.product")
        branches = {
            "then_branch": self._branch("few", self._multiply(found), warm),
            "else_branch": self._branch("all", [product], warm),
        }
        chosen = ir.node("If", [few], branches, name=layer.name)
        ir.convenience.replace_nodes_and_values(
            self._graph, layer.node, [layer.node], [*nodes, *looking, chosen],
            layer.node.outputs, chosen.outputs,
        )  # fmt: skip

    def _split(self) -> tuple[list[ir.Node], ir.Value, ir.Value | None]:
        """Return nodes; the cold integers, and what the hot ones give, which is None of none."""
        integers = self._layer.integers
        if not len(self._hot):
            return [], integers, None
        hot = self._node("Gather", [integers, self._whole("hot", self._hot)], "hot", axis=1)
        step = self._constant("step", self._layer.step)
        middle = self._constant("middle", np.array(_MIDDLE, np.uint8))
        values = self._node("DequantizeLinear", [*hot.outputs, step, middle], "hot.values")
        weight = self._layer.weight[self._hot].T
        blocks = -(-len(self._hot) // BLOCK)
        scales = np.repeat(self._layer.weight_scale.reshape(-1, 1), blocks, axis=1)
        packed, flat_scales = pack_bytes(RoundedRows(weight, scales, Grid(-127, 127, BLOCK)))
        product = make_blocks_node(
            values.outputs[0],
            self._constant("hot.weight.int8", packed),
            self._constant("hot.weight.scale", flat_scales),
            shape=weight.shape, bits=8, block=BLOCK, name=f"{self._layer.name}.hot.product",
        )  # fmt: skip
        product.outputs[0].name = f"{product.name}.out"
        cold = self._node("Gather", [integers, self._whole("cold", self._cold)], "cold", axis=1)
        return [hot, values, product, cold], cold.outputs[0], product.outputs[0]

    def _look(self, cold: ir.Value) -> tuple[list[ir.Node], _Found, ir.Value]:
        """Return nodes; what is not 0, and whether that is little."""
        inputs = len(self._cold)
        none, one_axis = self._whole("none.found", 0), self._whole("flat.shape", [-1])
        most = self._whole("limit", inputs + int(_LIMIT * inputs))
        flat = self._node("Reshape", [cold, one_axis], "flat")
        places = self._node("NonZero", flat.outputs, "nonzero")
        found = self._node("Squeeze", [*places.outputs, self._whole("axes", [0])], "found")
        count = self._node("Size", found.outputs, "count")
        some = self._node("Greater", [*count.outputs, none], "some")
        size = self._node("Size", flat.outputs, "size")
        total = self._node("Add", [*count.outputs, *size.outputs], "total")
        below = self._node("Less", [*total.outputs, most], "below")
        few = self._node("And", [*some.outputs, *below.outputs], "few")
        nodes = [flat, places, found, count, some, size, total, below, few]
        return nodes, _Found(flat.outputs[0], found.outputs[0], count.outputs[0]), few.outputs[0]

    def _multiply(self, found: _Found) -> list[ir.Node]:
        """Return nodes that multiply the values that are not 0 by their weights, the sums last."""
        outputs = self._layer.weight.shape[1]
        values = self._node("Gather", [found.flat, found.places], "values", axis=0)
        filling, places, filled = self._fill_up(found, values.outputs[0])
        left_shape = self._whole("values.shape", [self._parts, 1, -1])
        left = self._node("Reshape", [filled, left_shape], "values.parts")
        weights = self._node("Gather", [self._weight, places], "weights", axis=0)
        right_shape = self._whole("weights.shape", [self._parts, -1, outputs])
        right = self._node("Reshape", [*weights.outputs, right_shape], "weights.parts")
        factors = [left.outputs[0], right.outputs[0]]
        product = self._node("MatMulInteger", factors, "few.product")
        operands = [*product.outputs, self._whole("parts.axis", [0])]
        total = self._node("ReduceSum", operands, "few.total", keepdims=0)
        return [values, *filling, left, weights, right, product, total]

    def _fill_up(self, found: _Found, values: ir.Value) -> tuple[list[ir.Node], ir.Value, ir.Value]:
        """Return nodes that make whole parts of what was found; its places and values then.

        Zeros are added; whatever weight they are multiplied by.
        """
        if self._parts == 1:
            return [], found.places, values
        none, parts = self._whole("none", [0]), self._whole("parts", [self._parts])
        less = self._node("Sub", [none, found.count], "values.less")
        missing = self._node("Mod", [*less.outputs, parts], "values.missing")
        widths = self._node("Concat", [none, *missing.outputs], "values.widths", axis=0)
        places = self._node("Pad", [found.places, *widths.outputs], "places.filled")
        filled = self._node("Pad", [values, *widths.outputs], "values.filled")
        nodes = [less, missing, widths, places, filled]
        return nodes, places.outputs[0], filled.outputs[0]

    def _branch(self, name: str, nodes: list[ir.Node], warm: ir.Value | None) -> ir.Graph:
        """Return the graph of a branch: sums of products, and then what they stand for."""
        nodes = list(nodes)
        if self._bias is not None:
            operands = [*nodes[-1].outputs, self._bias]
            nodes.append(self._node("Add", operands, f"{name}.sum"))
        operands = [*nodes[-1].outputs, self._scale]
        nodes.append(self._node("DequantizeLinear", operands, f"{name}.scaled", axis=-1))
        if warm is not None:
            nodes.append(self._node("Add", [*nodes[-1].outputs, warm], f"{name}.with.hot"))
        result = nodes[-1].outputs[0]
        result.type = ir.TensorType(ir.DataType.FLOAT)
        return ir.Graph([], [result], nodes=nodes, name=f"{self._layer.name}.{name}")

    def _node(self, op: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Node:
        node = ir.node(op, inputs, attributes, name=f"{self._layer.name}.{name}")
        node.outputs[0].name = f"{self._layer.name}.{name}.out"
        return node

    def _whole(self, name: str, value: int | Sequence[int] | AnyArray) -> ir.Value:
        return self._constant(name, np.array(value, np.int64))

    def _constant(self, name: str, array: AnyArray) -> ir.Value:
        value = constant(f"{self._layer.name}.skipping.{name}", np.asarray(array, order="C"))
        self._graph.register_initializer(value)
        return value

"""Insert explicit Q/DQ around every weighted layer.

requires  a graph in normal form (`layers.prepare`) and a range for each quantization point
call      insert_qdq(model, ranges, dialect, path)
ensures   each weighted layer reads its activation and its weight through DequantizeLinear;
          nothing else changes, and the float answers differ only by quantization

Two dialects, because the targets differ in what they read and what they run well:

`tensorrt`
    1. Activations and weights are symmetric INT8, zero points 0: no other is accepted.
    2. Weights stay FP32 initializers behind Q and DQ, per output channel: parsers before 10 take
       no INT8 initializers.
    3. Scales are FP32; every Q and DQ has three inputs; biases stay FP32.
`cpu`
    1. Activations are asymmetric UINT8 over the values that occur: twice the resolution after a
       ReLU, and the form that x86 multiplies fastest.
    2. Weights are stored as symmetric INT8 (7-bit values where the CPU sums in 16 bits).
    3. Biases are INT32 at scale activation · weight, as the integer kernels add them.
    4. Where pixels are normalized in the graph, that moves into the first convolution, which reads
       the pixels as they come: DQ without Q, scale 1 (see `pixels`).
    5. Where the dialect has a block size, fully connected layers become `MatMulNBits` over 8-bit
       blocks, and read and write floats; but for those that are to skip zeros, which read integers
       as other layers do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from alexnet_edge.errors import GraphError, TableError
from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.int4_graph import insert_int4
from alexnet_edge.quantize.int8_blocks import round_blocks
from alexnet_edge.quantize.layers import (
    WeightedLayer,
    quantization_points,
    require_spared,
    weighted_layers,
)
from alexnet_edge.quantize.pixels import PIXELS, find_pixels, fold_normalization
from alexnet_edge.quantize.scales import (
    BIAS_MAX,
    Dialect,
    activation_parameters,
    dequantize_weight,
    round_weight,
    weight_scales,
)
from alexnet_edge.quantize.table import Range, missing_range

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class QdqOptions:
    """What may be done beyond plain ranges.

    Attributes:
        weight_ranges: how weights are scaled: `minmax` or `mse` (see `scales.weight_scales`).
        bias_corrections: layer name to (channels,) that is added to its bias.
        fitted: layer name to the integers of its weight, where they are not the nearest ones.
        spared: names of layers that stay in floating point.
        zero_skipping: names of fully connected layers that are integer ones although the dialect
            has blocks. Their results stay float unless an integer layer reads them.
    """

    weight_ranges: str = "minmax"
    bias_corrections: Mapping[str, FloatArray] = dataclasses.field(default_factory=dict)
    fitted: Mapping[str, AnyArray] = dataclasses.field(default_factory=dict)
    spared: frozenset[str] = frozenset()
    zero_skipping: frozenset[str] = frozenset()


def insert_qdq(
    model: ir.Model,
    ranges: Mapping[str, Range],
    dialect: Dialect,
    path: Path,
    options: QdqOptions | None = None,
) -> list[WeightedLayer]:
    """Insert Q/DQ in place.

    Args:
        model: in normal form; changed.
        ranges: by activation name.
        dialect: of the target.
        path: the model's file, for errors.
        options: corrections, and layers to spare.

    Returns:
        The layers that are quantized now, in graph order.

    Raises:
        GraphError: the model holds Q/DQ already, or has no weighted layer, or none of a name that
            is to be spared, or all are.
        TableError: a tensor has no range, or a correction does not fit its layer.
    """
    if any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in model.graph):
        raise GraphError(f"{path}: is quantized already", hint="give the FP32 graph")
    options = options or QdqOptions()
    if not dialect.symmetric:
        fold_normalization(model)
    every = weighted_layers(model, path)
    require_spared(path, [layer.name for layer in every], sorted(options.spared))
    chosen = [layer for layer in every if layer.name not in options.spared]
    linear = {layer.name: layer for layer in chosen if dialect.fc_block and layer.fully_connected}
    skipping = linear.keys() & options.zero_skipping
    blocked = {name: layer for name, layer in linear.items() if name not in skipping}
    layers = [layer for layer in chosen if layer.name not in blocked]
    inputs = [layer.activation.name or "" for layer in layers]
    wanted = set(inputs)
    if dialect.quantizes_results:
        wanted |= {layer.result.name or "" for layer in layers if layer.name not in skipping}
    writer = _QdqWriter(model.graph, dialect, options)
    scales = {}
    for value, ranged in quantization_points(every):
        if value.name not in wanted:
            continue
        cast = None if dialect.symmetric else find_pixels(value)
        if cast is not None:
            scales[value.name or ""] = writer.read_pixels(value, cast)
            continue
        if ranged.name not in ranges:
            raise missing_range(ranged.name or "", path)
        scales[value.name or ""] = writer.quantize_activation(value, ranges[ranged.name or ""])
    for layer, name in zip(layers, inputs, strict=True):
        writer.quantize_layer(layer, scales[name])
    if dialect.fc_block and blocked:
        weights = {
            name: round_blocks(_float_weight(layer), layer.axis, dialect.fc_block)
            for name, layer in blocked.items()
        }
        insert_int4(model, weights, dialect, path)
    return chosen


class _QdqWriter:
    def __init__(self, graph: ir.Graph, dialect: Dialect, options: QdqOptions) -> None:
        self._graph = graph
        self._dialect = dialect
        self._options = options

    def quantize_activation(self, value: ir.Value, found: Range) -> float:
        """Make every reader of ``value`` read it through Q and DQ; return the scale."""
        parameters, scale = self._parameters(value, found)
        readers = list(value.uses())
        first = value.producer()
        pair = self._pair(value, parameters, None)
        if first is None:
            self._graph.insert_before(self._graph[0], pair)
        else:
            self._graph.insert_after(first, pair)
        for reader, index in readers:
            reader.replace_input_with(index, pair[1].outputs[0])
        return scale

    def read_pixels(self, value: ir.Value, cast: ir.Node) -> float:
        """Make every reader of ``value`` read the pixels that it was cast from; return the scale.

        They are integers as they come, so there is a DQ and no Q, and the cast goes.
        """
        parameters, scale = self._parameters(value, PIXELS)
        readers = list(value.uses())
        dequantize = self._dequantize(value, parameters, None)
        self._graph.insert_after(value.producer() or cast, dequantize)
        for reader, index in readers:
            reader.replace_input_with(index, dequantize.outputs[0])
        for reader, index in tuple(cast.outputs[0].uses()):
            reader.replace_input_with(index, cast.inputs[0])
            reader.outputs[0].dtype = ir.DataType.UINT8
        self._graph.remove(cast, safe=True)
        return scale

    def _parameters(self, value: ir.Value, found: Range) -> tuple[Sequence[ir.Value], float]:
        scale, zero_point = activation_parameters(found, self._dialect)
        parameters = (
            self._constant(f"{value.name}.scale", scale),
            self._constant(f"{value.name}.zero_point", zero_point),
        )
        return parameters, float(scale)

    def quantize_layer(self, layer: WeightedLayer, activation_scale: float) -> None:
        """Make ``layer`` read its weight, and in the `cpu` dialect its bias, through DQ."""
        weight = _float_weight(layer)
        scales = weight_scales(weight, layer.axis, self._dialect, self._options.weight_ranges)
        bias = self._constant_bias(layer, len(scales))
        correction = self._options.bias_corrections.get(layer.name)
        if bias is not None and correction is not None:
            if correction.shape != bias.shape:
                raise TableError(
                    f"the bias correction of '{layer.name}' has shape {correction.shape}, the "
                    f"layer has {len(bias)} channels",
                    hint="calibrate again",
                )
            bias = bias + correction
            corrected = self._constant(f"{layer.name}.bias.corrected", bias)
            self._replace_constant(layer.node, 2, corrected)
        if bias is not None and self._dialect.name == "cpu":
            # A channel without weights, or one that reads nothing, has a bias all the same: the
            # step must be wide enough for INT32 to hold it.
            widest = np.abs(bias) / (activation_scale * BIAS_MAX)
            scales = np.maximum(scales, widest).astype(np.float32)
        integers = self._round(layer, weight, scales)
        parameters = (
            self._constant(f"{layer.name}.weight.scale", scales),
            self._constant(f"{layer.name}.weight.zero_point", np.zeros(len(scales), np.int8)),
        )
        if self._dialect.name == "tensorrt":
            stored = layer.weight
            if layer.name in self._options.fitted:  # the graph's Q gives the same integers again
                exact = dequantize_weight(integers, scales, layer.axis)
                stored = self._constant(f"{layer.name}.weight.fitted", exact)
            nodes = self._pair(stored, parameters, layer.axis)
        else:
            constant = self._constant(f"{layer.name}.weight.int8", integers)
            nodes = [self._dequantize(constant, parameters, layer.axis)]
            if bias is not None:
                self._quantize_bias(layer, bias, activation_scale * scales)
        self._graph.insert_before(layer.node, nodes)
        self._replace_constant(layer.node, 1, nodes[-1].outputs[0])

    def _round(self, layer: WeightedLayer, weight: FloatArray, scales: FloatArray) -> AnyArray:
        """Return the integers of a weight: as fitted, where its channels keep their scales."""
        nearest = round_weight(weight, scales, layer.axis, self._dialect)
        fitted = self._options.fitted.get(layer.name)
        if fitted is None:
            return nearest
        own = weight_scales(weight, layer.axis, self._dialect, self._options.weight_ranges)
        kept = (own == scales).reshape([-1 if i == layer.axis else 1 for i in range(weight.ndim)])
        return np.where(kept, fitted, nearest)

    def _constant_bias(self, layer: WeightedLayer, channels: int) -> FloatArray | None:
        """Return the bias (channels,), or None where there is none, or none of that size."""
        if layer.bias is None or layer.bias.const_value is None:
            return None
        bias = _array(layer.bias).astype(np.float32)
        return bias.reshape(channels) if bias.size == channels else None

    def _quantize_bias(self, layer: WeightedLayer, bias: FloatArray, scales: FloatArray) -> None:
        rounded = np.rint(bias.astype(np.float64) / scales)
        integers = self._constant(
            f"{layer.name}.bias.int32",
            np.clip(rounded, -BIAS_MAX, BIAS_MAX).astype(np.int32),
        )
        parameters = (
            self._constant(f"{layer.name}.bias.scale", scales.astype(np.float32)),
            self._constant(f"{layer.name}.bias.zero_point", np.zeros(len(scales), np.int32)),
        )
        node = self._dequantize(integers, parameters, 0)
        self._graph.insert_before(layer.node, node)
        self._replace_constant(layer.node, 2, node.outputs[0])

    def _replace_constant(self, node: ir.Node, index: int, value: ir.Value) -> None:
        """Feed ``value`` to a node, and drop the initializer it read where none reads it now."""
        before = node.inputs[index]
        node.replace_input_with(index, value)
        if before is not None and not before.uses():
            del self._graph.initializers[before.name or ""]

    def _pair(
        self, value: ir.Value, parameters: Sequence[ir.Value], axis: int | None
    ) -> list[ir.Node]:
        quantize = self._node("QuantizeLinear", value, parameters, axis, f"{value.name}.quantize")
        quantize.outputs[0].name = f"{value.name}.quantized"
        dequantize = self._dequantize(quantize.outputs[0], parameters, axis)
        dequantize.name = f"{value.name}.dequantize"
        return [quantize, dequantize]

    def _dequantize(
        self, value: ir.Value, parameters: Sequence[ir.Value], axis: int | None
    ) -> ir.Node:
        return self._node("DequantizeLinear", value, parameters, axis, f"{value.name}.dequantize")

    def _node(
        self, op: str, value: ir.Value, parameters: Sequence[ir.Value], axis: int | None, name: str
    ) -> ir.Node:
        attributes = {} if axis is None else {"axis": axis}
        node = ir.node(op, [value, *parameters], attributes, name=name)
        node.outputs[0].name = f"{name}d"
        return node

    def _constant(self, name: str, array: AnyArray | np.float32) -> ir.Value:
        value = constant(name, np.asarray(array))
        self._graph.register_initializer(value)
        return value


def _float_weight(layer: WeightedLayer) -> FloatArray:
    return _array(layer.weight).astype(np.float32)


def _array(value: ir.Value) -> AnyArray:
    tensor = value.const_value
    if tensor is None:
        raise GraphError(f"'{value.name}' is not constant", hint="fold constants on export")
    return tensor.numpy()

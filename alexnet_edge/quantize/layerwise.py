"""The network layer by layer, each in float or quantized: where choices are tried out.

Building an engine for every candidate would take seconds each. Here the graph is cut at the
activations that are quantized, into one small graph for each weighted layer; scales, zero points,
weights and biases are inputs. So any setting of any layer runs at once, from an activation that an
earlier run has left: a change in the last layer costs the last layer.

    network = Layerwise(Path("alexnet.onnx"), CPU)
    activations = network.begin(batch)
    logits = network.finish(0, activations, [FLOAT] * len(network.layers))

Arithmetic is float32 on values that quantization has rounded; an engine's integers give the same
up to ties and the last digit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from alexnet_edge.errors import GraphError
from alexnet_edge.graph import (
    describe_model,
    load_bare,
    load_onnx,
    load_weights,
    weights_folder,
)
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.int8_blocks import BLOCK, dequantize_blocks, round_blocks
from alexnet_edge.quantize.layers import (
    QDQ_OPSET,
    WeightedLayer,
    prepare,
    quantization_points,
    weighted_layers,
)
from alexnet_edge.quantize.pieces import nodes_between
from alexnet_edge.quantize.pixels import PIXELS, find_pixels, fold_normalization
from alexnet_edge.quantize.scales import (
    BIAS_MAX,
    WEIGHT_RANGES,
    Dialect,
    FloatArray,
    activation_parameters,
    dequantize_weight,
    round_weight,
    weight_scales,
)
from alexnet_edge.quantize.table import Range, missing_range
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session

if TYPE_CHECKING:
    import onnxruntime

Activations = list[AnyArray]
"""One tensor for each chunk of images, all at the same place of the network."""

_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class LayerSetting:
    """How one layer runs.

    Attributes:
        activation: range of its input; None where that stays float.
        result: range of its result, where a dialect quantizes that and no later layer's input is
            the same values; None where it stays float.
        weights: `float32`; `minmax` or `mse`, how quantized weights are scaled; `fitted`, those
            that the network was given (`Layerwise.use_fitted`); `blocks`, 8 bits in blocks; or
            another name by which it was given some (`Layerwise.use_weights`).
        correction: (channels,) added to the bias.
    """

    activation: Range | None = None
    result: Range | None = None
    weights: str = "float32"
    correction: FloatArray | None = None


FLOAT = LayerSetting()
FITTED, BLOCKS = "fitted", "blocks"


class Layerwise:
    """A network, cut.

    Attributes:
        path: its file.
        dialect: whose integers are simulated.
        layers: names of the weighted layers in order.
        activations: for each layer, the tensor whose range its input takes.
        results: for each layer, the tensor whose range its result takes where that is quantized
            by itself (see `LayerSetting.result`), else None.

    Raises:
        GraphError: the layers are no chain: one reads more than the one before it gives.
    """

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.path, self.dialect = path, dialect
        model = load_bare(path)
        self.graph = describe_model(model, path)
        if self.graph.opset < QDQ_OPSET:
            model = load_onnx(path)  # converting needs the weights
        weights = load_weights(model, path)
        prepared = prepare(model, path)
        if not dialect.symmetric:
            fold_normalization(prepared, weights)
        self._layers = weighted_layers(prepared, path)
        self.layers = [layer.name for layer in self._layers]
        ranged = {
            value.name or "": source.name or ""
            for value, source in quantization_points(self._layers)
        }
        self.activations = [ranged[layer.activation.name or ""] for layer in self._layers]
        self.results = [self._own_result(layer, ranged) for layer in self._layers]
        self._written = [(layer.result.name or "") in ranged for layer in self._layers]
        self._weights = [_array(layer.weight, weights) for layer in self._layers]
        self._biases = [_bias(layer, weights) for layer in self._layers]
        self._cutter = _Cutter(ir.to_proto(prepared), path, dialect)
        self._quantized: dict[tuple[int, str], FloatArray] = {}
        self._weight_scales: dict[tuple[int, str], FloatArray] = {}
        self._fitted: tuple[Mapping[str, AnyArray], str] = ({}, "minmax")
        self._zero_skipping: frozenset[str] = frozenset()
        self._sessions: dict[tuple[int, bool, bool], onnxruntime.InferenceSession] = {}
        self._exact = {
            layer.activation.name
            for layer in self._layers
            if not dialect.symmetric and find_pixels(layer.activation) is not None
        }
        self._targets = [*self.activations[1:], _logits_name(prepared)]
        for layer, target in zip(self._layers, self._targets, strict=True):
            self._cutter.piece(layer, target)  # refuses what is no chain

    def has_blocks(self, index: int) -> bool:
        """Whether the dialect gives a layer weights in blocks, and float inputs."""
        return self.could_have_blocks(index) and self.layers[index] not in self._zero_skipping

    def use_zero_skipping(self, names: Iterable[str]) -> None:
        """Let these layers be integer ones although the dialect has blocks, and no others."""
        self._zero_skipping = frozenset(names)

    def could_have_blocks(self, index: int) -> bool:
        """Whether a layer has blocks, or has not because it skips zeros."""
        return self.dialect.fc_block is not None and self._layers[index].fully_connected

    def layer(self, index: int) -> WeightedLayer:
        """Return a layer; its weight's values may lie in the file."""
        return self._layers[index]

    def weight(self, index: int) -> FloatArray:
        """Return a layer's float weight."""
        return self._weights[index]

    def use_fitted(self, integers: Mapping[str, AnyArray], weight_ranges: str) -> None:
        """Let settings whose weights are `fitted` run with these, or the nearest integers.

        Args:
            integers: layer name to integers of the weight's shape.
            weight_ranges: how their scales are found: `minmax` or `mse`.
        """
        self._fitted = (integers, weight_ranges)
        self._quantized = {key: array for key, array in self._quantized.items() if key[1] != FITTED}

    def use_weights(self, kind: str, weights: Mapping[int, FloatArray]) -> None:
        """Let settings whose weights are of this name run with these.

        Args:
            kind: the name; weights that were given by it before are forgotten.
            weights: index of the layer to float values of the weight's shape.
        """
        self._quantized = {key: array for key, array in self._quantized.items() if key[1] != kind}
        self._quantized |= {(index, kind): array for index, array in weights.items()}

    def has_bias(self, layer: int) -> bool:
        """Whether a layer has a bias that a correction can be added to."""
        if self.has_blocks(layer):
            return False
        bias, axis = self._biases[layer], self._layers[layer].axis
        return bias is not None and bias.size == self._weights[layer].shape[axis]

    def begin(self, batch: AnyArray) -> Activations:
        """Return the first layer's input for a batch as `PreprocessSpec.to_input` gives it."""
        size = self.graph.input.batch or _CHUNK
        chunks = [batch[start : start + size] for start in range(0, len(batch), size)]
        if self.graph.input.batch is not None:
            rows = range(size)
            chunks = [chunk.take(rows, axis=0, mode="wrap") for chunk in chunks]
        first = self._layers[0].activation.name or ""
        if first == self.graph.input.name:
            return chunks
        proto = self._cutter.cut(self.graph.input.name, first, self.graph.input.dtype)
        session = self._open(proto)
        return [session.run([first], {self.graph.input.name: chunk})[0] for chunk in chunks]

    def step(
        self, layer: int, activations: Activations, setting: LayerSetting
    ) -> tuple[Activations, Activations]:
        """Run one layer.

        Returns:
            The next layer's input, or the logits after the last; and the layer's own output before
            its activation function, averaged over each image: (N, channels).
        """
        session = self._session(layer, setting)
        source = self._layers[layer].activation.name or ""
        feeds = self._feeds(layer, setting)
        given = {item.name for item in session.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in given}
        pairs = [session.run(None, {source: chunk, **feeds}) for chunk in activations]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def finish(
        self, layer: int, activations: Activations, settings: Sequence[LayerSetting]
    ) -> AnyArray:
        """Run from one layer's input to the logits.

        Args:
            layer: index of the first layer to run.
            activations: its input.
            settings: of all layers.

        Returns:
            (N, classes); for a fixed batch size the last chunk's fill is among them.
        """
        for index in range(layer, len(self.layers)):
            activations, _ = self.step(index, activations, settings[index])
        return np.concatenate(activations)

    def settings(
        self,
        ranges: Mapping[str, Range],
        *,
        weights: str = "minmax",
        spared: frozenset[str] = frozenset(),
        corrections: Mapping[str, FloatArray] | None = None,
    ) -> list[LayerSetting]:
        """Return what the Q/DQ pass would make of every layer.

        In the `cpu` dialect a layer that is not spared writes integers, so a spared layer behind
        it still reads rounded values.

        Raises:
            TableError: a tensor that is quantized has no range.
        """
        settings = []
        integers_come = False
        for index, layer in enumerate(self._layers):
            integer = layer.name not in spared and not self.has_blocks(index)
            rounded = self.activations[index] if integer or integers_come else None
            result = self.results[index]
            kind = weights if integer else BLOCKS if layer.name not in spared else "float32"
            settings.append(
                LayerSetting(
                    activation=self._find_range(ranges, rounded),
                    result=self._find_range(ranges, result if integer else None),
                    weights=kind,
                    correction=(corrections or {}).get(layer.name) if integer else None,
                )
            )
            written = self.dialect.quantizes_results and self._written[index]
            # The sums of a layer that skips zeros are float, as those of blocks are.
            writes = written and not self.could_have_blocks(index)
            integers_come = integer and writes and result is None
        return settings

    def is_exact(self, tensor: str) -> bool:
        """Whether a tensor holds pixels, which its integers are: no range matters."""
        return tensor in self._exact

    def _find_range(self, ranges: Mapping[str, Range], tensor: str | None) -> Range | None:
        if tensor is not None and self.is_exact(tensor):
            return PIXELS
        if tensor is not None and tensor not in ranges:
            raise missing_range(tensor, self.path)
        return None if tensor is None else ranges[tensor]

    def _own_result(self, layer: WeightedLayer, ranged: Mapping[str, str]) -> str | None:
        name = layer.result.name or ""
        inputs = {other.activation.name for other in self._layers}
        own = self.dialect.quantizes_results and ranged.get(name) == name and name not in inputs
        return name if own else None

    def _feeds(self, index: int, setting: LayerSetting) -> dict[str, AnyArray]:
        layer = self._layers[index]
        feeds: dict[str, AnyArray] = {layer.weight.name or "": self._weight(index, setting.weights)}
        bias = self._biases[index]
        if bias is not None and layer.bias is not None:
            if setting.correction is not None and self.has_bias(index):
                bias = bias + setting.correction
            feeds[layer.bias.name or ""] = self._round_bias(index, bias, setting)
        for prefix, found in (("activation", setting.activation), ("result", setting.result)):
            if found is not None:
                scale, zero_point = activation_parameters(found, self.dialect)
                feeds[f"{prefix}.scale"] = np.asarray(scale)
                feeds[f"{prefix}.zero_point"] = zero_point
        return feeds

    def _round_bias(self, index: int, bias: FloatArray, setting: LayerSetting) -> FloatArray:
        """Return a bias as INT32 holds it, where the layer adds integers."""
        is_integer = setting.weights in {*WEIGHT_RANGES, FITTED} and self.has_bias(index)
        if self.dialect.symmetric or setting.activation is None or not is_integer:
            return bias
        scale, _ = activation_parameters(setting.activation, self.dialect)
        step = scale * self._scales(index, setting.weights)
        step = np.maximum(step, np.abs(bias.reshape(-1)) / BIAS_MAX).reshape(bias.shape)
        rounded: FloatArray = (np.rint(bias.astype(np.float64) / step) * step).astype(np.float32)
        return rounded

    def _scales(self, index: int, kind: str) -> FloatArray:
        """Return the scales (channels,) of a layer's integer weights."""
        ranges = self._fitted[1] if kind == FITTED else kind
        key = (index, ranges)
        if key not in self._weight_scales:
            axis = self._layers[index].axis
            found = weight_scales(self._weights[index], axis, self.dialect, ranges)
            self._weight_scales[key] = found
        return self._weight_scales[key]

    def _weight(self, index: int, kind: str) -> FloatArray:
        weight = self._weights[index]
        if kind == "float32":
            return weight
        key = (index, kind)
        if key not in self._quantized:
            axis = self._layers[index].axis
            if kind == BLOCKS:
                rounded = round_blocks(weight, axis, self.dialect.fc_block or BLOCK)
                return self._quantized.setdefault(key, dequantize_blocks(rounded, axis))
            scales = self._scales(index, kind)
            integers = self._fitted[0].get(self.layers[index]) if kind == FITTED else None
            if integers is None:
                integers = round_weight(weight, scales, axis, self.dialect)
            self._quantized[key] = dequantize_weight(integers, scales, axis)
        return self._quantized[key]

    def _session(self, index: int, setting: LayerSetting) -> onnxruntime.InferenceSession:
        key = (index, setting.activation is not None, setting.result is not None)
        if key not in self._sessions:
            layer = self._layers[index]
            target = self._targets[index]
            self._sessions[key] = self._open(
                self._cutter.cut_layer(layer, target, activation=key[1], result=key[2])
            )
        return self._sessions[key]

    def _open(self, proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
        serialized = proto.SerializeToString()
        return create_session(serialized, RuntimeOptions(), folder=weights_folder(self.path))


class _Cutter:
    """Cuts pieces out of a graph: everything between one tensor and a later one."""

    def __init__(self, model: onnx.ModelProto, path: Path, dialect: Dialect) -> None:
        self._path = path
        self._dialect = dialect
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def cut(self, source: str, target: str, dtype: str) -> onnx.ModelProto:
        """Return the graph that computes ``target`` from ``source`` alone."""
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes = self._between(source, target)
        return self._model_of(nodes, [_info(source, kind)], [target], ())

    def cut_layer(
        self, layer: WeightedLayer, target: str, *, activation: bool, result: bool
    ) -> onnx.ModelProto:
        """Return a layer's graph from its input to ``target``, and the mean of its own output.

        Its weight and bias are inputs, and so are the scale and zero point of what is quantized.
        """
        source = layer.activation.name or ""
        nodes = self.piece(layer, target)
        free = [layer.weight, *([layer.bias] if layer.bias is not None else [])]
        inputs = [_info(source)]
        inputs += [_info(value.name or "") for value in free if value.const_value is not None]
        own = layer.node.outputs[0].name or ""
        if activation:
            self._insert_pair(nodes, source, "activation", inputs)
        if result:
            self._insert_pair(nodes, layer.result.name or "", "result", inputs)
        nodes += _mean_of_each_image(own, layer.node.op_type)
        return self._model_of(
            nodes, inputs, [target, "layer.mean"], [value.name or "" for value in free]
        )

    def piece(self, layer: WeightedLayer, target: str) -> list[onnx.NodeProto]:
        """Return a layer's node, and those between it and ``target``.

        Raises:
            GraphError: ``target`` does not depend on the layer alone.
        """
        nodes = self._between(layer.activation.name or "", target)
        own = layer.node.outputs[0].name or ""
        if not any(own in node.output for node in nodes):
            raise self._no_chain(f"'{target}' does not depend on '{own}'")
        return nodes

    def _no_chain(self, reason: str) -> GraphError:
        return GraphError(
            f"{self._path}: {reason}",
            hint="choosing by evidence needs a chain of layers; name a --method",
        )

    def _between(self, source: str, target: str) -> list[onnx.NodeProto]:
        nodes = nodes_between(self._model, source, [target])
        if nodes is None:
            raise self._no_chain(f"'{target}' depends on more than '{source}'")
        return nodes

    def _insert_pair(
        self,
        nodes: list[onnx.NodeProto],
        tensor: str,
        prefix: str,
        inputs: list[onnx.ValueInfoProto],
    ) -> None:
        """Make the nodes read ``tensor`` through Q and DQ whose parameters are inputs."""
        integer = onnx.TensorProto.INT8 if self._dialect.symmetric else onnx.TensorProto.UINT8
        parameters = [f"{prefix}.scale", f"{prefix}.zero_point"]
        inputs += [_info(parameters[0]), _info(parameters[1], integer)]
        rounded = f"{prefix}.rounded"
        for node in nodes:
            node.input[:] = [rounded if name == tensor else name for name in node.input]
        pair = [
            onnx.helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{prefix}.integers"]),
            onnx.helper.make_node(
                "DequantizeLinear", [f"{prefix}.integers", *parameters], [rounded]
            ),
        ]
        position = next((i + 1 for i, node in enumerate(nodes) if tensor in node.output), 0)
        nodes[position:position] = pair

    def _model_of(
        self,
        nodes: list[onnx.NodeProto],
        inputs: list[onnx.ValueInfoProto],
        outputs: Sequence[str],
        free: Sequence[str],
    ) -> onnx.ModelProto:
        used = {name for node in nodes for name in node.input}
        constants = [
            tensor for name, tensor in self._constants.items() if name in used and name not in free
        ]
        graph = onnx.helper.make_graph(
            nodes, "piece", inputs, [_info(name) for name in outputs], constants
        )
        return onnx.helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )


def _mean_of_each_image(output: str, op_type: str) -> list[onnx.NodeProto]:
    """Return nodes that average (N, C, H, W) to (N, C); (N, C) stays as it is."""
    if op_type != "Conv":
        return [onnx.helper.make_node("Identity", [output], ["layer.mean"])]
    return [
        onnx.helper.make_node("GlobalAveragePool", [output], ["layer.pooled"]),
        onnx.helper.make_node("Flatten", ["layer.pooled"], ["layer.mean"], axis=1),
    ]


def _info(name: str, kind: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, None)


def _logits_name(prepared: ir.Model) -> str:
    """Return the tensor that a last softmax reads, or the output where there is none."""
    output = prepared.graph.outputs[0]
    node = output.producer()
    if node is not None and node.op_type == "Softmax" and node.inputs[0] is not None:
        return node.inputs[0].name or ""
    return output.name or ""


def _array(value: ir.Value, weights: Mapping[str, AnyArray]) -> FloatArray:
    found = weights.get(value.name or "")
    if found is None:
        if value.const_value is None:
            raise GraphError(f"'{value.name}' is not constant", hint="fold constants on export")
        found = value.const_value.numpy()
    return np.ascontiguousarray(found, np.float32)


def _bias(layer: WeightedLayer, weights: Mapping[str, AnyArray]) -> FloatArray | None:
    if layer.bias is None or layer.bias.const_value is None:
        return None
    return _array(layer.bias, weights)

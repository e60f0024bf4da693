"""How many bytes of weights an engine's layers read, and how many products they sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.shape_inference
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.bare import open_weight
from alexnet_edge.graph import load_bare, weights_folder
from alexnet_edge.manifest import LayerPrecision, Manifest, manifest_path, read_manifest
from alexnet_edge.model import load_checkpoint
from alexnet_edge.runtimes.base import EngineInfo

_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "QLinearConv": 3, "ConvInteger": 1}
_PRODUCTS = {
    "Gemm": 1, "FusedGemm": 1, "MatMul": 1, "FusedMatMul": 1, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3, "QGemm": 3,
    "MatMulNBits": 1,
}  # fmt: skip
"""Operators of layers, ONNX's and ONNX Runtime's, to the position of their weight."""

_INTEGER = frozenset(
    ("QLinearConv", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
     "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
)  # fmt: skip
_TRACED = frozenset(("DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Identity"))
_PLAIN = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
"""ONNX Runtime's fused operators to those whose shapes they have."""

_INT8_ACCURACY = 4
"""`accuracy_level` of MatMulNBits that computes in INT8."""

_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


@dataclasses.dataclass(frozen=True)
class LayerWork:
    """What a layer must do for one inference of one image.

    Attributes:
        name: of the layer.
        weight_bytes: weights, biases and scales, read once for a batch.
        macs: multiply-accumulates of one image.
        precision: that the products are computed in: `int8`, `fp16` or `fp32`.
    """

    name: str
    weight_bytes: int
    macs: int
    precision: str


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of an engine's layers, or why it is not known."""

    layers: tuple[LayerWork, ...] = ()
    reason: str = ""


def read_work(info: EngineInfo) -> Work:
    """Return the work of an engine, from what it is or was made from.

    Of an ONNX graph and of engines of ONNX Runtime, from the graph itself; of a checkpoint, from
    its architecture; of TensorRT's engines, whose weights cannot be read, from the FP32 graph that
    lies beside them, at the precisions of the manifest.
    """
    if info.runtime == "torch":
        shapes = load_checkpoint(info.path).architecture.shapes()
        return Work(
            tuple(
                LayerWork(shape.layer.name, 4 * shape.parameters, shape.macs, "fp32")
                for shape in shapes
                if shape.weight
            )
        )
    if info.runtime == "onnxruntime":
        return _checked(read_graph_work(load_bare(info.path), weights_folder(info.path)), info.path)
    manifest = read_manifest(manifest_path(info.path))
    graph = _find_model(info.path.parent, manifest.model_sha256)
    if graph is None:
        return Work(reason=f"the FP32 graph that {info.path.name} was built from is not beside it")
    return _checked(_at_precisions(read_graph_work(load_bare(graph)), manifest), graph)


def read_graph_work(model: onnx.ModelProto, folder: Path | None = None) -> tuple[LayerWork, ...]:
    """Return the work of a graph's weighted layers, in its order.

    Args:
        model: the graph; its weights may be in a file.
        folder: where that is; without it, filling in a convolution's weights counts as work.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    shapes = _infer_shapes(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    reader = _LayerReader(tensors, shapes, producers, folder)
    return tuple(reader.read(model.graph))


def _checked(layers: tuple[LayerWork, ...], path: Path) -> Work:
    if not layers:
        return Work(reason=f"{path.name} has no layer of a known kind")
    unknown = [layer.name for layer in layers if layer.macs == 0]
    if unknown:
        return Work(reason=f"{path.name}: the output shape of {unknown[0]} is not known")
    return Work(layers)


def _find_model(folder: Path, sha256: str) -> Path | None:
    """Return the graph of that hash; engines, which have a manifest, are passed over."""
    for path in sorted(folder.glob("*.onnx")):
        if not manifest_path(path).exists() and sha256_file(path) == sha256:
            return path
    return None


def _at_precisions(layers: tuple[LayerWork, ...], manifest: Manifest) -> tuple[LayerWork, ...]:
    """Return the layers of an FP32 graph as an engine runs them."""
    found = {layer.name: layer for layer in manifest.layers}
    made = []
    for layer in layers:
        built = found.get(layer.name, LayerPrecision(layer.name, "", manifest.precision))
        precision = built.precision if built.precision in _BYTES else manifest.precision
        size = layer.weight_bytes * _BYTES[precision] // _BYTES["fp32"]
        made.append(dataclasses.replace(layer, precision=precision, weight_bytes=size))
    return tuple(made)


def _infer_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values, a dynamic axis as 1.

    ONNX knows none of ONNX Runtime's operators; for a layer that fuses an activation, the plain
    operator has the same shapes.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type in _PLAIN and node.domain == "com.microsoft":
            node.op_type, node.domain = _PLAIN[node.op_type], ""
            kept = [a for a in node.attribute if not a.name.startswith("activation")]
            del node.attribute[:]
            node.attribute.extend(kept)
    inferred = onnx.shape_inference.infer_shapes(plain).graph
    return {
        value.name: tuple(axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


@dataclasses.dataclass(frozen=True)
class _LayerReader:
    """Reads layers off a graph.

    Attributes:
        tensors: initializers and constants by name.
        shapes: of values.
        producers: value to the node that makes it.
        folder: where weights lie that are not in the graph.
    """

    tensors: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, tuple[int, ...]]
    producers: Mapping[str, onnx.NodeProto]
    folder: Path | None

    def read(self, graph: onnx.GraphProto) -> Iterator[LayerWork]:
        """Yield the work of each weighted layer."""
        shared = {node.name for chosen in graph.node for node in self._hot_parts(chosen)}
        for node in graph.node:
            if node.name in shared:
                continue
            if node.op_type == "If":
                yield from self._read_branches(node)
                continue
            position = {**_CONVOLUTIONS, **_PRODUCTS}.get(node.op_type)
            if position is None or len(node.input) <= position:
                continue
            weight, quantized = self._trace(node.input[position])
            if weight is not None:
                yield LayerWork(
                    name=(node.name or node.output[0]).removeprefix("fused "),
                    weight_bytes=self._bytes(node, weight, quantized=quantized),
                    macs=self._macs(node, weight),
                    precision=_precision(
                        node, weight, integer=quantized and self._is_dequantized(node.input[0])
                    ),
                )

    def _read_branches(self, node: onnx.NodeProto) -> Iterator[LayerWork]:
        """Yield the work of a layer that skips zeros, as though it skipped none.

        That is what one of its branches does, with the hot part that both add; they read the same
        weights.
        """
        branches = _branches(node)
        found = [layer for branch in branches for layer in self.read(branch)]
        if not found:
            return
        hot = self._hot_parts(node)
        read = {name for branch in branches for inner in branch.node for name in inner.input}
        read |= {name for part in hot for name in part.input}
        tensors = [self.tensors[name] for name in read & self.tensors.keys()]
        # Shapes and axes are INT64; they are no work.
        size = sum(_size(one) for one in tensors if one.data_type != onnx.TensorProto.INT64)
        layer = max(found, key=lambda layer: layer.macs)
        macs = layer.macs + sum(self._macs(part, self.tensors[part.input[1]]) for part in hot)
        yield dataclasses.replace(layer, name=node.name, weight_bytes=size, macs=macs)

    def _hot_parts(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes in front of a layer that skips zeros that are a part of it."""
        read = {name for branch in _branches(node) for one in branch.node for name in one.input}
        found = [self.producers[name] for name in sorted(read & self.producers.keys())]
        return [one for one in found if one.op_type == "MatMulNBits"]

    def _trace(self, name: str) -> tuple[onnx.TensorProto | None, bool]:
        """Return the tensor that a weight comes from, and whether it passes through Q/DQ."""
        quantized = False
        while name not in self.tensors:
            node = self.producers.get(name)
            if node is None or node.op_type not in _TRACED:
                return None, quantized
            quantized = quantized or node.op_type in {"QuantizeLinear", "DequantizeLinear"}
            name = node.input[0]
        return self.tensors[name], quantized

    def _is_dequantized(self, name: str) -> bool:
        """Whether an activation comes from integers; only then is the layer fused into one."""
        node = self.producers.get(name)
        return node is not None and node.op_type == "DequantizeLinear"

    def _bytes(self, node: onnx.NodeProto, weight: onnx.TensorProto, *, quantized: bool) -> int:
        # What only Q/DQ make an integer of is folded into one when the graph is opened.
        is_folded = quantized and weight.data_type == onnx.TensorProto.FLOAT
        total = math.prod(weight.dims) if is_folded else _size(weight)
        for name in node.input:
            tensor, _ = self._trace(name)
            if tensor is not None and tensor.name != weight.name:
                total += _size(tensor)
        return total

    def _macs(self, node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
        if node.op_type in _CONVOLUTIONS:
            shape = self.shapes.get(node.output[0], ())
            if len(shape) <= 2:
                return 0
            return int(weight.dims[0] * self._inputs(weight) * math.prod(shape[2:]))
        if node.op_type == "MatMulNBits":
            sizes = {a.name: a.i for a in node.attribute if a.name in {"K", "N"}}
            return int(sizes.get("K", 0) * sizes.get("N", 0))
        return math.prod(weight.dims)

    def _inputs(self, weight: onnx.TensorProto) -> int:
        """Return how many values a convolution multiplies for one of its results.

        Places of its kernel that are 0 for every channel were filled in (see
        `engine.pixel_columns`): nothing has to be multiplied there.
        """
        places = math.prod(weight.dims[1:])
        if self.folder is None or weight.data_type != onnx.TensorProto.INT8:
            return int(places)
        values = _read_int8(weight, self.folder)
        return int(np.count_nonzero(values.any(axis=0)))


def _read_int8(weight: onnx.TensorProto, folder: Path) -> npt.NDArray[np.int8]:
    """Return weights, which may lie in a file beside the graph, or in the graph's own."""
    if not uses_external_data(weight):
        return np.asarray(numpy_helper.to_array(weight), np.int8)
    with open_weight(weight, folder) as view:
        values: npt.NDArray[np.int8] = np.frombuffer(view, np.int8).copy()
    return values.reshape(tuple(weight.dims))


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [item.g for item in node.attribute if item.HasField("g")]


def _precision(node: onnx.NodeProto, weight: onnx.TensorProto, *, integer: bool) -> str:
    if node.op_type == "MatMulNBits":
        level = next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
        return "int8" if level == _INT8_ACCURACY else "fp32"
    if integer or node.op_type in _INTEGER:
        return "int8"
    return "fp16" if weight.data_type == onnx.TensorProto.FLOAT16 else "fp32"


def _size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor, whether or not they are at hand."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}:
        return (count + 1) // 2
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)

"""What a Jetson's Deep Learning Accelerator takes of a graph.

What it does not take runs on the GPU instead, and the tensors travel between the two. That is an
error between two weighted layers, where it cuts the network in pieces, and a warning before the
first or after the last.

Sources, named by each rule:
    restrictions  NVIDIA TensorRT documentation, "DLA Supported Layers and Restrictions"
    matrix        NVIDIA Deep-Learning-Accelerator-SW, operators/README.md ("Orin DLA support
                  through TensorRT: Native")
    migration     NVIDIA TensorRT documentation, "Migrating TensorRT from 10.x to 11.x on Jetson"
"""

from __future__ import annotations

from collections.abc import Iterator

from alexnet_edge.engine.lint.view import (
    ERROR,
    QUANTIZERS,
    WARNING,
    Finding,
    GraphView,
    Layer,
    Rule,
    attribute,
    label,
)
from alexnet_edge.engine.profile import Profile

_LARGEST_KERNEL, _LARGEST_STRIDE, _LARGEST_CHANNELS = 32, 8, 8192
_LARGEST_BATCH = 4096
_LRN_WINDOWS = (3, 5, 7, 9)

_OPERATORS = frozenset(
    ("Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv",
     "ConvTranspose", "Equal", "Gemm", "LRN", "LeakyRelu", "MatMul", "Max", "MaxPool", "Mul",
     "PRelu", "Relu", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sub", "Sum", "Tanh",
     "Transpose", "Upsample", *QUANTIZERS)
)  # fmt: skip
"""Of the matrix; less Reshape, which DLA takes only where it keeps four axes. Q/DQ has a rule."""

_EXPORT = "export with --dla, which writes linear layers as convolutions"


def find_dynamic_batches(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Shapes are static; the batch is at most 4096.

    Source: restrictions, general.
    """
    for value in view.inputs:
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if not all(size > 0 for size in sizes):
            yield Finding(
                "dla-batch", ERROR, value.name, "has a dynamic axis",
                "export with --dla, or with --batch N",
            )  # fmt: skip
        elif sizes and sizes[0] > _LARGEST_BATCH:
            yield Finding(
                "dla-batch", ERROR, value.name, f"has batch {sizes[0]}",
                f"export with a batch of at most {_LARGEST_BATCH}",
            )  # fmt: skip


def find_large_kernels(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Kernels of convolutions are 1 to 32 wide.

    Source: restrictions, convolution.
    """
    for layer in view.layers:
        kernel = list(layer.weight.dims[2:])
        if layer.node.op_type == "Conv" and any(size > _LARGEST_KERNEL for size in kernel):
            yield Finding(
                "dla-kernel", ERROR, label(layer.node), f"has a kernel of {_times(kernel)}",
                f"split it into kernels of at most {_LARGEST_KERNEL}, or build for the GPU",
            )  # fmt: skip


def find_large_strides(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Strides of convolutions are 1 to 8.

    Source: restrictions, convolution.
    """
    for layer in view.layers:
        strides = list(attribute(layer.node, "strides", []))
        if layer.node.op_type == "Conv" and any(step > _LARGEST_STRIDE for step in strides):
            yield Finding(
                "dla-stride", ERROR, label(layer.node), f"has a stride of {_times(strides)}",
                f"use a stride of at most {_LARGEST_STRIDE}, or build for the GPU",
            )  # fmt: skip


def find_many_channels(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """A layer reads and writes 1 to 8192 channels: 9216 flattened features are too many.

    Source: restrictions, convolution and fully connected.
    """
    for layer in view.layers:
        for what, channels in zip(("reads", "writes"), _channels(layer), strict=True):
            if channels > _LARGEST_CHANNELS:
                yield Finding(
                    "dla-channels", ERROR, label(layer.node),
                    f"{what} {channels} channels, DLA takes {_LARGEST_CHANNELS}",
                    _EXPORT if what == "reads" else "use a narrower network, or build for the GPU",
                )  # fmt: skip


def find_lrn_windows(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """The window of a response normalization is 3, 5, 7 or 9.

    Source: restrictions, LRN.
    """
    for node in view.nodes:
        size = attribute(node, "size", 0)
        if node.op_type == "LRN" and size not in _LRN_WINDOWS:
            yield Finding(
                "dla-lrn", ERROR, label(node), f"has a window of {size}",
                f"use one of {', '.join(map(str, _LRN_WINDOWS))}, or build for the GPU",
            )  # fmt: skip


def find_other_operators(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Operators that DLA does not run, as Flatten and Reshape.

    Source: matrix; restrictions, shuffle.
    """
    for node in view.nodes:
        if node.op_type in _OPERATORS:
            continue
        between = view.follows_layer(node) and view.reaches_layer(node)
        yield Finding(
            "dla-operator", ERROR if between else WARNING, label(node),
            f"{node.op_type} runs on the GPU" + (", amid the network" if between else ""),
            _EXPORT if between else "nothing, where the GPU may take part",
        )  # fmt: skip


def find_linear_layers(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Linear layers are convolutions: TensorRT 10 has no fully connected layer to give to DLA.

    Source: matrix (Gemm: TensorRT can translate it to a 1×1 convolution); TensorRT 10 migration
    guide (IFullyConnectedLayer removed).
    """
    for layer in view.layers:
        if layer.node.op_type != "Conv":
            yield Finding(
                "dla-linear", WARNING, label(layer.node),
                f"is a {layer.node.op_type}, which not every TensorRT gives to DLA", _EXPORT,
            )  # fmt: skip


def find_explicit_quantization(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """DLA up to TensorRT 10.7 takes INT8 from a calibration cache, and no Q/DQ.

    Source: matrix (QuantizeLinear, DequantizeLinear: to be collapsed into implicit quantization);
    migration (strongly typed from 11.4.1 on).
    """
    if profile.tensorrt is not None and profile.tensorrt.low >= (11,):
        return
    if view.quantizers:
        yield Finding(
            "dla-qdq", ERROR, label(view.quantizers[0]),
            f"is the first of {len(view.quantizers)} Q and DQ, which DLA does not take",
            "give the FP32 graph to alexnet-edge build --int8, which passes a calibration cache",
        )  # fmt: skip


DLA_RULES: tuple[Rule, ...] = (
    find_dynamic_batches,
    find_large_kernels,
    find_large_strides,
    find_many_channels,
    find_lrn_windows,
    find_other_operators,
    find_linear_layers,
    find_explicit_quantization,
)


def _channels(layer: Layer) -> tuple[int, int]:
    """Return how many channels a layer reads and writes."""
    dims = layer.weight.dims
    if len(dims) < 2:
        return 1, 1
    if layer.node.op_type == "Conv":
        return dims[1] * attribute(layer.node, "group", 1), dims[0]
    reads = len(dims) - 2 if layer.axis == len(dims) - 1 else len(dims) - 1
    return dims[reads], dims[layer.axis]


def _times(sizes: list[int]) -> str:
    return "×".join(map(str, sizes))

"""What ONNX Runtime's CPU provider runs in INT8, and runs well.

It takes any Q/DQ that ONNX allows; what does not fit its integer kernels runs in float, silently.
So most of what is found here is a warning.

Sources, named by each rule:
    selectors  ONNX Runtime, core/optimizer/qdq_transformer (ConvNodeGroup, GemmNodeGroup)
    guide      ONNX Runtime documentation, "Quantize ONNX Models", on data types
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from alexnet_edge.engine.lint.placement import find_float_layers
from alexnet_edge.engine.lint.qdq import (
    find_per_channel_activations,
    find_wrong_axes,
    find_wrong_scales,
)
from alexnet_edge.engine.lint.tensorrt import find_untaken_precisions
from alexnet_edge.engine.lint.view import (
    ACTIVATION,
    ERROR,
    GRAPH,
    WARNING,
    WEIGHT,
    Finding,
    GraphView,
    Rule,
    label,
    type_name,
)
from alexnet_edge.engine.profile import Profile
from alexnet_edge.quantize.layers import QDQ_OPSET

_Type = onnx.TensorProto

_REBUILD = "give the FP32 graph to alexnet-edge build --int8, which writes what the CPU runs best"


def find_old_opset(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Per-channel Q/DQ needs opset 13.

    Source: ONNX, operators' changelog (QuantizeLinear-13).
    """
    if view.quantized and view.opset < QDQ_OPSET:
        yield Finding(
            "opset", ERROR, GRAPH, f"opset {view.opset} has no per-channel Q/DQ",
            f"export with opset {QDQ_OPSET} or later",
        )  # fmt: skip


def find_symmetric_activations(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Activations are UINT8: finer after a ReLU, and what x86 multiplies fastest.

    Source: guide (UINT8 activations with INT8 weights on x86 with AVX2, AVX512 and VNNI).
    """
    for node, name in view.parameters(2):
        if view.role(node) == ACTIVATION and view.element_type(name) == _Type.INT8:
            yield Finding(
                "int8-activation", WARNING, label(node), "quantizes an activation to INT8",
                f"UINT8 is finer and faster here; {_REBUILD}",
            )  # fmt: skip


def find_asymmetric_weights(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Weights are INT8 with zero point 0, which spares a correction of every sum.

    Source: guide (INT8 weights).
    """
    for node, name in view.parameters(2):
        if view.role(node) != WEIGHT:
            continue
        kind, values = view.element_type(name), view.array(name)
        shifted = values is not None and bool(np.any(values.astype(np.float32)))
        if kind in {_Type.INT8, _Type.UINT8} and (kind == _Type.UINT8 or shifted):
            yield Finding(
                "weight-asymmetric", WARNING, label(node),
                f"quantizes a weight to {type_name(kind)}"
                + (" with a zero point other than 0" if shifted else ""),
                f"symmetric INT8 is faster here; {_REBUILD}",
            )  # fmt: skip


def find_float_biases(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """A quantized layer's bias is INT32, or the layer stays in float.

    Source: selectors.
    """
    for layer in view.layers:
        inputs = layer.node.input
        if layer.activation_dq is None or layer.weight_dq is None or len(inputs) < 3:
            continue
        if inputs[2] and view.dequantizer(inputs[2]) is None:
            yield Finding(
                "bias-float", WARNING, label(layer.node),
                "its bias is not quantized, so it runs in floating point",
                f"store the bias as INT32 behind a DQ, scale activation · weight; or {_REBUILD}",
            )  # fmt: skip


def find_float_results(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """A quantized convolution's result is quantized: its kernel writes integers only.

    Source: selectors.
    """
    for layer in view.layers:
        if layer.node.op_type != "Conv" or None in (layer.activation_dq, layer.weight_dq):
            continue
        readers = view.readers(layer.node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Relu":
            readers = view.readers(readers[0].output[0])
        if not any(reader.op_type == "QuantizeLinear" for reader in readers):
            yield Finding(
                "result-float", WARNING, label(layer.node),
                "its result is not quantized, so it runs in floating point",
                f"quantize it behind the ReLU; or {_REBUILD}",
            )  # fmt: skip


CPU_RULES: tuple[Rule, ...] = (
    find_old_opset,
    find_untaken_precisions,
    find_wrong_scales,
    find_wrong_axes,
    find_per_channel_activations,
    find_symmetric_activations,
    find_asymmetric_weights,
    find_float_layers,
    find_float_biases,
    find_float_results,
)

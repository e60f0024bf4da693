"""What TensorRT asks of the parameters of Q and DQ: zero points, scales, axes.

Sources, named by each rule:
    operators   onnx-tensorrt, docs/operators.md of the release
    Q/DQ guide  NVIDIA TensorRT documentation, "Working with Quantized Types"
    tried       parsed and built here with TensorRT-RTX 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from alexnet_edge.engine.lint.library import is_from, oldest
from alexnet_edge.engine.lint.view import (
    ACTIVATION,
    BIAS,
    ERROR,
    Finding,
    GraphView,
    Rule,
    attribute,
    label,
    precision_of,
    type_name,
)
from alexnet_edge.engine.profile import Profile

REBUILD = "give the FP32 graph to alexnet-edge build --int8, which writes what the target reads"

_Type = onnx.TensorProto


def find_missing_zero_points(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Every Q and DQ has three inputs: without a zero point, Q writes UINT8.

    Source: ONNX, QuantizeLinear, y_zero_point; tried: imported as INT8, which is something else.
    """
    for node in view.quantizers:
        if len(node.input) < 3 or not node.input[2]:
            yield Finding(
                "zero-point-missing", ERROR, label(node),
                "has no zero point, which makes it UINT8",
                f"add an INT8 zero point of 0; or {REBUILD}",
            )  # fmt: skip


def find_nonzero_zero_points(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Zero points are 0: quantization is symmetric.

    Source: operators ("x_zero_point must be zero"); tried: a parse error.
    """
    for node, name in view.parameters(2):
        values = view.array(name)
        if values is not None and np.any(values.astype(np.float32)):
            shown = values.ravel()[np.argmax(values.ravel() != 0)]
            yield Finding(
                "zero-point-value", ERROR, label(node), f"zero point is {shown}",
                f"quantize symmetrically, zero points 0; or {REBUILD}",
            )  # fmt: skip


def find_zero_point_types(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Weights, and activations that are not UINT8 (which has rules of its own), are INT8.

    Source: Q/DQ guide. Types of a precision that is no INT8 at all are another rule's.
    """
    for node, name in view.parameters(2):
        role, kind = view.role(node), view.element_type(name)
        if role == BIAS or (role == ACTIVATION and kind == _Type.UINT8):
            continue
        if kind not in {None, _Type.INT8} and precision_of(kind) in {None, "int8"}:
            yield Finding(
                "zero-point-type", ERROR, label(node), f"zero point is {type_name(kind)}",
                f"make it INT8, 0; or {REBUILD}",
            )  # fmt: skip


def find_uint8_activations(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """UINT8 is no quantized type; RTX reads it as INT8 where its zero point is 0, and clips.

    Source: NVIDIA TensorRT documentation, DataType ("UINT8 cannot be used to represent quantized
    floating-point values"); tried: a Q to UINT8 with zero point 0 is imported as one to INT8, so
    that all above 127 steps is cut off without a word.
    """
    for node, name in view.parameters(2):
        if view.element_type(name) != _Type.UINT8 or view.role(node) != ACTIVATION:
            continue
        values = view.array(name)
        mend = f"quantize activations to INT8 (ActivationSymmetric in onnxruntime); or {REBUILD}"
        if profile.runtime == "tensorrt-rtx" and values is not None and not values.any():
            yield Finding(
                "uint8-clipping", ERROR, label(node),
                "UINT8 with zero point 0 is read as INT8: the upper half of its range is cut off",
                mend,
            )  # fmt: skip
        else:
            yield Finding("uint8-activation", ERROR, label(node), "quantizes to UINT8", mend)


def find_scale_types(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Scales are FP32; newer parsers take FP16 too, from opset 19 on.

    Source: ONNX, QuantizeLinear-13 and -19; operators, 10.15 (QuantizeLinear: FP32, FP16, BF16);
    tried: FP16 scales build.
    """
    newer = view.opset >= 19 and is_from(profile, (10,))
    taken = {_Type.FLOAT, _Type.FLOAT16, _Type.BFLOAT16} if newer else {_Type.FLOAT}
    for node, name in view.parameters(1):
        kind = view.element_type(name)
        if kind is not None and kind not in taken:
            yield Finding(
                "scale-type", ERROR, label(node), f"scale is {type_name(kind)}",
                f"store scales as FP32; or {REBUILD}",
            )  # fmt: skip


def find_wrong_scales(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Scales are positive and finite.

    Source: tried: a parse error for 0, negatives and NaN; infinity makes every value 0 or NaN.
    """
    for node, name in view.parameters(1):
        values = view.array(name)
        if values is None:
            continue
        numbers = values.astype(np.float32).ravel()
        wrong = numbers[~((numbers > 0) & np.isfinite(numbers))]
        if len(wrong):
            yield Finding(
                "scale-value", ERROR, label(node),
                f"{len(wrong)} of {len(numbers)} scales are {wrong[0]:g}",
                "calibrate again; a tensor that is always 0 needs a small positive scale",
            )  # fmt: skip


def find_computed_parameters(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Scales and zero points are constants, or computed from some.

    Source: operators, 7 ("Scales and zero-point value must be initializers"); tried: constants are
    folded; a scale that depends on the input is parsed, and the build dies of it.
    """
    for index, what in ((1, "scale"), (2, "zero point")):
        for node, name in view.parameters(index):
            if view.depends_on_input(name):
                yield Finding(
                    "scale-computed", ERROR, label(node),
                    f"its {what} '{name}' depends on the input",
                    f"quantize statically, by calibration; {REBUILD}",
                )  # fmt: skip


def find_wrong_axes(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Per-channel scales run along the weight's output channels: Conv 0, Gemm transB 0, MatMul 1.

    Source: Q/DQ guide, on per-channel quantization; tried: along another axis the layer runs in
    float, and a wrong number of scales is a parse error.
    """
    for layer in view.layers:
        for node in _pair(view, layer.weight_dq):
            scales = view.array(node.input[1])
            if scales is None or scales.ndim > 1 or scales.size < 2 or not layer.weight.dims:
                continue  # per tensor, or in blocks
            axis = attribute(node, "axis", 1) % len(layer.weight.dims)
            channels = layer.weight.dims[layer.axis]
            if axis != layer.axis or scales.size != channels:
                yield Finding(
                    "weight-axis", ERROR, label(node),
                    f"{scales.size} scales along axis {axis}; {label(layer.node)} has {channels} "
                    f"output channels along axis {layer.axis}",
                    f"quantize the weight along axis {layer.axis}",
                )  # fmt: skip
                break


def find_per_channel_activations(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Activations have one scale.

    Source: Q/DQ guide, on per-channel quantization, which is for weights only; tried: the layer
    runs in float.
    """
    for node, name in view.parameters(1):
        scales = view.array(name)
        if scales is not None and scales.size > 1 and view.role(node) == ACTIVATION:
            yield Finding(
                "activation-per-channel", ERROR, label(node),
                f"has {scales.size} scales for an activation", "quantize activations per tensor",
            )  # fmt: skip


def find_quantized_biases(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Biases stay FP32: there is no INT32 to dequantize.

    Source: operators, 10.15 (DequantizeLinear: INT8, FP8, FP4, INT4); tried: a parse error.
    """
    for node in view.quantizers:
        integers = view.element_type(node.input[0]) == _Type.INT32
        if integers or view.role(node) == BIAS:
            yield Finding(
                "bias-quantized", ERROR, label(node), "dequantizes a bias",
                f"leave biases in FP32 (QuantizeBias=False in onnxruntime); or {REBUILD}",
            )  # fmt: skip


def find_stored_int8_weights(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Parsers before 10 take FP32 weights behind Q and DQ, and no INT8 constants.

    Source: microsoft/onnxruntime issue 11535 (TensorRT 8: "invalid weights type of Int8"); tried:
    RTX takes both.
    """
    if is_from(profile, (10,)):
        return
    for node in view.quantizers:
        if view.element_type(node.input[0]) in {_Type.INT8, _Type.UINT8}:
            yield Finding(
                "weight-stored-int8", ERROR, label(node),
                f"'{node.input[0]}' is stored as {type_name(view.element_type(node.input[0]))}, "
                f"which parsers before 10 refuse; the profile begins with {oldest(profile)}",
                f"store the weight as FP32 behind Q and DQ; or {REBUILD}",
            )  # fmt: skip


PARAMETER_RULES: tuple[Rule, ...] = (
    find_missing_zero_points,
    find_nonzero_zero_points,
    find_zero_point_types,
    find_uint8_activations,
    find_scale_types,
    find_wrong_scales,
    find_computed_parameters,
    find_wrong_axes,
    find_per_channel_activations,
    find_quantized_biases,
    find_stored_int8_weights,
)


def _pair(view: GraphView, dequantize: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    """Return a DQ and the Q before it, where there is one."""
    if dequantize is None:
        return []
    before = view.producer(dequantize.input[0])
    quantized = before is not None and before.op_type == "QuantizeLinear"
    return [before, dequantize] if quantized and before is not None else [dequantize]

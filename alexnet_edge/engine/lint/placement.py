"""Where Q/DQ stands, as TensorRT fuses it: in front of weighted layers, behind their ReLU.

Source of all rules: NVIDIA TensorRT documentation, "Working with Quantized Types" (the Q/DQ guide),
on the placement of Q/DQ.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from alexnet_edge.engine.lint.view import WARNING, WEIGHTED, Finding, GraphView, Rule, label
from alexnet_edge.engine.profile import Profile


def find_float_layers(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """In a quantized graph, a layer whose input or weight is not quantized stays in float.

    Source: Q/DQ guide, placement: quantize all inputs of weighted operations. Layers that were
    spared on purpose are found too: a warning is no verdict. Behind 4-bit weights the input is
    float: there are no others.
    """
    if not view.quantized:
        return
    for layer in view.layers:
        if layer.weight.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}:
            continue
        missing = [
            what
            for what, node in (("input", layer.activation_dq), ("weight", layer.weight_dq))
            if node is None
        ]
        if missing:
            yield Finding(
                "float-layer", WARNING, label(layer.node),
                f"its {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not "
                "quantized, so it runs in floating point",
                "quantize both, or take it as spared",
            )  # fmt: skip


def find_split_relus(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Nothing stands between a layer and its ReLU, or they are not one kernel.

    Source: Q/DQ guide, placement and fusion of ReLU.
    """
    for layer in view.layers:
        for quantize in view.readers(layer.node.output[0]):
            for after in _behind(view, quantize):
                if after.op_type == "Relu":
                    yield Finding(
                        "relu-split", WARNING, label(quantize),
                        f"Q/DQ stands between {label(layer.node)} and {label(after)}",
                        "quantize behind the ReLU",
                    )  # fmt: skip


def find_quantized_results(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """A layer's result is quantized only where it is the next layer's input.

    Source: Q/DQ guide, placement: by default, outputs of weighted operations are not quantized.
    """
    for quantize in view.quantizers:
        if quantize.op_type != "QuantizeLinear":
            continue
        before = view.producer(quantize.input[0])
        if before is not None and before.op_type == "Relu":
            before = view.producer(before.input[0])
        if before is None or before.op_type not in WEIGHTED:
            continue
        behind = [node.op_type for node in _behind(view, quantize)]
        if "Relu" not in behind and not view.feeds_layer(quantize.output[0]):
            yield Finding(
                "result-quantized", WARNING, label(quantize),
                f"quantizes the result of {label(before)} for no layer",
                "leave the result in floating point",
            )  # fmt: skip


PLACEMENT_RULES: tuple[Rule, ...] = (
    find_float_layers,
    find_split_relus,
    find_quantized_results,
)


def _behind(view: GraphView, quantize: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what reads a tensor through the Q and the DQ behind it."""
    if quantize.op_type != "QuantizeLinear":
        return []
    return [
        reader
        for dequantize in view.readers(quantize.output[0])
        if dequantize.op_type == "DequantizeLinear"
        for reader in view.readers(dequantize.output[0])
    ]

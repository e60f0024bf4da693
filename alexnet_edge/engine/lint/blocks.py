"""What TensorRT asks of weights in 4-bit blocks.

Sources, named by each rule:
    changelog  onnx-tensorrt, docs/Changelog.md
    ONNX       operators' changelog (DequantizeLinear-21)
    tried      parsed and built here with TensorRT-RTX 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from alexnet_edge.engine.lint.library import is_from, oldest
from alexnet_edge.engine.lint.view import ERROR, Finding, GraphView, Layer, Rule, attribute, label
from alexnet_edge.engine.profile import Profile

FOUR_BIT = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
_OPSET = 21

_REBUILD = "give the FP32 graph to alexnet-edge build --int4-fc, which writes what the target reads"


def find_untaken_int4(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """4-bit weights came with TensorRT 10, as INT4; a DLA has none.

    Source: changelog, 10.0 ("Added support for INT4 quantization"); tried: UINT4 is refused.
    """
    for layer in _four_bit_layers(view):
        if profile.dla is not None:
            reason = "is 4-bit, a DLA computes in INT8 and FP16"
        elif not is_from(profile, (10,)):
            reason = f"is 4-bit, which {oldest(profile)} does not know"
        elif layer.weight.data_type == onnx.TensorProto.UINT4:
            reason = "is UINT4, only INT4 is taken"
        else:
            continue
        yield Finding("int4", ERROR, label(layer.node), reason, _mend(layer))


def find_early_blocks(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Scales of blocks, and 4-bit types, came with opset 21.

    Source: ONNX.
    """
    for node in view.quantizers:
        blocked = attribute(node, "block_size", 0) > 0
        four_bit = view.element_type(node.input[0]) in FOUR_BIT
        if (blocked or four_bit) and view.opset < _OPSET:
            what = "blocks" if blocked else "4-bit types"
            yield Finding(
                "block-opset", ERROR, label(node), f"opset {view.opset} has no {what}",
                f"export with --opset {_OPSET}; or {_REBUILD}",
            )  # fmt: skip


def find_broken_blocks(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """Blocks lie along the inputs, are whole, and have one scale each.

    Source: ONNX, on blocked quantization; tried: a parse error for a last block that is short.
    """
    for layer in view.layers:
        node = layer.weight_dq
        block = attribute(node, "block_size", 0) if node is not None else 0
        if node is None or block <= 0:
            continue
        shape, axis = list(layer.weight.dims), attribute(node, "axis", 1) % len(layer.weight.dims)
        scales = view.constants.get(node.input[1])
        wanted = [-(-size // block) if index == axis else size for index, size in enumerate(shape)]
        if axis == layer.axis:
            what = f"blocks lie along axis {axis}, that of the outputs"
        elif shape[axis] % block:
            what = f"{shape[axis]} inputs are no whole blocks of {block}"
        elif scales is not None and list(scales.dims) != wanted:
            what = f"scales are {list(scales.dims)}, for blocks of {block} they are {wanted}"
        else:
            continue
        yield Finding("block-shape", ERROR, label(node), what, f"correct them; or {_REBUILD}")


BLOCK_RULES: tuple[Rule, ...] = (find_untaken_int4, find_early_blocks, find_broken_blocks)


def _four_bit_layers(view: GraphView) -> list[Layer]:
    return [layer for layer in view.layers if layer.weight.data_type in FOUR_BIT]


def _mend(layer: Layer) -> str:
    if layer.weight.data_type == onnx.TensorProto.UINT4:
        return f"store it as INT4; or {_REBUILD}"
    return "build without --int4-fc, or name a profile of TensorRT 10 or later"

"""What TensorRT and TensorRT-RTX take of a graph.

Sources, named by each rule:
    operators   onnx-tensorrt, docs/operators.md of the release
    changelog   onnx-tensorrt, docs/Changelog.md
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from alexnet_edge.engine.lint.blocks import BLOCK_RULES, FOUR_BIT
from alexnet_edge.engine.lint.library import is_from, largest_opset, oldest
from alexnet_edge.engine.lint.placement import PLACEMENT_RULES
from alexnet_edge.engine.lint.qdq import PARAMETER_RULES, REBUILD
from alexnet_edge.engine.lint.view import (
    BIAS,
    ERROR,
    GRAPH,
    WARNING,
    WEIGHT,
    Finding,
    GraphView,
    Rule,
    attribute,
    label,
    precision_of,
)
from alexnet_edge.engine.profile import Profile
from alexnet_edge.quantize.layers import QDQ_OPSET

_Type = onnx.TensorProto

_INTEGER_OPERATORS = frozenset(
    ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
     "MatMulIntegerToFloat", "MatMulNBits", "DynamicQuantizeLinear")
)  # fmt: skip


def find_wrong_opset(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """The operator set: 13 has per-channel Q/DQ; a parser reads up to that of its release.

    Source: ONNX, operators' changelog (QuantizeLinear-13); operators, from 8.0 to 10.15.
    """
    if view.opset < QDQ_OPSET:
        severity = ERROR if view.quantized else WARNING
        yield Finding(
            "opset", severity, GRAPH,
            f"opset {view.opset} has no per-channel Q/DQ",
            f"export with opset 17, or at least {QDQ_OPSET}; build converts a float graph itself",
        )  # fmt: skip
    largest = largest_opset(profile)
    if largest is not None and view.opset > largest:
        yield Finding(
            "opset", ERROR, GRAPH,
            f"opset {view.opset} is later than the {largest} that {oldest(profile)} reads",
            f"export with --opset {largest}",
        )  # fmt: skip


def find_untaken_precisions(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """The graph holds no precision that the profile has no use for.

    4-bit weights have a rule of their own: what takes them is not the board but the library.

    Source: the profile.
    """
    seen = {"fp32", *profile.precisions}
    for where, kind in _typed(view):
        precision = precision_of(kind)
        if precision is not None and precision not in seen:
            seen.add(precision)
            yield Finding(
                "precision", ERROR, where,
                f"is {precision}, {profile.name} takes none: {profile.reason_against(precision)}",
                f"give a graph in {' or '.join(profile.precisions)}",
            )  # fmt: skip


def find_integer_operators(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """INT8 is expressed by Q/DQ around float operators, not by integer operators.

    Source: operators (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger,
    DynamicQuantizeLinear: N).
    """
    for node in view.nodes:
        if node.op_type in _INTEGER_OPERATORS:
            yield Finding(
                "integer-operator", ERROR, label(node), f"{node.op_type} is not imported",
                f"give the graph before ONNX Runtime optimized it, with Q/DQ; or {REBUILD}",
            )  # fmt: skip


def find_uint8_images(view: GraphView, profile: Profile) -> Iterator[Finding]:
    """A UINT8 input is taken from 8.5 on, and only where a Cast alone reads it.

    Source: changelog, 8.5 ("UINT8 I/O types"); NVIDIA/TensorRT issue 3985.
    """
    for value in view.inputs:
        if value.type.tensor_type.elem_type != _Type.UINT8:
            continue
        if not is_from(profile, (8, 5)):
            yield Finding(
                "uint8-input", ERROR, value.name,
                f"is UINT8, which {oldest(profile)} does not know",
                "export with --input float32",
            )  # fmt: skip
        for node in view.readers(value.name):
            if node.op_type != "Cast":
                yield Finding(
                    "uint8-input", ERROR, label(node), f"reads '{value.name}', which is UINT8",
                    "cast the input to float before anything else",
                )  # fmt: skip


TENSORRT_RULES: tuple[Rule, ...] = (
    find_wrong_opset,
    find_untaken_precisions,
    find_integer_operators,
    find_uint8_images,
    *PARAMETER_RULES,
    *BLOCK_RULES,
    *PLACEMENT_RULES,
)


def _typed(view: GraphView) -> Iterator[tuple[str, int]]:
    """Yield where element types are that make a precision: Q/DQ, casts, inputs and weights."""
    for node in view.quantizers:
        kind = view.element_type(node.input[2]) if len(node.input) > 2 else None
        role = view.role(node)
        if kind is not None and role != BIAS and not (role == WEIGHT and kind in FOUR_BIT):
            yield label(node), kind
    for node in view.nodes:
        if node.op_type == "Cast":
            kind = attribute(node, "to", _Type.FLOAT)
            if kind in {_Type.FLOAT16, _Type.BFLOAT16}:
                yield label(node), kind
    for value in view.inputs:
        if value.type.tensor_type.elem_type in {_Type.FLOAT16, _Type.BFLOAT16}:
            yield value.name, value.type.tensor_type.elem_type
    for layer in view.layers:
        if layer.weight.data_type not in FOUR_BIT:
            yield label(layer.node), layer.weight.data_type

"""A graph declared to be of a later operator set, where that changes nothing of what it means."""

from __future__ import annotations

from pathlib import Path

import onnx.helper
import onnx_ir as ir

from alexnet_edge.errors import GraphError

_CHANGED = frozenset(
    ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "Resize", "Split", "Pad",
     "GroupNormalization")
)  # fmt: skip
"""Operators whose inputs or attributes changed between opset 13 and 21."""


def raise_opset(model: ir.Model, opset: int, path: Path, *, why: str, hint: str) -> None:
    """Declare opset 14 to 21 in place; what AlexNets are made of means the same there as at 13.

    Args:
        model: at opset 13 or later; left alone if it is at ``opset`` already.
        opset: the one that is needed.
        path: the model's file, for errors.
        why: what needs it.
        hint: what to do where the graph has an operator that changed.

    Raises:
        GraphError: it has one.
    """
    current = model.graph.opset_imports.get("", 1)
    if current >= opset:
        return
    changed = [node for node in model.graph if node.op_type in _CHANGED]
    if changed:
        raise GraphError(
            f"{path}: {why} needs opset {opset}, at which '{changed[0].name}' "
            f"({changed[0].op_type}) means something else than at {current}",
            hint=hint,
        )
    model.graph.opset_imports[""] = opset
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.ir_version = max(model.ir_version or 0, least)

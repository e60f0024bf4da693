"""Parts of a graph: what lies between one tensor and later ones."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def nodes_between(
    model: onnx.ModelProto, source: str, targets: Sequence[str]
) -> list[onnx.NodeProto] | None:
    """Return the nodes that compute ``targets`` from ``source`` and constants, in graph order.

    Returns:
        Copies; None where a target depends on more than ``source``.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    known = {source, ""} | {tensor.name for tensor in model.graph.initializer}
    wanted, found = list(targets), set()
    while wanted:
        name = wanted.pop()
        if name in known:
            continue
        node = producers.get(name)
        if node is None:
            return None
        if node.output[0] not in found:
            found.add(node.output[0])
            wanted += node.input
    return [
        onnx.NodeProto.FromString(node.SerializeToString())
        for node in model.graph.node
        if node.output[0] in found
    ]

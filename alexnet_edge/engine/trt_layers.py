"""What every layer really runs in: read from the build log, or from the engine's inspector.

TensorRT-RTX lists its kernels in the build log, without a GPU. TensorRT describes a loaded engine
as JSON, in two shapes:

    before 11   "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}], "Bindings": […]
    from 11     "Inputs": [{"DataType": "Half", "Format": "…"}], "I/O Tensors": [{…}]

A layer is INT8 only if both factors of its products are, the activation and the weight. It is INT4
if its weight is: activations have no such type, and weights are widened where they are used.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.errors import BuildError
from alexnet_edge.manifest import LayerPrecision

UNKNOWN = "unknown"

_PATTERNS = {
    "int4": re.compile(r"(?<!u)int4", re.IGNORECASE),
    "int8": re.compile(r"(?<!u)int8", re.IGNORECASE),
    "bf16": re.compile(r"bf16|bfloat16", re.IGNORECASE),
    "fp16": re.compile(r"fp16|float16|half", re.IGNORECASE),
    "fp32": re.compile(r"fp32|tf32|float", re.IGNORECASE),
}
"""In a data type or a description of a format; the first that is found counts."""

_WIDTHS = ("int4", "int8", "fp16", "bf16", "fp32", UNKNOWN)

_MEMORY_ONLY = frozenset(("kgen", "shape_call", "Reformat", "NoOp", "Constant", "Shape"))
"""Kernels that move or convert values; the products are in the others."""

_LOG_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<op>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*)\], Outputs: .*Metadata: (?P<metadata>.*)"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\]")
_FOREIGN = re.compile(r"\{ForeignNode\[(.*)\.\.\.(.*)\]\}")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One entry of an engine's list.

    Attributes:
        op: the engine's operator.
        nodes: names of the graph's nodes that it computes.
        span: first and last node, where it swallowed everything between.
        activation: precision of the first thing it reads.
        weight: precision of the second factor; empty where that is not said.
    """

    op: str
    nodes: frozenset[str]
    span: tuple[str, str] | None
    activation: str
    weight: str

    @property
    def precision(self) -> str:
        """What the products are computed in: the wider of both factors; or `int4` weights."""
        if self.weight == "int4":
            return self.weight
        return max(self.activation, self.weight or self.activation, key=_WIDTHS.index)

    def computes(self, name: str, order: Mapping[str, int]) -> bool:
        """Say whether a node is in it; ``order`` is the place of every node in the graph."""
        if name in self.nodes:
            return True
        if self.span is None or not {name, *self.span} <= order.keys():
            return False
        first, last = self.span
        return order[first] <= order[name] <= order[last]


def layer_precisions(
    names: Iterable[str], kernels: Sequence[Kernel], nodes: Sequence[str]
) -> tuple[LayerPrecision, ...]:
    """Return what each named layer runs in.

    Args:
        names: the weighted layers.
        kernels: of the engine.
        nodes: names of all the graph's nodes in order.
    """
    order = {name: place for place, name in enumerate(nodes)}
    computing = [kernel for kernel in kernels if kernel.op not in _MEMORY_ONLY]
    found = []
    for name in names:
        kernel = next((k for k in computing if k.computes(name, order)), None)
        op, precision = (kernel.op, kernel.precision) if kernel else (UNKNOWN, UNKNOWN)
        found.append(LayerPrecision(name, op, precision))
    return tuple(found)


def read_log(messages: Iterable[tuple[int, str]]) -> list[Kernel]:
    """Read the kernels that TensorRT-RTX lists in its build log."""
    listing = next((text for _, text in messages if text.startswith("Layers:")), "")
    kernels = []
    for line in listing.splitlines():
        match = _LOG_LINE.match(line)
        if match is None:
            continue
        types = [_DATATYPE.search(match[group]) for group in ("inputs", "constants")]
        activation, weight = (_precision(found[1]) if found else "" for found in types)
        names = frozenset(_ONNX_LAYER.findall(match["metadata"]))
        kernels.append(Kernel(match["op"], names, None, activation or UNKNOWN, weight))
    return kernels


def read_inspector(text: str, source: Path) -> list[Kernel]:
    """Read an engine inspector's JSON, of either shape.

    Raises:
        BuildError: it is no such JSON, or only lists names.
    """
    try:
        layers = json.loads(text)["Layers"]
        return [_kernel(layer) for layer in layers]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{source}: the engine's description cannot be read (at {error})",
            hint="it was built without detailed profiling verbosity, or by a version that is not "
            "known yet",
        ) from error


def _kernel(layer: Mapping[str, Any]) -> Kernel:
    name = str(layer["Name"])
    metadata = _ONNX_LAYER.findall(str(layer.get("Metadata") or ""))
    span = _FOREIGN.search(name)
    inputs = [_precision(_datatype(tensor)) for tensor in layer.get("Inputs", [])]
    weights = [_precision(str(item["Type"])) for item in _weights(layer)]
    weights += [_precision(_datatype(item)) for item in layer.get("Constants", [])]
    return Kernel(
        op=str(layer.get("LayerType", UNKNOWN)),
        # Metadata names nodes; before it existed, the name was made of theirs.
        nodes=frozenset(metadata or (part.strip() for part in name.split(" + "))),
        span=(span[1], span[2]) if span else None,
        activation=inputs[0] if inputs else UNKNOWN,
        weight=(weights or inputs[1:2] or [""])[0],
    )


def _datatype(tensor: Mapping[str, Any]) -> str:
    """Return a tensor's element type, as text that may say more besides."""
    for key in ("DataType", "Datatype", "Format/DataType", "Format/Datatype", "Format"):
        if key in tensor:
            return str(tensor[key])
    return ""


def _weights(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stated = layer.get("Weights")
    return [stated] if isinstance(stated, Mapping) and "Type" in stated else []


def _precision(text: str) -> str:
    return next((name for name, found in _PATTERNS.items() if found.search(text)), UNKNOWN)

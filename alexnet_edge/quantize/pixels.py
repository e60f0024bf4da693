"""Pixels are integers already: a graph that takes them need not round its input again.

A graph with `uint8` input casts the frames, moves the channels in front, and normalizes, before
the first convolution reads floats. On a CPU that multiplies UINT8, the convolution can read the
pixels themselves: they are exact with scale 1 and zero point 0, once the normalization
``x · scale + shift`` is part of its weights and bias,

    w'[o, c] = w[o, c] · scale[c]        b'[o] = b[o] + Σ w[o, c, i, j] · shift[c]

which holds where every window lies inside of the picture: padding is 0 after normalization, and
would not be before. INT8 that is symmetric gains nothing from it: half of its steps are negative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.table import Range

PIXELS = Range(255.0, low=0.0, high=255.0)
"""The range of a tensor that holds 8-bit pixels: its scale is 1, its zero point 0."""

_MOVES = ("Transpose", "Reshape", "Identity")
"""Operators that only move values on the way from the pixels."""

Weights = MutableMapping[str, AnyArray]


def find_pixels(value: ir.Value) -> ir.Node | None:
    """Return the Cast by which a float tensor comes from 8-bit pixels unchanged, or None."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        source = node.inputs[0]
        if source is None or len(source.uses()) > 1:
            return None
        node = source.producer()
    if node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    is_image = source.is_graph_input() and source.dtype == ir.DataType.UINT8
    return node if is_image and len(source.uses()) == 1 else None


def fold_normalization(model: ir.Model, weights: Weights | None = None) -> bool:
    """Move the normalization of `uint8` input into the first convolution, in place.

    The tensor that the convolution reads keeps its name, so that ranges are found by it.

    Args:
        model: in normal form.
        weights: values by name of constants that the model only refers to; changed with it.

    Returns:
        Whether it was done: the graph normalizes pixels by channel, and nothing but a convolution
        without padding reads that.
    """
    found = _find(model, {} if weights is None else weights)
    if found is None:
        return False
    conv, constants = found.conv, _Constants(model.graph, weights)
    scale = found.scale.astype(np.float64).reshape(1, -1, 1, 1)
    shift = found.shift.astype(np.float64).reshape(1, -1, 1, 1)
    weight = found.weight.astype(np.float64)
    bias = found.bias.astype(np.float64) + (weight * shift).sum(axis=(1, 2, 3))
    constants.feed(conv, 1, f"{conv.name}.weight.folded", weight * scale)
    constants.feed(conv, 2, f"{conv.name}.bias.folded", bias)
    conv.replace_input_with(0, found.pixels)
    name = found.add.outputs[0].name
    for node in (found.add, found.mul):
        inputs = tuple(node.inputs)
        model.graph.remove(node, safe=True)
        for value in inputs:
            constants.drop_unused(value)
    found.pixels.name = name
    return True


@dataclasses.dataclass(frozen=True)
class _Found:
    """A convolution that reads ``pixels`` · scale + shift.

    Attributes:
        conv, add, mul: their nodes.
        pixels: (N, 3, H, W) float, whole numbers.
        scale, shift: (3,).
        weight: (channels, 3, kernel, kernel).
        bias: (channels,).
    """

    conv: ir.Node
    add: ir.Node
    mul: ir.Node
    pixels: ir.Value
    scale: AnyArray
    shift: AnyArray
    weight: AnyArray
    bias: AnyArray


def _find(model: ir.Model, weights: Weights) -> _Found | None:
    for conv in model.graph:
        if conv.op_type == "Conv" and conv.inputs[0] is not None:
            break
    else:
        return None
    added = _affine_step(conv.inputs[0], "Add", weights)
    scaled = None if added is None else _affine_step(added.source, "Mul", weights)
    weight = _value(conv.inputs[1], weights)
    if added is None or scaled is None or weight is None or _is_padded(conv):
        return None
    pixels, channels = scaled.source, weight.shape[1]
    if find_pixels(pixels) is None or conv.attributes.get_int("group", 1) != 1:
        return None
    scale, shift = _by_channel(scaled.operand, channels), _by_channel(added.operand, channels)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = _value(conv.inputs[2], weights) if has_bias else np.zeros(len(weight), np.float32)
    if scale is None or shift is None or bias is None:
        return None
    return _Found(conv, added.node, scaled.node, pixels, scale, shift, weight, bias)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A Mul or Add of ``source`` and a constant."""

    node: ir.Node
    source: ir.Value
    operand: AnyArray


def _affine_step(value: ir.Value | None, op_type: str, weights: Weights) -> _Step | None:
    """Return the Mul or Add whose result ``value`` is; None if it is none, or is read elsewhere."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != op_type or len(value.uses()) != 1:
        return None
    if value.is_graph_output():
        return None
    one, other = node.inputs
    for source, operand in ((one, other), (other, one)):
        factor = _value(operand, weights)
        if source is not None and factor is not None and len(source.uses()) == 1:
            return _Step(node, source, factor)
    return None


def _value(value: ir.Value | None, weights: Weights) -> AnyArray | None:
    if value is None or value.const_value is None:
        return None
    given = weights.get(value.name or "")
    return value.const_value.numpy() if given is None else given


def _by_channel(operand: AnyArray, channels: int) -> AnyArray | None:
    """Return a constant that is broadcast over (N, C, H, W) as (C,); None if it varies elsewise."""
    if operand.size == 1:
        return np.repeat(operand.reshape(1), channels)
    shape = (1,) * (4 - operand.ndim) + operand.shape
    return operand.reshape(channels) if shape == (1, channels, 1, 1) else None


def _is_padded(conv: ir.Node) -> bool:
    automatic = conv.attributes.get_string("auto_pad", "NOTSET")
    return any(conv.attributes.get_ints("pads", [0])) or automatic not in {"NOTSET", "VALID"}


class _Constants:
    """Changes constants of a graph, and their values where these are kept apart."""

    def __init__(self, graph: ir.Graph, weights: Weights | None) -> None:
        self._graph = graph
        self._weights = weights

    def feed(self, node: ir.Node, index: int, name: str, exact: npt.NDArray[np.float64]) -> None:
        """Make a node read a new constant, and drop the one it read."""
        array = exact.astype(np.float32)
        value = constant(name, array)
        self._graph.register_initializer(value)
        if self._weights is not None:
            self._weights[name] = array
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        before = node.inputs[index]
        node.replace_input_with(index, value)
        self.drop_unused(before)

    def drop_unused(self, value: ir.Value | None) -> None:
        """Remove a constant that nothing reads any more."""
        if value is None or value.uses() or not value.is_initializer():
            return
        name = value.name or ""
        del self._graph.initializers[name]
        if self._weights is not None:
            self._weights.pop(name, None)

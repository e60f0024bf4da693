"""The first convolution over blocks of pixels, which is how the CPU multiplies them fastest.

requires  a graph with Q/DQ whose first convolution reads the pixels themselves (see
          `quantize.pixels`)
call      fold_columns(model)
ensures   the same sums of products; nothing else changes

A row of pixels is R G B R G B … in memory. With a stride of 4 the convolution moves by four pixels,
so a row can as well be read as a quarter as many pixels of 12 channels, and the kernel's columns
likewise: 11 columns of 3 channels are 3 columns of 12, one of them zeros. ONNX Runtime's integer
convolution takes channels by fours, as the processor multiplies them; of 3 it makes a copy for
every window first. A row whose length is no multiple of four pixels is continued by zeros, which
only zeros are multiplied with.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from alexnet_edge.graph import constant
from alexnet_edge.preprocess import AnyArray

_TOGETHER = 4
"""Products that the processor sums in one step (VPDPBUSD), so channels that are read at once."""

_CHANNELS_LAST = [0, 3, 1, 2]


def fold_columns(model: ir.Model) -> bool:
    """Change the graph in place.

    Returns:
        Whether it was done: the first convolution reads (N, H, W, 3) pixels of a known size,
        without padding, with a stride that makes whole fours of channels.
    """
    found = next((layer for node in model.graph if (layer := _read(node)) is not None), None)
    if found is None:
        return False
    _write(model.graph, found)
    return True


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution of pixels, understood.

    Attributes:
        conv: its node.
        activation: the pixels as it reads them, dequantized.
        transpose: the node that moves the channels in front.
        dequantize: the DequantizeLinear of its weight.
        weight: (outputs, 3, rows, columns) INT8.
        size: (height, width) of the picture.
        strides: down and across.
    """

    conv: ir.Node
    activation: ir.Value
    transpose: ir.Node
    dequantize: ir.Node
    weight: AnyArray
    size: tuple[int, int]
    strides: tuple[int, int]

    @property
    def columns(self) -> int:
        """Columns of the kernel, in blocks."""
        return -(-int(self.weight.shape[3]) // self.strides[1])

    @property
    def width(self) -> int:
        """Of the picture, in blocks."""
        return -(-self.size[1] // self.strides[1])


def _read(conv: ir.Node) -> _Layer | None:
    """Return the layer that a node is, where its columns can be folded."""
    if conv.op_type != "Conv" or len(conv.inputs) < 2 or _is_special(conv):
        return None
    activation, read = conv.inputs[:2]
    transpose, size = _picture(activation)
    dequantize = None if read is None else read.producer()
    if activation is None or transpose is None or size is None or dequantize is None:
        return None
    stored = dequantize.inputs[0] if dequantize.op_type == "DequantizeLinear" else None
    if stored is None or stored.const_value is None or len(stored.uses()) != 1:
        return None
    weight = stored.const_value.numpy()
    strides = conv.attributes.get_ints("strides", [1, 1])
    if weight.dtype != np.int8 or weight.ndim != 4 or len(strides) != 2:
        return None
    layer = _Layer(conv, activation, transpose, dequantize, weight, size, (strides[0], strides[1]))
    across, channels = strides[1], weight.shape[1]
    gains = channels % _TOGETHER and (channels * across) % _TOGETHER == 0
    answers = (size[1] - weight.shape[3]) // across + 1
    same = layer.width - layer.columns + 1 == answers
    return layer if gains and same else None


def _is_special(conv: ir.Node) -> bool:
    attributes = conv.attributes
    return (
        attributes.get_int("group", 1) != 1
        or any(attributes.get_ints("pads", [0]))
        or any(step != 1 for step in attributes.get_ints("dilations", [1]))
        or attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    )


def _picture(value: ir.Value | None) -> tuple[ir.Node | None, tuple[int, int] | None]:
    """Return the node between pixels and a DequantizeLinear, and the picture's height and width."""
    dequantize = None if value is None else value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None, None
    moved = dequantize.inputs[0]
    node = None if moved is None else moved.producer()
    if node is None or node.op_type != "Transpose" or len(node.outputs[0].uses()) != 1:
        return None, None
    source = node.inputs[0]
    perm = node.attributes.get_ints("perm", [])
    if source is None or not source.is_graph_input() or list(perm) != _CHANNELS_LAST:
        return None, None
    if source.dtype != ir.DataType.UINT8 or source.shape is None or len(source.shape) != 4:
        return None, None
    _, height, width, _ = source.shape
    return (node, (height, width)) if isinstance(height, int) and isinstance(width, int) else (
        None, None,
    )  # fmt: skip


def _write(graph: ir.Graph, layer: _Layer) -> None:
    """Let the convolution read blocks."""
    outputs, channels, rows, columns = layer.weight.shape
    across, name = layer.strides[1], layer.conv.name
    height, width = layer.size
    padded = np.zeros((outputs, rows, layer.columns * across, channels), np.int8)
    padded[:, :, :columns] = layer.weight.transpose(0, 2, 3, 1)
    blocks = padded.reshape(outputs, rows, layer.columns, across * channels)
    folded = _constant(graph, f"{name}.weight.folded", blocks.transpose(0, 3, 1, 2))
    pixels = layer.transpose.inputs[0]
    made = []
    missing = layer.width * across - width
    if missing:
        pads = np.array([0, 0, 0, 0, 0, 0, missing, 0], np.int64)
        made.append(
            ir.node("Pad", [pixels, _constant(graph, f"{name}.pads", pads)], name=f"{name}.pad")
        )
        pixels = made[-1].outputs[0]
    shape = np.array([-1, height, layer.width, across * channels], np.int64)
    made.append(
        ir.node("Reshape", [pixels, _constant(graph, f"{name}.blocks", shape)], name=f"{name}.fold")
    )
    for node in made:
        node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(layer.transpose, made)
    layer.transpose.replace_input_with(0, made[-1].outputs[0])
    layer.transpose.outputs[0].shape = None
    before = layer.dequantize.inputs[0]
    layer.dequantize.replace_input_with(0, folded)
    if before is not None:
        del graph.initializers[before.name or ""]
    layer.dequantize.outputs[0].shape = None
    layer.activation.shape = None
    layer.conv.attributes["strides"] = ir.AttrInt64s("strides", [layer.strides[0], 1])
    if "kernel_shape" in layer.conv.attributes:
        layer.conv.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [rows, layer.columns])


def _constant(graph: ir.Graph, name: str, array: AnyArray) -> ir.Value:
    value = constant(name, np.ascontiguousarray(array))
    graph.register_initializer(value)
    return value

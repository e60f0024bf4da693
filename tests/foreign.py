"""An AlexNet as another tool would have written it in 2017: opset 9, and nothing said of it.

Nodes have no names, initializers are listed among the inputs (IR version 3), the batch is 1, the
classifier is reached through a Reshape to a constant shape, and Dropout nodes are left in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper

from alexnet_edge.preprocess import PreprocessSpec

SPEC = PreprocessSpec(
    resize=256, crop=227, color="BGR", mean=(0.41, 0.46, 0.48), std=(1 / 255, 1 / 255, 1 / 255)
)
"""Caffe's: BGR pixels of 0–255 less their mean."""

INPUT, OUTPUT = "data_0", "prob_1"
WEIGHTED = 8

_CONVS = (
    # channels, kernel, stride, padding, groups, followed by LRN, followed by pooling
    (8, 11, 4, 0, 1, True, True),
    (16, 5, 1, 2, 2, True, True),
    (24, 3, 1, 1, 1, False, False),
    (24, 3, 1, 1, 2, False, False),
    (16, 3, 1, 1, 2, False, True),
)
_FLAT, _HIDDEN = 16 * 6 * 6, 48


def write_foreign(path: Path, *, classes: int = 10, seed: int = 0, flat: int = -1) -> Path:
    """Write the file.

    Args:
        path: the file to write.
        classes: number of outputs.
        seed: of the weights.
        flat: second axis of the Reshape's shape: -1, or 576.
    """
    writer = _Writer(np.random.default_rng(seed))
    value, channels = INPUT, 3
    for number, (out, kernel, stride, padding, groups, lrn, pool) in enumerate(_CONVS, start=1):
        value = writer.layer(
            "Conv", f"conv{number}", value, (out, channels // groups, kernel, kernel),
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, group=groups,
        )  # fmt: skip
        value = writer.node("Relu", f"conv{number}_2", [value])
        if lrn:
            value = writer.node(
                "LRN", f"norm{number}_1", [value], size=5, alpha=1e-4, beta=0.75, bias=1.0
            )
        if pool:
            value = writer.node(
                "MaxPool", f"pool{number}_1", [value],
                kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4,
            )  # fmt: skip
        channels = out
    writer.constant("shape_0", np.array([1, flat], np.int64))
    value = writer.node("Reshape", "pool5_2", [value, "shape_0"])
    for number, (out, features) in enumerate(((_HIDDEN, _FLAT), (_HIDDEN, _HIDDEN)), start=6):
        value = writer.layer("Gemm", f"fc{number}", value, (out, features), transB=1)
        value = writer.node("Relu", f"fc{number}_2", [value])
        value = writer.node("Dropout", f"fc{number}_3", [value], ratio=0.5)
    value = writer.layer("Gemm", "fc8", value, (classes, _HIDDEN), gain=0.02, transB=1)
    writer.node("Softmax", OUTPUT, [value], axis=1)
    model = writer.model((1, classes))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


class _Writer:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op: str, name: str, inputs: list[str], **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def layer(self, op, name, value, shape, *, gain=1.0, **attributes) -> str:
        """Add a Conv or Gemm with Kaiming-like weights and small biases."""
        deviation = gain * np.sqrt(2 / np.prod(shape[1:]))
        weight = self.rng.normal(0, deviation, shape).astype(np.float32)
        bias = self.rng.normal(0, 0.1, shape[0]).astype(np.float32)
        inputs = [
            value, self.constant(f"{name}_w_0", weight), self.constant(f"{name}_b_0", bias)
        ]  # fmt: skip
        return self.node(op, f"{name}_1", inputs, **attributes)

    def model(self, output_shape: tuple[int, ...]) -> onnx.ModelProto:
        describe = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "AlexNet",
            [
                describe(INPUT, onnx.TensorProto.FLOAT, [1, 3, 227, 227]),
                *(describe(t.name, t.data_type, t.dims) for t in self.initializers),
            ],
            [describe(OUTPUT, onnx.TensorProto.FLOAT, output_shape)],
            self.initializers,
        )
        return onnx.helper.make_model(
            graph, ir_version=3, opset_imports=[onnx.helper.make_opsetid("", 9)],
            producer_name="onnx-caffe2",
        )  # fmt: skip

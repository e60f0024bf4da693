"""The first convolution over blocks of pixels gives the same integers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_edge.engine.pixel_columns import fold_columns
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session

HEIGHT = 31


def make_graph(width=227, kernel=11, stride=4, channels=3, *, batch="batch", perm=(0, 3, 1, 2),
               **attributes):  # fmt: skip
    """A convolution of pixels with Q/DQ, as `insert_qdq` leaves it."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (8, channels, 5, kernel)).astype(np.int8)
    constants = {
        "x.scale": np.float32(1), "x.zero": np.uint8(0), "w": weight,
        "w.scale": rng.uniform(0.001, 0.01, 8).astype(np.float32), "w.zero": np.zeros(8, np.int8),
        "y.scale": np.float32(4), "y.zero": np.uint8(120),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["input"], ["moved"], perm=list(perm)),
        helper.make_node("DequantizeLinear", ["moved", "x.scale", "x.zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["weight"], axis=0),
        helper.make_node(
            "Conv", ["x", "weight"], ["y"], name="conv1", strides=[2, stride],
            kernel_shape=[5, kernel], **attributes,
        ),
        helper.make_node("QuantizeLinear", ["y", "y.scale", "y.zero"], ["output"]),
    ]  # fmt: skip
    shape = [batch, HEIGHT, width, channels]
    graph = helper.make_graph(
        nodes, "pixels",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("output", TensorProto.UINT8, [batch, 8, None, None])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, pixels):
    session = create_session(model.SerializeToString(), RuntimeOptions(device="cpu"))
    return session.run(None, {"input": pixels})[0]


def folded(model):
    """Return the graph with its columns folded, or None where that was not done."""
    changed = ir.from_proto(model)
    if not fold_columns(changed):
        assert ir.to_proto(changed).SerializeToString() == ir.to_proto(
            ir.from_proto(model)
        ).SerializeToString()  # fmt: skip
        return None
    result = ir.to_proto(changed)
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize(
    ("width", "kernel", "stride"),
    [(227, 11, 4), (228, 11, 4), (228, 12, 4), (226, 9, 4), (67, 9, 4), (64, 5, 4), (229, 9, 8)],
)
def test_the_integers_are_the_same(width, kernel, stride, batch):
    model = make_graph(width, kernel, stride, batch=batch)
    changed = folded(model)
    assert changed is not None
    (weight,) = [t for t in changed.graph.initializer if t.name == "conv1.weight.folded"]
    assert weight.dims[1] == 3 * stride
    shape = (2, HEIGHT, width, 3)
    for pixels in (
        np.random.default_rng(1).integers(0, 256, shape, np.uint8),
        np.full(shape, 255, np.uint8),
    ):
        assert np.array_equal(run(changed, pixels), run(model, pixels))


@pytest.mark.parametrize(
    "given",
    [
        {"stride": 1}, {"stride": 2}, {"stride": 3}, {"channels": 4}, {"pads": [0, 2, 0, 2]},
        {"dilations": [1, 2]}, {"auto_pad": "SAME_UPPER"}, {"width": "width"},
        {"perm": (0, 3, 2, 1)},
    ],
    ids=str,
)  # fmt: skip
def test_what_gains_nothing_or_would_differ_is_left_alone(given):
    assert folded(make_graph(**given)) is None


@pytest.mark.parametrize(("width", "kernel"), [(227, 12), (63, 4), (226, 11)])
def test_rows_that_would_give_a_column_more_are_left_alone(width, kernel):
    """The last block of four is no whole one, and the kernel's last column would read it."""
    assert folded(make_graph(width, kernel, 4)) is None


def test_floats_are_left_alone():
    model = make_graph()
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 5, 11), np.float32), "f"))
    nodes[0].input[1] = "f"
    assert folded(model) is None

"""Bytes and products of layers, against the architecture that they come from."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_edge.bench.work import read_graph_work, read_work
from alexnet_edge.engine.build import build_engine
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.graph import load_bare
from alexnet_edge.manifest import manifest_path
from alexnet_edge.model import load_checkpoint
from alexnet_edge.runtimes.base import EngineInfo
from alexnet_edge.runtimes.loader import open_engine


@pytest.fixture
def shapes(tiny_checkpoint):
    """The weighted layers of the architecture."""
    layers = load_checkpoint(tiny_checkpoint).architecture.shapes()
    return [layer for layer in layers if layer.weight]


def work_of(path):
    with open_engine(path) as engine:
        found = read_work(engine.info)
    assert found.reason == ""
    return found.layers


@pytest.mark.parametrize("source", ["tiny_checkpoint", "tiny_onnx", "tiny_fp32"])
def test_float_layers_do_what_the_architecture_says(source, shapes, request):
    layers = work_of(request.getfixturevalue(source))
    assert [layer.name for layer in layers] == [shape.layer.name for shape in shapes]
    assert [layer.macs for layer in layers] == [shape.macs for shape in shapes]
    assert [layer.weight_bytes for layer in layers] == [4 * s.parameters for s in shapes]
    assert {layer.precision for layer in layers} == {"fp32"}


def test_integer_layers_read_a_quarter_and_their_scales(tiny_int8, shapes):
    layers = work_of(tiny_int8)
    assert [layer.macs for layer in layers] == [shape.macs for shape in shapes]
    assert {layer.precision for layer in layers} == {"int8"}
    for layer, shape in zip(layers, shapes, strict=True):
        weights = int(np.prod(shape.weight))
        channels = shape.weight[0]
        # Bias, scale and zero point of each channel take 9 bytes, scales of the activations 16; in
        # blocks of 128 weights each block has a scale of 4 bytes, and there are no zero points.
        blocks = channels * -(-weights // channels // 128)
        allowed = range(8 * channels, 9 * channels + 16 + 1)
        more = layer.weight_bytes - weights
        assert more in allowed or (len(shape.weight) == 2 and more == 4 * (blocks + channels))


def graph(nodes, tensors, *, image=(1, 3, 8, 8), output=(1, 4)):
    return helper.make_model(
        helper.make_graph(
            nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip


def test_a_grouped_convolution_sums_fewer_products():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="c", group=3, pads=[1] * 4)]
    weight = np.zeros((6, 1, 3, 3), np.float32)
    (layer,) = read_graph_work(graph(nodes, {"w": weight}, output=(1, 6, 8, 8)))
    assert layer.macs == 6 * 8 * 8 * 9
    assert layer.weight_bytes == weight.nbytes


def test_q_and_dq_around_a_layer_make_it_an_integer_one():
    scale, zero = np.float32(0.1), np.uint8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="fc"),
    ]
    tensors = {"s": scale, "z": zero, "w": np.zeros((8, 4), np.int8)}
    (layer,) = read_graph_work(graph(nodes, tensors, image=(1, 8)))
    assert (layer.precision, layer.weight_bytes, layer.macs) == ("int8", 32, 32)


def test_places_of_a_kernel_that_were_filled_in_are_no_work(tmp_path):
    weight = np.ones((64, 3, 5, 8), np.int8)
    weight[:, :, :, 6:] = 0
    weight[1:, 0, 0, 0] = 0  # one channel is enough for a place to count
    constants = {"w": weight, "s": np.float32(0.1), "z": np.uint8(0), "wz": np.int8(0)}
    node = helper.make_node(
        "QLinearConv", ["x", "s", "z", "w", "s", "wz", "s", "z"], ["y"], name="conv"
    )
    graph = helper.make_graph(
        [node], "filled",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 9, 12])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 64, 5, 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "filled.onnx")
    (layer,) = read_graph_work(load_bare(tmp_path / "filled.onnx"), tmp_path)
    assert layer.macs == 64 * 3 * 5 * 6 * 5 * 5
    (layer,) = read_graph_work(load_bare(tmp_path / "filled.onnx"))
    assert layer.macs == 64 * 3 * 5 * 8 * 5 * 5


def test_weights_that_only_q_and_dq_make_integers_count_a_byte_each():
    tensors = {"s": np.float32(0.1), "w": np.zeros((8, 4), np.float32), "z": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["x", "wd"], ["y"], name="fc"),
    ]
    (layer,) = read_graph_work(graph(nodes, tensors, image=(1, 8)))
    assert layer.weight_bytes == 32
    assert layer.precision == "fp32", "the activation is not quantized"


@pytest.mark.parametrize(("level", "precision"), [(4, "int8"), (0, "fp32")])
def test_four_bit_weights_count_their_packed_bytes_and_scales(level, precision):
    packed, scales = np.zeros((4, 2, 16), np.uint8), np.zeros((4, 2), np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], name="fc", domain="com.microsoft",
        K=64, N=4, bits=4, block_size=32, accuracy_level=level,
    )  # fmt: skip
    (layer,) = read_graph_work(graph([node], {"b": packed, "s": scales}, image=(1, 64)))
    assert layer.macs == 64 * 4
    assert layer.weight_bytes == packed.nbytes + scales.nbytes
    assert layer.precision == precision


def test_products_of_two_activations_are_no_layers():
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    assert read_graph_work(graph(nodes, {}, image=(4, 4), output=(4, 4))) == ()


@pytest.fixture
def rtx_engine(tmp_path, tiny_onnx):
    """An FP16 engine of TensorRT-RTX, described; beside it lies what the test puts there."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    out = tmp_path / "tiny.engine"
    manifest = build_engine(tiny_onnx, out, BuildSettings("fp16", "tensorrt-rtx"))
    return EngineInfo(
        out, "tensorrt-rtx", "fp16", manifest.input, manifest.output, manifest.output_kind,
        manifest.model_sha256,
    )  # fmt: skip


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_engine_may_be_a_link(tiny_int8, tmp_path, link):
    """As caches and data versioning lay files out."""
    linked = tmp_path / "linked.onnx"
    getattr(linked, link)(tiny_int8)
    shutil.copy(manifest_path(tiny_int8), manifest_path(linked))
    with open_engine(tiny_int8) as engine, open_engine(linked) as other:
        assert read_work(other.info) == read_work(engine.info)


def test_an_engine_of_tensorrt_is_read_from_the_graph_beside_it(
    rtx_engine, tiny_onnx, shapes, tmp_path
):
    shutil.copy(tiny_onnx, tmp_path / "alexnet.onnx")
    onnx.save(onnx.load(tiny_onnx), tmp_path / "another.onnx")
    found = read_work(rtx_engine)
    assert [layer.macs for layer in found.layers] == [shape.macs for shape in shapes]
    assert [layer.weight_bytes for layer in found.layers] == [2 * s.parameters for s in shapes]
    assert {layer.precision for layer in found.layers} == {"fp16"}


def test_an_engine_of_tensorrt_alone_says_what_is_missing(rtx_engine):
    found = read_work(rtx_engine)
    assert found.layers == ()
    assert "is not beside it" in found.reason

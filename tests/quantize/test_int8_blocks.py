"""8-bit weights in blocks: close to the weights, laid out as ONNX Runtime reads them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.graph import load_onnx
from alexnet_edge.quantize.fitting import fit_weights
from alexnet_edge.quantize.int8_blocks import dequantize_blocks, pack_bytes, round_blocks
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.scales import CPU, Dialect
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session
from alexnet_edge.similarity import centred_logits

BLOCKS = Dialect("cpu", fc_block=64)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("inputs", "block"), [(128, 32), (100, 32), (7, 32)])
def test_each_weight_is_within_half_a_step_of_its_block(axis, inputs, block):
    weight = np.random.default_rng(0).normal(0, 1, (5, inputs)).astype(np.float32)
    given = weight if axis == 0 else np.ascontiguousarray(weight.T)
    rounded = round_blocks(given, axis, block)
    found = dequantize_blocks(rounded, axis)
    assert found.shape == given.shape
    back = found if axis == 0 else found.T
    steps = np.repeat(rounded.scales, block, axis=1)[:, :inputs]
    assert (np.abs(back - weight) <= 0.5001 * steps).all()
    assert rounded.scales.shape == (5, -(-inputs // block))


def test_a_block_of_zeros_stays_zero():
    weight = np.zeros((2, 64), np.float32)
    assert (dequantize_blocks(round_blocks(weight, 0, 32), 0) == 0).all()


def test_bytes_are_raised_and_a_short_block_is_filled():
    rounded = round_blocks(np.float32([[-1, 0, 1]]), 0, 2)
    packed, scales = pack_bytes(rounded)
    assert packed.tolist() == [[[1, 128], [255, 128]]]
    assert scales == pytest.approx([1 / 127, 1 / 127])


@pytest.fixture(scope="module")
def case(tiny_onnx, tiny_table):
    network = Layerwise(tiny_onnx, BLOCKS)
    spec = network.graph.preprocess
    images = open_images("digits:val").sample(24)
    batch = next(iter(ImageReader(images, spec, batch_size=24))).tensor
    return network, load_table(tiny_table).ranges("minmax"), batch


def build(path, ranges, **options):
    model = prepare(load_onnx(path), path)
    insert_qdq(model, ranges, BLOCKS, path, QdqOptions(**options))
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def run(proto, batch):
    session = create_session(proto.SerializeToString(), RuntimeOptions())
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


@pytest.mark.parametrize("spared", [frozenset(), frozenset({"classifier.4"})], ids=["all", "one"])
def test_the_simulation_answers_as_the_graph(tiny_onnx, case, spared):
    network, ranges, batch = case
    begin = network.begin(batch)
    exact = centred_logits(network.finish(0, begin, [FLOAT] * 8))
    found = centred_logits(network.finish(0, begin, network.settings(ranges, spared=spared)))
    graph = np.log(np.maximum(run(build(tiny_onnx, ranges, spared=spared), batch), 1e-30))
    built = centred_logits(graph)
    # The kernel rounds its input to 8 bits as well, by blocks, which is not simulated.
    assert ((built - found) ** 2).sum() < 0.5 * ((found - exact) ** 2).sum()


@pytest.mark.parametrize("spared", [(), ("features.10",), ("classifier.1",)])
@pytest.mark.parametrize("skipping", [("classifier.1",), ("classifier.1", "classifier.4")])
def test_layers_that_skip_zeros_are_simulated_as_the_graph_has_them(
    tiny_onnx, case, skipping, spared
):
    network, ranges, batch = case
    network.use_zero_skipping(skipping)
    settings = network.settings(ranges, spared=frozenset(spared))
    begin = network.begin(batch)
    exact = centred_logits(network.finish(0, begin, [FLOAT] * 8))
    found = centred_logits(network.finish(0, begin, settings))
    network.use_zero_skipping(())
    proto = build(tiny_onnx, ranges, spared=frozenset(spared), zero_skipping=frozenset(skipping))
    nodes = {node.name: node for node in proto.graph.node}
    for name in {*skipping} - {*spared}:
        assert nodes[name].op_type == "Gemm"
    # Its result is rounded only where the next layer reads integers.
    rounds = "classifier.2.out.quantize" in nodes
    assert rounds == ("classifier.4" in skipping)
    graph = np.log(np.maximum(run(proto, batch), 1e-30))
    built = centred_logits(graph)
    assert ((built - found) ** 2).sum() < 0.5 * ((found - exact) ** 2).sum()


def test_linear_layers_read_and_write_floats_without_a_q(tiny_onnx, case):
    _, ranges, _ = case
    proto = build(tiny_onnx, ranges)
    blocks = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    assert len(blocks) == 3
    assert not [node for node in proto.graph.node if node.op_type == "Gemm"]
    consumers = {name: node.op_type for node in proto.graph.node for name in node.input}
    assert all(consumers[node.output[0]] != "QuantizeLinear" for node in blocks)
    constants = {tensor.name for tensor in proto.graph.initializer}
    assert "classifier.1.weight" not in constants, "the float weight is gone"


def test_blocks_disturb_the_answers_less_than_a_scale_for_each_channel(tiny_onnx, case):
    network, ranges, batch = case
    plain = Layerwise(tiny_onnx, CPU)

    def noise(cut):
        begin = cut.begin(batch)
        exact = centred_logits(cut.finish(0, begin, [FLOAT] * 8))
        return ((centred_logits(cut.finish(0, begin, cut.settings(ranges))) - exact) ** 2).sum()

    assert noise(network) < noise(plain)


def test_they_are_not_fitted_and_not_corrected(case):
    network, _, batch = case
    assert set(fit_weights(network, batch[:4], "minmax")) == set(network.layers[:5])
    assert [network.has_bias(index) for index in range(8)] == [True] * 5 + [False] * 3
    assert BLOCKS.key == "cpu-blocks"


def test_those_that_skip_zeros_are_corrected(case):
    network, _, batch = case
    network.use_zero_skipping(["classifier.1"])
    assert [network.has_bias(index) for index in range(8)] == [True] * 6 + [False] * 2
    assert set(fit_weights(network, batch[:4], "minmax")) == set(network.layers[:5])
    network.use_zero_skipping([])
    assert network.has_blocks(5)

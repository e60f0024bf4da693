"""The normal form of graphs, and the layers that are found in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir
import onnxruntime
import pytest

from alexnet_edge.errors import GraphError
from alexnet_edge.graph import load_onnx, opset_of
from alexnet_edge.quantize.layers import prepare, quantization_points, weighted_layers
from tests.foreign import INPUT, SPEC, WEIGHTED, write_foreign

PATH = Path("net.onnx")
RNG = np.random.default_rng(0)


def network(*nodes, weights, rank=2, opset=17, outputs=("y",)):
    """Return a model from `x` to `y` of these nodes."""
    describe = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node[:3], **node[3]) for node in nodes],
        "net",
        [describe("x", onnx.TensorProto.FLOAT, ["N", 4, *[8] * (rank - 2)])],
        [describe(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.float32(array), name) for name, array in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def linear(op, shape, **attributes):
    return network((op, ["x", "w"], ["y"], attributes), weights={"w": RNG.normal(size=shape)})


def answers(model, feed):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return load_onnx(write_foreign(tmp_path_factory.mktemp("foreign") / "foreign.onnx"))


@pytest.fixture(scope="module")
def prepared(foreign):
    return prepare(foreign, PATH)


def test_a_foreign_graph_comes_to_normal_form(prepared):
    assert prepared.opset_imports[""] >= 13
    assert [value.name for value in prepared.graph.inputs] == [INPUT]
    operators = {node.op_type for node in prepared.graph}
    assert operators == {"Conv", "Relu", "LRN", "MaxPool", "Reshape", "Gemm", "Softmax"}
    names = [node.name for node in prepared.graph]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("flat", [-1, 576])
def test_the_normal_form_is_valid_and_answers_as_before(tmp_path, flat):
    model = load_onnx(write_foreign(tmp_path / "foreign.onnx", flat=flat))
    normal = ir.to_proto(prepare(model, PATH))
    onnx.checker.check_model(normal, full_check=True)
    pixels = RNG.integers(0, 256, (227, 227, 3), np.uint8)
    feed = {INPUT: SPEC.to_input([pixels])}
    np.testing.assert_allclose(answers(normal, feed), answers(model, feed), atol=1e-6)


def test_the_normal_form_is_its_own(prepared):
    once = ir.to_proto(prepared)
    twice = ir.to_proto(prepare(once, PATH))
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_a_graph_of_a_usable_opset_keeps_it(tiny_onnx):
    model = load_onnx(tiny_onnx)
    assert prepare(model, tiny_onnx).opset_imports[""] == opset_of(model) == 17


def test_the_eight_weighted_layers_are_found_in_order(prepared, tiny_onnx):
    ours = weighted_layers(prepare(load_onnx(tiny_onnx), tiny_onnx), tiny_onnx)
    assert [layer.name for layer in ours] == [
        "features.0", "features.3", "features.6", "features.8", "features.10",
        "classifier.1", "classifier.4", "classifier.6",
    ]  # fmt: skip
    theirs = weighted_layers(prepared, PATH)
    assert len(theirs) == WEIGHTED
    assert [layer.node.op_type for layer in theirs] == ["Conv"] * 5 + ["Gemm"] * 3
    assert all(layer.bias is not None for layer in (*ours, *theirs))


@pytest.mark.parametrize(
    ("model", "axis"),
    [
        (linear("Gemm", (5, 4), transB=1), 0),
        (linear("Gemm", (4, 5)), 1),
        (linear("MatMul", (4, 5)), 1),
        (
            network(("Conv", ["x", "w"], ["y"], {}), weights={"w": np.ones((5, 4, 3, 3))}, rank=4),
            0,
        ),
    ],
    ids=["Gemm transB", "Gemm", "MatMul", "Conv"],
)
def test_the_axis_of_output_channels_is_known(model, axis):
    (layer,) = weighted_layers(prepare(model, PATH), PATH)
    assert layer.axis == axis
    assert layer.weight.const_value.shape[axis] == 5
    assert layer.bias is None


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}], ids=str)
def test_a_gemm_that_scales_is_refused_with_what_to_export_instead(attributes):
    model = network(
        ("Gemm", ["x", "w", "b"], ["y"], attributes),
        weights={"w": np.ones((4, 5)), "b": np.ones(5)},
    )
    with pytest.raises(GraphError, match=r"node 'Gemm_0' is a Gemm with") as caught:
        weighted_layers(prepare(model, PATH), PATH)
    assert "MatMul" in caught.value.hint


@pytest.mark.parametrize(
    "model",
    [
        network(("Relu", ["x"], ["y"], {}), weights={}),
        network(("MatMul", ["x", "x"], ["y"], {}), weights={}),
    ],
    ids=["no layer", "no constant weights"],
)
def test_a_graph_with_nothing_to_quantize_is_refused(model):
    with pytest.raises(GraphError, match="nothing to quantize"):
        weighted_layers(prepare(model, PATH), PATH)


def test_weights_and_biases_in_constant_nodes_are_found():
    def constant(name, array):
        tensor = onnx.numpy_helper.from_array(np.float32(array), name)
        return "Constant", [], [name], {"value": tensor}

    model = network(
        constant("w", RNG.normal(size=(3, 4))), constant("b", np.ones(3)),
        ("Gemm", ["x", "w", "b"], ["y"], {"transB": 1}), weights={},
    )  # fmt: skip
    (layer,) = weighted_layers(prepare(model, PATH), PATH)
    assert layer.weight.const_value.shape == (3, 4)
    assert layer.bias.const_value.shape == (3,)


def test_dropout_and_identity_are_bypassed_but_the_output_keeps_its_name():
    model = network(
        ("Identity", ["x"], ["i"], {}), ("MatMul", ["i", "w"], ["m"], {}),
        ("Dropout", ["m"], ["d"], {}), ("Identity", ["d"], ["y"], {}),
        weights={"w": RNG.normal(size=(4, 5))},
    )  # fmt: skip
    normal = ir.to_proto(prepare(model, PATH))
    assert [node.op_type for node in normal.graph.node] == ["MatMul", "Identity"]
    assert [value.name for value in normal.graph.output] == ["y"]
    feed = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(answers(normal, feed), answers(model, feed))


def test_a_result_is_taken_after_the_relu_that_alone_reads_it():
    weights = {"w": RNG.normal(size=(4, 4))}
    fused = network(("MatMul", ["x", "w"], ["m"], {}), ("Relu", ["m"], ["y"], {}), weights=weights)
    shared = network(
        ("MatMul", ["x", "w"], ["m"], {}), ("Relu", ["m"], ["r"], {}),
        ("Add", ["m", "r"], ["y"], {}), weights=weights,
    )  # fmt: skip
    (layer,) = weighted_layers(prepare(fused, PATH), PATH)
    assert layer.result.name == "y"
    (layer,) = weighted_layers(prepare(shared, PATH), PATH)
    assert layer.result.name == "m"


def test_inputs_of_all_layers_are_quantized_and_pooling_shares_its_range(tiny_onnx):
    layers = weighted_layers(prepare(load_onnx(tiny_onnx), tiny_onnx), tiny_onnx)
    points = {value.name: ranged.name for value, ranged in quantization_points(layers)}
    inputs = [layer.activation.name for layer in layers]
    assert {name: points[name] for name in inputs} == {name: name for name in inputs}
    pooled = {
        "features.1.out": "features.2.out",
        "features.4.out": "features.5.out",
        "features.11.out": "flatten.out",
    }
    assert {name: source for name, source in points.items() if name != source} == pooled


def test_response_normalization_computes_so_it_shares_no_range(prepared):
    points = {v.name: r.name for v, r in quantization_points(weighted_layers(prepared, PATH))}
    assert points["conv1_2"] == "conv1_2"
    assert points["conv5_2"] == "pool5_2"


def test_an_opset_that_cannot_be_converted_is_refused():
    statistics = {name: np.ones(5) for name in ("scale", "shift", "mean", "variance")}
    model = network(
        ("MatMul", ["x", "w"], ["m"], {}),
        ("BatchNormalization", ["m", *statistics], ["y"], {"is_test": 0}),
        weights={"w": np.ones((4, 5)), **statistics}, opset=6,
    )  # fmt: skip
    with pytest.raises(GraphError, match="opset 6 cannot be converted") as caught:
        prepare(model, PATH)
    assert "opset 13 or later" in caught.value.hint

"""FP16 graphs: well typed, close to FP32, and FP32 where FP16 would overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx_ir as ir
import pytest

from alexnet_edge.errors import GraphError
from alexnet_edge.export import ExportSettings, build_graph
from alexnet_edge.graph import load_onnx
from alexnet_edge.model import Architecture, Checkpoint, build_module
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.fp16 import convert_to_fp16
from alexnet_edge.quantize.layers import float_tensors, prepare, weighted_layers
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.scales import TENSORRT
from alexnet_edge.quantize.table import Range
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session
from tests import foreign

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
WEIGHTED = {"Conv", "Gemm"}
SAME_TYPE = {"Relu", "MaxPool", "Flatten", "Reshape"}


def export(path, arch, *, logits=False, kind="float32"):
    """Write a narrow network with random weights."""
    import torch

    torch.manual_seed(0)
    architecture = Architecture(arch, classes=10, width=0.125)
    checkpoint = Checkpoint(architecture, build_module(architecture).state_dict())
    spec = PreprocessSpec(crop=architecture.input_size, input=kind)
    ir.save(build_graph(checkpoint, spec, ExportSettings(logits=logits)), path)


GRAPHS = {
    "alexnet": lambda path: export(path, "alexnet"),
    "alexnet-logits": lambda path: export(path, "alexnet", logits=True),
    "alexnet-uint8": lambda path: export(path, "alexnet", kind="uint8"),
    "torchvision": lambda path: export(path, "torchvision"),
    "caffe": lambda path: export(path, "caffe"),
    "foreign": foreign.write_foreign,
}


@pytest.fixture(scope="module", params=GRAPHS)
def pair(request, tmp_path_factory):
    """A graph in normal form, and the same in FP16."""
    path = tmp_path_factory.mktemp("fp16") / f"{request.param}.onnx"
    GRAPHS[request.param](path)
    prepared = prepare(load_onnx(path), path)
    reference = ir.to_proto(prepared)
    convert_to_fp16(prepared, path)
    return reference, ir.to_proto(prepared)


def types_of(model):
    """Element type of every tensor, as strict inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def run(model, batch):
    session = create_session(model.SerializeToString(), RuntimeOptions())
    return session.run(None, {model.graph.input[0].name: batch})[0]


def test_graph_is_well_typed(pair):
    _, converted = pair
    onnx.checker.check_model(converted, full_check=True)
    types = types_of(converted)
    assert all(output in types for node in converted.graph.node for output in node.output)


def test_every_weighted_layer_runs_in_fp16(pair):
    _, converted = pair
    types = types_of(converted)
    layers = [node for node in converted.graph.node if node.op_type in WEIGHTED]
    assert len(layers) == 8
    for layer in layers:
        assert {types[name] for name in (*layer.input, *layer.output)} == {HALF}


def test_softmax_and_normalization_stay_fp32(pair):
    _, converted = pair
    types = types_of(converted)
    for node in converted.graph.node:
        if node.op_type in {"Softmax", "LRN"}:
            assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}


def test_no_value_is_cast_where_none_computes(pair):
    _, converted = pair
    types = types_of(converted)
    for node in converted.graph.node:
        if node.op_type in SAME_TYPE:
            assert types[node.input[0]] == types[node.output[0]]
    casts = [node for node in converted.graph.node if node.op_type == "Cast"]
    assert len({(cast.input[0], cast.attribute[0].i) for cast in casts}) == len(casts)


def test_inputs_and_outputs_are_as_before(pair):
    reference, converted = pair
    for before, after in (
        (reference.graph.input, converted.graph.input),
        (reference.graph.output, converted.graph.output),
    ):
        assert [value.name for value in before] == [value.name for value in after]
        kinds = [[v.type.tensor_type.elem_type for v in values] for values in (before, after)]
        assert kinds[0] == kinds[1]


def test_weights_take_half_the_space(pair):
    sizes = [
        sum(onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer) for model in pair
    ]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)


def test_answers_are_close_to_fp32(pair):
    reference, converted = pair
    value = reference.graph.input[0]
    shape = [axis.dim_value or 2 for axis in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        batch = rng.integers(0, 256, shape, np.uint8)
    else:
        batch = rng.standard_normal(shape, np.float32)
    expected, found = run(reference, batch), run(converted, batch)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 5e-3 * np.abs(expected).max()
    assert (found != expected).any()


def small_graph(weight, bias):
    """One Gemm and a Relu."""
    describe = onnx.helper.make_tensor_value_info
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"], "fc"),
                onnx.helper.make_node("Relu", ["h"], ["y"], "relu"),
            ],
            "small",
            [describe("x", FLOAT, [2, 4])],
            [describe("y", FLOAT, [2, 3])],
            [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )


@pytest.mark.parametrize("name", ["w", "b"])
def test_values_beyond_fp16_are_refused_by_name(tmp_path, name):
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    arrays[name][..., 0] = -65536
    prepared = ir.from_proto(small_graph(arrays["w"], arrays["b"]))
    with pytest.raises(
        GraphError, match=rf"small\.onnx: '{name}' holds values outside FP16's range"
    ) as refused:
        convert_to_fp16(prepared, tmp_path / "small.onnx")
    assert "--fp32" in refused.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    weight = np.full((4, 3), value, np.float32)
    prepared = ir.from_proto(small_graph(weight, np.ones(3, np.float32)))
    with pytest.raises(GraphError, match="'w'"):
        convert_to_fp16(prepared, tmp_path / "small.onnx")


def test_largest_values_of_fp16_are_kept(tmp_path):
    weight = np.full((4, 3), 65504, np.float32)
    prepared = ir.from_proto(small_graph(weight, np.ones(3, np.float32)))
    assert convert_to_fp16(prepared, tmp_path / "small.onnx") == ["fc"]
    stored = [onnx.numpy_helper.to_array(t) for t in ir.to_proto(prepared).graph.initializer]
    assert {array.dtype for array in stored} == {np.dtype(np.float16)}
    assert max(array.max() for array in stored) == 65504


def test_tensors_that_layers_share_are_converted_once(tmp_path):
    model = small_graph(np.ones((4, 3), np.float32), np.ones(3, np.float32))
    second = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h2"], "fc2")
    both = onnx.helper.make_node("Add", ["h", "h2"], ["sum"], "sum")
    nodes = list(model.graph.node)
    nodes[1].input[0] = "sum"
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], second, both, nodes[1]])
    prepared = ir.from_proto(model)
    assert convert_to_fp16(prepared, tmp_path / "small.onnx") == ["fc", "fc2"]
    converted = ir.to_proto(prepared)
    onnx.checker.check_model(converted, full_check=True)
    assert len(converted.graph.initializer) == 2
    batch = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(run(converted, batch), run(model, batch))


def quantize(path, *, spared=frozenset(), amax=None):
    """A graph with Q/DQ, and the same with FP16 for the rest."""
    prepared = prepare(load_onnx(path), path)
    ranges = {name: Range(6.0, -6.0, 6.0) for name in float_tensors(prepared)}
    ranges |= {name: Range(value, -value, value) for name, value in (amax or {}).items()}
    insert_qdq(prepared, ranges, TENSORRT, path, QdqOptions(spared=frozenset(spared)))
    reference = ir.to_proto(prepared)
    names = convert_to_fp16(prepared, path)
    return reference, ir.to_proto(prepared), names


@pytest.fixture(scope="module", params=["alexnet", "alexnet-uint8", "caffe", "foreign"])
def quantized(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("qdq") / f"{request.param}.onnx"
    GRAPHS[request.param](path)
    layers = [layer.name for layer in weighted_layers(prepare(load_onnx(path), path), path)]
    return (*quantize(path, spared={layers[1], layers[7]}), layers)


def scales_of(model):
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [
        (node, stored[node.input[1]])
        for node in model.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]


def test_qdq_graph_is_well_typed_at_opset_19(quantized):
    _, converted, _, _ = quantized
    assert converted.opset_import[0].version == 19
    onnx.checker.check_model(converted, full_check=True)
    types = types_of(converted)
    for node, scale in scales_of(converted):
        kinds = [types[name] for name in (node.input[0], node.output[0])]
        # Q's scale has the type that it reads, DQ's the type that it gives.
        expected = kinds[0] if node.op_type == "QuantizeLinear" else kinds[1]
        assert onnx.helper.np_dtype_to_tensor_dtype(scale.dtype) == expected


def test_what_is_not_int8_is_fp16_beside_qdq(quantized):
    _, converted, names, layers = quantized
    assert names == [layers[1], layers[7]]
    types = types_of(converted)
    producers = {output: node.op_type for node in converted.graph.node for output in node.output}
    for node in converted.graph.node:
        if node.op_type in WEIGHTED:
            assert {types[name] for name in (*node.input, *node.output)} == {HALF}
            integer = producers.get(node.input[1]) == "DequantizeLinear"
            assert integer == (node.name not in names)
        if node.op_type in {"Softmax", "LRN"}:
            assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}


def test_fp32_is_quantized_without_a_cast(quantized):
    _, converted, _, _ = quantized
    producers = {output: node.op_type for node in converted.graph.node for output in node.output}
    for node in converted.graph.node:
        if node.op_type == "QuantizeLinear":
            assert producers.get(node.input[0]) != "Cast" or "preprocess" in node.input[0]


def test_both_ends_of_qdq_have_one_scale_that_clips_no_more(quantized):
    reference, converted, _, _ = quantized
    before = {node.output[0]: scale for node, scale in scales_of(reference)}
    after = {node.output[0]: scale for node, scale in scales_of(converted)}
    assert before.keys() == after.keys()
    for name, scale in before.items():
        rounded = after[name].astype(np.float64)
        assert (rounded >= scale).all()
        np.testing.assert_allclose(rounded, scale, rtol=2e-3, atol=2**-24)
    for node, scale in scales_of(converted):
        if node.op_type == "DequantizeLinear":
            assert (scale == after[node.input[0]]).all()


def test_weights_are_rounded_once(quantized):
    _, converted, _, _ = quantized
    weights = {t.name: t for t in converted.graph.initializer if len(t.dims) > 1}
    sources = {node.output[0]: node.input[0] for node in converted.graph.node
               if node.op_type in {"QuantizeLinear", "DequantizeLinear"}}  # fmt: skip
    for node in converted.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in sources:
            assert weights[sources[sources[node.input[1]]]].data_type == FLOAT


def test_int8_answers_are_as_before(quantized):
    reference, converted, _, _ = quantized
    value = reference.graph.input[0]
    shape = [axis.dim_value or 2 for axis in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        batch = rng.integers(0, 256, shape, np.uint8)
    else:
        batch = rng.standard_normal(shape, np.float32)
    expected, found = run(reference, batch), run(converted, batch)
    assert found.dtype == np.float32
    # A value on the edge between two integers may fall on either side.
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("amax", [0.0, 1e-12, 3e-6, 1e-3])
def test_scales_below_fp16_stay_positive(tmp_path, amax):
    path = tmp_path / "alexnet.onnx"
    export(path, "alexnet")
    _, converted, _ = quantize(path, amax={"classifier.2.out": amax})
    for _, scale in scales_of(converted):
        assert (scale > 0).all()


def test_a_scale_beyond_fp16_is_refused_by_name(tmp_path):
    path = tmp_path / "alexnet.onnx"
    export(path, "alexnet")
    with pytest.raises(GraphError, match=r"classifier\.2\.out\.scale' holds values outside FP16"):
        quantize(path, amax={"classifier.2.out": 1e7})


def test_an_operator_that_opset_19_changed_is_refused_by_name(tmp_path):
    path = tmp_path / "alexnet.onnx"
    export(path, "alexnet")
    prepared = prepare(load_onnx(path), path)
    ranges = {name: Range(6.0, -6.0, 6.0) for name in float_tensors(prepared)}
    insert_qdq(prepared, ranges, TENSORRT, path)
    relu = next(node for node in prepared.graph if node.op_type == "Relu")
    relu.op_type = "ReduceMean"
    with pytest.raises(GraphError, match=rf"opset 19, at which '{relu.name}' \(ReduceMean\)"):
        convert_to_fp16(prepared, path)

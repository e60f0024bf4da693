"""Q/DQ in both dialects: the rules of the targets, and answers that stay close."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import GraphError, TableError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_onnx
from alexnet_edge.model import Architecture, Checkpoint, build_module, load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.scales import TENSORRT, Dialect
from alexnet_edge.quantize.table import Range, load_table
from tests.foreign import SPEC, write_foreign

CPU, CPU7 = Dialect("cpu"), Dialect("cpu", weight_bits=7)
EVERY = pytest.mark.parametrize("dialect", [TENSORRT, CPU, CPU7], ids=["tensorrt", "cpu", "cpu7"])


def quantized(path: Path, ranges, dialect: Dialect, **options) -> onnx.ModelProto:
    model = prepare(load_onnx(path), path)
    insert_qdq(model, ranges, dialect, path, QdqOptions(**options))
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.fixture(scope="module")
def ranges(tiny_table):
    return load_table(tiny_table).ranges("minmax")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def weighted(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


@EVERY
def test_every_weighted_layer_reads_activation_and_weight_through_dq(tiny_onnx, ranges, dialect):
    model = quantized(tiny_onnx, ranges, dialect)
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = weighted(model)
    assert len(layers) == 8
    for node in layers:
        assert [producers.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2


@EVERY
def test_scales_are_positive_fp32_and_every_node_has_a_zero_point(tiny_onnx, ranges, dialect):
    model = quantized(tiny_onnx, ranges, dialect)
    values = constants(model)
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert len(node.input) == 3
            scale, zero_point = values[node.input[1]], values[node.input[2]]
            assert scale.dtype == np.float32
            assert (scale > 0).all()
            assert zero_point.shape == scale.shape


def test_tensorrt_is_symmetric_int8_with_fp32_weights_and_biases(tiny_onnx, ranges):
    model = quantized(tiny_onnx, ranges, TENSORRT)
    values = constants(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    assert next(o.version for o in model.opset_import if not o.domain) == 17
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero_point = values[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
    for node in weighted(model):
        dequantize = producers[node.input[1]]
        quantize = producers[dequantize.input[0]]
        assert values[quantize.input[0]].dtype == np.float32
        assert [a.i for a in quantize.attribute if a.name == "axis"] == [0]
        assert values[quantize.input[1]].shape == values[quantize.input[0]].shape[:1]
        assert values[node.input[2]].dtype == np.float32


def test_tensorrt_scale_is_amax_over_127(tiny_onnx, ranges):
    values = constants(quantized(tiny_onnx, ranges, TENSORRT))
    for name, found in ranges.items():
        assert values[f"{name}.scale"] == pytest.approx(found.amax / 127, rel=1e-6)


@pytest.mark.parametrize(("dialect", "largest"), [(CPU, 127), (CPU7, 63)])
def test_cpu_stores_int8_weights_int32_biases_and_uint8_activations(
    tiny_onnx, ranges, dialect, largest
):
    model = quantized(tiny_onnx, ranges, dialect)
    values = constants(model)
    weights = [array for name, array in values.items() if name.endswith("weight.int8")]
    assert len(weights) == 8
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) == largest
    assert {values[f"{name}.zero_point"].dtype for name in ranges} == {np.dtype(np.uint8)}
    for node in weighted(model):
        bias = values[f"{node.name}.bias.int32"]
        assert bias.dtype == np.int32
        activation = values[node.input[0].replace(".dequantized", ".scale").replace(
            ".quantized", ""
        )]  # fmt: skip
        assert values[f"{node.name}.bias.scale"] == pytest.approx(
            activation * values[f"{node.name}.weight.scale"], rel=1e-6
        )


def test_cpu_weights_are_rounded_to_the_nearest_step(tiny_onnx, ranges):
    before = constants(load_onnx(tiny_onnx))
    after = constants(quantized(tiny_onnx, ranges, CPU))
    for name in ("features.3", "classifier.1"):
        weight = before[f"{name}.weight"]
        scale = after[f"{name}.weight.scale"].reshape(-1, *[1] * (weight.ndim - 1))
        error = np.abs(after[f"{name}.weight.int8"] * scale - weight)
        assert (error <= scale / 2 * 1.0001).all()


@EVERY
def test_answers_stay_close_to_fp32(tiny_onnx, ranges, dialect):
    spec = PreprocessSpec(resize=227, crop=227)
    reader = ImageReader(open_images("digits:val").sample(64), spec, batch_size=64)
    batch = next(iter(reader)).tensor
    reference = run(load_onnx(tiny_onnx), batch)
    answers = run(quantized(tiny_onnx, ranges, dialect), batch)
    sqnr_db = 20 * math.log10(np.linalg.norm(reference) / np.linalg.norm(reference - answers))
    assert sqnr_db > 20
    assert (answers.argmax(1) == reference.argmax(1)).mean() > 0.95


@EVERY
def test_a_foreign_graph_is_quantized_whole(tmp_path, digits_folders, dialect):
    path = write_foreign(tmp_path / "zoo.onnx")
    table = calibrate(
        path, open_images(digits_folders / "val"), CalibrationSettings(max_images=16),
        preprocess=SPEC,
    )  # fmt: skip
    model = quantized(path, table.ranges("minmax"), dialect)
    reader = ImageReader(open_images(digits_folders / "val").sample(1), SPEC, batch_size=1)
    batch = next(iter(reader)).tensor
    reference = run(load_onnx(path), batch)
    assert np.abs(run(model, batch) - reference).max() < 0.1 * reference.max()


def test_cpu_quantizes_the_result_of_a_convolution_that_lrn_reads(tmp_path, digits_folders):
    path = write_foreign(tmp_path / "zoo.onnx")
    images = open_images(digits_folders / "val").sample(4)
    table = calibrate(path, images, CalibrationSettings(), preprocess=SPEC)
    for dialect, expected in ((CPU, "DequantizeLinear"), (TENSORRT, "Relu")):
        model = quantized(path, table.ranges("minmax"), dialect)
        producers = {name: node.op_type for node in model.graph.node for name in node.output}
        lrn = next(node for node in model.graph.node if node.op_type == "LRN")
        assert producers[lrn.input[0]] == expected


def test_quantizing_twice_is_refused(tiny_onnx, ranges):
    model = prepare(load_onnx(tiny_onnx), tiny_onnx)
    insert_qdq(model, ranges, TENSORRT, tiny_onnx)
    with pytest.raises(GraphError, match="quantized already"):
        insert_qdq(model, ranges, TENSORRT, tiny_onnx)


def test_a_tensor_without_a_range_is_named(tiny_onnx, ranges):
    model = prepare(load_onnx(tiny_onnx), tiny_onnx)
    few = {name: found for name, found in ranges.items() if name != "flatten.out"}
    with pytest.raises(TableError, match=r"no range for tensor 'flatten\.out'"):
        insert_qdq(model, few, CPU, tiny_onnx)


def test_a_tensor_that_is_always_zero_gets_a_positive_scale(tiny_onnx, ranges):
    dead = {**ranges, "classifier.5.out": Range(0.0, 0.0, 0.0)}
    for dialect in (TENSORRT, CPU):
        values = constants(quantized(tiny_onnx, dead, dialect))
        assert values["classifier.5.out.scale"] > 0


def small(op: str, weight, bias=None, **attributes) -> onnx.ModelProto:
    """Return a model of one linear layer, `x` (N, 4) to `y` (N, outputs)."""
    tensors = {"w": weight} if bias is None else {"w": weight, "b": bias}
    describe = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", *tensors], ["y"], "layer", **attributes)],
        "small",
        [describe("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [describe("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(np.float32(array), name) for name, array in tensors.items()],
    )
    return onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)]
    )


def quantize_small(model: onnx.ModelProto, amax: float, dialect: Dialect) -> onnx.ModelProto:
    prepared = prepare(model, Path("small.onnx"))
    insert_qdq(prepared, {"x": Range(amax, -amax, amax)}, dialect, Path("small.onnx"))
    proto = ir.to_proto(prepared)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@EVERY
def test_nothing_but_q_and_dq_is_added_and_the_opset_stays(tiny_onnx, ranges, dialect):
    before, after = load_onnx(tiny_onnx), quantized(tiny_onnx, ranges, dialect)
    rest = [n for n in after.graph.node if n.op_type not in {"QuantizeLinear", "DequantizeLinear"}]
    assert [n.name for n in rest] == [n.name for n in before.graph.node]
    assert [list(n.attribute) for n in rest] == [list(n.attribute) for n in before.graph.node]
    assert after.opset_import == before.opset_import
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    assert after.metadata_props == before.metadata_props
    used = {name for node in after.graph.node for name in node.input}
    assert set(constants(after)) <= used, "no weight is stored that nothing reads"


@EVERY
def test_nothing_lies_between_a_convolution_and_its_relu(tiny_onnx, ranges, dialect):
    model = quantized(tiny_onnx, ranges, dialect)
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [readers[node.output[0]] for node in convolutions] == ["Relu"] * 5


@EVERY
def test_logits_stay_within_20_db(tiny_checkpoint, ranges, tmp_path, dialect):
    path, spec = tmp_path / "logits.onnx", PreprocessSpec(resize=227, crop=227)
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(logits=True), path)
    batch = next(iter(ImageReader(open_images("digits:val"), spec, batch_size=64))).tensor
    reference = run(load_onnx(path), batch)
    noise = run(quantized(path, ranges, dialect), batch) - reference
    assert 20 * math.log10(np.linalg.norm(reference) / np.linalg.norm(noise)) > 20


@EVERY
@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("name", ["caffe", "torchvision"])
def test_every_network_opset_and_input_can_be_quantized(tmp_path, name, opset, dialect):
    torch.manual_seed(0)
    architecture, path = Architecture(name, classes=10, width=0.05), tmp_path / "net.onnx"
    checkpoint = Checkpoint(architecture, build_module(architecture).state_dict())
    spec = checkpoint.default_preprocess().with_input("uint8")
    export_onnx(checkpoint, spec, ExportSettings(opset=opset), path)
    images = open_images("digits:val").sample(4)
    table = calibrate(path, images, CalibrationSettings())
    model = quantized(path, table.ranges("minmax"), dialect)
    assert [o.version for o in model.opset_import] == [opset]
    batch = next(iter(ImageReader(images, spec))).tensor
    assert np.abs(run(model, batch) - run(load_onnx(path), batch)).max() < 0.02


def test_onnx_runtime_runs_the_cpu_dialect_in_integers(tiny_onnx, ranges, tmp_path):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    model = quantized(tiny_onnx, ranges, CPU).SerializeToString()
    onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (operators.count("QLinearConv"), operators.count("QGemm")) == (5, 3)
    assert not {"Conv", "Gemm"} & set(operators)


@EVERY
@pytest.mark.parametrize(
    ("op", "attributes", "axis"),
    [("Gemm", {"transB": 1}, 0), ("Gemm", {}, 1), ("MatMul", {}, 1)],
)
def test_scales_lie_along_the_output_channels(op, attributes, axis, dialect):
    weight = np.array([[0.01, -0.02, 0.03, 0.01], [5, 6, -7, 8], [0.5, 0.6, 0.7, -0.8]])
    model = small(op, weight if axis == 0 else weight.T, **attributes)
    proto = quantize_small(model, 1.0, dialect)
    expected = np.abs(weight).max(1) / dialect.largest_weight
    np.testing.assert_allclose(constants(proto)["layer.weight.scale"], expected, rtol=1e-6)
    batch = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
    error = np.abs(run(proto, batch) - batch @ weight.T.astype(np.float32))
    assert (error < 0.03 * np.abs(weight).sum(1)).all()


@EVERY
@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1)])
def test_biases_of_any_shape_are_added(shape, dialect):
    bias = np.linspace(-1, 1, math.prod(shape)).reshape(shape)
    model = small("Gemm", np.eye(3, 4), bias, transB=1)
    proto = quantize_small(model, 1.0, dialect)
    batch = np.zeros((2, 4), np.float32)
    np.testing.assert_allclose(run(proto, batch), run(model, batch), atol=1e-4)


@EVERY
@pytest.mark.parametrize("amax", [0.0, 1e-12, 1.0])
def test_the_bias_of_a_dead_channel_or_input_is_kept(amax, dialect):
    weight = np.array([[1.0, 2, 3, 4], [0, 0, 0, 0], [1e-20, 0, 0, 0]])
    model = small("Gemm", weight, np.array([0.5, -3.0, 100.0]), transB=1)
    proto = quantize_small(model, amax, dialect)
    batch = np.full((2, 4), amax, np.float32)
    np.testing.assert_allclose(run(proto, batch), run(model, batch), rtol=0.02)


@EVERY
def test_a_large_bias_leaves_room_for_the_sum(dialect):
    model = small("Gemm", np.full((3, 4), 5e-6), np.array([1.0, -1.0, 1000.0]), transB=1)
    proto = quantize_small(model, 1.0, dialect)
    for sign in (1, -1):
        batch = np.full((2, 4), sign, np.float32)
        np.testing.assert_allclose(run(proto, batch), run(model, batch), rtol=1e-3)


@EVERY
def test_corrections_are_added_to_the_biases(tiny_onnx, ranges, dialect):
    bias = constants(load_onnx(tiny_onnx))["classifier.6.bias"]
    correction = np.linspace(-1, 1, 10, dtype=np.float32)
    model = quantized(
        tiny_onnx, ranges, dialect, bias_corrections={"classifier.6": correction}
    )  # fmt: skip
    values = constants(model)
    assert "classifier.6.bias" not in values, "no bias is stored that nothing reads"
    if dialect == TENSORRT:
        found = values[weighted(model)[-1].input[2]]
    else:
        found = values["classifier.6.bias.int32"] * values["classifier.6.bias.scale"]
    np.testing.assert_allclose(found, bias + correction, atol=1e-4)


@EVERY
@pytest.mark.parametrize("size", [1, 9])
def test_a_correction_of_another_size_is_refused(tiny_onnx, ranges, size, dialect):
    corrections = {"classifier.6": np.zeros(size, np.float32)}
    with pytest.raises(TableError, match=r"correction of 'classifier\.6'.* has 10 channels"):
        quantized(tiny_onnx, ranges, dialect, bias_corrections=corrections)


@EVERY
def test_weights_of_least_error_have_less_of_it(tiny_onnx, ranges, dialect):
    weight = constants(load_onnx(tiny_onnx))["classifier.1.weight"]
    errors = {}
    for kind in ("minmax", "mse"):
        values = constants(quantized(tiny_onnx, ranges, dialect, weight_ranges=kind))
        scale = values["classifier.1.weight.scale"][:, None]
        largest = dialect.largest_weight
        steps = np.clip(np.rint(weight / scale), -largest, largest)
        errors[kind] = ((steps * scale - weight) ** 2).sum(axis=1)
    assert (errors["mse"] <= errors["minmax"] * 1.0001).all()
    assert errors["mse"].sum() < errors["minmax"].sum()


@EVERY
def test_spared_layers_read_and_write_float(tiny_onnx, ranges, dialect):
    spared = {"features.0", "classifier.4", "classifier.6"}
    model = quantized(tiny_onnx, ranges, dialect, spared=frozenset(spared))
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    before, after = constants(load_onnx(tiny_onnx)), constants(model)
    # Where layers before it write integers, a spared one reads what these stand for.
    integers = {"classifier.4"} if not dialect.symmetric else set()
    for node in weighted(model):
        assert (producers.get(node.input[1]) == "DequantizeLinear") == (node.name not in spared)
        reads_integers = producers.get(node.input[0]) == "DequantizeLinear"
        assert reads_integers == (node.name not in spared or node.name in integers), node.name
        if node.name in spared:
            for name in node.input[1:]:
                assert np.array_equal(after[name], before[name])


@EVERY
@pytest.mark.parametrize(
    ("spared", "said"),
    [
        ({"features.3", "fc9"}, "has no layer 'fc9' to spare"),
        ([f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)],
         "every layer would be spared"),
    ],
    ids=["unknown", "all"],
)  # fmt: skip
def test_layers_that_cannot_be_spared_are_refused(tiny_onnx, ranges, spared, said, dialect):
    with pytest.raises(GraphError, match=said) as refused:
        quantized(tiny_onnx, ranges, dialect, spared=frozenset(spared))
    assert refused.value.hint

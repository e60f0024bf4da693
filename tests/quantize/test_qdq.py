"""Q/DQ in both dialects: the rules of the targets, and answers that stay close."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import GraphError, TableError
from alexnet_edge.graph import load_onnx
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.qdq import TENSORRT, Dialect, insert_qdq
from alexnet_edge.quantize.table import load_table
from tests.foreign import SPEC, write_foreign

CPU, CPU7 = Dialect("cpu"), Dialect("cpu", weight_bits=7)
EVERY = pytest.mark.parametrize("dialect", [TENSORRT, CPU, CPU7], ids=["tensorrt", "cpu", "cpu7"])


def quantized(path: Path, ranges, dialect: Dialect) -> onnx.ModelProto:
    model = prepare(load_onnx(path), path)
    insert_qdq(model, ranges, dialect, path)
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
    from alexnet_edge.quantize.table import Range

    dead = {**ranges, "classifier.5.out": Range(0.0, 0.0, 0.0)}
    for dialect in (TENSORRT, CPU):
        values = constants(quantized(tiny_onnx, dead, dialect))
        assert values["classifier.5.out.scale"] > 0

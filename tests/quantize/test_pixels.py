"""Pixels that the first convolution reads as they come, normalization folded into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.engine.build import build_engine
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_bare, load_onnx, load_weights
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.choose import decide
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.pixels import find_pixels, fold_normalization
from alexnet_edge.runtimes.loader import open_engine
from tests.conftest import DIGITS_SPEC

UINT8 = DIGITS_SPEC.with_input("uint8")


@pytest.fixture(scope="module")
def graph(tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pixels") / "tiny-uint8.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), UINT8, ExportSettings(), out)
    return out


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    reader = ImageReader(open_images("digits:val").sample(32), UINT8, batch_size=32)
    return next(iter(reader)).tensor


@pytest.fixture(scope="module")
def engine(graph, tmp_path_factory) -> Path:
    table = calibrate(graph, open_images("digits:train"), CalibrationSettings(max_images=64))
    out = tmp_path_factory.mktemp("engine") / "tiny.int8.onnx"
    build_engine(graph, out, BuildSettings("int8", "onnxruntime", method="minmax"), table=table)
    return out


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {model.graph.input[0].name: batch})[0]


def test_the_folded_graph_answers_as_before(graph, frames):
    model = prepare(load_onnx(graph), graph)
    before = [node.op_type for node in model.graph]
    assert fold_normalization(model)
    after = [node.op_type for node in model.graph]
    assert before[:5] == ["Cast", "Transpose", "Mul", "Add", "Conv"]
    assert after[:3] == ["Cast", "Transpose", "Conv"]
    assert after[3:] == before[5:]
    folded = ir.to_proto(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not {t.name for t in folded.graph.initializer} & {"preprocess.scale", "preprocess.shift"}
    np.testing.assert_allclose(run(folded, frames), run(load_onnx(graph), frames), atol=1e-5)


def test_the_tensor_keeps_the_name_that_its_range_has(graph):
    model = prepare(load_onnx(graph), graph)
    conv = next(node for node in model.graph if node.op_type == "Conv")
    name = conv.inputs[0].name
    fold_normalization(model)
    assert conv.inputs[0].name == name
    assert find_pixels(conv.inputs[0]).op_type == "Cast"


def test_weights_that_lie_in_the_file_are_folded_beside_the_graph(graph):
    whole = prepare(load_onnx(graph), graph)
    fold_normalization(whole)
    bare = load_bare(graph)
    weights = load_weights(bare, graph)
    prepared = prepare(bare, graph)
    assert fold_normalization(prepared, weights)
    conv = next(node for node in prepared.graph if node.op_type == "Conv")
    expected = next(node for node in whole.graph if node.op_type == "Conv")
    np.testing.assert_array_equal(
        weights[conv.inputs[1].name], expected.inputs[1].const_value.numpy()
    )
    np.testing.assert_array_equal(
        conv.inputs[2].const_value.numpy(), expected.inputs[2].const_value.numpy()
    )


WEIGHT = ", ".join(f"{i % 7 - 3}.0" for i in range(54))
ROWS = ", ".join("1.0" for _ in range(24))
HEAD = f"""
<ir_version: 8, opset_import: ["" : 17]>
g (uint8[N,8,8,3] x) => (float[N,2,K,L] y)
<float[2,3,3,3] w = {{{WEIGHT}}}, float[2] b = {{0.5, -1.0}},
 float[1,3,1,1] a = {{0.5, 0.25, 2.0}}, float[1,3,1,1] c = {{-1.0, 3.0, 0.0}},
 float one = {{0.125}}, float[1,3,1,8] rows = {{{ROWS}}}>
"""
IMAGE = "f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f)"


def parsed(body: str) -> ir.Model:
    return prepare(onnx.parser.parse_model(f"{HEAD} {{ {body} }}"), Path("g.onnx"))


@pytest.mark.parametrize(
    "body",
    [
        f"{IMAGE} m = Mul(t, a) n = Add(m, c) y = Conv(n, w, b)",
        f"{IMAGE} m = Mul(a, t) n = Add(c, m) y = Conv<pads=[0,0,0,0]>(n, w)",
        f"{IMAGE} m = Mul(t, one) n = Add(m, c) y = Conv<strides=[2,2], auto_pad=\"VALID\">(n, w)",
    ],
    ids=["with bias", "constants first, no bias", "one scale for all channels"],
)  # fmt: skip
def test_forms_that_can_be_folded(body):
    model = parsed(body)
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    before = run(ir.to_proto(model), frames)
    assert fold_normalization(model)
    assert "Mul" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(ir.to_proto(model), frames), before, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        f"{IMAGE} m = Mul(t, a) n = Add(m, c) y = Conv<pads=[1,1,1,1]>(n, w, b)",
        f'{IMAGE} m = Mul(t, a) n = Add(m, c) y = Conv<auto_pad="SAME_UPPER">(n, w, b)',
        f"{IMAGE} m = Mul(t, rows) n = Add(m, c) y = Conv(n, w, b)",
        f"{IMAGE} m = Mul(t, a) n = Add(m, c) k = Conv(n, w, b) r = ReduceMean(n) y = Add(k, r)",
        f"{IMAGE} m = Add(t, c) n = Mul(m, a) y = Conv(n, w, b)",
        f"{IMAGE} y = Conv(t, w, b)",
    ],
    ids=["padded", "padded by name", "by column", "read elsewhere", "other order", "nothing to do"],
)
def test_forms_that_cannot_be_folded_stay(body):
    model = parsed(body)
    before = ir.to_proto(model).SerializeToString()
    assert not fold_normalization(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_pixels_that_are_read_elsewhere_or_are_floats_are_no_pixels():
    model = parsed("f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) k = Conv(t, w, b) "
                   "r = ReduceMean(f) y = Add(k, r)")  # fmt: skip
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert find_pixels(conv.inputs[0]) is None


def test_the_engine_reads_pixels_and_nothing_rounds_them(engine, graph, frames):
    operators = [node.op_type for node in onnx.load(engine).graph.node]
    before = operators[: operators.index("QLinearConv")]
    assert set(before) <= {"Pad", "Reshape", "Transpose"}, "these move the pixels, no more"
    assert "Cast" not in operators
    with open_engine(engine) as int8, open_engine(graph) as fp32:
        assert int8.info.input.dtype == "uint8"
        agreement = (
            int8.infer_any(frames).argmax(axis=1) == fp32.infer_any(frames).argmax(axis=1)
        ).mean()
    assert agreement > 0.9


def test_what_is_chosen_by_evidence_is_what_is_built(graph, frames, tmp_path):
    """The simulation folds as the build does: its noise is that of the engine."""
    images = open_images("digits:train")
    table = calibrate(graph, images, CalibrationSettings(max_images=64))
    settings = BuildSettings("int8", "onnxruntime")
    choice = decide(graph, table, settings.dialect, images=images)
    tensors = {trial.candidate for trial in choice.trials}
    assert "minmax" in tensors
    out = tmp_path / "auto.int8.onnx"
    build_engine(graph, out, settings, table=table, choice=choice)
    with open_engine(out) as int8, open_engine(graph) as fp32:
        difference = np.abs(int8.infer_any(frames) - fp32.infer_any(frames)).max()
    assert difference < 0.2


def test_a_spared_first_layer_stays_float_and_is_folded_all_the_same(graph, frames, tmp_path):
    table = calibrate(graph, open_images("digits:train"), CalibrationSettings(max_images=32))
    out = tmp_path / "spared.onnx"
    settings = BuildSettings("int8", "onnxruntime", method="minmax", spared=("features.0",))
    manifest = build_engine(graph, out, settings, table=table)
    assert manifest.layers[0].precision == "fp32"
    with open_engine(out) as int8, open_engine(graph) as fp32:
        same = int8.infer_any(frames).argmax(1) == fp32.infer_any(frames).argmax(1)
    assert same.mean() > 0.9

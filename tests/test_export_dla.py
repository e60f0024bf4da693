"""Exports for DLA: the plain graph's answers, within what the accelerator takes."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import numpy as np
import onnx
import onnx.shape_inference
import pytest
import torch

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.engine.lint import WARNING, lint_model
from alexnet_edge.engine.profile import load_profile
from alexnet_edge.engine.trt_calibrator import spread_ranges
from alexnet_edge.errors import InputError
from alexnet_edge.export import TOLERANCE, ExportSettings, build_graph, export_onnx
from alexnet_edge.graph import read_graph
from alexnet_edge.model import ARCHITECTURES, Architecture, Checkpoint, load_checkpoint
from alexnet_edge.parity import ParitySettings, compare_answers
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import float_tensors, prepare
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes.loader import open_engine
from tests.cli.conftest import COMMAND
from tests.conftest import DIGITS_SPEC
from tests.needs import needs_rtx
from tests.test_export import CLASSES, answers_of_file, make_checkpoint, random_crops

ONNXRUNTIME = [pytest.param("onnxruntime", "int8", id="onnxruntime-int8")]
TENSORRT_RTX = [
    pytest.param(
        "tensorrt-rtx", precision, id=f"tensorrt-rtx-{precision}",
        marks=needs_rtx,
    )
    for precision in ("fp32", "fp16", "int8")
]  # fmt: skip
LINEAR = {"classifier.1": 6, "classifier.4": 1, "classifier.6": 1}
"""The fully connected layers, and the side of the window that each is as a convolution."""

ON_DLA = {"Conv", "Relu", "MaxPool", "LRN"}
TAIL = ["Flatten", "Softmax"]


def export_both(checkpoint, folder, *, batch=None, **settings):
    """Export for DLA and plainly, at one batch size; return both files."""
    spec = checkpoint.default_preprocess()
    paths = folder / "dla.onnx", folder / "plain.onnx"
    result = export_onnx(
        checkpoint, spec, ExportSettings(batch=batch, dla=True, **settings), paths[0]
    )
    assert result.relative_error <= TOLERANCE
    export_onnx(checkpoint, spec, ExportSettings(batch=batch or 1, **settings), paths[1])
    return paths


def attributes_of(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def full_size(name):
    """A network of the published size, all zeros: only its shapes are looked at."""
    architecture = Architecture(name)
    shapes = architecture.parameter_shapes()
    return Checkpoint(architecture, {key: torch.zeros(shape) for key, shape in shapes.items()})


@pytest.fixture(scope="module")
def dla_onnx(tiny_checkpoint, tmp_path_factory):
    """`tiny_checkpoint` for DLA: batch 1, softmax."""
    out = tmp_path_factory.mktemp("dla") / "tiny.dla.onnx"
    settings = ExportSettings(dla=True)
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, settings, out)
    return out


@pytest.fixture(scope="module")
def dla_table(dla_onnx):
    """`dla_onnx` calibrated on 64 digits, every tensor of it."""
    settings = CalibrationSettings(max_images=64, every_tensor=True)
    return calibrate(dla_onnx, open_images("digits:train"), settings)


@pytest.mark.parametrize("logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_answers_as_the_plain_graph_on_random_pixels(tmp_path, name, batch, logits):
    checkpoint = make_checkpoint(name)
    dla, plain = export_both(checkpoint, tmp_path, batch=batch, logits=logits)
    spec = checkpoint.default_preprocess()
    crops = random_crops(batch or 1, spec)
    expected, found = (answers_of_file(path, spec, crops) for path in (plain, dla))
    assert found.shape == expected.shape == (batch or 1, len(CLASSES))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert np.ptp(expected, axis=1).min() > 0.01, "else it would prove nothing"


def test_it_answers_as_the_plain_graph_on_images(tmp_path, tiny_checkpoint):
    dla, plain = export_both(load_checkpoint(tiny_checkpoint), tmp_path, batch=8)
    reader = ImageReader(open_images("digits:val").sample(8), DIGITS_SPEC.with_input("uint8"))
    crops = np.concatenate([part.tensor for part in reader])
    expected, found = (answers_of_file(path, DIGITS_SPEC, crops) for path in (plain, dla))
    assert len(set(expected.argmax(1))) > 3
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_linear_layers_are_convolutions_of_the_same_names(tmp_path, name):
    checkpoint = make_checkpoint(name)
    graph = onnx.load(export_both(checkpoint, tmp_path)[0]).graph
    nodes = {node.name: node for node in graph.node}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for layer, side in LINEAR.items():
        assert nodes[layer].op_type == "Conv"
        rows, columns = checkpoint.state_dict[f"{layer}.weight"].shape
        assert shapes[f"{layer}.weight"] == [rows, columns // side**2, side, side]
    assert [node.op_type for node in graph.node][-2:] == TAIL
    assert {node.op_type for node in graph.node[:-2]} <= ON_DLA
    assert not {"Gemm", "Reshape"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_full_size_network_is_within_the_limits_of_dla(name):
    """TensorRT's documentation, "DLA Supported Layers and Restrictions"."""
    checkpoint = full_size(name)
    graph = build_graph(checkpoint, checkpoint.default_preprocess(), ExportSettings(dla=True)).graph
    on_dla = list(graph)[:-2]
    assert {node.op_type for node in on_dla} <= ON_DLA
    weighted = [node for node in on_dla if node.op_type == "Conv"]
    assert len(weighted) == 8
    for node in weighted:
        out, read, *kernel = node.inputs[1].shape
        groups = node.attributes.get_int("group")
        assert 1 <= out <= 8192, node.name
        assert 1 <= read * groups <= 8192, node.name
        assert all(1 <= side <= 32 for side in kernel), node.name
        assert all(1 <= step <= 8 for step in node.attributes["strides"].as_ints()), node.name
        assert all(0 <= pad < kernel[0] for pad in node.attributes["pads"].as_ints()), node.name
    for node in on_dla:
        if node.op_type == "LRN":
            assert node.attributes.get_int("size") in {3, 5, 7, 9}
        if node.op_type == "MaxPool":
            assert all(1 <= side <= 8 for side in node.attributes["kernel_shape"].as_ints())
    assert weighted[5].inputs[1].shape == [4096, 256, 6, 6]
    assert graph.inputs[0].shape == [1, *checkpoint.default_preprocess().input_shape]


@pytest.mark.parametrize(("batch", "expected"), [(None, 1), (1, 1), (4, 4)])
def test_every_shape_is_static(tmp_path, batch, expected):
    checkpoint = make_checkpoint()
    path, _ = export_both(checkpoint, tmp_path, batch=batch)
    described = read_graph(path)
    assert described.input.shape == (expected, 3, 227, 227)
    assert described.output.shape == (expected, len(CLASSES))
    assert described.output_kind == "probabilities"
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        assert all(axis.dim_value > 0 for axis in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize("opset", [13, 22])
def test_every_opset_is_valid(tmp_path, opset):
    path, _ = export_both(make_checkpoint("caffe"), tmp_path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    assert read_graph(path).opset == opset


def test_raw_frames_are_refused_with_the_reason(tmp_path):
    checkpoint = make_checkpoint()
    spec = checkpoint.default_preprocess().with_input("uint8")
    with pytest.raises(InputError, match="normalized on the GPU") as caught:
        export_onnx(checkpoint, spec, ExportSettings(dla=True), tmp_path / "net.onnx")
    assert "leave --input uint8 out" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_too_many_channels_are_refused_with_the_layer(tmp_path):
    checkpoint = Checkpoint(Architecture("alexnet", classes=8193, width=0.05), {})
    settings, spec = ExportSettings(dla=True), checkpoint.default_preprocess()
    with pytest.raises(InputError, match=r"classifier\.6 has 8193 channels, DLA takes 8192"):
        export_onnx(checkpoint, spec, settings, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_has_every_tensor_of_the_graph(dla_onnx, dla_table):
    model = onnx.load(dla_onnx)
    wanted = {name for node in model.graph.node for name in node.output} | {"input"}
    assert set(float_tensors(prepare(model, dla_onnx))) == wanted
    assert set(dla_table.tensors) == wanted


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plain_table_tells_a_range_at_both_ends_of_every_layer(tmp_path, name):
    checkpoint = make_checkpoint(name)
    path, _ = export_both(checkpoint, tmp_path)
    table = calibrate(path, open_images("digits:train"), CalibrationSettings(max_images=4))
    amax = {tensor: found.amax for tensor, found in table.ranges("minmax").items()}
    ranges, without = spread_ranges(prepare(onnx.load(path), path), amax)
    assert without == ["probabilities"], "the softmax is not DLA's"
    for node in onnx.load(path).graph.node[:-1]:
        assert {node.input[0], node.output[0]} <= ranges.keys(), node.name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lint_finds_only_the_tail(tmp_path, name):
    dla, plain = export_both(make_checkpoint(name), tmp_path)
    profile = load_profile("agx-orin-dla")
    findings = lint_model(onnx.load(dla), profile)
    assert [(found.node, found.severity) for found in findings] == [("flatten", WARNING)]
    assert len(lint_model(onnx.load(plain), profile)) > 1


@pytest.mark.parametrize(("runtime", "precision"), ONNXRUNTIME + TENSORRT_RTX)
def test_engines_of_it_run_every_layer_as_asked(dla_onnx, dla_table, tmp_path, runtime, precision):
    settings = BuildSettings(precision, runtime)
    manifest = build_engine(dla_onnx, tmp_path / "engine", settings, table=dla_table)
    assert {layer.name for layer in manifest.layers} >= set(LINEAR)
    assert [layer.precision for layer in manifest.layers] == [precision] * 8
    assert "unknown" not in {layer.op for layer in manifest.layers}


@pytest.mark.parametrize("method", ["auto", "entropy"])
def test_int8_of_it_is_as_good_as_int8_of_the_plain_graph(
    dla_onnx, dla_table, tiny_onnx, tiny_table, tmp_path, method
):
    results = []
    for path, table in ((tiny_onnx, load_table(tiny_table)), (dla_onnx, dla_table)):
        engine = tmp_path / f"{path.stem}.int8.onnx"
        build_engine(path, engine, BuildSettings("int8", method=method), table=table)
        with open_engine(engine) as ours, open_engine(tiny_onnx) as reference:
            settings = ParitySettings(margin_pp=5)
            results.append(compare_answers(ours, reference, open_images("digits:val"), settings))
    plain, dla = results
    assert dla.verdict == "pass"
    assert dla.agreement > 0.97
    # Its logits are a convolution's, which ONNX Runtime rounds to 8 bits: about 40 dB at best.
    assert dla.logit_sqnr_db > min(plain.logit_sqnr_db, 39) - 3


def run(*arguments, cwd):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


def test_the_command_keeps_the_plain_graph_and_says_the_batch(tmp_path, tiny_checkpoint):
    checkpoint = tmp_path / "alexnet.pt"
    checkpoint.write_bytes(tiny_checkpoint.read_bytes())
    done = run("export", "--dla", "--json", "result.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "batch 1" in done.stdout
    assert read_graph(tmp_path / "alexnet.dla.onnx").input.batch == 1
    assert not (tmp_path / "alexnet.onnx").exists()
    checks = json.loads((tmp_path / "result.json").read_text())["checks"]
    assert {check["input"] for check in checks} == {"random", "images"}
    assert {check["batch"] for check in checks} == {1}


def test_the_command_refuses_raw_frames(tmp_path, tiny_checkpoint):
    done = run("export", tiny_checkpoint, "--dla", "--input", "uint8", "--out", "x.onnx",
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: DLA takes")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_dla_fixes_the_batch_at_1_unless_it_is_given():
    assert ExportSettings(dla=True).fixed_batch == 1
    assert dataclasses.replace(ExportSettings(dla=True), batch=2).fixed_batch == 2
    assert ExportSettings().fixed_batch is None

"""Exports: what the graph is called, that it answers as PyTorch does, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from alexnet_edge import export
from alexnet_edge.artifacts import sha256_file
from alexnet_edge.errors import ExportError, InputError
from alexnet_edge.export import TOLERANCE, ExportSettings, export_onnx
from alexnet_edge.graph import read_graph
from alexnet_edge.model import (
    ARCHITECTURES,
    Architecture,
    Checkpoint,
    build_module,
    load_checkpoint,
)
from alexnet_edge.preprocess import PreprocessSpec

CLASSES = ("ant", "bee", "cat", "dog")


def make_checkpoint(name="alexnet", certainty=1):
    torch.manual_seed(0)
    architecture = Architecture(name, classes=len(CLASSES), width=0.05)
    module = build_module(architecture)
    with torch.no_grad():
        module.classifier[-1].weight *= certainty
    return Checkpoint(architecture, module.state_dict(), CLASSES, sha256="ab" * 32)


def random_crops(count, spec):
    return np.random.default_rng(3).integers(0, 256, (count, spec.crop, spec.crop, 3), np.uint8)


def answers_of_torch(checkpoint, spec, crops, *, logits=False):
    module = build_module(checkpoint.architecture).eval()
    module.load_state_dict(dict(checkpoint.state_dict))
    floats = spec.with_input("float32").to_input(list(crops))
    with torch.inference_mode():
        answers = module(torch.from_numpy(floats))
    return (answers if logits else answers.softmax(1)).numpy()


def answers_of_file(path, spec, crops):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": spec.to_input(list(crops))})[0]


def assert_same_answers(path, checkpoint, spec, batch, *, logits=False):
    crops = random_crops(batch, spec)
    expected = answers_of_torch(checkpoint, spec, crops, logits=logits)
    found = answers_of_file(path, spec, crops)
    assert found.shape == (batch, checkpoint.architecture.classes)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert 0.01 < np.ptp(expected, axis=1).min() < 0.99 or logits, "else it would prove nothing"


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_answers_as_pytorch_at_any_batch_size(tmp_path, name, kind):
    checkpoint = make_checkpoint(name)
    spec = dataclasses.replace(checkpoint.default_preprocess(), input=kind)
    result = export_onnx(checkpoint, spec, ExportSettings(), tmp_path / "net.onnx")
    assert result.relative_error <= TOLERANCE
    for batch in (1, 3, 8):
        assert_same_answers(tmp_path / "net.onnx", checkpoint, spec, batch)


@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_every_opset_is_valid_and_answers_as_pytorch(tmp_path, opset, kind):
    checkpoint, path = make_checkpoint("caffe"), tmp_path / "net.onnx"
    spec = dataclasses.replace(checkpoint.default_preprocess(), input=kind)
    export_onnx(checkpoint, spec, ExportSettings(opset=opset), path)
    onnx.checker.check_model(str(path), full_check=True)
    assert read_graph(path).opset == opset
    assert_same_answers(path, checkpoint, spec, 2)


def test_logits_leave_the_softmax_out(tmp_path):
    checkpoint, path = make_checkpoint(), tmp_path / "net.onnx"
    spec = checkpoint.default_preprocess()
    export_onnx(checkpoint, spec, ExportSettings(logits=True), path)
    graph = read_graph(path)
    assert (graph.output.name, graph.output_kind) == ("logits", "logits")
    assert "Softmax" not in [node.op_type for node in onnx.load(path).graph.node]
    assert_same_answers(path, checkpoint, spec, 2, logits=True)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_takes_that_size_only(tmp_path, batch):
    checkpoint, path = make_checkpoint(), tmp_path / "net.onnx"
    spec = checkpoint.default_preprocess()
    result = export_onnx(checkpoint, spec, ExportSettings(batch=batch), path)
    assert {check.batch for check in result.checks} == {batch}
    assert read_graph(path).input.shape == (batch, 3, 227, 227)
    assert_same_answers(path, checkpoint, spec, batch)
    with pytest.raises(Exception, match="invalid dimensions"):
        answers_of_file(path, spec, random_crops(batch + 1, spec))


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [("float32", "float32", (None, 3, 224, 224)), ("uint8", "uint8", (None, 224, 224, 3))],
)
def test_inputs_outputs_and_axes_are_named(tmp_path, kind, dtype, shape):
    checkpoint, path = make_checkpoint("torchvision"), tmp_path / "net.onnx"
    spec = checkpoint.default_preprocess().with_input(kind)
    export_onnx(checkpoint, spec, ExportSettings(), path)
    graph, proto = read_graph(path), onnx.load(path).graph
    assert (graph.input.name, graph.input.dtype, graph.input.shape) == ("input", dtype, shape)
    assert (graph.output.name, graph.output.dtype) == ("probabilities", "float32")
    assert graph.output.shape == (None, len(CLASSES))
    for value in (*proto.input, *proto.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nodes_and_weights_have_the_modules_names(tmp_path):
    checkpoint, path = make_checkpoint("caffe"), tmp_path / "net.onnx"
    export_onnx(checkpoint, checkpoint.default_preprocess(), ExportSettings(), path)
    graph = onnx.load(path).graph
    layers = [layer for layer in checkpoint.architecture.layers() if layer.op != "dropout"]
    assert [node.name for node in graph.node] == [layer.name for layer in layers] + ["softmax"]
    assert {tensor.name for tensor in graph.initializer} == set(checkpoint.state_dict)


def test_the_file_says_what_it_was_made_from(tmp_path):
    checkpoint, path = make_checkpoint(), tmp_path / "net.onnx"
    spec = PreprocessSpec(resize=230, crop=227, interpolation="box", color="BGR", input="uint8")
    result = export_onnx(checkpoint, spec, ExportSettings(), path)
    graph = read_graph(path)
    assert (graph.arch, graph.classes, graph.preprocess) == ("alexnet", CLASSES, spec)
    assert graph.checkpoint_sha256 == result.checkpoint_sha256 == checkpoint.sha256
    assert not graph.quantized
    assert result.preprocess == spec.to_dict()
    assert (result.onnx_sha256, result.size_bytes) == (sha256_file(path), path.stat().st_size)


def test_a_checkpoint_without_class_names_exports_without_them(tmp_path):
    checkpoint = dataclasses.replace(make_checkpoint(), classes=None)
    spec = checkpoint.default_preprocess()
    export_onnx(checkpoint, spec, ExportSettings(), tmp_path / "net.onnx")
    assert read_graph(tmp_path / "net.onnx").classes is None


def test_the_same_export_is_the_same_file(tmp_path):
    checkpoint = make_checkpoint()
    spec = checkpoint.default_preprocess()
    for name in ("a.onnx", "b.onnx"):
        export_onnx(checkpoint, spec, ExportSettings(), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_both_kinds_of_input_give_the_same_answers(tmp_path):
    checkpoint = make_checkpoint()
    answers = []
    for kind in ("float32", "uint8"):
        spec, path = checkpoint.default_preprocess().with_input(kind), tmp_path / f"{kind}.onnx"
        export_onnx(checkpoint, spec, ExportSettings(), path)
        answers.append(answers_of_file(path, spec, random_crops(4, spec)))
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_the_checkpoints_own_images_are_checked_too(tmp_path, tiny_checkpoint):
    checkpoint = load_checkpoint(tiny_checkpoint)
    result = export_onnx(checkpoint, checkpoint.preprocess, ExportSettings(), tmp_path / "net.onnx")
    assert {check.input for check in result.checks} == {"random", "images"}
    assert {check.batch for check in result.checks} >= {1, 2}


@pytest.mark.parametrize("certainty", [1, 1000], ids=["unsure", "sure"])
@pytest.mark.parametrize("name", ["features.0.bias", "features.6.weight", "classifier.6.weight"])
def test_a_graph_with_another_weight_is_not_written(tmp_path, monkeypatch, name, certainty):
    checkpoint, build = make_checkpoint(certainty=certainty), export.build_graph
    weights = dict(checkpoint.state_dict)
    weights[name] = weights[name] + 0.01
    tampered = dataclasses.replace(checkpoint, state_dict=weights)
    monkeypatch.setattr(export, "build_graph", lambda _, *rest: build(tampered, *rest))
    with pytest.raises(ExportError, match="differs from PyTorch") as caught:
        export_onnx(
            checkpoint, checkpoint.default_preprocess(), ExportSettings(), tmp_path / "net.onnx"
        )
    assert "nothing was written" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_file_of_the_last_one(tmp_path, monkeypatch):
    checkpoint, path = make_checkpoint(), tmp_path / "net.onnx"
    spec = checkpoint.default_preprocess()
    export_onnx(checkpoint, spec, ExportSettings(), path)
    before = path.read_bytes()
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(ExportError):
        export_onnx(checkpoint, spec, ExportSettings(logits=True), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_crop_than_the_networks_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="crop is 224, alexnet takes 227") as caught:
        export_onnx(
            make_checkpoint(), PreprocessSpec(crop=224), ExportSettings(), tmp_path / "net.onnx"
        )
    assert "--crop 227" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused_with_the_command_that_makes_it(tmp_path):
    checkpoint, out = make_checkpoint(), tmp_path / "missing" / "net.onnx"
    with pytest.raises(InputError, match="no such folder") as caught:
        export_onnx(checkpoint, checkpoint.default_preprocess(), ExportSettings(), out)
    assert caught.value.hint == f"mkdir -p {out.parent}"
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"opset": 12}, "opset is 12"), ({"opset": 23}, "opset is 23"), ({"batch": 0}, "batch is 0")],
)
def test_impossible_settings_are_refused(arguments, named):
    with pytest.raises(InputError, match=named) as caught:
        ExportSettings(**arguments)
    assert caught.value.hint

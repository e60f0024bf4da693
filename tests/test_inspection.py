"""Inspection: every kind of file is told apart, described, and said to run here or not."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.inspection import inspect_file
from alexnet_edge.manifest import manifest_path
from alexnet_edge.quantize.table import load_table
from alexnet_edge.results import to_json
from alexnet_edge.runtimes import loader
from alexnet_edge.runtimes.loader import availability
from tests import foreign

RTX = availability("tensorrt-rtx")
needs_rtx = pytest.mark.skipif(not RTX.builds, reason=f"tensorrt-rtx: {RTX.reason}")


@pytest.fixture
def engine(tiny_onnx, tiny_table, tmp_path):
    """An INT8 engine for ONNX Runtime."""
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", weight_bits=7)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    return out


@pytest.fixture
def rtx_engine(tiny_onnx, tmp_path):
    """An engine for TensorRT-RTX."""
    out = tmp_path / "alexnet.rtx.engine"
    build_engine(tiny_onnx, out, BuildSettings(runtime="tensorrt-rtx"))
    return out


def test_checkpoint(tiny_checkpoint):
    found = inspect_file(tiny_checkpoint)
    assert (found.kind, found.runs_here) == ("checkpoint", True)
    assert found.facts["architecture"] == "alexnet"
    assert found.facts["width"] == 0.125
    assert found.facts["classes"] == list("0123456789")
    assert found.facts["preprocess"]["resize"] == 227


def test_graph(tiny_onnx, tiny_checkpoint):
    found = inspect_file(tiny_onnx)
    assert (found.kind, found.runs_here) == ("onnx", True)
    assert found.facts["quantized"] is False
    assert found.facts["input"] == "input N×3×227×227 float32"
    assert found.made_from == {"checkpoint_sha256": sha256_file(tiny_checkpoint)}


def test_graph_of_another_tool(tmp_path):
    found = inspect_file(foreign.write_foreign(tmp_path / "foreign.onnx"))
    assert (found.kind, found.facts["opset"]) == ("onnx", 9)
    assert found.facts["architecture"] is found.facts["preprocess"] is None
    assert found.made_from == {"checkpoint_sha256": None}


def test_table(tiny_table, tiny_onnx):
    found = inspect_file(tiny_table)
    assert (found.kind, found.runs_here) == ("table", None)
    assert "minmax" in found.facts["methods"]
    assert found.facts["images"]["count"] == 64
    assert found.made_from == {"model_sha256": sha256_file(tiny_onnx)}


def test_engine(engine, tiny_onnx, tiny_table):
    found = inspect_file(engine)
    assert (found.kind, found.runs_here, found.reason) == ("engine", True, "")
    assert (found.facts["runtime"], found.facts["precision"]) == ("onnxruntime", "int8")
    assert [layer["precision"] for layer in found.facts["layers"]] == ["int8"] * 8
    assert found.made_from == {
        "model_sha256": sha256_file(tiny_onnx),
        "table_sha256": sha256_file(tiny_table),
    }


def test_engine_that_is_refused_here_does_not_run_here(
    tiny_onnx, tiny_table, tmp_path, monkeypatch
):
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", weight_bits=8)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    monkeypatch.setattr(loader, "has_vnni", lambda: False)
    found = inspect_file(out)
    assert found.runs_here is False
    assert "8-bit weights" in found.reason


def test_manifest(engine, tiny_onnx):
    found = inspect_file(manifest_path(engine))
    assert (found.kind, found.runs_here) == ("manifest", None)
    assert found.facts["engine_sha256"] == sha256_file(engine)
    assert found.made_from["model_sha256"] == sha256_file(tiny_onnx)


def test_quantized_graph_without_its_manifest(engine, tmp_path):
    bare = tmp_path / "bare.onnx"
    shutil.copy(engine, bare)
    found = inspect_file(bare)
    assert (found.kind, found.facts["quantized"]) == ("onnx", True)


@needs_rtx
def test_engine_for_a_gpu_runs_where_there_is_one(rtx_engine):
    found = inspect_file(rtx_engine)
    assert (found.kind, found.facts["runtime"]) == ("engine", "tensorrt-rtx")
    assert found.runs_here is RTX.runs
    assert bool(found.reason) is not RTX.runs


@needs_rtx
def test_plan_without_a_manifest(rtx_engine):
    manifest_path(rtx_engine).unlink()
    found = inspect_file(rtx_engine)
    assert (found.kind, found.made_from) == ("plan", {})
    assert found.facts["runtime"] == "tensorrt-rtx"
    assert RTX.version.startswith(found.facts["runtime_version"])
    assert found.runs_here is False
    assert "manifest" in found.reason


@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_onnx", "tiny_table"])
def test_file_is_identified_by_hash_and_size(request, name):
    path = request.getfixturevalue(name)
    found = inspect_file(path)
    assert found.path == str(path)
    assert found.sha256 == sha256_file(path)
    assert found.size_bytes == path.stat().st_size


def test_inspection_is_json(engine, tiny_checkpoint, tiny_onnx, tiny_table):
    for path in (engine, manifest_path(engine), tiny_checkpoint, tiny_onnx, tiny_table):
        value = to_json(inspect_file(path))
        assert json.loads(json.dumps(value)) == value


def test_engine_that_is_another_file_is_refused(engine):
    engine.write_bytes(engine.read_bytes() + b"\0")
    with pytest.raises(StaleArtifactError, match="engine_sha256"):
        inspect_file(engine)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"hello"),
        ("empty.engine", b""),
        ("list.json", b"[1, 2]"),
        ("number.json", b"5"),
        ("other.json", b'{"version": 1}'),
        ("cut.json", b'{"tensors": '),
        ("binary.json", b"\xff\xfe\x00"),
    ],
)
def test_what_is_no_artifact_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no checkpoint, ONNX file, calibration") as refused:
        inspect_file(path)
    assert name in refused.value.message
    assert ".safetensors" in refused.value.hint


@pytest.mark.parametrize("name", ["broken.pt", "broken.pth", "broken.safetensors", "broken.onnx"])
@pytest.mark.parametrize("content", [b"", b"not what the name says", b"vtrt\0\0"])
def test_damaged_file_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        inspect_file(path)


def test_damaged_table_is_named(tiny_table, tmp_path):
    raw = json.loads(tiny_table.read_text())
    del raw["model_sha256"]
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"damaged\.json.*model_sha256"):
        inspect_file(path)


@pytest.mark.parametrize("magic", [b"ftrt", b"vtrt"])
def test_plan_that_was_cut_short_is_still_a_plan(tmp_path, magic):
    path = tmp_path / "cut.engine"
    path.write_bytes(magic)
    found = inspect_file(path)
    assert found.kind == "plan"
    assert not found.facts.get("runtime_version")


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        inspect_file(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match="is a folder"):
        inspect_file(tmp_path)


def test_classifier_of_another_shape_is_refused(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    model.graph.output.append(model.graph.input[0])
    path = tmp_path / "two.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"two\.onnx"):
        inspect_file(path)

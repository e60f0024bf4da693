"""Manifests: what is written is read back, and what is malformed is refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.manifest import (
    LayerPrecision,
    Manifest,
    load_manifest,
    manifest_path,
    read_manifest,
)
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.results import TensorSpec


@pytest.fixture
def engine(tmp_path):
    """A file with a manifest."""
    path = tmp_path / "alexnet.int8.onnx"
    path.write_bytes(b"an engine")
    make_manifest(path).save(manifest_path(path))
    return path


def make_manifest(path, **changes):
    manifest = Manifest(
        engine_sha256=sha256_file(path),
        model_sha256="1" * 64,
        table_sha256="2" * 64,
        preprocess=PreprocessSpec(resize=300, mean=(0.1, 0.2, 0.3)),
        classes=("cat", "dög"),
        runtime="onnxruntime",
        runtime_version="1.20.0",
        precision="int8",
        layers=(LayerPrecision("features.0", "QLinearConv", "int8"),),
        device={"kind": "cpu", "name": "a CPU", "vnni": True},
        input=TensorSpec("input", "float32", (None, 3, 227, 227)),
        output=TensorSpec("probabilities", "float32", (None, 2)),
        output_kind="probabilities",
        options={"method": "minmax", "weight_bits": 7, "profile": None},
    )
    return dataclasses.replace(manifest, **changes)


def test_manifest_lies_beside_its_engine(engine):
    assert manifest_path(engine) == engine.with_name("alexnet.int8.onnx.json")
    assert manifest_path(engine).is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"table_sha256": None, "preprocess": None, "classes": None},
        {"preprocess": PreprocessSpec(input="uint8")},
        {"input": TensorSpec("data", "uint8", (4, 227, 227, 3))},
        {"layers": ()},
    ],
    ids=str,
)
def test_what_is_saved_is_loaded(engine, changes):
    manifest = make_manifest(engine, **changes)
    manifest.save(manifest_path(engine))
    assert load_manifest(engine) == manifest


def test_manifest_does_not_say_where_it_was_written(engine):
    assert str(engine.parent) not in manifest_path(engine).read_text()


@pytest.mark.parametrize("content", [b"an enginf", b"an engin", b"", b"an engine "])
def test_engine_that_is_another_file_is_refused(engine, content):
    engine.write_bytes(content)
    with pytest.raises(StaleArtifactError, match=engine.name) as refused:
        load_manifest(engine)
    expected, found = refused.value.differences["engine_sha256"]
    assert (expected, found) == (read_manifest(manifest_path(engine)).engine_sha256,
                                 sha256_file(engine))  # fmt: skip


def test_engine_without_a_manifest_is_refused(engine):
    manifest_path(engine).unlink()
    with pytest.raises(InputError, match="has no manifest") as refused:
        load_manifest(engine)
    assert "alexnet-edge build" in refused.value.hint


def test_manifest_without_its_engine_is_refused(engine):
    engine.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_manifest(engine)


@pytest.mark.parametrize("key", sorted(field.name for field in dataclasses.fields(Manifest)))
def test_missing_key_is_named(engine, key):
    path = manifest_path(engine)
    raw = json.loads(path.read_text())
    del raw[key]
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=f"is not an engine's manifest.*{key}"):
        load_manifest(engine)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 5},
        {"layers": ["features.0"]},
        {"layers": [{"name": "features.0"}]},
        {"device": "cpu"},
        {"options": [1]},
        {"preprocess": {"resize": 256}},
        {"preprocess": "default"},
        {"classes": 10},
        {"input": None},
        {"input": {"name": "input", "dtype": "float32", "shape": ["many"]}},
        {"output": {"name": "y"}},
    ],
    ids=str,
)
def test_malformed_value_is_refused(engine, changes):
    path = manifest_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=path.name) as refused:
        load_manifest(engine)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '"engine"'])
def test_file_that_is_no_json_object_is_refused(engine, text):
    manifest_path(engine).write_text(text)
    with pytest.raises(InputError, match="is not an engine's manifest"):
        load_manifest(engine)

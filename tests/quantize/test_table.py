"""Calibration tables: what a file keeps, what is refused, and whom a table may serve."""

from __future__ import annotations

import dataclasses
import json

import pytest

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.errors import InputError, StaleArtifactError, TableError
from alexnet_edge.graph import read_graph
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.table import CalibrationTable, Range, load_table
from alexnet_edge.quantize.thresholds import PARAMETERS

FILES = [f"{'d' * 64}  a.jpg", f"{'e' * 64}  b.jpg"]
TABLE = CalibrationTable(
    model_sha256="a" * 64,
    weights_sha256="b" * 64,
    structure_sha256="c" * 64,
    preprocess=PreprocessSpec(),
    images={
        "source": "photos",
        "count": 2,
        "sha256": sha256_json(FILES),
        "files": FILES,
        "held_out": ["b.jpg"],
        "skipped": [],
    },
    tensors={
        "input": {"minmax": Range(2.64, -2.1, 2.64), "percentile-99.9": Range(2.5, -2.1, 2.5)},
        "relu": {"minmax": Range(0.1 + 0.2, 0.0, 0.1 + 0.2), "percentile-99.9": Range(0, 0, 0)},
    },
    tensors_without_held_out={
        "input": {"minmax": Range(2.6, -2.1, 2.6)},
        "relu": {"minmax": Range(0.3, 0.0, 0.3)},
    },
    parameters=PARAMETERS,
    tool={"alexnet-edge": "0.1.0"},
)


def edit(path, change):
    value = TABLE.to_dict()
    change(value)
    path.write_text(json.dumps(value))
    return path


def test_a_table_survives_a_round_trip(tmp_path):
    TABLE.save(tmp_path / "table.json")
    assert load_table(tmp_path / "table.json") == TABLE


def test_the_file_has_the_keys_that_other_tools_rely_on(tmp_path):
    TABLE.save(tmp_path / "table.json")
    value = json.loads((tmp_path / "table.json").read_text())
    assert value["version"] == 2
    assert value["preprocess_sha256"] == TABLE.preprocess.sha256
    assert {"count", "sha256"} <= value["images"].keys()
    assert value["tensors"]["input"]["minmax"]["amax"] == 2.64
    assert {"model_sha256", "tool"} <= value.keys()


def test_a_method_is_one_that_every_tensor_has():
    assert TABLE.methods == ("minmax", "percentile-99.9")
    partly = {**TABLE.tensors, "more": {"minmax": Range(1, 0, 1)}}
    assert dataclasses.replace(TABLE, tensors=partly).methods == ("minmax",)


def test_ranges_are_of_one_method():
    assert TABLE.ranges("percentile-99.9") == {
        "input": Range(2.5, -2.1, 2.5),
        "relu": Range(0, 0, 0),
    }


def test_an_unknown_method_is_refused_with_those_that_there_are():
    with pytest.raises(TableError, match="'entropy'") as caught:
        TABLE.ranges("entropy")
    assert caught.value.hint == "it has minmax, percentile-99.9"


@pytest.mark.parametrize("key", list(TABLE.to_dict()))
def test_a_missing_key_is_refused_by_name(tmp_path, key):
    path = edit(tmp_path / "table.json", lambda value: value.pop(key))
    with pytest.raises(TableError, match="version None" if key == "version" else f"'{key}'"):
        load_table(path)


@pytest.mark.parametrize("key", ["amax", "low", "high"])
def test_a_range_without_a_number_is_refused_by_name(tmp_path, key):
    path = edit(tmp_path / "table.json", lambda value: value["tensors"]["relu"]["minmax"].pop(key))
    with pytest.raises(TableError, match=f"'{key}'"):
        load_table(path)


@pytest.mark.parametrize(
    "change",
    [
        {"amax": float("nan")}, {"amax": float("inf")}, {"amax": -1},
        {"low": float("-inf")}, {"low": 3, "high": 2},
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_range_is_refused_naming_the_tensor(tmp_path, change):
    path = edit(
        tmp_path / "table.json", lambda value: value["tensors"]["relu"]["minmax"].update(change)
    )
    with pytest.raises(TableError, match="the range of 'relu'"):
        load_table(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 1}, "version 1 is not 2"),
        ({"tensors": {}}, "has no tensors"),
        ({"tensors": {"input": {}}}, "has no method"),
        ({"tensors": ["input"]}, "is not a calibration table"),
        ({"tensors": {"input": {"minmax": 2.6}}}, "is not a calibration table"),
        ({"tensors": {"input": {"minmax": {"amax": "x", "low": 0, "high": 0}}}}, "could not conv"),
        ({"images": 3}, "is not a calibration table"),
        ({"tool": "text"}, "is not a calibration table"),
        ({"preprocess": {"crop": 227}}, r"preprocess\.color is missing"),
        ({"preprocess": {**PreprocessSpec().to_dict(), "crop": 9999}}, "crop is 9999"),
    ],
    ids=str,
)
def test_a_malformed_table_is_refused_with_the_command_that_makes_one(tmp_path, change, named):
    path = edit(tmp_path / "table.json", lambda value: value.update(change))
    with pytest.raises(TableError, match=named) as caught:
        load_table(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"TRT-100300-EntropyCalibration2\n", b"[1]", b"\xff\xfe\x00", b'{"version": 1']
)
def test_files_of_another_kind_are_refused(tmp_path, content):
    (tmp_path / "table.json").write_bytes(content)
    with pytest.raises(InputError, match="is not a calibration table") as caught:
        load_table(tmp_path / "table.json")
    assert "alexnet-edge calibrate" in caught.value.hint


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_table(tmp_path / "table.json")


def test_an_edited_preprocessing_is_refused(tmp_path):
    path = edit(tmp_path / "table.json", lambda value: value["preprocess"].update(resize=300))
    with pytest.raises(StaleArtifactError, match="was edited"):
        load_table(path)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"count": 3}, {"images.count"}),
        ({"sha256": "0" * 64}, {"images.sha256"}),
        ({"files": FILES[::-1]}, {"images.sha256"}),
        ({"files": [*FILES, FILES[0]]}, {"images.count", "images.sha256"}),
    ],
    ids=["count", "sha256", "order", "repeated"],
)
def test_an_edited_list_of_images_is_refused_by_field(tmp_path, change, fields):
    path = edit(tmp_path / "table.json", lambda value: value["images"].update(change))
    with pytest.raises(StaleArtifactError, match="was edited") as caught:
        load_table(path)
    assert caught.value.differences.keys() == fields


def test_an_image_that_is_held_out_must_be_listed(tmp_path):
    path = edit(tmp_path / "table.json", lambda value: value["images"].update(held_out=["c.jpg"]))
    with pytest.raises(TableError, match=r"'c\.jpg' is held out, but not listed"):
        load_table(path)


@pytest.mark.parametrize("key", ["source", "count", "sha256", "files", "held_out"])
def test_images_without_a_key_are_refused_by_name(tmp_path, key):
    path = edit(tmp_path / "table.json", lambda value: value["images"].pop(key))
    with pytest.raises(TableError, match=f"'{key}'"):
        load_table(path)


@pytest.fixture
def graph(tiny_onnx):
    return read_graph(tiny_onnx)


@pytest.fixture
def table(tiny_table):
    return load_table(tiny_table)


def test_a_table_serves_the_model_that_it_was_made_from(table, graph):
    table.require_match(graph, graph.preprocess)
    table.require_match(graph, None)


@pytest.mark.parametrize(
    "fields",
    [{"sha256"}, {"sha256", "weights_sha256"}, {"sha256", "weights_sha256", "structure_sha256"}],
    ids=len,
)
def test_another_model_is_refused_naming_what_differs(table, graph, fields):
    other = dataclasses.replace(graph, **dict.fromkeys(fields, "0" * 64))
    with pytest.raises(
        StaleArtifactError, match="weights" if len(fields) > 1 else "model"
    ) as caught:
        table.require_match(other, graph.preprocess)
    assert set(caught.value.differences) == {"model_sha256", *fields} - {"sha256"}
    assert caught.value.hint == f"alexnet-edge calibrate {graph.path} --images DIR"


def test_other_preprocessing_is_refused_naming_the_fields(table, graph):
    other = dataclasses.replace(graph.preprocess, resize=300, mean=(0.0, 0.0, 0.0))
    with pytest.raises(StaleArtifactError, match="expected 300, found 227") as caught:
        table.require_match(graph, other)
    assert set(caught.value.differences) == {
        "preprocess_sha256", "preprocess.resize", "preprocess.mean",
    }  # fmt: skip


def test_a_table_of_these_versions_serves(table):
    table.require_versions()


def test_patches_and_missing_packages_make_no_other_version(table):
    onnxruntime = ".".join([*table.tool["onnxruntime"].split(".")[:2], "999"])
    tool = {**table.tool, "onnxruntime": onnxruntime, "onnxruntime-gpu": "1.2.3", "torch": "0.1"}
    dataclasses.replace(table, tool=tool).require_versions()


@pytest.mark.parametrize("package", ["alexnet-edge", "onnxruntime", "pillow"])
def test_a_table_of_other_versions_is_refused_by_field(table, package):
    other = dataclasses.replace(table, tool={**table.tool, package: "0.0.9"})
    with pytest.raises(StaleArtifactError, match=f"tool.{package}: expected") as caught:
        other.require_versions()
    assert caught.value.differences.keys() == {f"tool.{package}"}
    assert "--any-versions" in caught.value.hint

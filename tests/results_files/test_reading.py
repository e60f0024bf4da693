"""Results are told apart, and a damaged one is named with the field that is wrong."""

from __future__ import annotations

import json

import pytest

from alexnet_edge.errors import InputError
from alexnet_edge.results_files import bench_rows, parity_rows, read_results
from tests.results_files import samples


def camera(**changes):
    return json.dumps(samples.camera(**changes))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bench", samples.bench(samples.full_row())),
        ("bench", {"engines": [samples.minimal_row()], "environment": {}}),
        ("parity", samples.parity()),
        ("parity", {"kind": "parity", "parity": [samples.parity(), samples.parity()]}),
        ("camera", samples.camera()),
        ("pareto", samples.pareto()),
        ("table", {"model_sha256": "a", "tensors": {}, "images": {}}),
        ("manifest", {"engine_sha256": "a", "model_sha256": "b", "runtime": "onnxruntime",
                      "precision": "int8", "layers": []}),
        ("sensitivity", {"damage_by": "simulation", "layers": [], "pareto": []}),
    ],
)  # fmt: skip
def test_kinds_are_told_by_their_keys(tmp_path, kind, value):
    path = samples.write(tmp_path / "result.json", value)
    assert read_results(path).kind == kind
    if kind in {"bench", "parity", "manifest", "table", "sensitivity"}:
        without = {key: item for key, item in value.items() if key != "kind"}
        assert read_results(samples.write(path, without)).kind == kind


def test_rows_of_older_files_say_what_they_do_not_know(tmp_path):
    value = {"engines": [samples.minimal_row("C:\\engines\\old.onnx")]}
    row = bench_rows(read_results(samples.write(tmp_path / "old.json", value)))[0]
    assert (row.engine, row.cache, row.energy_j, row.invalid_because) == (
        "old.onnx",
        None,
        None,
        None,
    )
    assert row.latency_interval("p99") is None


def test_an_engine_that_is_not_valid_says_why(tmp_path):
    row = samples.full_row() | {"valid": False, "invalid_because": ["throttled"]}
    path = samples.write(tmp_path / "bench.json", samples.bench(row))
    assert bench_rows(read_results(path))[0].invalid_because == ("throttled",)


def test_flips_are_complete_only_if_all_are_named(tmp_path):
    path = samples.write(tmp_path / "parity.json", samples.parity())
    assert parity_rows(read_results(path))[0].names_its_flips
    cut = samples.parity(flipped=samples.parity()["flipped"][:2])
    assert not parity_rows(read_results(samples.write(path, cut)))[0].names_its_flips


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a result"),
        ("[1]", "a JSON object is expected"),
        ("{}", "it is empty"),
        ('{"a": 1}', "no result that alexnet-edge knows (its keys: a)"),
        ('{"kind": "weather"}', "kind 'weather'"),
        ('{"kind": 7}', "kind '7'"),
        ('{"engines": 1}', "engines: a list is expected"),
        ('{"engines": [{}]}', "engines[0].engine: is missing"),
        ('{"kind": "parity", "parity": [{"images": 0}]}', "parity[0].images"),
        ('{"kind": "camera"}', "engine: is missing"),
        (camera(sampling={"age": {"samples": -1}}), "sampling.age.samples: a whole number"),
        (camera(sampling={"age": {"samples": 9, "ci95_p50": [2, 1]}}), "the low end is above"),
        (
            camera(sampling={"age": {"samples": 9, "slices": {"seconds": [0.5]}}}),
            "do not go together",
        ),
        (camera(source_settings={"kind": "video"}), "source_settings.location: is missing"),
    ],
)
def test_what_is_no_result_is_refused_by_name(tmp_path, text, problem):
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_results(path)
    assert "odd.json" in caught.value.message
    assert problem in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("latency_ms", "p50"), 0, "p50: a number above 0"),
        (("latency_ms", "p50"), "1", "p50: a number"),
        (("latency_ms", "p99"), None, "p99: is missing"),
        (("latency_ms", "ci95_p50"), [2, 1], "the low end is above"),
        (("latency_ms", "ci95_p50"), [1], "[low, high]"),
        (("batch",), True, "batch: a whole number"),
        (("slices", "p50_ms"), [1.0], "do not go together"),
        (("histogram", "edges_ms"), [1.0], "do not go together"),
        (("valid",), "yes", "valid: true or false"),
    ],
)
def test_a_damaged_field_is_named(tmp_path, keys, value, problem):
    row = json.loads(json.dumps(samples.full_row()))
    inner = row
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path = samples.write(tmp_path / "bench.json", samples.bench(row))
    with pytest.raises(InputError, match=r"engines\[0\]") as caught:
        read_results(path)
    assert problem in caught.value.message


def test_not_a_number_is_not_taken_for_one(tmp_path):
    row = samples.minimal_row() | {"throughput_ips": float("nan")}
    path = samples.write(tmp_path / "bench.json", samples.bench(row))
    with pytest.raises(InputError, match="throughput_ips"):
        read_results(path)

"""A result that was damaged or edited by hand is refused with one line that names the field."""

from __future__ import annotations

import copy

import pytest

from alexnet_edge.errors import InputError
from alexnet_edge.results_files import bench_rows, parity_rows, read_results
from tests.results_files import samples

HUGE = 10**400
NAN = float("nan")

BENCH = [
    ("slices.p50_ms", 5), ("slices.p50_ms", True), ("slices.p50_ms", [[1.0]]), ("slices", 3),
    ("slices.at_s", ["x"]), ("slices.samples", [HUGE] * 8), ("histogram.counts", 3),
    ("histogram.edges_ms", "x"), ("samples", HUGE), ("batch", HUGE), ("size_bytes", 0),
    ("throughput_ips", 1e308), ("throughput_ips", 1e-300), ("latency_ms.p50", 3000.0),
    ("latency_ms.mean", HUGE), ("layers.0.share", 2), ("floor.floor_ms", HUGE),
    ("energy_j_per_inference", NAN), ("input_skipped", [3]), ("engine_sha256", 3),
    ("unserved", "x"), ("utilization", NAN),
]  # fmt: skip
PARITY = [
    ("labelled", 0), ("labelled", 401), ("verdict", "maybe"), ("verdict", ["pass"]),
    ("images_needed", "x"), ("images_needed", NAN), ("images_needed", [1]),
    ("minimum_detectable_drop_pp", "x"), ("flipped_total", "x"), ("flipped_total", NAN),
    ("environment", "x"), ("environment.gpus", "x"), ("environment.gpus", ["x"]),
    ("environment.packages", "x"), ("flipped.0.confidence", HUGE), ("flipped.0.label", [3]),
    ("worst.0.engine", {}), ("skipped", ["a.png"]), ("skipped.0.name", 3), ("layers_note", [1]),
    ("divergence.images", "x"), ("mcnemar_p", HUGE), ("model_sha256", 3), ("images_name", {}),
]  # fmt: skip


def edit(value, path, new):
    """Return a copy in which one field is another."""
    value = copy.deepcopy(value)
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    inner = value
    for step in steps:
        inner = inner[step]
    inner[last] = new
    return value


def full_parity():
    return samples.parity(
        environment=samples.MACHINE, skipped=[{"name": "a.png", "reason": "cut short"}]
    )


def refuse(path, value):
    with pytest.raises(InputError) as caught:
        read_results(samples.write(path, value))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("field", "new"), BENCH)
def test_an_edit_of_bench_is_named(tmp_path, field, new):
    row = edit(samples.full_row(turns=8), field, new)
    message = refuse(tmp_path / "bench.json", samples.bench(row))
    assert f"engines[0].{field.split('.')[0]}" in message


@pytest.mark.parametrize("together", [False, True], ids=["alone", "several"])
@pytest.mark.parametrize(("field", "new"), PARITY)
def test_an_edit_of_parity_is_named(tmp_path, field, new, together):
    row = edit(full_parity(), field, new)
    value = {"kind": "parity", "parity": [full_parity(), row]} if together else row
    message = refuse(tmp_path / "parity.json", value)
    assert ("parity[1]." if together else "") + field.split(".")[0] in message


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (samples.camera(stages_ms={"a\nb": {"p50": 1.0, "mean": HUGE}}), "stages_ms.a b.mean"),
        ({"a\nb": 1}, "its keys: a b"),
        (samples.camera(environment={"gpus": "x"}), "environment.gpus"),
        ({"kind": "pareto", "points": [{"name": "a", "latency_ms": {"1": HUGE}}]},
         "points[0].latency_ms.1"),
        ({"engine_sha256": "a", "model_sha256": "b", "runtime": "x", "precision": "int8",
          "layers": [], "classes": 5}, "classes: a list"),
    ],
)  # fmt: skip
def test_an_edit_of_other_kinds_is_named(tmp_path, value, field):
    assert field in refuse(tmp_path / "result.json", value)


def test_what_is_nested_too_deeply_is_refused(tmp_path):
    deep = []
    for _ in range(300):
        deep = [deep]
    value = samples.bench(samples.full_row(), sensors={"x": deep})
    assert "nested more than 50 deep" in refuse(tmp_path / "deep.json", value)


def test_the_unedited_results_are_read(tmp_path):
    bench = read_results(samples.write(tmp_path / "b.json", samples.bench(samples.full_row())))
    assert bench_rows(bench)[0].model_sha256 == "a" * 64
    assert not bench_rows(bench)[0].input_skipped
    parity = read_results(samples.write(tmp_path / "p.json", full_parity()))
    assert parity_rows(parity)[0].skipped == (("a.png", "cut short"),)
    assert parity_rows(parity)[0].engine_sha256 is None


@pytest.mark.parametrize(
    "missing",
    ["images_needed", "flipped_total", "skipped", "environment", "engine_sha256", "flipped"],
)
def test_what_older_versions_lack_may_be_missing(tmp_path, missing):
    value = {key: item for key, item in full_parity().items() if key != missing}
    assert read_results(samples.write(tmp_path / "old.json", value)).kind == "parity"


def test_parity_without_labels_is_read(tmp_path):
    value = samples.parity(labelled=0, reference=None, engine=None)
    assert read_results(samples.write(tmp_path / "p.json", value)).kind == "parity"


def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(tmp_path):
    row = samples.full_row("half\ud800.onnx") | {"settings": {"\udc80": ["\udfff"]}}
    file = read_results(samples.write(tmp_path / "b.json", samples.bench(row)))
    found = bench_rows(file)[0]
    assert found.engine == "half\ufffd.onnx"
    assert found.settings == {"\ufffd": ["\ufffd"]}
    whole = samples.full_row("smile \U0001f600.onnx")
    file = read_results(samples.write(tmp_path / "b.json", samples.bench(whole)))
    assert bench_rows(file)[0].engine == "smile \U0001f600.onnx"

"""Every way to build, measured side by side: real engines, and the front among them."""

from __future__ import annotations

import dataclasses

import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings
from alexnet_edge.errors import BuildError, InputError
from alexnet_edge.pareto import (
    Pareto,
    ParetoPoint,
    ParetoSettings,
    choose_point,
    list_candidates,
    mark_front,
    measure_pareto,
)
from alexnet_edge.quantize.choose import decide
from alexnet_edge.quantize.int4_choice import Int4Images
from alexnet_edge.quantize.table import load_table
from alexnet_edge.results import to_json

LAYERS = ("features.0", "classifier.6")


@pytest.fixture(scope="module")
def given(tiny_onnx, tiny_table):
    table = load_table(tiny_table)
    build = BuildSettings("int8")
    choice = decide(tiny_onnx, table, build.dialect, "minmax")
    images = Int4Images.of_table(table, None, tiny_onnx.parent)
    return {"table": table, "choice": choice}, images


@pytest.fixture(scope="module")
def found(tiny_onnx, given):
    ranges, int4_images = given
    build = BuildSettings("int8")
    return measure_pareto(
        tiny_onnx, ranges, open_images("digits:val").sample(60),
        ParetoSettings(build, batches=(1, 2), duration_s=0.05), list_candidates(build, LAYERS),
        int4_images=int4_images,
    )  # fmt: skip


def test_all_are_built_judged_and_timed(found):
    names = {point.name for point in found.points}
    assert names == {
        "fp32", "int8", "int8, features.0 in float", "int8, classifier.6 in float",
        "int8 + int4-fc/128", "int8 + int4-fc/32", "int4-fc/128",
    }  # fmt: skip
    assert not found.skipped
    assert found.images == found.labelled == 60
    for point in found.points:
        assert list(point.latency_ms) == ["1", "2"]
        assert point.latency_ms["1"] > 0
        assert 0.5 < point.top1 <= 1
        assert point.drop_ci95_pp[0] <= point.drop_pp <= point.drop_ci95_pp[1]


def test_sizes_and_accuracies_are_in_the_order_of_the_bits(found):
    points = {point.name: point for point in found.points}
    assert [point.size_bytes for point in found.points] == sorted(
        point.size_bytes for point in found.points
    )
    assert points["int8 + int4-fc/128"].size_bytes < points["int8"].size_bytes
    assert points["int8"].size_bytes < points["int8, features.0 in float"].size_bytes
    assert points["int4-fc/128"].size_bytes < points["fp32"].size_bytes
    assert points["fp32"].logit_sqnr_db is None or points["fp32"].logit_sqnr_db > 90
    assert points["fp32"].agreement == 1
    assert points["int8"].logit_sqnr_db > points["int8 + int4-fc/128"].logit_sqnr_db > 10


def test_json_has_the_documented_keys(found):
    value = to_json(found)
    assert value["kind"] == "pareto"
    assert {"name", "size_bytes", "latency_ms", "top1", "agreement", "logit_sqnr_db",
            "on_front"} <= set(value["points"][0])  # fmt: skip


def point(name, size, latency, sqnr, drop=0.0):
    return ParetoPoint(name, size, {"1": latency}, drop_pp=drop, agreement=1.0, logit_sqnr_db=sqnr)


POINTS = (
    point("float", 400, 10.0, None),
    point("int8", 100, 3.0, 50.0, 0.1),
    point("int4", 50, 2.0, 40.0, 0.6),
    point("worse", 110, 3.5, 45.0),
    point("twin", 100, 3.0, 50.0, 0.1),
)


def test_the_front_holds_what_nothing_beats():
    marked = {found.name: found.on_front for found in mark_front(POINTS)}
    assert marked == {"float": True, "int8": True, "int4": True, "worse": False, "twin": True}


def test_what_was_not_measured_does_not_keep_points_apart():
    points = [ParetoPoint("large", 10), ParetoPoint("small", 5)]
    assert [(found.name, found.on_front) for found in mark_front(points)] == [
        ("small", True), ("large", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("drop", "by", "expected"),
    [(1, "size", "int4"), (1, "latency", "int4"), (0.2, "size", "int8"), (0, "size", "worse"),
     (0, "latency", "worse")],
)  # fmt: skip
def test_the_smallest_or_fastest_within_the_bound_is_chosen(drop, by, expected):
    assert choose_point(made(POINTS), max_drop_pp=drop, by=by).name == expected


def made(points):
    return Pareto("m", "onnxruntime", 60, 60, "in turns", tuple(points), (), {})


def test_a_choice_that_cannot_be_made_is_refused():
    lossy = [dataclasses.replace(found, drop_pp=2.0) for found in POINTS]
    with pytest.raises(InputError, match=r"loses more than 0.5 pp of top-1, the best 2.00"):
        choose_point(made(lossy), max_drop_pp=0.5, by="size")
    with pytest.raises(InputError, match="'weight'"):
        choose_point(made(POINTS), max_drop_pp=0.5, by="weight")
    with pytest.raises(InputError, match="in turns"):
        choose_point(made([ParetoPoint("a", 1)]), max_drop_pp=0.5, by="size")
    untimed = [dataclasses.replace(found, latency_ms={}) for found in POINTS]
    with pytest.raises(InputError, match="in turns"):
        choose_point(made(untimed), max_drop_pp=0.5, by="latency")


def test_what_cannot_be_built_is_left_out_with_its_reason(tiny_onnx, given):
    build = BuildSettings("int8")
    wanted = list_candidates(build, LAYERS)[:2]
    result = measure_pareto(
        tiny_onnx, {}, open_images("digits:val").sample(4), ParetoSettings(build, duration_s=0),
        wanted,
    )  # fmt: skip
    assert [found.name for found in result.points] == ["fp32"]
    assert "no calibration table" in result.skipped[0].reason
    assert not result.points[0].latency_ms
    with pytest.raises(BuildError, match="nothing can be built"):
        measure_pareto(
            tiny_onnx, {}, open_images("digits:val").sample(4), ParetoSettings(build), wanted[1:]
        )


def test_half_precision_is_tried_where_the_target_has_it():
    names = [one.name for one in list_candidates(BuildSettings("int8", "tensorrt-rtx"), LAYERS)]
    assert "fp16" in names
    assert "fp16" not in [one.name for one in list_candidates(BuildSettings("int8"), LAYERS)]


def test_2_bits_are_tried_where_the_runtime_has_them(monkeypatch):
    linear = [f"classifier.{n}" for n in (1, 4, 6)]

    def tried(version, runtime="onnxruntime"):
        monkeypatch.setattr(
            "alexnet_edge.engine.settings.package_versions", lambda: {"onnxruntime": version}
        )
        found = list_candidates(BuildSettings("int8", runtime), LAYERS, linear)
        return {one.name: one.settings.int4.two_bit for one in found if "int2" in one.name}

    assert tried("1.32.0") == {
        "int8 + int2-fc/1 of 3": tuple(linear[:1]), "int8 + int2-fc/2 of 3": tuple(linear[:2]),
    }  # fmt: skip
    assert tried("1.31.0") == {}
    assert tried("1.32.0", "tensorrt-rtx") == {}

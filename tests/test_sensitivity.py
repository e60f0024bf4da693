"""Sensitivity: the layer that is broken is found, sparing it is priced, and Pareto is Pareto."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import Damage
from alexnet_edge.quantize.table import Range, load_table
from alexnet_edge.runtimes.loader import availability
from alexnet_edge.sensitivity import (
    Cost,
    ParetoPoint,
    SensitivitySettings,
    mark_optimal,
    measure_sensitivity,
)

BROKEN, BROKEN_INPUT = "features.0", "input"  # which no integer layer writes


@pytest.fixture(scope="module")
def table(tiny_table):
    """A table whose range for one layer's input is forty times too wide."""
    table = load_table(tiny_table)
    found = table.tensors[BROKEN_INPUT]["minmax"]
    wide = Range(*(40 * end for end in dataclasses.astuple(found)))
    tensors = {**table.tensors, BROKEN_INPUT: {"minmax": wide}}
    return dataclasses.replace(table, tensors=tensors)


@pytest.fixture(scope="module")
def images():
    return open_images("digits:val").sample(40)


def run(tiny_onnx, table, images, duration_s=0.02, runtime="onnxruntime"):
    settings = SensitivitySettings(BuildSettings("int8", runtime), duration_s=duration_s)
    choice = Choice(dict.fromkeys(table.tensors, "minmax"))
    return measure_sensitivity(tiny_onnx, table, choice, images, settings)


@pytest.fixture(scope="module")
def found(tiny_onnx, table, images):
    return run(tiny_onnx, table, images)


def sqnr(damage):
    return math.inf if damage is None or damage.logit_sqnr_db is None else damage.logit_sqnr_db


def test_every_layer_is_measured_on_every_image(found):
    assert [row.layer for row in found.layers] == [
        "features.0", "features.3", "features.6", "features.8", "features.10",
        "classifier.1", "classifier.4", "classifier.6",
    ]  # fmt: skip
    assert (found.images, found.labelled) == (40, 40)
    for row in found.layers:
        assert row.only.images == row.spared.images == 40


def test_the_broken_layer_hurts_most_alone_and_helps_most_when_spared(found):
    assert min(found.layers, key=lambda row: sqnr(row.only)).layer == BROKEN
    best = max(found.layers, key=lambda row: sqnr(row.spared))
    assert best.layer == BROKEN
    plain = next(point for point in found.pareto if point.spared == ())
    assert sqnr(best.spared) > sqnr(plain.damage) + 6


def test_sets_grow_from_the_layer_that_helps_most(found):
    grown = sorted((p.spared for p in found.pareto if len(p.spared) > 1), key=len)
    assert [len(names) for names in grown] == [2, 3, 4, 5, 6, 7, 8]
    for smaller, larger in itertools.pairwise(grown):
        assert BROKEN in smaller
        assert set(smaller) < set(larger)


def test_costs_are_those_of_real_engines(found):
    by_set = {point.spared: point.cost for point in found.pareto}
    plain = by_set[()]
    assert plain.ratio == 1
    assert all(c.latency_ms.p50 > 0 and c.ratio > 0 for c in by_set.values())
    # fc6 holds most weights, in float four times as large.
    assert by_set["classifier.1",].size_bytes > 2 * plain.size_bytes
    every = next(point for point in found.pareto if len(point.spared) == 8)
    assert every.damage is None
    assert every.cost.size_bytes == max(cost.size_bytes for cost in by_set.values())
    assert not list(Path(tempfile.gettempdir()).glob("alexnet-edge-*"))


def test_without_timing_points_are_ordered_by_size(tiny_onnx, table, images):
    found = run(tiny_onnx, table, images.sample(4), duration_s=0)
    assert found.latency == "not measured, as asked"
    assert all(point.cost.latency_ms is None for point in found.pareto)
    sizes = [point.cost.size_bytes for point in found.pareto]
    assert sizes == sorted(sizes)
    assert found.pareto[-1].optimal


def test_a_runtime_that_does_not_run_here_says_so(tiny_onnx, table, images):
    here = availability("tensorrt-rtx")
    if here.runs or not here.builds:
        pytest.skip("needs TensorRT-RTX without a GPU")
    found = run(tiny_onnx, table, images.sample(4), runtime="tensorrt-rtx")
    assert found.latency == f"not measured: {here.reason}"
    assert found.dialect == "tensorrt"
    assert all(point.cost.size_bytes > 0 for point in found.pareto)


def test_a_table_of_another_model_is_refused(tiny_onnx, table, images):
    with pytest.raises(StaleArtifactError, match="weights_sha256"):
        run(tiny_onnx, dataclasses.replace(table, weights_sha256="0" * 64), images)


@pytest.mark.parametrize(
    "settings", [{"build": BuildSettings("fp32")}, {"duration_s": -1.0}, {"duration_s": math.nan}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError):
        SensitivitySettings(**settings)


def point(price, noise):
    damage = None if noise is None else Damage(1, 1, noise, 0.0, 1.0, 1.0, 0.0)
    return ParetoPoint((), damage, Cost(1, ratio=price))


PRICES = st.integers(1, 4).map(float)


@given(st.lists(st.tuples(PRICES, st.none() | PRICES), min_size=1, max_size=12))
def test_a_point_is_optimal_where_no_other_dominates_it(values):
    marked = mark_optimal([point(*value) for value in values])
    assert [p.cost.ratio for p in marked] == sorted(price for price, _ in values)

    def figures(p):
        return p.cost.ratio, -sqnr(p.damage)

    for one in marked:
        dominated = any(
            figures(other) != figures(one)
            and all(a <= b for a, b in zip(figures(other), figures(one), strict=True))
            for other in marked
        )
        twins = [other for other in marked if figures(other) == figures(one)]
        assert any(twin.optimal for twin in twins) == (not dominated)
        assert sum(twin.optimal for twin in twins) <= 1

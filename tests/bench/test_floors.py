"""Floors: what is measured is bounded by physics, and sums are those of the formula."""

from __future__ import annotations

import pytest

from alexnet_edge.bench import BenchSettings, Scenario
from alexnet_edge.bench import floors as module
from alexnet_edge.bench.contenders import make_contender
from alexnet_edge.bench.floors import add_floor, require_target
from alexnet_edge.bench.inputs import Inputs
from alexnet_edge.bench.roofline import measure_bandwidth, measure_compute
from alexnet_edge.bench.summary import summarize_engine
from alexnet_edge.bench.turns import Turn
from alexnet_edge.bench.work import read_work
from alexnet_edge.errors import InputError
from alexnet_edge.runtimes.loader import open_engine
from tests.bench.test_summary import Log

MS = 1_000_000


def floor_of(path, settings, size=None, latency_ms=50, on_gpu=False):
    with open_engine(path) as engine:
        engine.on_gpu = on_gpu
        contender = make_contender(engine, settings, size, Inputs(None, 0), None)
        contender.turns = [Turn(0, 1, [latency_ms * MS] * 20, 1000 * MS)]
        row = summarize_engine(contender, settings, Log(None), ())
        return add_floor(row, contender, settings), read_work(engine.info).layers


@pytest.fixture
def known_machine(monkeypatch):
    """A machine of 1 GB/s, 1 GMAC/s in FP32 and 8 in INT8."""
    monkeypatch.setattr(module, "measure_bandwidth", lambda size, threads: 1e9)
    rates = {"fp32": 1e9, "int8": 8e9}
    monkeypatch.setattr(module, "measure_compute", lambda precision, threads: rates[precision])


@pytest.mark.parametrize("size", [1, 4])
def test_a_layer_takes_the_longer_of_reading_and_multiplying(tiny_onnx, known_machine, size):
    row, layers = floor_of(tiny_onnx, BenchSettings(), size)
    expected = sum(max(layer.weight_bytes, layer.macs * size) for layer in layers) / 1e6
    floor = row.floor
    assert floor.floor_ms == pytest.approx(expected)
    assert floor.efficiency == pytest.approx(expected / 50)
    assert floor.bytes == sum(layer.weight_bytes for layer in layers)
    assert floor.macs == size * sum(layer.macs for layer in layers)
    assert floor.compute_gmac_s == pytest.approx(1)


def test_integers_are_multiplied_at_their_own_rate(tiny_int8, known_machine):
    row, layers = floor_of(tiny_int8, BenchSettings())
    expected = sum(max(layer.weight_bytes / 1e6, layer.macs / 8e6) for layer in layers)
    assert row.floor.floor_ms == pytest.approx(expected)
    assert row.floor.compute_gmac_s == pytest.approx(8)


def test_a_query_of_several_inferences_reads_the_weights_in_each(tiny_onnx, known_machine):
    settings = BenchSettings(scenario=Scenario("multi-stream", images_per_query=5))
    row, layers = floor_of(tiny_onnx, settings, 2)
    query = sum(
        max(layer.weight_bytes, layer.macs * images) for layer in layers for images in (2, 2, 1)
    )
    assert row.floor.efficiency == pytest.approx(query / 1e6 / 50)


def test_a_gpu_has_the_bandwidth_of_its_profile_and_no_rate(tiny_onnx):
    row, layers = floor_of(tiny_onnx, BenchSettings(target="orin-nano"), on_gpu=True)
    size = sum(layer.weight_bytes for layer in layers)
    assert row.floor.floor_ms == pytest.approx(size / 68e9 * 1e3)
    assert row.floor.compute_gmac_s is None
    assert "orin-nano" in row.floor.source


def test_a_gpu_that_no_profile_describes_has_no_floor(tiny_onnx):
    row, _ = floor_of(tiny_onnx, BenchSettings(), on_gpu=True)
    assert row.floor is None
    assert "--profile-target" in row.floor_reason


@pytest.mark.parametrize(
    ("name", "message"), [("toaster", "unknown"), ("cpu", "names no memory bandwidth")]
)
def test_a_target_without_bandwidth_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        require_target(name)


def test_what_this_machine_can_do_is_measured():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    # Between a slow microcontroller and more than any CPU has: a wrong unit is outside.
    assert 1e8 < measure_bandwidth(16 << 20, 1) < 1e13
    assert 1e8 < measure_compute("fp32", 1) < 1e14
    assert 1e8 < measure_compute("int8", 1) < 1e14
    assert measure_compute("fp16", 1) is None, "the CPU has no FP16 kernels"


def test_the_floor_of_a_real_engine_is_of_this_machine(tiny_int8):
    row, _ = floor_of(tiny_int8, BenchSettings())
    assert row.floor.source.startswith("measured")
    assert row.floor.floor_ms > 0
    assert row.floor.bandwidth_gb_s > 0.1

"""Whole runs: who takes part, in which order, and what a result says. No speed is asserted."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from alexnet_edge.bench import BenchSettings, Scenario, bench, run
from alexnet_edge.bench import warmup as warmup_module
from alexnet_edge.errors import InputError, UnavailableError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.loader import open_engine
from tests.bench.engines import Sleeper

QUICK = BenchSettings(warmup_s=0, duration_s=0.05, min_samples=7)


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A busy machine does not make the tests wait for it to become quiet."""
    monkeypatch.setattr(warmup_module, "LONGEST_S", 0.3)


@pytest.fixture
def sleeper(tmp_path):
    """Make engines of known latency."""

    def make(name="a", seconds=(0.002,), **more):
        return Sleeper(tmp_path / f"{name}.engine", seconds, **more)

    return make


def test_each_of_several_engines_gets_its_samples(tiny_onnx, tiny_checkpoint):
    progress = []
    with open_engine(tiny_onnx) as graph, open_engine(tiny_checkpoint) as torch:
        result = bench([graph, torch], QUICK, on_progress=progress.append)
    assert [row.runtime for row in result.engines] == ["onnxruntime", "torch"]
    assert all(row.samples >= QUICK.min_samples for row in result.engines)
    assert progress[-1].done_s == pytest.approx(progress[-1].total_s)
    assert result.scenario["interleaved"]


def test_engines_take_turns_there_and_back(sleeper, monkeypatch):
    order = []
    monkeypatch.setattr(run, "SLICE_S", 0.01)
    real = run._run_turn
    monkeypatch.setattr(
        run, "_run_turn",
        lambda contender, *rest: (order.append(contender.engine), real(contender, *rest))[1],
    )  # fmt: skip
    a, b = sleeper("a"), sleeper("b")
    bench([a, b], BenchSettings(warmup_s=0, duration_s=0.03, min_samples=12))
    assert order[:8] == [a, b, b, a, a, b, b, a][: len(order)]
    assert len(order) >= 4


def test_each_turn_is_a_slice_and_at_its_time(sleeper):
    result = bench([sleeper("a"), sleeper("b")], BenchSettings(warmup_s=0, duration_s=0.6))
    for row in result.engines:
        assert sum(row.slices.samples) == row.samples
        assert len(row.slices.samples) >= 2
        assert list(row.slices.at_s) == sorted(row.slices.at_s)


def test_throughput_counts_images(tiny_onnx):
    with open_engine(tiny_onnx) as engine:
        row = bench([engine], BenchSettings(4, 0, 0.05, 5)).engines[0]
    assert row.batch == 4
    assert row.throughput_ips == pytest.approx(4 * 1000 / row.latency_ms.mean)


def test_the_result_has_the_documented_keys(tiny_int8, tiny_onnx):
    with open_engine(tiny_int8) as engine, open_engine(tiny_onnx) as graph:
        result = to_json(bench([engine, graph], QUICK))
    assert {"kind", "engines", "environment", "scenario", "valid", "invalid_because",
            "sensors"} == set(result)  # fmt: skip
    assert result["kind"] == "bench"
    row, plain = result["engines"]
    assert {
        "engine", "runtime", "precision", "batch", "latency_ms", "throughput_ips", "samples",
        "size_bytes", "settings", "input", "throughput_ci95_ips", "slices", "histogram", "warmup",
        "cache", "layers", "floor", "floor_reason", "energy_j_per_inference", "queue_ms", "valid",
        "invalid_because", "model_sha256", "engine_sha256",
    } <= set(row)  # fmt: skip
    assert {"mean", "p50", "p90", "p99", "ci95_p50", "ci95_p90", "ci95_p99", "basis"} == set(
        row["latency_ms"]
    )
    assert {"p50_ms", "mean_ms", "samples"} <= set(row["slices"])
    assert {"seconds", "stable"} == set(row["warmup"])
    assert {"threads", "spin_wait", "transfers", "cuda_graph"} <= set(row["settings"])
    assert row["size_bytes"] == tiny_int8.stat().st_size
    assert row["model_sha256"] == plain["model_sha256"] == plain["engine_sha256"]
    assert row["engine_sha256"] not in {None, row["model_sha256"]}
    assert {"cpu", "cores", "packages", "date"} <= set(result["environment"])
    assert {"throttled", "samples"} <= set(result["sensors"])
    assert {"name", "metric", "loop", "timed", "bounds", "idle_cores"} <= set(result["scenario"])


def test_a_fixed_batch_is_used_and_another_refused(tiny_checkpoint, tmp_path):
    out = tmp_path / "fixed.onnx"
    spec = PreprocessSpec(resize=227, crop=227)
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(batch=3), out)
    with open_engine(out) as engine:
        assert bench([engine], QUICK).engines[0].batch == 3
        with pytest.raises(InputError, match="takes input 3×3×227×227"):
            bench([engine], BenchSettings(batch=2))


def test_a_sweep_has_a_row_for_each_batch_and_fixed_ones_their_own(sleeper):
    settings = BenchSettings(warmup_s=0, duration_s=0.02, min_samples=3, sweep=(1, 4))
    engines = [sleeper("any"), sleeper("four", batch=4), sleeper("three", batch=3)]
    rows = bench(engines, settings).engines
    found = [(row.engine.rsplit("/")[-1], row.batch) for row in rows]
    assert found == [
        ("any.engine", 1), ("any.engine", 4), ("four.engine", 4), ("three.engine", 3),
    ]  # fmt: skip


def test_a_query_of_multi_stream_holds_several_images(sleeper):
    scenario = Scenario("multi-stream", images_per_query=5)
    engines = [sleeper("any"), sleeper("two", batch=2)]
    settings = BenchSettings(warmup_s=0, duration_s=0.02, min_samples=3, scenario=scenario)
    whole, split = bench(engines, settings).engines
    assert set(engines[0].batches) == {5}
    assert set(engines[1].batches) == {2}, "a fixed batch is run in full, also for the rest"
    assert whole.images_per_query == split.images_per_query == 5
    assert split.latency_ms.p50 > 3 * 2, "three inferences of 2 ms each"
    assert split.throughput_ips == pytest.approx(5e3 / split.latency_ms.mean)


def test_offline_uses_all_contexts_and_counts_what_they_did_together(sleeper):
    settings = BenchSettings(2, 0, 0.2, 5, scenario=Scenario("offline"))
    row = bench([sleeper("three", (0.01,), contexts=3)], settings).engines[0]
    assert row.throughput_ips > 1.5 * 2e3 / row.latency_ms.mean
    assert row.throughput_ips <= 3 * 2e3 / row.latency_ms.mean * 1.01


def test_a_server_within_its_capacity_reports_queue_and_service(sleeper):
    settings = BenchSettings(
        warmup_s=0, duration_s=0.8, min_samples=10, scenario=Scenario("server", 40)
    )
    result = bench([sleeper("a", (0.004,)), sleeper("b", (0.004,))], settings)
    for row in result.engines:
        assert row.unserved == 0
        assert row.service_ms.p50 >= 4
        assert row.latency_ms.mean == pytest.approx(row.queue_ms.mean + row.service_ms.mean)
        assert not any("overload" in reason for reason in row.invalid_because)
    assert result.scenario["loop"] == "open"
    assert len({row.samples for row in result.engines}) == 1, "the same arrivals for both"


def test_an_overloaded_server_is_invalid_and_ends(sleeper, monkeypatch):
    monkeypatch.setattr(run, "_PATIENCE_S", 0.2)
    settings = BenchSettings(
        warmup_s=0, duration_s=0.5, min_samples=1000, scenario=Scenario("server", 1000)
    )
    begin = time.monotonic()
    result = bench([sleeper("slow", (0.05,))], settings)
    assert time.monotonic() - begin < 20
    assert not result.valid
    assert result.engines[0].unserved > 0
    assert any("overload: 1000 queries a second" in reason for reason in result.invalid_because)


def test_arrivals_are_a_poisson_process_and_the_seeds(tiny_onnx):
    arrivals = run.draw_arrivals(200, 20, seed=(5, 0))
    gaps = np.diff([0, *arrivals]) / 1e9
    assert stats.kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 0.01
    assert len(arrivals) == pytest.approx(4000, abs=4 * 4000**0.5)
    assert arrivals == run.draw_arrivals(200, 20, seed=(5, 0))
    assert arrivals != run.draw_arrivals(200, 20, seed=(5, 1))
    assert len(run.draw_arrivals(0.001, 0.1, seed=(0, 0))) == 1


def test_an_engine_that_drifts_is_invalid(sleeper):
    seconds = tuple(0.002 * 1.01**index for index in range(300))
    engine = sleeper("drifting", seconds)
    result = bench([engine], BenchSettings(warmup_s=0, duration_s=2.5))
    assert not result.valid
    assert any("drift" in reason for reason in result.engines[0].invalid_because)
    assert any(reason.startswith("drifting.engine at batch 1: ") for reason in
               result.invalid_because)  # fmt: skip


def test_a_throttled_run_is_invalid_and_says_why(sleeper, monkeypatch):
    from alexnet_edge.sensors import SensorLog

    monkeypatch.setattr(SensorLog, "throttled", lambda _: ("SW thermal slowdown",))
    result = bench([sleeper()], QUICK)
    assert not result.valid
    assert not result.engines[0].valid
    assert "throttled: SW thermal slowdown" in result.invalid_because


def test_the_cache_is_flushed_before_every_query(sleeper, monkeypatch):
    engine, flushed = sleeper(), []
    real = run.CacheFlusher.__call__

    def flush(self):
        flushed.append(len(engine.batches))
        real(self)

    monkeypatch.setattr(run.CacheFlusher, "__call__", flush)
    settings = BenchSettings(warmup_s=0, duration_s=0.02, min_samples=5, cache="flushed")
    result = bench([engine], settings)
    assert flushed == list(range(len(engine.batches)))
    assert result.engines[0].cache == "flushed"
    assert result.scenario["flush_bytes"] > 0


def test_a_gpu_that_cannot_be_flushed_is_refused(sleeper):
    engine = sleeper()
    engine.on_gpu = True
    with pytest.raises(UnavailableError, match="cannot flush"):
        bench([engine], BenchSettings(cache="flushed"))


def test_layers_are_those_of_the_engine_and_their_shares_sum_to_one(tiny_int8, tiny_checkpoint):
    settings = BenchSettings(warmup_s=0, duration_s=0.02, min_samples=2, layers=True)
    with open_engine(tiny_int8) as engine, open_engine(tiny_checkpoint) as torch:
        rows = bench([engine, torch], settings).engines
    for row, ops in zip(
        rows, ({"QLinearConv", "QGemm", "MatMulNBits"}, {"Conv2d", "Linear"}), strict=True
    ):
        assert sum(layer.share for layer in row.layers) == pytest.approx(1)
        assert all(layer.mean_us >= 0 for layer in row.layers)
        weighted = [layer for layer in row.layers if layer.op in ops]
        assert len(weighted) == 8, "five convolutions and three linear layers"


def test_a_runtime_that_tells_no_times_of_layers_keeps_its_figures(sleeper):
    settings = BenchSettings(warmup_s=0, duration_s=0.02, layers=True)
    row = bench([sleeper()], settings).engines[0]
    assert row.layers is None
    assert "no times of its layers" in row.layers_reason
    assert row.samples


def test_an_unknown_target_is_refused_before_anything_runs(sleeper):
    engine = sleeper()
    with pytest.raises(InputError, match="unknown"):
        bench([engine], BenchSettings(target="toaster", floor=True))
    assert engine.batches == []

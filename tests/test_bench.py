"""Benchmarks: statistics against references, and what a result says. No speed is asserted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from alexnet_edge.bench import (
    BenchSettings,
    bench,
    median_interval,
    summarize_latency,
    synthetic_input,
)
from alexnet_edge.errors import InputError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.results import TensorSpec, to_json
from alexnet_edge.runtimes.loader import open_engine

QUICK = BenchSettings(warmup_s=0, duration_s=0.05, min_samples=7)


@pytest.mark.parametrize("count", [6, 10, 51, 200, 5000])
def test_the_medians_interval_is_that_of_the_binomial(count):
    ordered = np.arange(1.0, count + 1)
    low, high = median_interval(ordered)
    binomial = stats.binom(count, 0.5)
    # The median lies outside where fewer than `low` of the samples are below it, or above it.
    outside = 2 * binomial.cdf(low - 1)
    assert outside <= 0.05
    assert 2 * binomial.cdf(low) > 0.05, "one step narrower would not cover 95 %"
    assert high == count + 1 - low


def test_the_medians_interval_covers_the_true_median():
    rng = np.random.default_rng(0)
    true = np.log(2)
    covered = 0
    for _ in range(2000):
        low, high = median_interval(np.sort(rng.exponential(size=101)))
        covered += low <= true <= high
    assert 0.94 <= covered / 2000 <= 0.98


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_samples_give_their_extremes(count):
    assert median_interval(np.arange(float(count))) == (0, count - 1)


def test_percentiles_are_those_of_numpy_in_milliseconds():
    samples = np.random.default_rng(0).integers(1_000_000, 9_000_000, 997)
    latency = summarize_latency(list(map(int, samples)))
    assert latency.mean == pytest.approx(samples.mean() / 1e6)
    expected = np.percentile(samples / 1e6, (50, 90, 99))
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("spec", "batch", "shape", "dtype"),
    [
        (TensorSpec("x", "float32", (None, 3, 8, 8)), None, (1, 3, 8, 8), np.float32),
        (TensorSpec("x", "float32", (None, 3, 8, 8)), 5, (5, 3, 8, 8), np.float32),
        (TensorSpec("x", "uint8", (4, 8, 8, 3)), None, (4, 8, 8, 3), np.uint8),
    ],
)
def test_synthetic_input_is_of_the_networks_type_and_batch(spec, batch, shape, dtype):
    made = synthetic_input(spec, batch, seed=0)
    assert made.shape == shape
    assert made.dtype == dtype
    assert (made == synthetic_input(spec, batch, seed=0)).all()


def test_each_of_several_engines_gets_its_samples(tiny_onnx, tiny_checkpoint):
    progress = []
    with open_engine(tiny_onnx) as graph, open_engine(tiny_checkpoint) as torch:
        result = bench([graph, torch], QUICK, on_progress=progress.append)
    assert [row.runtime for row in result.engines] == ["onnxruntime", "torch"]
    assert all(row.samples >= QUICK.min_samples for row in result.engines)
    assert progress[-1].done_s == pytest.approx(progress[-1].total_s)
    assert result.scenario["interleaved"]


def test_throughput_counts_images(tiny_onnx):
    with open_engine(tiny_onnx) as engine:
        row = bench([engine], BenchSettings(4, 0, 0.05, 5)).engines[0]
    assert row.batch == 4
    assert row.throughput_ips == pytest.approx(4 * 1000 / row.latency_ms.mean)


def test_the_result_has_the_documented_keys(tiny_onnx):
    with open_engine(tiny_onnx) as engine:
        result = to_json(bench([engine], QUICK))
    row = result["engines"][0]
    assert {"engine", "runtime", "precision", "batch", "latency_ms", "throughput_ips", "samples",
            "size_bytes"} <= set(row)  # fmt: skip
    assert {"mean", "p50", "p90", "p99", "ci95_p50"} == set(row["latency_ms"])
    assert row["size_bytes"] == tiny_onnx.stat().st_size
    assert {"cpu", "cores", "packages", "date"} <= set(result["environment"])


def test_a_fixed_batch_is_used_and_another_refused(tiny_checkpoint, tmp_path):
    out = tmp_path / "fixed.onnx"
    spec = PreprocessSpec(resize=227, crop=227)
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(batch=3), out)
    with open_engine(out) as engine:
        assert bench([engine], QUICK).engines[0].batch == 3
        with pytest.raises(InputError, match="takes input 3×3×227×227"):
            bench([engine], BenchSettings(batch=2))


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 0}, {"duration_s": 0}, {"warmup_s": -1}, {"min_samples": 0}, {"seed": -1},
        {"duration_s": float("nan")}, {"duration_s": float("inf")}, {"warmup_s": float("nan")},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        BenchSettings(**values)

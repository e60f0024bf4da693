"""Figures from turns whose samples are known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from alexnet_edge.bench import BenchSettings, Scenario, summarize_latency
from alexnet_edge.bench.contenders import make_contender
from alexnet_edge.bench.inputs import Inputs
from alexnet_edge.bench.summary import count_histogram, summarize_engine, summarize_slices
from alexnet_edge.bench.turns import Turn
from tests.bench.engines import Sleeper

MS = 1_000_000


@dataclasses.dataclass
class Log:
    """A sensor log over which a constant power was drawn; None of an interval it lacks."""

    watts: float | None
    until_s: float = 1e9

    def energy_j(self, start_s, end_s):
        if self.watts is None or end_s > self.until_s:
            return None
        return self.watts * (end_s - start_s)


@pytest.fixture
def contender(tmp_path):
    """Four turns of a second, of 5, 10, 20 and 5 queries of two images."""
    made = make_contender(Sleeper(tmp_path / "engine"), BenchSettings(), 2, Inputs(None, 0), None)
    made.turns = [
        Turn(2 * index, 2 * index + 1, [1000 * MS // count] * count, 1000 * MS)
        for index, count in enumerate((5, 10, 20, 5))
    ]
    return made


def test_percentiles_are_those_of_numpy_in_milliseconds():
    samples = np.random.default_rng(0).integers(1_000_000, 9_000_000, 997)
    latency = summarize_latency(list(map(int, samples)))
    assert latency.mean == pytest.approx(samples.mean() / 1e6)
    expected = np.percentile(samples / 1e6, (50, 90, 99))
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx(tuple(expected))
    for (low, high), point in zip(
        (latency.ci95_p50, latency.ci95_p90, latency.ci95_p99), expected, strict=True
    ):
        assert low <= point <= high


def test_intervals_that_too_few_samples_give_are_none():
    latency = summarize_latency([MS] * 50)
    assert latency.ci95_p90 == (1, 1)
    assert latency.ci95_p99 is None
    assert summarize_latency([MS] * 10).ci95_p90 is None


def test_turns_that_differ_widen_intervals():
    rng = np.random.default_rng(1)
    turns = [
        rng.normal(centre, 0.01 * MS, 60).astype(int) for centre in rng.normal(MS, 0.01 * MS, 40)
    ]
    samples = list(map(int, np.concatenate(turns)))
    alone, clustered = summarize_latency(samples), summarize_latency(samples, [60] * 40)
    assert (alone.basis, clustered.basis) == ("samples", "turns")
    for name in ("ci95_p50", "ci95_p90"):
        widths = [high - low for low, high in (getattr(alone, name), getattr(clustered, name))]
        assert widths[1] > 1.5 * widths[0]
    assert alone.p90 == clustered.p90


def test_few_turns_are_cut_so_that_neighbours_count_as_alike():
    """A queue: each latency is nearly that of the one before."""
    rng = np.random.default_rng(1)
    walk = np.convolve(rng.normal(0, 1, 2200), np.ones(200) / 200, "valid")
    samples = list(map(int, MS * (10 + walk)))[:2000]
    alone, clustered = summarize_latency(samples), summarize_latency(samples, [1000, 1000])
    widths = [high - low for low, high in (alone.ci95_p50, clustered.ci95_p50)]
    assert widths[1] > 3 * widths[0]


def test_throughput_is_images_over_timed_seconds(contender):
    row = summarize_engine(contender, BenchSettings(), Log(None), ())
    assert row.samples == 40
    assert row.throughput_ips == pytest.approx(2 * 40 / 4)
    low, high = row.throughput_ci95_ips
    assert low < row.throughput_ips < high


def test_slices_are_the_turns_in_order(contender):
    slices = summarize_slices(contender.turns)
    assert slices.samples == (5, 10, 20, 5)
    assert slices.p50_ms == (200, 100, 50, 200)
    assert slices.at_s == (0, 2, 4, 6)


@pytest.mark.parametrize("count", [1, 3, 60, 4000])
def test_a_histogram_counts_every_sample_once(count):
    samples = np.random.default_rng(1).lognormal(15, 0.5, count).astype(int)
    found = count_histogram(list(map(int, samples)))
    assert sum(found.counts) == count
    assert len(found.edges_ms) == len(found.counts) + 1 <= 60
    assert list(found.edges_ms) == sorted(found.edges_ms)
    assert found.edges_ms[0] <= samples.min() / 1e6
    assert found.edges_ms[-1] >= samples.max() / 1e6


def test_equal_samples_are_one_bin():
    assert count_histogram([5 * MS] * 9).counts == (9,)


def test_energy_is_that_of_an_engines_own_turns(contender):
    row = summarize_engine(contender, BenchSettings(), Log(20.0), ())
    assert row.energy_j_per_inference == pytest.approx(20 * 4 / 40)


def test_energy_is_of_one_inference_where_a_query_takes_several(tmp_path):
    settings = BenchSettings(batch=2, scenario=Scenario("multi-stream", images_per_query=8))
    contender = make_contender(Sleeper(tmp_path / "engine"), settings, 2, Inputs(None, 0), None)
    contender.turns = [Turn(0, 1, [100 * MS] * 10, 1000 * MS)]
    row = summarize_engine(contender, settings, Log(20.0), ())
    assert row.energy_j_per_inference == pytest.approx(20 / 10 / 4)
    assert row.images_per_query == 8
    assert row.throughput_ips == pytest.approx(80)


@pytest.mark.parametrize("log", [Log(None), Log(20.0, until_s=5)])
def test_no_energy_is_made_up(contender, log):
    assert summarize_engine(contender, BenchSettings(), log, ()).energy_j_per_inference is None


def test_what_flushing_spends_is_not_the_engines(contender):
    contender.flush = lambda: None
    row = summarize_engine(contender, BenchSettings(cache="flushed"), Log(20.0), ())
    assert row.energy_j_per_inference is None
    assert row.cache == "flushed"


def test_what_invalidates_the_run_invalidates_the_row(contender):
    row = summarize_engine(contender, BenchSettings(), Log(None), ("throttled: hot",))
    assert not row.valid
    assert row.invalid_because[-1] == "throttled: hot"


def test_the_hash_of_an_engine_is_that_of_its_manifest(contender):
    alone = summarize_engine(contender, BenchSettings(), Log(None), ())
    assert alone.engine_sha256 == alone.model_sha256 == "0" * 64, "a model is its own engine"


def test_a_servers_row_tells_the_queue_from_the_service(contender):
    settings = BenchSettings(scenario=Scenario("server", 10))
    contender.turns = [
        Turn(0, 1, [30 * MS] * 10, 1000 * MS, queue_ns=[20 * MS] * 10, service_ns=[10 * MS] * 10)
    ]
    row = summarize_engine(contender, settings, Log(None), ())
    assert (row.latency_ms.p50, row.queue_ms.p50, row.service_ms.p50) == (30, 20, 10)
    assert row.utilization == pytest.approx(0.1)
    assert json.dumps(dataclasses.asdict(row))

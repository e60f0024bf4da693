"""What makes figures invalid, and that each says why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alexnet_edge.bench import BenchSettings, Bounds, Scenario, Variation, WarmUp
from alexnet_edge.bench.contenders import make_contender
from alexnet_edge.bench.inputs import Inputs
from alexnet_edge.bench.results import Floor, LayerShare
from alexnet_edge.bench.summary import summarize_engine
from alexnet_edge.bench.turns import Turn
from alexnet_edge.bench.validity import (
    judge_engine,
    judge_extras,
    judge_run,
    measure_utilization,
    measure_variation,
)
from tests.bench.engines import Sleeper

MS = 1_000_000
STEADY = Variation(0.0, 0.0, 0.0)


def turns(*medians_ms, width=0.01, **more):
    """Turns of 21 samples around a median."""
    made = []
    for index, median in enumerate(medians_ms):
        samples = list(map(int, np.linspace(1 - width, 1 + width, 21) * median * MS))
        made.append(Turn(index, index + 0.5, samples, sum(samples), **more))
    return made


@pytest.fixture
def contender(tmp_path):
    """One that is measured already."""
    made = make_contender(Sleeper(tmp_path / "engine"), BenchSettings(), 1, Inputs(None, 0), None)
    made.warmup, made.turns = WarmUp(1.0, True), turns(10, 10, 10, 10)
    return made


def judge(contender, settings=BenchSettings()):  # noqa: B008 - it is frozen
    return judge_engine(contender, measure_variation(contender.turns), None, settings)


def test_steady_turns_are_valid(contender):
    assert judge(contender) == []


def test_drift_is_the_change_between_the_halves_of_a_run(contender):
    contender.turns = turns(10, 10, 10, 10.8, 10.8, 10.8)
    assert measure_variation(contender.turns).drift == pytest.approx(0.08)
    assert "drift: the median changed by +8.0% during the run, 5% is allowed" in judge(contender)


def test_getting_faster_is_drift_as_well(contender):
    contender.turns = turns(10, 10, 9, 9)
    assert any("-10.0%" in reason for reason in judge(contender))


def test_variation_is_that_of_the_turns_medians(contender):
    medians = [10, 12, 10, 12, 10, 12]
    contender.turns = turns(*medians)
    found = measure_variation(contender.turns)
    assert found.variation == pytest.approx(np.std(medians, ddof=1) / np.mean(medians))
    assert any(reason.startswith("variation: ") for reason in judge(contender))


def test_spread_is_within_turns(contender):
    contender.turns = turns(10, 10, 10, 10, width=0.5)
    assert measure_variation(contender.turns).spread == pytest.approx(0.5, abs=0.03)
    assert [reason.split(":")[0] for reason in judge(contender)] == ["spread"]


def test_bounds_can_be_others(contender):
    contender.turns = turns(10, 10, 10.8, 10.8)
    assert judge(contender, BenchSettings(bounds=Bounds(drift=0.1))) == []


def test_too_few_turns_have_neither_drift_nor_variation(contender):
    found = measure_variation(turns(10, 20, 30))
    assert (found.drift, found.variation) == (None, None)


def test_a_warm_up_that_did_not_settle_is_a_reason(contender):
    contender.warmup = WarmUp(10.5, False)
    assert judge(contender) == ["latency had not settled after 10.5 s of warm-up"]


def test_a_servers_queue_is_no_drift():
    queues = turns(10, 20, 40, 80, service_ns=[5 * MS] * 21)
    found = measure_variation(queues)
    assert (found.drift, found.variation, found.spread) == (0, 0, 0)


@pytest.mark.parametrize(("contexts", "utilization"), [(1, 1.2), (4, 0.3)])
def test_utilization_is_arrivals_over_what_all_contexts_serve(tmp_path, contexts, utilization):
    engine = Sleeper(tmp_path / "engine", contexts=contexts)
    contender = make_contender(engine, BenchSettings(), 1, Inputs(None, 0), None)
    contender.turns = turns(50, service_ns=[12 * MS] * 21)
    assert measure_utilization(contender, 100) == pytest.approx(utilization)


@pytest.mark.parametrize(
    ("utilization", "unserved", "words"),
    [
        (0.5, 0, ()), (0.97, 0, ("100 queries a second", "97%", "does not settle")),
        (2.0, 7, ("100 queries a second", "200%", "7 were given up")),
    ],
)  # fmt: skip
def test_an_overloaded_server_is_invalid(contender, utilization, unserved, words):
    settings = BenchSettings(scenario=Scenario("server", 100))
    contender.turns[-1] = Turn(0, 1, [MS], MS, unserved=unserved)
    reasons = judge_engine(contender, STEADY, utilization, settings)
    assert len(reasons) == bool(words)
    assert all(word in reasons[0] for word in words)


def test_throttling_spinning_and_other_programs_invalidate_a_run():
    bounds = Bounds()
    assert judge_run((), 0.0, 0.05, bounds) == []
    assert judge_run((), 0.0, None, bounds) == []
    reasons = judge_run(("thermal slowdown",), 0.9, 0.4, bounds)
    assert len(reasons) == 3
    assert reasons[0] == "throttled: thermal slowdown"
    assert "0.90 cores" in reasons[1]
    assert "40% of the cores" in reasons[2]


@pytest.fixture
def with_extras(contender):
    from alexnet_edge.sensors import SensorSampler

    with SensorSampler() as sampler:
        row = summarize_engine(contender, BenchSettings(), sampler.log(), ())
    return dataclasses.replace(
        row,
        layers=(LayerShare("fc6", "Gemm", 9.0, 1.0),),
        floor=Floor(1, 1, 1.0, 1.0, 9.0, 0.9, "measured: memory"),
    )


def test_layers_and_floor_are_judged_by_what_others_took_meanwhile(with_extras):
    assert judge_extras(with_extras, 0.05, Bounds()) == []
    assert judge_extras(with_extras, None, Bounds()) == []
    (reason,) = judge_extras(with_extras, 0.4, Bounds())
    assert reason.startswith("layers and floor: other programs had 40% of the cores meanwhile")
    without = dataclasses.replace(with_extras, layers=None, floor=None)
    assert judge_extras(without, 0.4, Bounds()) == []


@pytest.mark.parametrize(
    ("source", "efficiency", "count"),
    [
        ("measured: memory", 1.65, 1),
        ("measured: memory", 1.05, 0),
        ("profile nano: bandwidth", 3, 0),
    ],
)  # a profile may be another machine's
def test_a_measured_floor_above_the_latency_is_said(with_extras, source, efficiency, count):
    floor = dataclasses.replace(with_extras.floor, source=source, efficiency=efficiency)
    reasons = judge_extras(dataclasses.replace(with_extras, floor=floor), 0.0, Bounds())
    assert len(reasons) == count
    assert all(reason.startswith("floor: 165% of the latency") for reason in reasons)

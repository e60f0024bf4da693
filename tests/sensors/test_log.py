"""Energy between two instants, from counters and from power samples, and what is not told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.sensors import Meter, Missing, Reading, SensorLog, Track

RAIL = Meter("INA3221 VDD_IN", rails=("VDD_IN",), whole=True)


def powered(*points, meter=RAIL, name="INA3221"):
    """A track of `(seconds, watts)`."""
    return Track(name, meter, tuple((time, Reading(power_w={"VDD_IN": w})) for time, w in points))


def counted(name, *points, key="count"):
    """A track of `(seconds, joules)`."""
    readings = tuple((time, Reading(energy_j={key: joules})) for time, joules in points)
    return Track(name, Meter(name, counters=(key,)), readings)


def log(*tracks, interval_s=1.0, missing=()):
    return SensorLog(tracks, interval_s, samples=0, cpu_share=0.0, missing=missing)


def test_constant_power_gives_watts_times_seconds():
    assert log(powered((0, 5), (1, 5), (2, 5), (3, 5))).energy_j(0.25, 2.75) == pytest.approx(12.5)


def test_rising_power_is_a_trapezoid():
    # 2 W at 0 s to 8 W at 3 s: from 0.5 s (3 W) to 2.5 s (7 W) a mean of 5 W.
    assert log(powered((0, 2), (1, 4), (2, 6), (3, 8))).energy_j(0.5, 2.5) == pytest.approx(10)


def test_peak_between_the_ends_counts():
    assert log(powered((0, 0), (1, 10), (2, 0))).energy_j(0, 2) == pytest.approx(10)


@given(
    watts=st.lists(st.floats(0, 500), min_size=3, max_size=20),
    cuts=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_energies_of_two_halves_add_up(watts, cuts):
    whole = log(powered(*((second, w) for second, w in enumerate(watts))))
    start, middle, end = sorted(cut * (len(watts) - 1) for cut in cuts)
    halves = whole.energy_j(start, middle) + whole.energy_j(middle, end)
    assert whole.energy_j(start, end) == pytest.approx(halves, abs=1e-6)


@pytest.mark.parametrize("interval", [(-0.1, 1), (1, 2.1), (-1, 5), (3, 4), (1.5, 0.5)])
@pytest.mark.parametrize(
    "track", [powered((0, 5), (1, 5), (2, 5)), counted("rapl", (0, 0), (1, 5), (2, 10))]
)
def test_interval_that_the_samples_do_not_reach_over_has_no_energy(track, interval):
    assert log(track).energy_j(*interval) is None


def test_power_is_not_invented_over_a_hole():
    whole = log(powered((0, 5), (1, 5), (60, 5), (61, 5)))
    assert whole.energy_j(0, 61) is None
    assert whole.energy_j(10, 50) is None
    assert whole.energy_j(0, 1) == pytest.approx(5)
    assert whole.energy_j(60.5, 61) == pytest.approx(2.5)


def test_a_counter_has_no_holes():
    assert log(counted("rapl", (0, 0), (60, 300))).energy_j(0, 60) == pytest.approx(300)


def test_a_counter_is_preferred_to_power():
    readings = tuple(
        (time, Reading(power_w={"gpu0": 99}, energy_j={"gpu0": joules}))
        for time, joules in ((0, 0), (1, 70), (2, 140))
    )
    track = Track("nvml", Meter("nvml", counters=("gpu0",)), readings)
    assert log(track).energy_j(0, 2) == pytest.approx(140)


def test_parts_of_a_desktop_are_added_and_named():
    whole = log(counted("rapl package-0", (0, 0), (2, 100)), counted("nvml", (0, 0), (2, 300)))
    assert whole.energy_source == "rapl package-0 + nvml"
    assert whole.energy_j(0, 2) == pytest.approx(400)
    assert whole.energy_by_source_j(0, 1) == {"rapl package-0": 50, "nvml": 150}


def test_a_sum_that_lacks_a_part_is_not_given():
    whole = log(counted("rapl package-0", (0, 0), (2, 100)), counted("nvml", (0, 0), (1, 150)))
    assert whole.energy_j(0, 1) == pytest.approx(200)
    assert whole.energy_j(0, 2) is None


def test_the_whole_module_is_not_added_to_its_gpu():
    whole = log(counted("nvml", (0, 0), (2, 10)), powered((0, 7), (1, 7), (2, 7)))
    assert whole.energy_source == "INA3221 VDD_IN"
    assert whole.energy_j(0, 2) == pytest.approx(14)


def test_a_sensor_without_power_is_no_source():
    track = Track("thermal", None, ((0.0, Reading(temperature_c={"cpu": 50})),))
    assert log(track).energy_source is None
    assert log(track).energy_j(0, 0) is None


def test_readings_that_lack_a_rail_are_passed_over():
    full = Reading(power_w={"GPU": 2, "CPU": 3})
    meter = Meter("INA3221 GPU + CPU", rails=("GPU", "CPU"))
    track = Track("x", meter, ((0, full), (1, Reading(power_w={"GPU": 2})), (2, full)))
    assert log(track).energy_j(0, 2) == pytest.approx(10)


def test_summary_is_json_with_the_spread_of_each_quantity():
    readings = tuple(
        (time, Reading(cpu_clock_mhz=clock, gpu_clock_mhz=2 * clock, temperature_c={"cpu": heat}))
        for time, clock, heat in ((0, 1000, 40), (1, 3000, 70), (2, 1200, 55))
    )
    track = Track("all", None, readings, settings={"nvpmodel": "2 MAXN"}, throttling=("too hot",))
    missing = (Missing("rapl", "for root only"),)
    found = log(track, powered((0, 2), (1, 8), (2, 5)), missing=missing).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu_clock_mhz"] == {"min": 1000, "median": 1200, "max": 3000}
    assert found["gpu_clock_mhz"] == {"min": 2000, "median": 2400, "max": 6000}
    assert found["temperature_c"] == {"cpu": {"median": 55, "max": 70}}
    assert found["power_w"] == {"VDD_IN": {"mean": 5, "max": 8}}
    assert found["sources"] == ["all", "INA3221"]
    assert found["settings"] == {"nvpmodel": "2 MAXN"}
    assert found["throttled"] == ["too hot"]
    assert found["missing"] == [{"sensor": "rapl", "reason": "for root only"}]


def test_power_of_a_counter_is_its_slope():
    found = log(counted("rapl", (0, 0), (1, 20), (3, 40), key="package-0")).to_dict()
    assert found["power_w"]["package-0"] == {"mean": pytest.approx(13.333), "max": 20}


def test_events_that_rose_are_reasons_and_those_that_did_not_are_none():
    readings = ((0, Reading(events={"a": 7, "b": 3})), (1, Reading(events={"a": 10, "b": 3})))
    track = Track("x", None, readings, first_events={"a": 7, "b": 3})
    assert log(track).throttled() == ("a rose by 3",)

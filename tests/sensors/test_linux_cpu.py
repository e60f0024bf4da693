"""Clocks of the cores that are asked for, from cpufreq or /proc/cpuinfo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_edge.sensors.files import find_paths, read_text
from alexnet_edge.sensors.linux_cpu import find_cpu_sensors, read_cpuinfo_clocks

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.60GHz
cpu MHz\t\t: 2596.098
cache size\t: 512 KB

processor\t: 1
cpu MHz\t\t: 3100.5
"""


@pytest.mark.parametrize(("cpus", "clock_mhz"), [(None, 4700), ({0}, 3400), ({1}, 4700)])
def test_clock_is_of_the_cores_that_the_process_may_use(plant, cpus, clock_mhz):
    sensors = find_cpu_sensors(plant("intel-desktop").root, cpus)
    assert sensors[0].name == "cpufreq"
    assert sensors[0].read().cpu_clock_mhz == clock_mhz


@pytest.mark.parametrize(
    ("cpus", "cores", "package"), [(None, 7, 9), ({0, 2}, 5, 9), ({1}, 2, 9), ({2, 3}, 7, 9)]
)
def test_throttling_is_counted_once_a_core_and_once_a_package(plant, cpus, cores, package):
    (sensor,) = (
        sensor
        for sensor in find_cpu_sensors(plant("intel-desktop").root, cpus)
        if sensor.name == "thermal_throttle"
    )
    assert sensor.read().events == {
        "CPU thermal throttle count": cores,
        "CPU package thermal throttle count": package,
    }


@pytest.mark.parametrize(("cpus", "clock_mhz"), [(None, 3100.5), ({0}, 2596.098)])
def test_cpuinfo_is_read_where_there_is_no_cpufreq(tmp_path, cpus, clock_mhz):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (sensor,) = find_cpu_sensors(tmp_path, cpus)
    assert sensor.name == "cpuinfo"
    assert sensor.read().cpu_clock_mhz == clock_mhz


def test_cpuinfo_of_arm_states_no_clock(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 62.50\n")
    assert find_cpu_sensors(tmp_path, None) == []


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_cpuinfo_of_this_machine_is_read_as_it_stands():
    everything = read_cpuinfo_clocks(Path("/proc/cpuinfo"), None)
    mine = read_cpuinfo_clocks(Path("/proc/cpuinfo"), os.sched_getaffinity(0))
    assert len(mine) <= len(everything) <= (os.cpu_count() or 1)
    assert all(100 < clock < 10_000 for clock in mine)


def test_paths_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("zone10", "zone2", "zone1"):
        (tmp_path / name).mkdir()
    assert [path.name for path in find_paths(tmp_path, "zone*")] == ["zone1", "zone2", "zone10"]


def test_zero_and_newline_at_the_end_are_no_part_of_a_text(tmp_path):
    (tmp_path / "model").write_bytes(b"NVIDIA Orin Nano\0\n")
    assert read_text(tmp_path / "model") == "NVIDIA Orin Nano"

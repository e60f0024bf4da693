"""NVIDIA GPUs through NVML: on a stand-in, and on this machine's where it has one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from alexnet_edge import machine
from alexnet_edge.sensors import SensorSampler
from alexnet_edge.sensors.discovery import find_sensors
from alexnet_edge.sensors.nvml import find_nvml_sensors
from tests.sensors.standins import Nvml

HERE = Path("/")
ADA = {
    "name": "NVIDIA RTX 4000 Ada", "uuid": "GPU-aaaa", "clock_mhz": 2100, "temperature_c": 61,
    "power_mw": 105_500, "energy_mj": 7_000_000, "reasons": 0, "limit_mw": 130_000,
}  # fmt: skip
PASCAL = {
    "name": b"NVIDIA GeForce GTX 1080", "uuid": b"GPU-bbbb", "clock_mhz": 1700,
    "temperature_c": 70, "power_mw": 150_000, "reasons": 0,
}  # fmt: skip
ORIN = {"name": "Orin (nvgpu)", "uuid": "GPU-cccc"}


def sample(nvml, visible=None, during=lambda: None):
    with SensorSampler(60, find_nvml_sensors(HERE, nvml, visible)) as sampler:
        during()
    assert nvml.open == 0
    return sampler.log()


def test_gpu_tells_clock_temperature_power_and_limit():
    found = sample(Nvml(ADA)).to_dict()
    assert found["gpu_clock_mhz"] == {"min": 2100, "median": 2100, "max": 2100}
    assert found["temperature_c"] == {"gpu0": {"median": 61, "max": 61}}
    assert found["power_w"] == {"gpu0": {"mean": 105.5, "max": 105.5}}
    assert found["settings"] == {"gpu0": "NVIDIA RTX 4000 Ada", "gpu0_power_limit_w": "130"}
    assert found["throttled"] == found["missing"] == []


def test_energy_is_the_counter_of_the_gpu():
    gpu = dict(ADA)
    log = sample(Nvml(gpu), during=lambda: gpu.update(energy_mj=7_000_900))
    (first_s, _), (last_s, _) = log.tracks[0].readings
    assert log.energy_source == "nvml"
    assert log.energy_j(first_s, last_s) == pytest.approx(0.9)


def test_gpu_without_a_counter_is_integrated_and_named():
    log = sample(Nvml(PASCAL), during=lambda: time.sleep(0.02))
    (first_s, _), (last_s, _) = log.tracks[0].readings
    assert log.energy_j(first_s, last_s) == pytest.approx(150 * (last_s - first_s))
    assert [item.reason for item in log.missing] == [
        "gpu0 (NVIDIA GeForce GTX 1080) does not tell its energy"
    ]


def test_integrated_gpu_that_answers_nothing_is_named():
    log = sample(Nvml(ORIN))
    assert log.tracks == ()
    assert log.energy_source is None
    reasons = [item.reason for item in log.missing]
    assert any("Orin (nvgpu)) does not tell its clock, energy, power" in text for text in reasons)
    assert any("answers no query" in text for text in reasons)


def test_integrated_gpu_that_tells_a_part_gives_that_part():
    log = sample(Nvml({**ORIN, "clock_mhz": 1575}))
    assert log.to_dict()["gpu_clock_mhz"]["max"] == 1575
    assert log.to_dict()["power_w"] == {}
    assert log.energy_source is None


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x0, ()),
        (0x1 | 0x2 | 0x10 | 0x100, ()),
        (0x4, ("NVML: SW power cap",)),
        (0x20, ("NVML: SW thermal slowdown",)),
        (0x8 | 0x40, ("NVML: HW slowdown", "NVML: HW thermal slowdown")),
        (0x88, ("NVML: HW slowdown", "NVML: HW power brake slowdown")),
    ],
)
def test_reasons_that_slow_a_gpu_down_are_told(bits, reasons):
    assert sample(Nvml({**ADA, "reasons": bits})).throttled() == reasons


def test_older_bindings_know_the_reasons_by_another_name():
    class Older(Nvml):
        nvmlDeviceGetCurrentClocksEventReasons = None
        nvmlDeviceGetCurrentClocksThrottleReasons = Nvml.nvmlDeviceGetCurrentClocksEventReasons

    assert sample(Older({**ADA, "reasons": 0x20})).throttled() == ("NVML: SW thermal slowdown",)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, {"gpu0", "gpu1"}),
        ("1", {"gpu1"}),
        ("1,0", {"gpu0", "gpu1"}),
        ("GPU-bbbb", {"gpu1"}),
        ("GPU-a", {"gpu0"}),
        ("0,-1,1", {"gpu0"}),
        ("0,7,1", {"gpu0"}),
        ("", set()),
        ("-1", set()),
    ],
)
def test_gpus_are_those_that_cuda_may_use(visible, names):
    log = sample(Nvml(ADA, PASCAL), visible)
    assert set(log.to_dict()["temperature_c"]) == names
    assert (log.energy_source == "nvml") is bool(names)


def test_driver_that_does_not_start_is_named():
    log = sample(Nvml(starts=False))
    assert [(item.sensor, item.reason) for item in log.missing] == [
        ("nvml", "NVML does not start: Driver Not Loaded")
    ]


def test_gpu_that_falls_off_the_bus_is_named_and_the_run_goes_on():
    gpu = dict(ADA)

    def lose():
        gpu.clear()

    log = sample(Nvml(gpu), during=lose)
    assert len(log.tracks[0].readings) == 1
    assert "answers no query" in log.missing[-1].reason


def test_jetson_is_metered_by_its_rails_and_not_by_its_gpu_as_well(plant):
    tree = plant("jetpack7-agx-thor")
    with SensorSampler(60, find_sensors(tree.root, nvml=Nvml(ADA))) as sampler:
        pass
    log = sampler.log()
    assert "nvml" in {track.name for track in log.tracks}
    assert log.energy_source == "INA238 VIN"


def test_bindings_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with SensorSampler(60, find_nvml_sensors(HERE)) as sampler:
        pass
    (missing,) = sampler.log().missing
    assert "pip install nvidia-ml-py" in missing.reason


def test_bindings_that_are_not_installed_are_no_lack_on_a_jetson(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(machine, "l4t_release", lambda: (36, 4, 3))
    assert find_nvml_sensors(HERE) == []


def test_slice_of_a_gpu_is_not_metered_as_the_whole():
    with SensorSampler(60, find_nvml_sensors(HERE, Nvml(ADA), "MIG-1234")) as sampler:
        pass
    assert sampler.log().energy_source is None
    assert "slice" in sampler.log().missing[0].reason


@pytest.mark.skipif(
    not machine.nvidia_gpus() or all(gpu.integrated for gpu in machine.nvidia_gpus()),
    reason="no NVIDIA GPU of its own here",
)
def test_gpu_of_this_machine():
    pytest.importorskip("pynvml")
    with SensorSampler(0.05) as sampler:
        start_s = time.monotonic()
        time.sleep(1)
        end_s = time.monotonic()
    log = sampler.log()
    assert "nvml" in log.energy_source
    assert log.energy_by_source_j(start_s, end_s)["nvml"] > 0
    assert log.to_dict()["gpu_clock_mhz"]["max"] > 0

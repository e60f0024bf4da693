"""Recorded trees of JetPack 4 to 7 and of a desktop, read as the machines themselves would be."""

from __future__ import annotations

import pytest

from alexnet_edge.sensors import SensorSampler, find_sensors

EVENT = "Jetson: oc{}_event_cnt (over-current or under-voltage throttling)"


def sample(tree):
    """Sample a tree at the beginning and at the end."""
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        pass
    return sampler.log()


def test_jetpack_5_agx_orin(plant):
    found = sample(plant("jetpack5-agx-orin")).to_dict()
    assert {rail: watts["mean"] for rail, watts in found["power_w"].items()} == {
        "VDD_GPU_SOC": 9.9,
        "VDD_CPU_CV": 1.98,
        "VIN_SYS_5V0": 5.0,
        "VDDQ_VDD2_1V8AO": 1.1,
    }
    assert found["energy_source"] == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert found["cpu_clock_mhz"]["max"] == 2201.6
    assert found["gpu_clock_mhz"]["max"] == 612
    assert found["memory_clock_mhz"] is None
    assert found["fan_pct"]["median"] == 20
    assert found["temperature_c"] == {
        "CPU-therm": {"median": 47.0, "max": 47.0},
        "GPU-therm": {"median": 43.5, "max": 43.5},
        "tj-therm": {"median": 47.0, "max": 47.0},
    }
    assert found["settings"] == {
        "cpu_governor": "schedutil",
        "cpu_clock_range_mhz": "729–2201",
        "nvpmodel": "0 MAXN",
        "gpu_clock_range_mhz": "306–1300",
        "gpu_governor": "nvhost_podgov",
    }
    assert found["throttled"] == []
    assert found["missing"] == [
        {"sensor": "jetson", "reason": "the memory's clock is for root only"}
    ]


def test_jetpack_6_orin_nano(plant):
    found = sample(plant("jetpack6-orin-nano")).to_dict()
    assert {rail: watts["max"] for rail, watts in found["power_w"].items()} == {
        "VDD_IN": 7.0,
        "VDD_CPU_GPU_CV": 2.4,
        "VDD_SOC": 1.6,
    }
    assert found["energy_source"] == "INA3221 VDD_IN"
    assert found["gpu_clock_mhz"]["max"] == 1020
    assert found["memory_clock_mhz"]["max"] == 3199
    assert found["fan_pct"]["max"] == 100
    assert set(found["temperature_c"]) == {"cpu-thermal", "gpu-thermal", "tj-thermal"}
    assert found["settings"]["nvpmodel"] == "2 MAXN_SUPER"
    assert found["sources"] == [
        "cpufreq", "thermal", "cooling", "INA3221", "jetson", "soctherm_oc",
    ]  # fmt: skip
    assert found["throttled"] == []
    assert found["missing"] == []


def test_jetpack_7_agx_thor(plant):
    found = sample(plant("jetpack7-agx-thor")).to_dict()
    assert {rail: watts["mean"] for rail, watts in found["power_w"].items()} == {
        "VDD_GPU": 7.706,
        "VDD_CPU_SOC_MSS": 11.558,
        "VIN_SYS_5V0": 8.853,
        "VIN": 35.012,
    }
    assert found["energy_source"] == "INA238 VIN"
    assert found["gpu_clock_mhz"]["max"] == 1575
    assert found["memory_clock_mhz"]["max"] == 4266
    assert "gpu-thermal" not in found["temperature_c"]
    assert found["temperature_c"]["tj-thermal"]["max"] == 55.1
    assert found["settings"]["nvpmodel"] == "1 120W"
    assert found["throttled"] == []


def test_jetpack_4_nano(plant):
    found = sample(plant("jetpack4-nano")).to_dict()
    assert found["power_w"]["POM_5V_IN"]["mean"] == 2.65
    assert found["energy_source"] == "INA3221 POM_5V_IN"
    assert found["gpu_clock_mhz"]["max"] == 921.6


def test_desktop(plant):
    found = sample(plant("intel-desktop")).to_dict()
    assert found["cpu_clock_mhz"]["max"] == 4700
    assert found["energy_source"] == "rapl package-0"
    assert set(found["power_w"]) == {"package-0", "package-0 core", "psys"}
    assert {zone: spread["max"] for zone, spread in found["temperature_c"].items()} == {
        "acpitz": 27.8,
        "acpitz 2": 29.8,
        "Package id 0": 61.0,
    }
    assert found["gpu_clock_mhz"] is None
    assert found["throttled"] == []


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("jetpack4-nano", 2.65),
        ("jetpack5-agx-orin", 9.9 + 1.98 + 5.0),
        ("jetpack6-orin-nano", 7.0),
        ("jetpack7-agx-thor", 35.012),
    ],
)
def test_energy_is_that_of_the_whole_and_of_no_part_twice(plant, name, watts):
    log = sample(plant(name))
    times = [time_s for track in log.tracks if track.meter for time_s, _ in track.readings]
    joules = log.energy_j(min(times), max(times))
    assert joules == pytest.approx(watts * (max(times) - min(times)))


def test_thor_without_a_monitor_at_its_input_adds_up_the_module(plant):
    tree = plant("jetpack7-agx-thor")
    tree["sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon6/power1_input"] = "n/a"
    log = sample(tree)
    assert log.energy_source == "INA3221 VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0"


def test_rails_that_are_not_known_are_measured_and_not_added_up(plant):
    tree = plant("jetpack6-orin-nano")
    tree["sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label"] = "VDD_NEW"
    log = sample(tree)
    assert log.to_dict()["power_w"]["VDD_NEW"]["mean"] == 7.0
    assert log.energy_source is None
    assert log.energy_j(0, 1) is None
    assert any("VDD_NEW" in item.reason for item in log.missing)


@pytest.mark.parametrize(
    ("name", "changes", "reasons"),
    [
        (
            "jetpack6-orin-nano",
            {"sys/class/hwmon/hwmon3/oc3_event_cnt": "42"},
            (f"{EVENT.format(3)} rose by 5",),
        ),
        (
            "jetpack6-orin-nano",
            {"sys/class/thermal/cooling_device2/cur_state": "2"},
            ("thermal: GPU clock capped (devfreq-17000000.gpu)",),
        ),
        (
            "jetpack7-agx-thor",
            {
                "sys/class/thermal/cooling_device9/cur_state": "1",
                "sys/class/thermal/cooling_device12/cur_state": "18",
            },
            (
                "thermal: gpu throttled in hardware (gpu-throttle-alert)",
                "thermal: GPU clock capped (devfreq-gpu-gpc-0)",
            ),
        ),
        (
            "jetpack5-agx-orin",
            {"sys/class/thermal/cooling_device0/cur_state": "3"},
            ("thermal: CPU clock capped (thermal-cpufreq-0)",),
        ),
        (
            "intel-desktop",
            {
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "8",
                "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "10",
            },
            (
                "CPU thermal throttle count rose by 3",
                "CPU package thermal throttle count rose by 1",
            ),
        ),
    ],
)
def test_throttling_during_the_run_is_told(plant, name, changes, reasons):
    tree = plant(name)
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        assert sampler.log().throttled() == ()
        for path, text in changes.items():
            tree[path] = text
    assert sampler.log().throttled() == reasons


def test_throttling_that_ended_is_told_all_the_same(plant):
    tree = plant("jetpack6-orin-nano")
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        tree["sys/class/thermal/cooling_device2/cur_state"] = "1"
        sampler.log()
        tree["sys/class/thermal/cooling_device2/cur_state"] = "0"
    assert sampler.log().throttled() == ("thermal: GPU clock capped (devfreq-17000000.gpu)",)


def test_gpu_zone_that_wakes_up_is_read_from_then_on(plant):
    tree = plant("jetpack7-agx-thor")
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        (tree.root / "sys/class/thermal/thermal_zone1/temp").rmdir()
        tree["sys/class/thermal/thermal_zone1/temp"] = "61000"
    assert sampler.log().to_dict()["temperature_c"]["gpu-thermal"] == {"median": 61, "max": 61}


def test_rapl_wraps_around_at_its_range(plant):
    tree = plant("intel-desktop")
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        tree["sys/class/powercap/intel-rapl:0/energy_uj"] = "4000000"  # 262143.32885 J is its range
    log = sampler.log()
    (track,) = (track for track in log.tracks if track.name == "rapl")
    (first_s, _), (last_s, _) = track.readings
    assert log.energy_j(first_s, last_s) == pytest.approx(4.32885)
    assert log.energy_j((first_s + last_s) / 2, last_s) == pytest.approx(4.32885 / 2)
    assert log.energy_j(first_s - 1, last_s) is None
    assert log.energy_j(first_s, last_s + 1) is None


def test_rapl_of_two_sockets_adds_them_up(plant):
    tree = plant("intel-desktop")
    tree["sys/class/powercap/intel-rapl:1/name"] = "package-1"
    assert sample(tree).energy_source == "rapl package-0 + package-1"


def test_rapl_that_is_for_root_only_is_named_with_what_to_do(plant):
    tree = plant("intel-desktop")
    for zone in ("0", "0:0", "1"):
        tree[f"sys/class/powercap/intel-rapl:{zone}/energy_uj"] = "<unreadable>"
    log = sample(tree)
    assert log.energy_source is None
    (missing,) = log.missing
    assert missing.sensor == "rapl"
    assert "root" in missing.reason


def test_part_of_rapl_that_is_hidden_is_named(plant):
    tree = plant("intel-desktop")
    tree["sys/class/powercap/intel-rapl:1/name"] = "package-1"
    tree["sys/class/powercap/intel-rapl:1/energy_uj"] = "<unreadable>"
    log = sample(tree)
    assert log.energy_source == "rapl package-0"
    assert [item.reason for item in log.missing] == [
        "package-1 cannot be read, and is not in its energy"
    ]


def test_rail_that_stops_answering_costs_its_energy_and_not_the_others_power(plant):
    tree = plant("jetpack5-agx-orin")
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        tree["sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input"] = "<unreadable>"
    log = sampler.log()
    (track,) = (track for track in log.tracks if track.meter)
    (first_s, first), (last_s, last) = track.readings
    assert set(first.power_w) - set(last.power_w) == {"VDD_CPU_CV"}
    assert log.energy_j(first_s, last_s) is None


def test_cores_that_go_offline_leave_the_clock_of_the_others(plant):
    tree = plant("jetpack5-agx-orin")
    with SensorSampler(60, find_sensors(tree.root)) as sampler:
        (tree.root / "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq").unlink()
    assert sampler.log().to_dict()["cpu_clock_mhz"] == {
        "min": 729.6,
        "median": 1465.6,
        "max": 2201.6,
    }


def test_source_that_cannot_be_looked_for_is_named(plant, monkeypatch):
    def fail(root):
        raise RuntimeError("a strange kernel")

    monkeypatch.setattr("alexnet_edge.sensors.discovery.find_rapl_sensors", fail)
    log = sample(plant("intel-desktop"))
    assert [(item.sensor, item.reason) for item in log.missing] == [
        ("rapl", "looking for it failed: a strange kernel")
    ]
    assert log.to_dict()["cpu_clock_mhz"]["max"] == 4700


def test_machine_without_anything_gives_nothing_and_invents_nothing(tmp_path):
    assert find_sensors(tmp_path) == ()
    with SensorSampler(60, ()) as sampler:
        pass
    found = sampler.log().to_dict()
    assert found["cpu_clock_mhz"] is None
    assert found["power_w"] == found["temperature_c"] == found["settings"] == {}
    assert found["sources"] == found["throttled"] == found["missing"] == []
    assert found["energy_source"] is None
    assert sampler.log().energy_j(0, 1) is None

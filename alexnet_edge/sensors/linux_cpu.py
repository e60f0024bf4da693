"""CPU clocks and thermal throttle counters, from Linux's sysfs.

Sources: the kernel's Documentation/admin-guide/pm/cpufreq.rst (`scaling_cur_freq` in kHz, one
policy for the cores that share a clock) and arch/x86/kernel/cpu/mce/therm_throt.c
(`thermal_throttle/core_throttle_count`, which only Intel's x86 CPUs have).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from alexnet_edge.sensors.base import Reading, Sensor
from alexnet_edge.sensors.files import find_paths, read_int, try_int, try_text

_CPUINFO_CLOCK = re.compile(r"^processor\s*:\s*(\d+)$|^cpu MHz\s*:\s*([\d.]+)$", re.MULTILINE)


def find_cpu_sensors(root: Path, cpus: Collection[int] | None) -> list[Sensor]:
    """Return what tells of the CPU's clocks and throttling.

    Args:
        root: of the file tree.
        cpus: the logical cores of interest; None for all.
    """
    cpu = root / "sys/devices/system/cpu"
    policies = [
        policy
        for policy in find_paths(cpu / "cpufreq", "policy*")
        if try_int(policy / "scaling_cur_freq") is not None and _covers(policy, cpus)
    ]
    sensors: list[Sensor] = []
    if policies:
        sensors.append(CpufreqSensor(policies))
    elif read_cpuinfo_clocks(root / "proc/cpuinfo", cpus):
        sensors.append(CpuinfoSensor(root / "proc/cpuinfo", cpus))
    if counters := _find_throttle_counters(cpu, cpus):
        sensors.append(ThermalThrottleSensor(counters))
    return sensors


class CpufreqSensor(Sensor):
    """The clock that each cpufreq policy runs at."""

    name = "cpufreq"

    def __init__(self, policies: list[Path]) -> None:
        self._policies = policies
        self._clocks = [policy / "scaling_cur_freq" for policy in policies]

    def read(self) -> Reading:
        """Return the fastest policy's clock; one whose cores went offline is passed over.

        Raises:
            OSError: none answers.
        """
        clocks_khz = [khz for path in self._clocks if (khz := try_int(path)) is not None]
        if not clocks_khz:
            raise OSError(f"{self._clocks[0]} and the others do not answer")
        return Reading(cpu_clock_mhz=max(clocks_khz) / 1000)

    def read_settings(self) -> Mapping[str, str]:
        """Return governors and the range that the clocks may take."""
        governors = {try_text(policy / "scaling_governor") for policy in self._policies} - {None}
        lows = [try_int(policy / "scaling_min_freq") for policy in self._policies]
        highs = [try_int(policy / "scaling_max_freq") for policy in self._policies]
        settings = {}
        if governors:
            settings["cpu_governor"] = ", ".join(sorted(str(name) for name in governors))
        if (low := [khz for khz in lows if khz]) and (high := [khz for khz in highs if khz]):
            settings["cpu_clock_range_mhz"] = f"{min(low) // 1000}–{max(high) // 1000}"
        return settings


class CpuinfoSensor(Sensor):
    """The clock that /proc/cpuinfo states, where there is no cpufreq: virtual machines, mostly.

    A hypervisor often states the nominal clock here, whatever the core runs at.
    """

    name = "cpuinfo"

    def __init__(self, path: Path, cpus: Collection[int] | None) -> None:
        self._path = path
        self._cpus = cpus
        self.every = 5  # the kernel formats all of the file, of which a line a core is wanted

    def read(self) -> Reading:
        """Return the fastest core's clock."""
        return Reading(cpu_clock_mhz=max(read_cpuinfo_clocks(self._path, self._cpus)))


class ThermalThrottleSensor(Sensor):
    """How often Intel CPUs have slowed down for their temperature."""

    name = "thermal_throttle"
    every = 5

    def __init__(self, counters: Mapping[str, list[Path]]) -> None:
        self._counters = counters

    def read(self) -> Reading:
        """Return the counts since boot."""
        return Reading(
            events={
                event: sum(read_int(path) for path in paths)
                for event, paths in self._counters.items()
            }
        )


def read_cpuinfo_clocks(path: Path, cpus: Collection[int] | None) -> list[float]:
    """Return the clock in MHz of each of ``cpus`` that /proc/cpuinfo states."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    clocks, core = [], -1
    for match in _CPUINFO_CLOCK.finditer(text):
        if match[1] is not None:
            core = int(match[1])
        elif cpus is None or core in cpus:
            clocks.append(float(match[2]))
    return clocks


def _covers(policy: Path, cpus: Collection[int] | None) -> bool:
    if cpus is None:
        return True
    text = try_text(policy / "affected_cpus")
    return text is None or bool({int(core) for core in text.split()} & set(cpus))


def _find_throttle_counters(cpu: Path, cpus: Collection[int] | None) -> dict[str, list[Path]]:
    """Return each counter's files: one a core and one a package, though each thread has both."""
    cores: dict[str, Path] = {}
    packages: dict[str, Path] = {}
    for folder in find_paths(cpu, "cpu[0-9]*"):
        number = int(folder.name.removeprefix("cpu"))
        counts = folder / "thermal_throttle"
        if (cpus is not None and number not in cpus) or not counts.is_dir():
            continue
        threads = try_text(folder / "topology/thread_siblings_list") or folder.name
        package = try_text(folder / "topology/physical_package_id") or "0"
        if try_int(counts / "core_throttle_count") is not None:
            cores.setdefault(threads, counts / "core_throttle_count")
        if try_int(counts / "package_throttle_count") is not None:
            packages.setdefault(package, counts / "package_throttle_count")
    found = {
        "CPU thermal throttle count": list(cores.values()),
        "CPU package thermal throttle count": list(packages.values()),
    }
    return {event: paths for event, paths in found.items() if paths}

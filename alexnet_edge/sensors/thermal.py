"""Temperatures, and what the kernel slows down because of them.

Sources: the kernel's Documentation/driver-api/thermal/sysfs-api.rst (`temp` in millidegrees, and
cooling devices, whose `cur_state` above 0 means that they cool by running slower) and
Documentation/hwmon/{coretemp,k10temp}.rst.

Names of cooling devices: drivers/thermal/cpufreq_cooling.c and devfreq_cooling.c call them
`thermal-cpufreq-0` up to Linux 5.10 (JetPack 5) and `cpufreq-cpu0`, `devfreq-17000000.gpu`,
`devfreq-gpu-gpc-0` since (JetPack 6 and 7). NVIDIA's device trees add `cpu-throttle-alert`,
`gpu-throttle-alert` and others, which step above 0 while the hardware throttles, as seen on an
AGX Thor with L4T R38.4 at 109 °C (github.com/swsususu/ThorFAN, README, "Platform notes").
"""

from __future__ import annotations

import re
from pathlib import Path

from alexnet_edge.sensors.base import Reading, Sensor
from alexnet_edge.sensors.files import find_paths, try_int, try_text

_PLAUSIBLE_C = (-40.0, 150.0)
"""Of a Jetson's offline zones, some read -256 °C."""

_CHIPS = {"coretemp": "Package id", "k10temp": "Tctl", "zenpower": "Tdie"}
"""hwmon drivers of x86 CPUs, and how the label of the sensor that covers the package begins."""

_CLOCK_CAP = re.compile(r"(?:thermal-)?(cpufreq|devfreq)-(.+)")
_ALERT = re.compile(r"(.+)-throttle-alert")


def find_thermal_sensors(root: Path) -> list[Sensor]:
    """Return the sensors of temperatures and of thermal caps below ``root``."""
    sensors: list[Sensor] = []
    if zones := _find_zones(root):
        sensors.append(TemperatureSensor(zones))
    caps = _find_caps(root)
    if caps:
        sensors.append(CoolingSensor(caps))
    return sensors


class TemperatureSensor(Sensor):
    """Every thermal zone, and an x86 CPU's package.

    A zone that does not answer is left out of the reading and asked again: a Jetson's
    `gpu-thermal` gives EAGAIN for as long as the GPU is power-gated.
    """

    name = "thermal"
    every = 5

    def __init__(self, zones: dict[str, Path]) -> None:
        self._zones = zones

    def read(self) -> Reading:
        """Return the zones that answer."""
        found = {}
        for zone, path in self._zones.items():
            millidegrees = try_int(path)
            if millidegrees is None:
                continue
            if _PLAUSIBLE_C[0] < millidegrees / 1000 < _PLAUSIBLE_C[1]:
                found[zone] = millidegrees / 1000
        return Reading(temperature_c=found)


class CoolingSensor(Sensor):
    """The cooling devices that cool by slowing something down."""

    name = "cooling"

    def __init__(self, caps: dict[str, list[Path]]) -> None:
        self._caps = caps

    def read(self) -> Reading:
        """Return the reasons of the devices that are at work."""
        return Reading(
            throttling=tuple(
                reason
                for reason, paths in self._caps.items()
                if any((try_int(path) or 0) > 0 for path in paths)
            )
        )


def _find_zones(root: Path) -> dict[str, Path]:
    zones: dict[str, Path] = {}
    for folder in find_paths(root / "sys/class/thermal", "thermal_zone*"):
        if (kind := try_text(folder / "type")) and (folder / "temp").exists():
            _add(zones, kind, folder / "temp")
    if "x86_pkg_temp" in zones:
        return zones
    for folder in find_paths(root / "sys/class/hwmon", "hwmon*"):
        begins = _CHIPS.get(try_text(folder / "name") or "")
        for label in find_paths(folder, "temp*_label") if begins else []:
            text = try_text(label) or ""
            if begins and text.startswith(begins):
                _add(zones, text, label.with_name(label.name.replace("_label", "_input")))
    return zones


def _add(zones: dict[str, Path], name: str, path: Path) -> None:
    """Add a zone; the second of a name becomes `name 2`."""
    number = 2
    unique = name
    while unique in zones:
        unique, number = f"{name} {number}", number + 1
    zones[unique] = path


def _find_caps(root: Path) -> dict[str, list[Path]]:
    """Return reason to `cur_state` files; fans and offsets, which slow nothing, are left out."""
    caps: dict[str, list[Path]] = {}
    for folder in find_paths(root / "sys/class/thermal", "cooling_device*"):
        reason = describe_cap(try_text(folder / "type") or "")
        if reason is not None:
            caps.setdefault(reason, []).append(folder / "cur_state")
    return caps


def describe_cap(kind: str) -> str | None:
    """Return what a cooling device at work means for the clocks, or None where nothing.

    Args:
        kind: its `type` file.
    """
    if match := _CLOCK_CAP.fullmatch(kind):
        device = "CPU" if match[1] == "cpufreq" else "GPU" if "gpu" in match[2] else "device"
        return f"thermal: {device} clock capped ({kind})"
    if match := _ALERT.fullmatch(kind):
        return f"thermal: {match[1]} throttled in hardware ({kind})"
    if kind in {"Processor", "intel_powerclamp"}:
        return f"thermal: CPU slowed down ({kind})"
    return None

"""Energy counters of x86 CPUs: Intel's RAPL, which AMD's have as well.

Source: the kernel's Documentation/power/powercap/powercap.rst: `energy_uj` counts microjoules and
begins anew at `max_energy_range_uj`; `intel-rapl:0` is a package and `intel-rapl:0:1` a part of it.
Since Linux 5.10 only root may read it (CVE-2020-8694, the PLATYPUS attack).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_edge.sensors.base import Meter, Reading, Sensor, UnreadableSensor
from alexnet_edge.sensors.files import find_paths, read_int, try_int, try_text

_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
"""Not `intel-rapl-mmio:0`, which counts the same package through another register."""

_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")


def find_rapl_sensors(root: Path) -> list[Sensor]:
    """Return the energy counters below ``root``: one sensor, or none."""
    folders = [
        folder
        for folder in find_paths(root / "sys/class/powercap", "intel-rapl:*")
        if _ZONE.fullmatch(folder.name) and (folder / "energy_uj").exists()
    ]
    if not folders:
        return []
    readable = [folder for folder in folders if try_int(folder / "energy_uj") is not None]
    if not readable:
        return [
            UnreadableSensor(
                "rapl",
                f"{folders[0] / 'energy_uj'} is for root only: run as root, or allow it with "
                "chmod a+r",
            )
        ]
    hidden = [_zone_name(folder) for folder in folders if folder not in readable]
    return [RaplSensor(readable, hidden)]


class RaplSensor(Sensor):
    """The joules that each package, and each part of one, has used.

    Only the packages are added up: their parts are in them, and `psys`, where it is wired, holds
    the packages.

    Args:
        folders: of the counters.
        hidden: the names of those that cannot be read.
    """

    name = "rapl"

    def __init__(self, folders: list[Path], hidden: Sequence[str] = ()) -> None:
        self._zones = [_Zone(folder, _zone_name(folder)) for folder in folders]
        packages = tuple(zone.name for zone in self._zones if _PACKAGE.fullmatch(zone.name))
        if packages:
            self.meter = Meter(f"rapl {' + '.join(packages)}", counters=packages)
        else:
            self.gaps = ("it counts no whole package: no energy is added up",)
        if hidden:
            self.gaps += (f"{', '.join(hidden)} cannot be read, and is not in its energy",)

    def read(self) -> Reading:
        """Return the joules since the sensor was opened."""
        return Reading(energy_j={zone.name: zone.read_j() for zone in self._zones})


class _Zone:
    """One counter, without its wrap-around."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._path = folder / "energy_uj"
        self._range_uj = try_int(folder / "max_energy_range_uj")
        self._last_uj = read_int(self._path)
        self._total_uj = 0

    def read_j(self) -> float:
        now_uj = read_int(self._path)
        step_uj = now_uj - self._last_uj
        if step_uj < 0:
            if not self._range_uj:
                raise ValueError(f"{self._path} fell, and its range is not known")
            step_uj += self._range_uj
        self._total_uj += step_uj
        self._last_uj = now_uj
        return self._total_uj / 1e6


def _zone_name(folder: Path) -> str:
    """Return `package-0`, or `package-0 dram` for a part."""
    name = try_text(folder / "name") or folder.name
    if folder.name.count(":") < 2:
        return name
    parent = folder.with_name(folder.name.rpartition(":")[0])
    return f"{try_text(parent / 'name') or parent.name} {name}"

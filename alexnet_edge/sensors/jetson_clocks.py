"""A Jetson's GPU and memory clocks, fan, power mode and over-current events.

Where, and in what units:

- GPU: `/sys/class/devfreq/NAME/cur_freq` in Hz. NAME is `57000000.gpu` (Nano), `17000000.gp10b`
  (TX2), `17000000.gv11b` (Xavier), `17000000.ga10b` (Orin, L4T R35), `17000000.gpu` (Orin, R36 and
  later) and `gpu-gpc-0`, `gpu-gpc-1`, … (Thor, R38: jtop/core/thor_gpu.py of
  github.com/rbonghi/jetson_stats).
- Memory: `/sys/class/devfreq/bwmgr/cur_freq` where the kernel has it (JetPack 7), else
  `/sys/kernel/debug/bpmp/debug/clk/emc/rate`, which is for root only.
- Fan: the hwmon device `pwmfan`, `pwm1` of 255.
- Power mode: `/var/lib/nvpmodel/status` says `pmode:0002 …`, and `/etc/nvpmodel.conf` names the
  modes: `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`.
- Over-current: the hwmon device `soctherm_oc` at `/sys/devices/platform/soctherm-oc-event`,
  `oc1_event_cnt` to `oc3_event_cnt`, since boot (NVIDIA's driver tegra234-oc-event.c), after
  which the hardware throttles. Which is under-voltage and which over-current differs between
  Xavier and Orin (forums.developer.nvidia.com/t/307919), so that the count is told by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from alexnet_edge.sensors.base import Reading, Sensor
from alexnet_edge.sensors.files import find_paths, read_int, try_int, try_text

_GPU = re.compile(r"\d+\.(gpu|gp10b|gv11b|ga10b)|gpu-gpc-\d+")


def find_jetson_sensors(root: Path) -> list[Sensor]:
    """Return what tells of a Jetson's clocks, fan, mode and over-current below ``root``."""
    sensors: list[Sensor] = []
    gpus = [
        folder
        for folder in find_paths(root / "sys/class/devfreq", "*")
        if _GPU.fullmatch(folder.name) and try_int(folder / "cur_freq") is not None
    ]
    if gpus:
        sensors.append(ClockSensor(root, gpus))
    if counters := _find_event_counters(root):
        sensors.append(OverCurrentSensor(counters))
    return sensors


class ClockSensor(Sensor):
    """The clocks of the integrated GPU and of the memory, and the fan."""

    name = "jetson"

    def __init__(self, root: Path, gpus: list[Path]) -> None:
        self._root = root
        self._gpus = gpus
        self._memory = _find_memory_clock(root)
        self._fan = _find_fan(root)
        if self._memory is None:
            self.gaps = ("the memory's clock is for root only",)

    def read(self) -> Reading:
        """Return clocks and fan."""
        memory_hz = try_int(self._memory) if self._memory else None
        pwm = try_int(self._fan) if self._fan else None
        return Reading(
            gpu_clock_mhz=max(read_int(folder / "cur_freq") for folder in self._gpus) / 1e6,
            memory_clock_mhz=None if memory_hz is None else memory_hz / 1e6,
            fan_pct=None if pwm is None else pwm / 255 * 100,
        )

    def read_settings(self) -> Mapping[str, str]:
        """Return the power mode, and the range that the GPU's clock may take."""
        settings = {}
        if mode := read_power_mode(self._root):
            settings["nvpmodel"] = mode
        low, high = (try_int(self._gpus[0] / f"{end}_freq") for end in ("min", "max"))
        if low is not None and high is not None:
            settings["gpu_clock_range_mhz"] = f"{low // 10**6}–{high // 10**6}"
        if governor := try_text(self._gpus[0] / "governor"):
            settings["gpu_governor"] = governor
        return settings


class OverCurrentSensor(Sensor):
    """How often the hardware has throttled for its supply."""

    name = "soctherm_oc"
    every = 5  # each file costs a message to the boot processor

    def __init__(self, counters: Mapping[str, Path]) -> None:
        self._counters = counters

    def read(self) -> Reading:
        """Return the counts since boot."""
        return Reading(events={event: read_int(path) for event, path in self._counters.items()})


def read_power_mode(root: Path) -> str | None:
    """Return the power mode as `2 MAXN_SUPER`, or None where there is no nvpmodel."""
    status = re.search(r"pmode:(\d+)", try_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    modes = try_text(root / "etc/nvpmodel.conf") or ""
    name = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=([^\s>]+)", modes)
    return f"{number} {name[1]}" if name else str(number)


def _find_memory_clock(root: Path) -> Path | None:
    for path in ("sys/class/devfreq/bwmgr/cur_freq", "sys/kernel/debug/bpmp/debug/clk/emc/rate"):
        if try_int(root / path) is not None:
            return root / path
    return None


def _find_hwmon(root: Path, name: str) -> Path | None:
    """Return the hwmon folder of a name: their numbers change from boot to boot."""
    for folder in find_paths(root / "sys/class/hwmon", "hwmon*"):
        if try_text(folder / "name") == name:
            return folder
    return None


def _find_fan(root: Path) -> Path | None:
    folder = _find_hwmon(root, "pwmfan")
    return folder / "pwm1" if folder and try_int(folder / "pwm1") is not None else None


def _find_event_counters(root: Path) -> dict[str, Path]:
    folder = _find_hwmon(root, "soctherm_oc")
    paths = find_paths(folder, "oc*_event_cnt") if folder else []
    return {
        f"Jetson: {path.name} (over-current or under-voltage throttling)": path
        for path in paths
        if try_int(path) is not None
    }

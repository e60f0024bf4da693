"""Which sensors this machine has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_edge.sensors.base import Sensor, UnreadableSensor
from alexnet_edge.sensors.jetson_clocks import find_jetson_sensors
from alexnet_edge.sensors.jetson_power import find_power_sensors
from alexnet_edge.sensors.linux_cpu import find_cpu_sensors
from alexnet_edge.sensors.nvml import find_nvml_sensors, visible_devices
from alexnet_edge.sensors.rapl import find_rapl_sensors
from alexnet_edge.sensors.thermal import find_thermal_sensors

_ROOT = Path("/")


def find_sensors(root: Path = _ROOT, nvml: Any = None) -> tuple[Sensor, ...]:
    """Return the sensors of a machine; they belong to the caller, who closes them.

    What is there and cannot be read is among them, and says why when it is read.

    Args:
        root: of the file tree: this machine's, or one that was recorded on another.
        nvml: the module to use for NVIDIA's driver; `pynvml` where None.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = affinity(0) if root == _ROOT and affinity is not None else None
    sources: dict[str, Callable[[], list[Sensor]]] = {
        "cpu": lambda: find_cpu_sensors(root, cpus),
        "thermal": lambda: find_thermal_sensors(root),
        "power": lambda: find_power_sensors(root),
        "jetson": lambda: find_jetson_sensors(root),
        "rapl": lambda: find_rapl_sensors(root),
        "nvml": lambda: find_nvml_sensors(root, nvml, visible_devices()),
    }
    return tuple(sensor for name, find in sources.items() for sensor in _find(name, find))


def _find(name: str, find: Callable[[], list[Sensor]]) -> list[Sensor]:
    """Return what a source has; a source that cannot be looked for is no reason not to measure."""
    try:
        return find()
    except Exception as error:
        return [UnreadableSensor(name, f"looking for it failed: {error or type(error).__name__}")]

"""NVIDIA GPUs through NVML.

Source: nvml.h and NVIDIA's NVML API reference: clocks in MHz, power in mW (on Ampere and later an
average over a second), energy in mJ since the driver was loaded (Volta and later), and the bits of
`nvmlDeviceGetCurrentClocksEventReasons`.

Each query is asked for once when a GPU is opened and left out where it is not supported: on a
Jetson NVML lists the integrated GPU, and answers next to nothing (Thor, JetPack 7:
github.com/nvidia-cosmos/cosmos-reason1/issues/61 and github.com/rbonghi/jetson_stats/pull/698;
Orin, JetPack 7.2, none of these queries: github.com/HazyResearch/intelligence-per-watt/issues/40).
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_edge import machine
from alexnet_edge.sensors.base import Meter, Reading, Sensor, UnreadableSensor

_REASONS = {
    0x04: "SW power cap",
    0x08: "HW slowdown",
    0x20: "SW thermal slowdown",
    0x40: "HW thermal slowdown",
    0x80: "HW power brake slowdown",
}
"""Of nvml.h, those that slow a busy GPU down; idling and clocks set by the user do not."""

_ROOT = Path("/")
_DRIVER = ("dev/nvidiactl", "dev/dxg")
"""What NVIDIA's driver leaves on Linux, and in WSL 2."""


def find_nvml_sensors(root: Path, nvml: Any = None, visible: str | None = None) -> list[Sensor]:
    """Return the GPUs that NVML lists and this process may use.

    Args:
        root: of the file tree; NVML is asked only for the machine's own.
        nvml: the module to use; `pynvml` where None.
        visible: `CUDA_VISIBLE_DEVICES`; None for all.
    """
    if nvml is None and not (root == _ROOT and any((root / file).exists() for file in _DRIVER)):
        return []
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        if machine.l4t_release() is not None:  # its GPU tells the kernel more than NVML
            return []
        return [UnreadableSensor("nvml", "pynvml is missing: pip install nvidia-ml-py")]
    if "MIG-" in (visible or ""):
        return [UnreadableSensor("nvml", f"a slice of a GPU has no meter of its own: {visible}")]
    return _open_gpus(nvml, visible)


def _open_gpus(nvml: Any, visible: str | None) -> list[Sensor]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [UnreadableSensor("nvml", f"NVML does not start: {error}")]
    sensors: list[Sensor] = []
    try:
        if handles := _choose_handles(nvml, visible):
            sensors.append(NvmlSensor(nvml, handles))
    except nvml.NVMLError as error:
        sensors.append(UnreadableSensor("nvml", f"NVML lists no GPU: {error}"))
    if not any(isinstance(sensor, NvmlSensor) for sensor in sensors):
        nvml.nvmlShutdown()
    return sensors


class NvmlSensor(Sensor):
    """Clocks, temperatures, power, energy and throttling of the GPUs.

    Args:
        nvml: the module, initialized; it is shut down on closing.
        handles: the GPUs by the name that readings give them.
    """

    name = "nvml"

    def __init__(self, nvml: Any, handles: Mapping[str, Any]) -> None:
        self._nvml = nvml
        self._gpus = [_Gpu(nvml, name, handle) for name, handle in handles.items()]
        metered = all(gpu.has("energy") for gpu in self._gpus)
        powered = all(gpu.has("power") for gpu in self._gpus)
        names = tuple(gpu.name for gpu in self._gpus)
        if metered:
            self.meter = Meter("nvml", counters=names)
        elif powered:
            self.meter = Meter("nvml", rails=names)
        self.gaps = tuple(
            f"{gpu.name} ({gpu.product}) does not tell its {', '.join(gpu.unsupported)}"
            for gpu in self._gpus
            if gpu.unsupported
        )

    def read(self) -> Reading:
        """Return what the GPUs tell.

        Raises:
            RuntimeError: they tell nothing.
        """
        clocks: list[float] = []
        temperature_c, power_w, energy_j = {}, {}, {}
        throttling: list[str] = []
        answers = 0
        for gpu in self._gpus:
            found = gpu.read()
            answers += len(found)
            if "clock" in found:
                clocks.append(float(found["clock"]))
            if "temperature" in found:
                temperature_c[gpu.name] = float(found["temperature"])
            if "power" in found:
                power_w[gpu.name] = found["power"] / 1000
            if "energy" in found:
                energy_j[gpu.name] = (found["energy"] - gpu.first_energy_mj) / 1000
            bits = found.get("throttling", 0)
            throttling += [f"NVML: {text}" for bit, text in _REASONS.items() if bits & bit]
        if not answers:
            raise RuntimeError("NVML lists a GPU and answers no query about it")
        return Reading(
            gpu_clock_mhz=max(clocks, default=None),
            temperature_c=temperature_c,
            power_w=power_w,
            energy_j=energy_j,
            throttling=tuple(dict.fromkeys(throttling)),
        )

    def read_settings(self) -> Mapping[str, str]:
        """Return each GPU's name and power limit."""
        settings = {}
        for gpu in self._gpus:
            settings[gpu.name] = gpu.product
            with contextlib.suppress(self._nvml.NVMLError):
                limit_mw = self._nvml.nvmlDeviceGetEnforcedPowerLimit(gpu.handle)
                settings[f"{gpu.name}_power_limit_w"] = f"{limit_mw / 1000:g}"
        return settings

    def close(self) -> None:
        """Let go of NVML."""
        self._nvml.nvmlShutdown()


class _Gpu:
    """One GPU and the queries that it supports."""

    def __init__(self, nvml: Any, name: str, handle: Any) -> None:
        self.name = name
        self.handle = handle
        self._nvml = nvml
        product = nvml.nvmlDeviceGetName(handle)
        self.product = product.decode() if isinstance(product, bytes) else str(product)
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        self._queries: dict[str, Callable[[], int]] = {
            "clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
            "energy": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
            "throttling": lambda: (reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(
                handle
            ),
        }
        first = self.read()
        self.unsupported = tuple(sorted(set(self._queries) - set(first)))
        self._queries = {key: query for key, query in self._queries.items() if key in first}
        self.first_energy_mj = first.get("energy", 0)

    def has(self, quantity: str) -> bool:
        """Return whether it tells a quantity."""
        return quantity in self._queries

    def read(self) -> dict[str, int]:
        """Return what it answers; a query that fails is left out."""
        found = {}
        for quantity, query in self._queries.items():
            with contextlib.suppress(self._nvml.NVMLError):
                found[quantity] = int(query())
        return found


def visible_devices() -> str | None:
    """Return which GPUs CUDA may show this process, or None for all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _choose_handles(nvml: Any, visible: str | None) -> dict[str, Any]:
    """Return the GPUs of `CUDA_VISIBLE_DEVICES`.

    Numbers are taken as NVML's. CUDA's differ where unlike GPUs are sorted by speed; with
    CUDA_DEVICE_ORDER=PCI_BUS_ID they are the same.
    """
    every = {
        f"gpu{index}": nvml.nvmlDeviceGetHandleByIndex(index)
        for index in range(nvml.nvmlDeviceGetCount())
    }
    if visible is None:
        return every
    chosen: dict[str, Any] = {}
    for item in (part.strip() for part in visible.split(",")):
        if item.isdigit() and f"gpu{item}" in every:
            chosen[f"gpu{item}"] = every[f"gpu{item}"]
        elif item.startswith("GPU-"):
            chosen |= {
                name: handle
                for name, handle in every.items()
                if _uuid(nvml, handle).startswith(item)
            }
        else:  # as CUDA does: what follows an invalid entry is not seen
            break
    return chosen


def _uuid(nvml: Any, handle: Any) -> str:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)

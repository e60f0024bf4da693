"""Sensors whose readings are written down, and an NVML without a driver."""

from __future__ import annotations

from alexnet_edge.sensors import Reading, Sensor


class Scripted(Sensor):
    """Gives what it is told to; an exception among it is raised."""

    def __init__(self, *script, name="scripted", meter=None, every=1, settings=None, gaps=()):
        self.name, self.meter, self.every, self.gaps = name, meter, every, gaps
        self.script, self.settings = list(script) or [Reading()], settings or {}
        self.reads = 0
        self.closed = 0

    def read(self):
        step = self.script[min(self.reads, len(self.script) - 1)]
        self.reads += 1
        if isinstance(step, Exception):
            raise step
        return step

    def read_settings(self):
        return self.settings

    def close(self):
        self.closed += 1


class NVMLError(Exception):
    """As pynvml's."""


class Nvml:
    """As much of `pynvml` as is used; `gpus` is a list of what each GPU answers."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *gpus, starts=True):
        self.gpus = gpus
        self.starts = starts
        self.open = 0

    def _answer(self, handle, key):
        if key not in self.gpus[handle]:
            raise NVMLError("Not Supported")
        return self.gpus[handle][key]

    def nvmlInit(self):
        if not self.starts:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return self._answer(handle, "name")

    def nvmlDeviceGetUUID(self, handle):
        return self._answer(handle, "uuid")

    def nvmlDeviceGetClockInfo(self, handle, kind):
        assert kind == self.NVML_CLOCK_SM
        return self._answer(handle, "clock_mhz")

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._answer(handle, "temperature_c")

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer(handle, "power_mw")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer(handle, "energy_mj")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer(handle, "reasons")

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer(handle, "limit_mw")

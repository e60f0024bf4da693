"""The interface that every source of measurements implements, and what one look at it gives."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a sensor saw at one moment; what it does not measure is None or empty.

    Attributes:
        cpu_clock_mhz: of the fastest core that this process may use: the one at work.
        gpu_clock_mhz: of the fastest GPU that this process may use.
        memory_clock_mhz: of the memory controller (a Jetson's EMC).
        fan_pct: of full speed, as it is driven.
        temperature_c: zone to degrees Celsius.
        power_w: rail to watts, at this moment or over the sensor's own averaging time.
        energy_j: counter to joules since the sensor was opened; it never falls.
        events: counter to how often something has happened since boot; a rise is a reason.
        throttling: what holds clocks down at this moment, in words.
    """

    cpu_clock_mhz: float | None = None
    gpu_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    fan_pct: float | None = None
    temperature_c: Mapping[str, float] = dataclasses.field(default_factory=dict)
    power_w: Mapping[str, float] = dataclasses.field(default_factory=dict)
    energy_j: Mapping[str, float] = dataclasses.field(default_factory=dict)
    events: Mapping[str, int] = dataclasses.field(default_factory=dict)
    throttling: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Meter:
    """Which of a sensor's readings add up to energy without counting anything twice.

    Attributes:
        name: as results state it: `rapl package-0`, `nvml`, `INA3221 VDD_IN`.
        counters: keys of `Reading.energy_j` to add.
        rails: keys of `Reading.power_w` to add and integrate, where there is no counter.
        whole: whether it covers everything that the other meters could, so that none is added.
    """

    name: str
    counters: tuple[str, ...] = ()
    rails: tuple[str, ...] = ()
    whole: bool = False


class Sensor(abc.ABC):
    """One source of measurements.

    A sensor may raise anything from `read`: the sampler then drops it and names it in the log.
    What is there but cannot be read is a sensor that raises, so that it is named as well. It is
    never read by two threads at once.

    Attributes:
        name: as the log names it.
        every: read it in one of so many samples; what changes slowly need not cost each time.
        meter: what its energy is reckoned from, or None where it has none.
        gaps: what one would expect of it and does not get here, in words.
    """

    name: str
    every: int = 1
    meter: Meter | None = None
    gaps: tuple[str, ...] = ()

    @abc.abstractmethod
    def read(self) -> Reading:
        """Look once."""

    def read_settings(self) -> Mapping[str, str]:
        """Return what is set rather than measured: a power mode, a governor, a limit."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what it holds; called once, after the last reading."""


class UnreadableSensor(Sensor):
    """A source that this machine has, and that this process cannot read.

    Args:
        name: as the log names it.
        reason: why, and what would mend it.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def read(self) -> Reading:
        """Raise the reason."""
        raise PermissionError(self._reason)

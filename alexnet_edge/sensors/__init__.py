"""Clocks, temperatures, throttling, power and energy: what a figure is worth little without.

One small interface (`base.Sensor`) over what machines differ in: Linux's CPU clocks, throttle
counters and thermal zones, RAPL, a Jetson's power monitors and clocks, NVML. Each takes the root of
the file tree, so that a tree recorded on a board reads as the board does.
"""

from alexnet_edge.sensors.base import Meter, Reading, Sensor
from alexnet_edge.sensors.discovery import find_sensors
from alexnet_edge.sensors.log import Missing, SensorLog, Track
from alexnet_edge.sensors.sampler import SensorSampler

__all__ = [
    "Meter",
    "Missing",
    "Reading",
    "Sensor",
    "SensorLog",
    "SensorSampler",
    "Track",
    "find_sensors",
]

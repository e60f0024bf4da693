"""What a sampler saw: summaries, energy between two instants, and reasons to distrust a clock."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alexnet_edge.sensors.base import Meter, Reading

_LARGEST_GAP = 10
"""Power is not integrated over a hole of more than so many sampling intervals."""


@dataclasses.dataclass(frozen=True)
class Missing:
    """A sensor, or a part of one, that gave nothing or stopped.

    Attributes:
        sensor: its name.
        reason: why.
    """

    sensor: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Track:
    """What one sensor gave over a run.

    Attributes:
        name: the sensor's.
        meter: what its energy is reckoned from.
        readings: `(time.monotonic(), reading)`, in order.
        settings: what was set at the start.
        first_events: the event counters at the start.
        throttling: every reason that was seen, oldest first.
    """

    name: str
    meter: Meter | None
    readings: tuple[tuple[float, Reading], ...]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    first_events: Mapping[str, int] = dataclasses.field(default_factory=dict)
    throttling: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SensorLog:
    """The readings of a run.

    Attributes:
        tracks: by sensor.
        interval_s: the time between samples that was asked for.
        samples: how many were taken.
        cpu_share: the sampling thread's CPU time over the time that it ran; 0.01 is 1 % of a core.
        missing: what gave nothing, and why.
    """

    tracks: tuple[Track, ...]
    interval_s: float
    samples: int
    cpu_share: float
    missing: tuple[Missing, ...] = ()

    @property
    def energy_source(self) -> str | None:
        """What `energy_j` adds up, as `rapl package-0`, `INA3221 VDD_IN` or `rapl … + nvml`."""
        return " + ".join(meter.name for _, meter in self._meters()) or None

    def energy_j(self, start_s: float, end_s: float) -> float | None:
        """Return the joules spent between two instants of `time.monotonic()`.

        From counters where there are any, else by the trapezoid rule over the power samples;
        both are interpolated linearly at the ends. An interval much shorter than `interval_s`
        is then a guess from its neighbours: measure at least a few of them.

        Returns:
            None where nothing measures power, or the samples do not reach over the interval.
        """
        parts = self.energy_by_source_j(start_s, end_s)
        return sum(parts.values()) if parts else None

    def energy_by_source_j(self, start_s: float, end_s: float) -> dict[str, float]:
        """Return the joules of each source of `energy_source`; empty unless all have them.

        A sum that lacks a part would be smaller without anyone seeing why.
        """
        parts: dict[str, float] = {}
        for track, meter in self._meters():
            joules = self._integrate(track, meter, start_s, end_s)
            if joules is None:
                return {}
            parts[meter.name] = joules
        return parts

    def throttled(self) -> tuple[str, ...]:
        """Return what held the clocks down during the run; empty where nothing is known to have."""
        reasons: dict[str, None] = {}
        for track in self.tracks:
            reasons.update(dict.fromkeys(track.throttling))
            for event, (first, last) in _event_range(track).items():
                if last > first:
                    reasons[f"{event} rose by {last - first}"] = None
        return tuple(reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON values; what was not measured is None or an empty object."""
        return {
            "sources": [track.name for track in self.tracks],
            "settings": dict(pair for track in self.tracks for pair in track.settings.items()),
            "cpu_clock_mhz": _spread(self._values(lambda reading: reading.cpu_clock_mhz)),
            "gpu_clock_mhz": _spread(self._values(lambda reading: reading.gpu_clock_mhz)),
            "memory_clock_mhz": _spread(self._values(lambda reading: reading.memory_clock_mhz)),
            "fan_pct": _spread(self._values(lambda reading: reading.fan_pct)),
            "temperature_c": {
                zone: {"median": round(statistics.median(found), 2), "max": round(max(found), 2)}
                for zone, found in self._series(lambda reading: reading.temperature_c).items()
            },
            "power_w": self._power(),
            "energy_source": self.energy_source,
            "throttled": list(self.throttled()),
            "samples": self.samples,
            "interval_s": self.interval_s,
            "sampler_cpu_share": round(self.cpu_share, 5),
            "missing": [dataclasses.asdict(item) for item in self.missing],
        }

    def _meters(self) -> list[tuple[Track, Meter]]:
        """Return the meters that may be added: one of the whole board, else all of the parts."""
        found = [(track, track.meter) for track in self.tracks if track.meter and track.readings]
        whole = [pair for pair in found if pair[1].whole]
        return whole[:1] or found

    def _integrate(self, track: Track, meter: Meter, start_s: float, end_s: float) -> float | None:
        if not meter.counters:
            points = _sum_points(track, meter.rails, lambda reading: reading.power_w)
            largest_gap_s = _LARGEST_GAP * max(self.interval_s, 0.1)
            return integrate_power(points, start_s, end_s, largest_gap_s)
        points = _sum_points(track, meter.counters, lambda reading: reading.energy_j)
        before, after = _value_at(points, start_s), _value_at(points, end_s)
        return None if before is None or after is None or end_s < start_s else after - before

    def _values(self, pick: Callable[[Reading], float | None]) -> list[float]:
        return [
            value
            for track in self.tracks
            for _, reading in track.readings
            if (value := pick(reading)) is not None
        ]

    def _series(self, pick: Callable[[Reading], Mapping[str, float]]) -> dict[str, list[float]]:
        series: dict[str, list[float]] = {}
        for track in self.tracks:
            for _, reading in track.readings:
                for key, value in pick(reading).items():
                    series.setdefault(key, []).append(value)
        return series

    def _power(self) -> dict[str, dict[str, float]]:
        power = {
            rail: {"mean": round(statistics.fmean(found), 3), "max": round(max(found), 3)}
            for rail, found in self._series(lambda reading: reading.power_w).items()
        }
        for track in self.tracks:
            counters = {key for _, reading in track.readings for key in reading.energy_j}
            for counter in sorted(counters - set(power)):
                points = _sum_points(track, (counter,), lambda reading: reading.energy_j)
                if watts := _slope(points):
                    power[counter] = watts
        return power


def integrate_power(
    points: list[tuple[float, float]], start_s: float, end_s: float, largest_gap_s: float
) -> float | None:
    """Return the integral of watts over an interval by the trapezoid rule.

    Args:
        points: `(seconds, watts)`, in order.
        start_s, end_s: the interval.
        largest_gap_s: two samples that lie further apart say nothing of the time between them.

    Returns:
        Joules, or None where the samples do not reach over the interval.
    """
    first, last = _value_at(points, start_s), _value_at(points, end_s)
    if first is None or last is None or end_s < start_s:
        return None
    inner = [point for point in points if start_s < point[0] < end_s]
    path = [(start_s, first), *inner, (end_s, last)]
    before = [time_s for time_s, _ in points if time_s <= start_s][-1:]
    after = [time_s for time_s, _ in points if time_s >= end_s][:1]
    times = [*before, *(time_s for time_s, _ in inner), *after]
    if any(late - early > largest_gap_s for early, late in itertools.pairwise(times)):
        return None
    return sum(
        (late - early) * (watts + more) / 2
        for (early, watts), (late, more) in itertools.pairwise(path)
    )


def _sum_points(
    track: Track, keys: Iterable[str], pick: Callable[[Reading], Mapping[str, float]]
) -> list[tuple[float, float]]:
    """Return `(seconds, sum of the keys)` of the readings that have all of them."""
    wanted = tuple(keys)
    return [
        (time_s, sum(pick(reading)[key] for key in wanted))
        for time_s, reading in track.readings
        if all(key in pick(reading) for key in wanted)
    ]


def _value_at(points: list[tuple[float, float]], time_s: float) -> float | None:
    """Return the value at an instant, linear between its neighbours; None outside of them."""
    at = bisect.bisect_left(points, (time_s,))
    if at < len(points) and points[at][0] == time_s:
        return points[at][1]
    if at in {0, len(points)}:
        return None
    (early, low), (late, high) = points[at - 1], points[at]
    return low + (high - low) * (time_s - early) / (late - early)


def _slope(points: list[tuple[float, float]]) -> dict[str, float] | None:
    """Return mean and largest power of an energy counter, in watts."""
    steps = [
        (late[1] - early[1]) / (late[0] - early[0])
        for early, late in itertools.pairwise(points)
        if late[0] > early[0]
    ]
    if not steps:
        return None
    mean = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
    return {"mean": round(mean, 3), "max": round(max(steps), 3)}


def _event_range(track: Track) -> dict[str, tuple[int, int]]:
    last: dict[str, int] = {}
    for _, reading in track.readings:
        last.update(reading.events)
    return {event: (track.first_events.get(event, count), count) for event, count in last.items()}


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "min": round(min(values), 1),
        "median": round(statistics.median(values), 1),
        "max": round(max(values), 1),
    }

"""One sensor and what it has given so far; whatever it raises stays here."""

from __future__ import annotations

import collections
import time

from alexnet_edge.sensors.base import Reading, Sensor
from alexnet_edge.sensors.log import Missing, Track

_FAILURES_IN_A_ROW = 3
"""A bus that is busy once is no reason to lose a sensor for the rest of a run."""


class Recorder:
    """Reads a sensor and keeps its readings.

    Args:
        sensor: what to read; closed by `close`, or once it has failed.

    Attributes:
        name: the sensor's.
        alive: whether it is still read.
        busy: whether a reading is under way.
    """

    def __init__(self, sensor: Sensor) -> None:
        self.name = sensor.name
        self.alive = True
        self.busy = False
        self._sensor = sensor
        self._settings: dict[str, str] = {}
        self._readings: collections.deque[tuple[float, Reading]] = collections.deque()
        self._first_events: dict[str, int] = {}
        self._throttling: dict[str, None] = {}
        self._failures = self._failures_in_a_row = 0
        self._reason = ""

    def is_due(self, sample: int) -> bool:
        """Return whether the sensor is read in the sample of this number."""
        return self.alive and sample % max(1, self._sensor.every) == 0

    def record(self, keep_s: float) -> None:
        """Read the sensor once, and forget what is older than ``keep_s``."""
        self.busy = True
        try:
            if not self._readings and not self._settings:
                self._settings = dict(self._sensor.read_settings())
            before_s = time.monotonic()
            reading = self._sensor.read()
            now_s = (before_s + time.monotonic()) / 2
        except Exception as error:
            self._fail(error)
        else:
            self._failures_in_a_row = 0
            self._add(now_s, reading, keep_s)
        finally:
            self.busy = False

    def track(self) -> Track | None:
        """Return what was seen so far, or None where nothing was."""
        if not self._readings:
            return None
        return Track(
            name=self.name,
            meter=self._sensor.meter,
            readings=tuple(self._readings),
            settings=dict(self._settings),
            first_events=dict(self._first_events),
            throttling=tuple(self._throttling),
        )

    def missing(self) -> tuple[Missing, ...]:
        """Return what the sensor did not give."""
        found = [Missing(self.name, gap) for gap in self._sensor.gaps]
        if self.busy:
            found.append(Missing(self.name, "a reading is still under way"))
        if self._failures and not self._readings:
            found.append(Missing(self.name, self._reason))
        elif self._failures:
            end = "" if self._failures_in_a_row < _FAILURES_IN_A_ROW else ", and was given up"
            found.append(
                Missing(self.name, f"failed {self._failures} times{end} (last: {self._reason})")
            )
        return tuple(found)

    def close(self) -> None:
        """Close the sensor; once, and whatever it says."""
        if not self.alive:
            return
        self.alive = False
        try:
            self._sensor.close()
        except Exception:  # it is done with: what it says on leaving changes no result
            return

    def _add(self, now_s: float, reading: Reading, keep_s: float) -> None:
        for event, count in reading.events.items():
            self._first_events.setdefault(event, count)
        self._throttling.update(dict.fromkeys(reading.throttling))
        self._readings.append((now_s, reading))
        while self._readings[0][0] < now_s - keep_s:
            self._readings.popleft()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        self._reason = str(error) or type(error).__name__
        if not self._readings or self._failures_in_a_row >= _FAILURES_IN_A_ROW:
            self.close()

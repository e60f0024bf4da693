"""A thread that looks at the sensors while something else is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from typing_extensions import Self

from alexnet_edge.closing import Closing
from alexnet_edge.errors import InputError
from alexnet_edge.sensors.base import Sensor
from alexnet_edge.sensors.discovery import find_sensors
from alexnet_edge.sensors.log import SensorLog
from alexnet_edge.sensors.recorder import Recorder

_PATIENCE_S = 2.0
"""A sensor that hangs must not hang what is measured."""


class SensorSampler(Closing):
    """Samples sensors in a daemon thread between `with` and its end.

        with SensorSampler() as sampler:
            start_s = time.monotonic()
            ...
            end_s = time.monotonic()
        joules = sampler.log().energy_j(start_s, end_s)

    One sample is taken before the block begins and one after it ends, so that the readings reach
    over it. Nothing is raised into the block: a sensor that fails is closed, dropped and named in
    the log.

    Args:
        interval_s: time between samples.
        sensors: what to read; those of this machine where None. They are closed at the end.
        keep_s: older readings are forgotten, so that days of sampling fit into memory; throttling
            is remembered from the start.

    Raises:
        InputError: an interval that is not positive, or longer than what is kept.
    """

    def __init__(
        self,
        interval_s: float = 0.2,
        sensors: Sequence[Sensor] | None = None,
        keep_s: float = 3600.0,
    ) -> None:
        if not 0 < interval_s <= keep_s:
            raise InputError(
                f"cannot sample every {interval_s} s and keep {keep_s} s of it",
                hint="the interval must be positive and not longer than what is kept",
            )
        self.interval_s = interval_s
        self.keep_s = keep_s
        self._given = sensors
        self._recorders: list[Recorder] = []
        self._samples = 0
        self._cpu_s = 0.0
        self._started_s = self._ended_s = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise InputError("this sampler has run already", hint="make another SensorSampler")
        sensors = find_sensors() if self._given is None else self._given
        self._recorders = [Recorder(sensor) for sensor in sensors]
        self._sample(every_sensor=True)
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
        self._started_s = time.monotonic()
        self._thread.start()
        return self

    def close(self) -> None:
        """Take the last sample, and close the sensors; a second call does nothing."""
        if self._thread is None or self._stop.is_set():
            return
        self._stop.set()
        self._ended_s = time.monotonic()
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():  # it holds a sensor that hangs, and ends with the process
            return
        self._sample(every_sensor=True)
        for recorder in self._recorders:
            recorder.close()

    def log(self) -> SensorLog:
        """Return what was seen so far; while sampling, after one more sample."""
        if self._thread is None:
            raise InputError("this sampler has not run", hint="use it in a with statement")
        running = not self._stop.is_set()
        if running:
            self._sample(every_sensor=True)
        elapsed_s = (time.monotonic() if running else self._ended_s) - self._started_s
        locked = self._lock.acquire(timeout=_PATIENCE_S)
        try:
            tracks = [recorder.track() for recorder in self._recorders]
            return SensorLog(
                tracks=tuple(track for track in tracks if track is not None),
                interval_s=self.interval_s,
                samples=self._samples,
                cpu_share=self._cpu_s / elapsed_s if elapsed_s > 0 else 0.0,
                missing=tuple(item for r in self._recorders for item in r.missing()),
            )
        finally:
            if locked:
                self._lock.release()

    def _run(self) -> None:
        due_s = time.monotonic() + self.interval_s
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            self._sample(every_sensor=False)
            self._cpu_s = time.thread_time()
            # After a sample that took too long the next one waits its turn: none hurries after.
            due_s = max(due_s + self.interval_s, time.monotonic())

    def _sample(self, *, every_sensor: bool) -> None:
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return
        try:
            for recorder in self._recorders:
                if recorder.is_due(0 if every_sensor else self._samples):
                    recorder.record(self.keep_s)
            self._samples += 1
        finally:
            self._lock.release()

"""What the loop says of itself: counted on its thread, read from any."""

from __future__ import annotations

import collections
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_edge.camera.capture import CaptureCounts
from alexnet_edge.camera.frames import STAGES, Answer, Event, LoopState, LoopStats
from alexnet_edge.camera.histogram import Percentiles, Times

_FPS_WINDOW_S = 3.0
_FPS_SAMPLES = 1024


def rss_bytes() -> int:
    """Return this process's resident memory; 0 where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class StatsKeeper:
    """Collects a loop's figures in bounded memory; `snapshot` may be called by any thread.

    Args:
        source, engine: names.
        counts: returns the source's counts.
    """

    def __init__(self, source: str, engine: str, counts: Callable[[], CaptureCounts]) -> None:
        self._source, self._engine = source, engine
        self._counts = counts
        self._lock = threading.Lock()
        self._times = {name: Times() for name in ("age", *STAGES)}
        self._finished: collections.deque[float] = collections.deque(maxlen=_FPS_SAMPLES)
        self._answered = 0
        self._state: LoopState = "connecting"
        self._last_answer: Answer | None = None
        self._last_event: Event | None = None
        self._started_s = time.monotonic()

    def add_answer(self, answer: Answer) -> None:
        """Count an answer."""
        with self._lock:
            self._answered += 1
            self._last_answer = answer
            self._finished.append(time.monotonic())
            self._times["age"].add(answer.age_ms)
            for stage, value_ms in answer.stages_ms.items():
                self._times[stage].add(value_ms)

    def add_output(self, value_ms: float) -> None:
        """Count the time that the outputs took for an answer."""
        with self._lock:
            self._times["output"].add(value_ms)

    def add_event(self, event: Event) -> None:
        """Remember an event."""
        with self._lock:
            self._last_event = event

    def set_state(self, state: LoopState) -> None:
        """Say how the loop is."""
        with self._lock:
            self._state = state

    @property
    def state(self) -> LoopState:
        """How the loop is."""
        return self._state

    @property
    def answered(self) -> int:
        """Answers so far."""
        return self._answered

    def whole(self) -> Mapping[str, Percentiles]:
        """Return the percentiles of `age` and each stage over the whole run."""
        with self._lock:
            return {name: times.whole() for name, times in self._times.items()}

    def snapshot(self) -> LoopStats:
        """Return the present state."""
        counts = self._counts()
        with self._lock:
            return LoopStats(
                state=self._state,
                source=self._source,
                engine=self._engine,
                captured=counts.captured,
                answered=self._answered,
                dropped=counts.dropped,
                corrupt=counts.corrupt,
                reconnects=counts.reconnects,
                fps=self._fps(time.monotonic()),
                uptime_s=time.monotonic() - self._started_s,
                recent={name: times.recent() for name, times in self._times.items()},
                histograms={name: times.histogram() for name, times in self._times.items()},
                last_answer=self._last_answer,
                last_event=self._last_event,
                rss_bytes=rss_bytes(),
            )

    def _fps(self, now: float) -> float:
        recent = [at for at in self._finished if now - at <= _FPS_WINDOW_S]
        if len(recent) < 2:
            return 0.0
        # Up to now, not up to the last answer: a rate falls when answers stop.
        return (len(recent) - 1) / max(now - recent[0], 1e-9)

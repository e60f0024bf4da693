"""The loop's state as JSON, for the page and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from alexnet_edge.camera.frames import Event, LoopStats
from alexnet_edge.camera.histogram import Percentiles
from alexnet_edge.camera.sinks.record import describe_answer, iso_time
from alexnet_edge.results import to_json


def describe_state(stats: LoopStats, events: Iterable[Event]) -> dict[str, Any]:
    """Return what `/api/state` and `/events` send.

    Args:
        stats: the loop.
        events: what happened lately, oldest first.
    """
    answer = stats.last_answer
    state = {
        "state": stats.state,
        "source": stats.source,
        "engine": stats.engine,
        "uptime_s": round(stats.uptime_s, 1),
        "since_last_frame_s": since_last_frame_s(stats),
        "fps": round(stats.fps, 2),
        "age_ms": _times(stats.recent["age"]),
        "stages_ms": {
            stage: _times(times) for stage, times in stats.recent.items() if stage != "age"
        },
        "frames": {
            "captured": stats.captured,
            "answered": stats.answered,
            "dropped": stats.dropped,
            "corrupt": stats.corrupt,
        },
        "reconnects": stats.reconnects,
        "rss_bytes": stats.rss_bytes,
        "answer": None if answer is None else describe_answer(answer),
        "events": [_event(event) for event in events],
    }
    result: dict[str, Any] = to_json(state)
    return result


def since_last_frame_s(stats: LoopStats) -> float | None:
    """Return seconds since the last answered frame was captured; None before the first."""
    if stats.last_answer is None:
        return None
    return round(time.monotonic() - stats.last_answer.frame.captured_s, 3)


def _times(times: Percentiles) -> dict[str, float | int]:
    return {
        "p50": round(times.p50, 3),
        "p90": round(times.p90, 3),
        "p99": round(times.p99, 3),
        "count": times.count,
    }


def _event(event: Event) -> dict[str, str]:
    since_s = time.monotonic() - event.monotonic_s
    return {
        "time": iso_time(time.time() - since_s),
        "kind": event.kind,
        "message": event.message,
    }

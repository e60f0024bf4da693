"""An answer as JSON values, the same in every output, and as text that is safe to show."""

from __future__ import annotations

import datetime
from typing import Any

from alexnet_edge.camera.frames import Answer


def describe_answer(answer: Answer) -> dict[str, Any]:
    """Return one answer as JSON values.

    Returns:
        `time` (of capture, ISO 8601 in UTC), `frame` (the index), `name` (the file, for a folder),
        `timestamp_s` (the source's own time), `size` ([width, height] in px), `age_ms`,
        `stages_ms`, `dropped`, `answered`, `accepted`, and `top`: `label`, `name`, `probability`.
    """
    frame = answer.frame
    height, width = frame.pixels.shape[:2]
    return {
        "time": iso_time(frame.wall_time),
        "frame": frame.index,
        "name": frame.name,
        "timestamp_s": frame.timestamp_s,
        "size": [width, height],
        "age_ms": round(answer.age_ms, 3),
        "stages_ms": {stage: round(ms, 3) for stage, ms in answer.stages_ms.items()},
        "dropped": answer.dropped,
        "answered": answer.answered,
        "accepted": answer.accepted,
        "top": [
            {"label": item.label, "name": item.name, "probability": round(item.probability, 6)}
            for item in answer.top
        ],
    }


def iso_time(wall_time: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(wall_time, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds")


def escape_controls(text: str) -> str:
    r"""Return ``text`` with everything that does not print written as an escape, as `\x1b`.

    Names of classes and files are data: a terminal must not obey what is in them, nor a
    right-to-left mark reorder the line.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )

"""What sources, the loop and the outputs hand to each other.

A source makes `Frame`s, the loop makes an `Answer` of each, and every `Sink` is given the answers
and the `Event`s. `LoopStats` is what the loop says of itself at one moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

from alexnet_edge.camera.histogram import Histogram, Percentiles
from alexnet_edge.classifier import Prediction
from alexnet_edge.preprocess import UInt8Array

__all__ = [
    "STAGES", "Answer", "Event", "EventKind", "Frame", "LoopState", "LoopStats", "Prediction",
    "Sink", "StatsReader",
]  # fmt: skip

EventKind: TypeAlias = Literal[
    "connected", "lost", "retrying", "corrupt", "stalled", "resized", "ended", "sink-failed"
]
LoopState: TypeAlias = Literal["connecting", "running", "stalled", "stopped"]

STAGES = ("capture", "preprocess", "inference", "output")
"""The stages whose times are kept; an `Answer` has the first three, for it precedes the fourth."""


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        index: counts what the source delivered, from 0, dropped frames included.
        pixels: (H, W, 3) uint8 RGB; nobody writes to it.
        captured_s: `time.monotonic()` when software first had the frame's data, before decoding.
        timestamp_s: the source's own time of the frame, in seconds; None where it has none.
        wall_time: `time.time()` at ``captured_s``.
        name: the file, where the source is a folder; else None.
        capture_ms: time spent on decoding the data and converting it to RGB.
    """

    index: int
    pixels: UInt8Array
    captured_s: float
    timestamp_s: float | None
    wall_time: float
    name: str | None = None
    capture_ms: float = 0.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the engine says of one frame.

    Attributes:
        frame: which frame.
        top: the most probable classes, best first; smoothed over time where that was asked for.
        accepted: the best one's probability reaches the threshold.
        stages_ms: `capture`, `preprocess`, `inference`.
        age_ms: from the frame's ``captured_s`` to this answer: the stages and all waiting between.
        dropped: frames of the source that were dropped so far.
        answered: answers so far, this one included.
    """

    frame: Frame
    top: tuple[Prediction, ...]
    accepted: bool
    stages_ms: Mapping[str, float]
    age_ms: float
    dropped: int
    answered: int


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to the source or an output, other than a frame.

    Attributes:
        kind: `connected`, `lost`, `retrying`, `corrupt`, `stalled`, `resized`, `ended` or
            `sink-failed`.
        message: one line for a person.
        monotonic_s: `time.monotonic()` when it happened.
    """

    kind: EventKind
    message: str
    monotonic_s: float


class Sink(Protocol):
    """Where answers go. All three methods are called on the loop's thread, `close` once.

    A sink that raises `OSError` (a full disk, say) or `AlexnetEdgeError` is closed and left out
    from then on; the others are told by a `sink-failed` event, and the loop goes on.
    """

    name: str

    def write(self, answer: Answer) -> None:
        """Take one answer; quickly, for the loop waits."""

    def note(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Flush and release everything."""


@dataclasses.dataclass(frozen=True)
class LoopStats:
    """The loop at one moment; a snapshot that no thread changes.

    Attributes:
        state: `connecting` until the first frame and after a loss, `running`, `stalled`, `stopped`.
        source: as the user named it, without a password.
        engine: file name of the engine.
        captured: frames that the source delivered; equals answered + dropped + those in flight.
        answered: frames that were answered.
        dropped: frames that a newer one replaced before the engine was free.
        corrupt: frames or packets that could not be decoded; not among ``captured``.
        reconnects: times that the source was opened again after a loss.
        fps: answers a second over the last few seconds.
        uptime_s: since the loop was started.
        recent: `age` and each of `STAGES` over the last 512 answers, in ms.
        histograms: the same over the whole run, with fixed bounds.
        last_answer: None before the first.
        last_event: None before the first.
        rss_bytes: resident memory of this process.
    """

    state: LoopState
    source: str
    engine: str
    captured: int
    answered: int
    dropped: int
    corrupt: int
    reconnects: int
    fps: float
    uptime_s: float
    recent: Mapping[str, Percentiles]
    histograms: Mapping[str, Histogram]
    last_answer: Answer | None
    last_event: Event | None
    rss_bytes: int


StatsReader: TypeAlias = Callable[[], LoopStats]
"""Returns the loop's present state; may be called from any thread."""

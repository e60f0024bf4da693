"""The loop: frames in, answers out, until it is told to stop.

    source = make_source("rtsp://192.0.2.1/stream")
    with Classifier("alexnet.int8.onnx") as classifier:
        result = CameraLoop(classifier, source, LoopOptions(), sinks=[...]).run()

Capture runs on a thread of its own, and so does preprocessing where that does not add to the age of
an answer (see `feed`); inference and outputs run on the caller's thread. Whatever happens to the
source or an output is an `Event`, not the end; `run` ends when a file does, at a limit, when
`stop` is called, or when no frame has come for the stall timeout.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from alexnet_edge.camera.capture import Capture, CaptureOptions
from alexnet_edge.camera.feed import AheadFeed, DirectFeed, Feed, Prepared
from alexnet_edge.camera.frames import Answer, Event, LoopStats, Sink
from alexnet_edge.camera.histogram import Percentiles
from alexnet_edge.camera.smoothing import make_smoother
from alexnet_edge.camera.sources.base import Source
from alexnet_edge.camera.stats import StatsKeeper
from alexnet_edge.camera.workers import WorkerFeed
from alexnet_edge.classifier import Classifier, Probabilities
from alexnet_edge.errors import InputError
from alexnet_edge.machine import core_numbers, keep_freed_memory, kept_to

Reason: TypeAlias = Literal["ended", "limit", "stopped", "stalled"]

_POLL_S = 0.1
"""How soon a stop or a stall is noticed while no frame comes."""
_AHEAD_DEPTH = 2
THROUGHPUT_BATCH = 8
"""Frames that go through the engine together with ``throughput``, where it takes batches."""
WORKER_BATCH = 16
"""The same where each thread answers by itself: weights are read once for so many."""


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How the loop runs.

    Attributes:
        top_k: classes in an answer.
        smooth: below 1 the weight of the newest frame, else a number of frames; None for none.
        threshold: probability from which an answer is accepted.
        throughput: prepare ahead and send frames through the engine together: more frames a second,
            and older ones.
        max_frames: answers after which the loop ends.
        duration_s: seconds after the first frame at which it ends.
        stall_timeout_s: seconds without a frame after which it gives up; None for never.
        capture: how the source is watched.
    """

    top_k: int = 3
    smooth: float | None = None
    threshold: float = 0.0
    throughput: bool = False
    max_frames: int | None = None
    duration_s: float | None = None
    stall_timeout_s: float | None = None
    capture: CaptureOptions = dataclasses.field(default_factory=CaptureOptions)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}", hint="give 1 or more")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold:g}", hint="give 0 to 1")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"max_frames is {self.max_frames}", hint="give 1 or more")
        seconds = (
            self.duration_s, self.stall_timeout_s, self.capture.max_backoff_s,
            self.capture.read_timeout_s,
        )  # fmt: skip
        if any(value is not None and not 0 < value < math.inf for value in seconds):
            raise InputError("a time is not positive and finite", hint="give seconds above 0")
        make_smoother(self.smooth)


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """A run that is over.

    Attributes:
        reason: `ended` (the source did), `limit` (frames or duration), `stopped`, `stalled`.
        seconds: from the first frame to the end.
        cpu_percent: of one core, over those seconds; of this process.
        stats: the last snapshot.
        age_ms, stages_ms: percentiles over the whole run.
        failed_sinks: name and reason of each output that failed.
    """

    reason: Reason
    seconds: float
    cpu_percent: float
    stats: LoopStats
    age_ms: Percentiles
    stages_ms: Mapping[str, Percentiles]
    failed_sinks: Mapping[str, str]

    @property
    def fps(self) -> float:
        """Answers a second over the run."""
        return self.stats.answered / self.seconds if self.seconds > 0 else 0.0


class CameraLoop:
    """Answers a source's frames; see the module.

    Args:
        classifier: opened; it stays open.
        source: not opened yet.
        options: how to run.
        sinks: where answers go; the loop closes them.
    """

    def __init__(
        self,
        classifier: Classifier,
        source: Source,
        options: LoopOptions,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self._classifier = classifier
        self._source = source
        self._options = options
        self._sinks = list(sinks)
        self._smoother = make_smoother(options.smooth)
        self._capture = Capture(source, options.capture)
        self._stats = StatsKeeper(source.name, classifier.info.path.name, self._capture.counts)
        self._failed: dict[str, str] = {}
        self._stopping = False
        self._cores = core_numbers()
        self._size: tuple[int, ...] | None = None
        self._first_s: float | None = None
        self._first_cpu_s = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the frame in flight. For any thread and signal handlers."""
        self._stopping = True  # a plain assignment: a handler may interrupt a lock's owner

    def stats(self) -> LoopStats:
        """Return the present state; for any thread."""
        return self._stats.snapshot()

    def add_sink(self, sink: Sink) -> None:
        """Add an output, before `run`; for those that need `stats`."""
        self._sinks.append(sink)

    def run(self) -> LoopResult:
        """Answer frames until the end, a limit, a stop or a stall.

        From then on the process keeps up to 128 MiB a heap of what it frees, frames' memory above
        all. Live, the calling thread keeps to one core until the end.

        Raises:
            AlexnetEdgeError: the source cannot be opened and is not retried, or the engine failed.
        """
        keep_freed_memory()
        batch = self._warm_up()
        feed: Feed | None = None
        try:
            self._capture.start()
            feed = self._make_feed(batch)
            # Capture has begun on any core; this thread's helpers keep to the others.
            with kept_to(self._cores[:1] if isinstance(feed, DirectFeed) else []):
                reason = self._answer_all(feed, batch)
        finally:
            # Times first: closing outputs is no part of the run.
            seconds, cpu_percent = self._elapsed()
            self._stats.set_state("stopped")
            if feed is not None:
                feed.close()
            self._capture.stop()
            self._pass_events()
            self._close_sinks()
        whole = dict(self._stats.whole())
        return LoopResult(
            reason, seconds, cpu_percent, self._stats.snapshot(), whole.pop("age"), whole,
            dict(self._failed),
        )  # fmt: skip

    def _warm_up(self) -> int:
        """Make the engine ready; return how many frames it takes at a time."""
        self._classifier.warm_up()
        most = 1
        if self._options.throughput:
            most = WORKER_BATCH if self._classifier.callers > 1 else THROUGHPUT_BATCH
        return self._classifier.warm_up_batch(most)

    def _make_feed(self, batch: int) -> Feed:
        if self._options.throughput and self._classifier.callers > 1:
            return WorkerFeed(self._capture, self._classifier, batch)
        if self._options.throughput:
            return AheadFeed(self._capture, self._classifier, THROUGHPUT_BATCH)
        if not self._source.live:
            return AheadFeed(self._capture, self._classifier, _AHEAD_DEPTH)
        return DirectFeed(self._capture, self._classifier)

    def _answer_all(self, feed: Feed, batch: int) -> Reason:
        while True:
            if self._stopping:
                return "stopped"
            if self._is_at_limit():
                return "limit"
            left = batch
            if self._options.max_frames is not None:
                left = min(batch, self._options.max_frames - self._stats.answered)
            prepared = feed.take(_POLL_S, left)
            self._pass_events()  # before the answers of frames that came after
            if prepared:
                self._answer(prepared)
            elif feed.ended:
                self._pass_events()  # of what happened since
                return "ended"
            elif self._is_stalled():
                return "stalled"

    def _answer(self, prepared: Sequence[Prepared]) -> None:
        if self._first_s is None:
            self._first_s, self._first_cpu_s = time.monotonic(), time.process_time()
        self._stats.set_state("running")
        dropped = self._capture.counts().dropped
        answers = [
            self._make_answer(item, row, dropped, position)
            for position, (item, row) in enumerate(self._ask(prepared), 1)
        ]
        for answer in answers:
            self._note_size(answer)
            self._stats.add_answer(answer)
            began = time.monotonic()
            for sink in tuple(self._sinks):
                self._give(sink, answer)
            self._stats.add_output((time.monotonic() - began) * 1e3)

    def _ask(self, prepared: Sequence[Prepared]) -> list[tuple[Prepared, Probabilities]]:
        """Return each frame with its probabilities, by the engine where the feed has not asked."""
        known = [(item, item.probabilities) for item in prepared if item.probabilities is not None]
        if len(known) == len(prepared):
            return known
        started = time.monotonic()
        tensors = [item.tensor for item in prepared]
        found = self._classifier.infer(tensors[0] if len(tensors) == 1 else np.concatenate(tensors))
        spent_ms = (time.monotonic() - started) * 1e3
        return [(item.answered(row, spent_ms), row)
                for item, row in zip(prepared, found, strict=True)]  # fmt: skip

    def _make_answer(
        self,
        item: Prepared,
        probabilities: Probabilities,
        dropped: int,
        position: int,
    ) -> Answer:
        top = self._classifier.rank(self._smoother.add(probabilities), self._options.top_k)
        stages = {
            "capture": item.frame.capture_ms,
            "preprocess": item.preprocess_ms,
            "inference": item.inference_ms,
        }
        return Answer(
            frame=item.frame,
            top=top,
            accepted=top[0].probability >= self._options.threshold,
            stages_ms=stages,
            age_ms=(time.monotonic() - item.frame.captured_s) * 1e3,
            dropped=dropped,
            answered=self._stats.answered + position,
        )

    def _note_size(self, answer: Answer) -> None:
        size = answer.frame.pixels.shape[:2]
        if self._size is not None and size != self._size and self._source.live:
            (old_h, old_w), (new_h, new_w) = self._size, size
            self._send(
                self._event("resized", f"frames are {new_w}×{new_h} now, not {old_w}×{old_h}")
            )
        self._size = size

    def _is_at_limit(self) -> bool:
        most, longest_s = self._options.max_frames, self._options.duration_s
        if most is not None and self._stats.answered >= most:
            return True
        started_s = self._first_s
        return (
            longest_s is not None
            and started_s is not None
            and time.monotonic() - started_s >= longest_s
        )

    def _is_stalled(self) -> bool:
        """Whether no frame has come for too long; says so before, when it begins to be long."""
        self._capture.supervise()
        waiting_s = self._capture.waiting_s
        limit_s = self._options.stall_timeout_s
        if limit_s is not None and waiting_s >= limit_s:
            self._send(self._event("stalled", f"no frame for {waiting_s:.0f} s: giving up"))
            return True
        read_s = self._options.capture.read_timeout_s
        if self._stats.state == "running" and waiting_s >= min(read_s, limit_s or read_s):
            self._stats.set_state("stalled")
            if not self._source.reopens:  # else the capture says it, and what it does about it
                self._send(self._event("stalled", f"no frame for {waiting_s:.0f} s"))
        return False

    def _pass_events(self) -> None:
        for event in self._capture.drain_events():
            if event.kind in {"lost", "retrying", "stalled"}:
                self._smoother.reset()
                if self._stats.state != "stopped":
                    self._stats.set_state("stalled" if event.kind == "stalled" else "connecting")
            self._send(event)

    def _send(self, event: Event) -> None:
        self._stats.add_event(event)
        for sink in tuple(self._sinks):
            self._give(sink, event)

    def _give(self, sink: Sink, item: Answer | Event) -> None:
        """Hand something to an output; one that fails is closed, and the others are told."""
        if sink not in self._sinks:
            return
        try:
            with kept_to(self._cores):  # threads that it starts, to encode a video, inherit that
                if isinstance(item, Answer):
                    sink.write(item)
                else:
                    sink.note(item)
        except Exception as error:  # whatever an output does must not stop the loop
            self._sinks.remove(sink)
            self._close(sink)
            self._fail(sink, error)

    def _fail(self, sink: Sink, error: Exception) -> None:
        reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        message = f"{sink.name}: {reason or type(error).__name__}"
        self._failed[sink.name] = message
        self._send(self._event("sink-failed", f"{message}; going on without it"))

    def _close_sinks(self) -> None:
        while self._sinks:
            sink = self._sinks.pop(0)
            error = self._close(sink)
            if error is not None:
                self._fail(sink, error)

    def _close(self, sink: Sink) -> Exception | None:
        try:
            sink.close()
        except Exception as error:
            return error
        return None

    def _elapsed(self) -> tuple[float, float]:
        if self._first_s is None:
            return 0.0, 0.0
        seconds = max(time.monotonic() - self._first_s, 1e-9)
        return seconds, 100 * (time.process_time() - self._first_cpu_s) / seconds

    def _event(self, kind: Literal["resized", "stalled", "sink-failed"], message: str) -> Event:
        return Event(kind, message, time.monotonic())

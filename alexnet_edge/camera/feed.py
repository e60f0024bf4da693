"""Prepared frames for the engine: on its own thread ahead of it, or when it asks.

`DirectFeed` takes the newest frame when the engine is free and prepares it then: one frame in
flight, the lowest age. `AheadFeed` prepares the next ones while the engine runs: for files, whose
frames do not age, and for throughput. Where the engine serves several callers at a time,
`workers.WorkerFeed` does more for throughput.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from typing import Protocol

from alexnet_edge.camera.capture import Capture
from alexnet_edge.camera.frames import Frame
from alexnet_edge.camera.sources.base import CorruptFrameError, Picture
from alexnet_edge.classifier import Classifier, Probabilities
from alexnet_edge.preprocess import AnyArray

_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A frame with the network's input, (1, …), made of it.

    Attributes:
        frame, tensor: they.
        preprocess_ms: what making it took.
        probabilities: (classes,), where the feed has asked the engine already.
        inference_ms: what that took, of the whole batch.
    """

    frame: Frame
    tensor: AnyArray
    preprocess_ms: float
    probabilities: Probabilities | None = None
    inference_ms: float = 0.0

    def answered(self, probabilities: Probabilities, inference_ms: float) -> Prepared:
        """Return the frame with the engine's answer."""
        return dataclasses.replace(self, probabilities=probabilities, inference_ms=inference_ms)


class Feed(Protocol):
    """Gives prepared frames."""

    def take(self, timeout_s: float, most: int) -> list[Prepared]:
        """Return 1 to ``most`` frames, in order; none if none came in time."""

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""

    def close(self) -> None:
        """Stop; frames that were prepared and not taken count as dropped."""


class DirectFeed:
    """Prepares the newest frame when it is asked for."""

    def __init__(self, capture: Capture, classifier: Classifier) -> None:
        self._capture = capture
        self._classifier = classifier

    def take(self, timeout_s: float, most: int) -> list[Prepared]:
        """Return one frame, or none if none came in time."""
        item = self._capture.take(timeout_s)
        if item is None:
            return []
        prepared = prepare(self._capture, self._classifier, *item)
        return [] if prepared is None else [prepared]

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        return self._capture.ended

    def close(self) -> None:
        """Nothing is held."""


class AheadFeed:
    """Prepares frames on a thread, at most ``depth`` ahead."""

    def __init__(self, capture: Capture, classifier: Classifier, depth: int) -> None:
        self._capture = capture
        self._classifier = classifier
        self._queue: queue.Queue[Prepared] = queue.Queue(depth)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float, most: int) -> list[Prepared]:
        """Return 1 to ``most`` frames, in order; none if none came in time.

        Raises:
            AlexnetEdgeError: the source failed, and no frame is left.
        """
        try:
            taken = [self._queue.get(timeout=timeout_s)]
        except queue.Empty:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure from None
            return []
        while len(taken) < most:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return taken

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        return not self._thread.is_alive() and self._queue.empty() and self._failure is None

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
        self._capture.count_dropped(self._queue.qsize())

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                item = self._capture.take(_POLL_S)
                if item is not None:
                    prepared = prepare(self._capture, self._classifier, *item)
                    if prepared is not None:
                        self._put(prepared)
                elif self._capture.ended:
                    return
        except Exception as error:  # raised again where frames are taken
            self._failure = error

    def _put(self, prepared: Prepared) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(prepared, timeout=_POLL_S)
            except queue.Full:
                continue
        self._capture.count_dropped(1)
        return None


def prepare(
    capture: Capture,
    classifier: Classifier,
    index: int,
    picture: Picture,
    *,
    threads: int | None = None,
) -> Prepared | None:
    """Convert and preprocess a picture; None, counted, where it turns out damaged."""
    if threads is None:
        classifier.rouse()
    try:
        done = picture.converted()
    except CorruptFrameError as error:
        capture.count_unusable(error)
        return None
    frame = Frame(
        index=index, pixels=done.convert(), captured_s=done.captured_s,
        timestamp_s=done.timestamp_s, wall_time=done.wall_time, name=done.name,
        capture_ms=done.decode_ms,
    )  # fmt: skip
    started = time.monotonic()
    tensor = classifier.prepare(frame.pixels, threads=threads)
    return Prepared(frame, tensor, (time.monotonic() - started) * 1e3)

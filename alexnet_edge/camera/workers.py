"""Frames answered on several threads at once, and handed out in their order.

On a CPU an engine that shares one inference among the cores waits for the slowest of them in each
layer, and preparing frames beside it takes a core from it. Here each thread takes frames, prepares
them and runs them through the engine by itself: no thread waits for another but for its turn to
take frames. More frames a second come of it, each of them older.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence

import numpy as np

from alexnet_edge.camera.capture import Capture
from alexnet_edge.camera.feed import Prepared, prepare
from alexnet_edge.camera.sources.base import Picture
from alexnet_edge.classifier import Classifier

_POLL_S = 0.1
_BATCH_BYTES = 48 << 20
"""Pixels of a batch, so that large frames do not fill the memory: 17 frames of 1280×720."""
_AHEAD = 2
"""Batches for each thread that may wait to be handed out, before it takes more frames."""


class WorkerFeed:
    """Answers frames on as many threads as the classifier serves callers.

    Args:
        capture: where frames come from; a file waits for a whole batch, a live source does not.
        classifier: shared by the threads.
        batch: frames that a thread runs together, at most.
    """

    def __init__(self, capture: Capture, classifier: Classifier, batch: int) -> None:
        self._capture = capture
        self._classifier = classifier
        self._batch = batch
        self._taking = threading.Lock()
        self._cond = threading.Condition()
        self._taken = 0
        self._given = 0
        self._done: dict[int, list[Prepared]] = {}
        self._ready: collections.deque[Prepared] = collections.deque()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"answer-{index}", daemon=True)
            for index in range(classifier.callers)
        ]
        self._most_waiting = _AHEAD * len(self._threads)
        for thread in self._threads:
            thread.start()

    def take(self, timeout_s: float, most: int) -> list[Prepared]:
        """Return 1 to ``most`` answered frames, in order; none if none came in time.

        Raises:
            AlexnetEdgeError: the source or the engine failed, and no frame is left before that.
        """
        with self._cond:
            if not self._ready:
                self._cond.wait_for(self._is_next_done, timeout_s)
                while self._is_next_done() and not self._ready:
                    self._ready.extend(self._done.pop(self._given))
                    self._given += 1
                    self._cond.notify_all()
            if not self._ready and not any(thread.is_alive() for thread in self._threads):
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
            return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        if any(thread.is_alive() for thread in self._threads):
            return False
        with self._cond:
            return not self._done and not self._ready and self._failure is None

    def close(self) -> None:
        """Stop the threads, each after the batch that it runs."""
        self._stop.set()
        with self._cond:
            self._cond.notify_all()
        for thread in self._threads:
            thread.join()
        left = len(self._ready) + sum(len(batch) for batch in self._done.values())
        self._capture.count_dropped(left)

    def _is_next_done(self) -> bool:
        return self._given in self._done

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._failure is None:
                taken = self._take_frames()
                if taken is None:
                    if self._capture.ended:
                        return
                    continue
                number, frames = taken
                try:
                    answered = self._answer(frames)
                except Exception:
                    self._capture.count_dropped(len(frames))
                    raise
                self._finish(number, answered)
        except Exception as error:  # raised again where frames are taken
            with self._cond:
                self._failure = self._failure or error
                self._cond.notify_all()

    def _take_frames(self) -> tuple[int, list[tuple[int, Picture]]] | None:
        """Return the next frames and the number of their batch; None if none came in time."""
        with self._taking:
            with self._cond:
                full = self._taken - self._given >= self._most_waiting
                if full:
                    self._cond.wait(_POLL_S)
                    return None
            frames: list[tuple[int, Picture]] = []
            live, size_bytes = self._capture.source.live, 0
            while len(frames) < self._batch and not self._stop.is_set():
                waits = not frames or not live
                item = self._capture.take(_POLL_S if waits else 0.0)
                if item is not None:
                    frames.append(item)
                    size_bytes += 0 if live else item[1].convert().nbytes  # converted already
                    if size_bytes + size_bytes // len(frames) > _BATCH_BYTES:
                        break
                elif not waits or self._capture.ended or not frames:
                    break
            if not frames:
                return None
            with self._cond:
                number, self._taken = self._taken, self._taken + 1
            return number, frames

    def _answer(self, frames: Sequence[tuple[int, Picture]]) -> list[Prepared]:
        made = [
            prepare(self._capture, self._classifier, index, picture, threads=1)
            for index, picture in frames
        ]
        prepared = [item for item in made if item is not None]
        if not prepared:
            return []
        started = time.monotonic()
        answers = self._classifier.infer(np.concatenate([item.tensor for item in prepared]))
        spent_ms = (time.monotonic() - started) * 1e3
        return [item.answered(row, spent_ms) for item, row in zip(prepared, answers, strict=True)]

    def _finish(self, number: int, answered: list[Prepared]) -> None:
        with self._cond:
            self._done[number] = answered
            self._cond.notify_all()

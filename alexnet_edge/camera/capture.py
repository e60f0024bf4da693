"""Frames out of a source that may stall, break off and come back.

One thread reads. A live source hands over through a mailbox of one slot, where the newest frame
wins and the older one is counted as dropped; a file through a short queue that makes the reader
wait, so that every frame is delivered. A source that is lost is opened again, with back-off; a
reader that hangs in a driver is left behind and replaced, a bounded number of times.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import threading
import time

from alexnet_edge.camera.frames import Event, EventKind
from alexnet_edge.camera.sources.base import (
    CorruptFrameError,
    Picture,
    Source,
    SourceLostError,
    SourceStalledError,
    Stream,
)
from alexnet_edge.errors import AlexnetEdgeError
from alexnet_edge.machine import core_numbers, kept_to

FILE_QUEUE = 2
"""Frames of a file that are decoded ahead."""

_EVENTS_KEPT = 256
_FIRST_BACKOFF_S = 0.5
_CORRUPT_EVENT_EVERY_S = 1.0
_LEFT_BEHIND_MOST = 4
"""Readers that hang in a driver at a time; no further one is started then."""
_GRACE_S = 2.0
"""How long a reader that was interrupted may take to say so."""


@dataclasses.dataclass(frozen=True)
class CaptureOptions:
    """How a source is watched.

    Attributes:
        retry: whether a lost live source is opened again.
        max_backoff_s: longest wait between two attempts.
        read_timeout_s: a source that delivers nothing for so long is taken for lost.
    """

    retry: bool = True
    max_backoff_s: float = 30.0
    read_timeout_s: float = 5.0


@dataclasses.dataclass
class CaptureCounts:
    """Frames so far; ``captured`` = answered + dropped + in flight, ``corrupt`` come on top."""

    captured: int = 0
    dropped: int = 0
    corrupt: int = 0
    reconnects: int = 0


class _Reader(threading.Thread):
    """A thread with one stream."""

    def __init__(self, capture: Capture) -> None:
        super().__init__(name="capture", daemon=True)
        self._capture = capture
        self.stream: Stream | None = None
        self.abandoned = threading.Event()

    def run(self) -> None:
        # Whoever starts it may keep to a core of its own; decoding takes all that there are.
        with kept_to(self._capture._cores):
            self._capture._read_all(self)


class Capture:
    """Reads a source on a thread of its own.

    All methods are for one consumer, except `counts` and `stop`.
    """

    def __init__(self, source: Source, options: CaptureOptions) -> None:
        self.source = source
        self._options = options
        self._cores = core_numbers()
        self._depth = 1 if source.live else FILE_QUEUE
        self._cond = threading.Condition()
        self._queue: collections.deque[tuple[int, Picture]] = collections.deque()
        self._events: collections.deque[Event] = collections.deque(maxlen=_EVENTS_KEPT)
        self._counts = CaptureCounts()
        self._stop = threading.Event()
        self._done = False
        self._failure: AlexnetEdgeError | None = None
        self._connected = False
        self._progress_s = self._frame_s = time.monotonic()
        self._corrupt_event_s = float("-inf")
        self._reader = _Reader(self)
        self._left_behind: list[_Reader] = []

    def start(self) -> None:
        """Begin to read."""
        self._progress_s = self._frame_s = time.monotonic()
        self._reader.start()

    def take(self, timeout_s: float) -> tuple[int, Picture] | None:
        """Return the next frame and its index; None if none came in time.

        Raises:
            AlexnetEdgeError: the source failed, and no frame is left; raised once.
        """
        with self._cond:
            if not self._queue and not self._done:
                self._cond.wait(timeout_s)
            if self._queue:
                item = self._queue.popleft()
                self._cond.notify_all()
                return item
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return None

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        with self._cond:
            return self._done and not self._queue

    @property
    def waiting_s(self) -> float:
        """Seconds since the source delivered a frame; 0 while one waits to be taken."""
        with self._cond:
            return 0.0 if self._queue or self._done else time.monotonic() - self._frame_s

    @property
    def connected(self) -> bool:
        """Whether the source is open."""
        return self._connected

    def counts(self) -> CaptureCounts:
        """Return the counts so far."""
        with self._cond:
            return dataclasses.replace(self._counts)

    def drain_events(self) -> list[Event]:
        """Return what happened since the last call."""
        with self._cond:
            events = list(self._events)
            self._events.clear()
        return events

    def count_unusable(self, error: CorruptFrameError) -> None:
        """Count a frame that was delivered and could not be converted after all."""
        with self._cond:
            self._counts.dropped += 1
        self._note_corrupt(error)

    def count_dropped(self, frames: int) -> None:
        """Count frames that were taken and are not answered."""
        with self._cond:
            self._counts.dropped += frames

    def supervise(self) -> None:
        """Replace a reader that hangs; to be called every now and then."""
        hanging_s = time.monotonic() - self._progress_s - self._options.read_timeout_s
        if hanging_s < 0 or self._done or not self.source.reopens:
            return
        reader = self._reader
        stream = reader.stream
        if stream is not None:
            stream.interrupt()
        if hanging_s > _GRACE_S:
            self._replace(reader)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop reading; frames that nobody took count as dropped."""
        self._stop.set()
        with self._cond:
            self._done = True
            self._counts.dropped += len(self._queue)
            self._queue.clear()
            self._cond.notify_all()
        stream = self._reader.stream
        if stream is not None:
            stream.interrupt()
        if self._reader.is_alive():
            self._reader.join(timeout_s)

    def _replace(self, reader: _Reader) -> None:
        self._left_behind = [other for other in self._left_behind if other.is_alive()]
        self._progress_s = time.monotonic()
        if len(self._left_behind) >= _LEFT_BEHIND_MOST:
            self._note("stalled", f"{self.source.name}: {_LEFT_BEHIND_MOST} readers hang")
            return
        reader.abandoned.set()
        self._left_behind.append(reader)
        self._connected = False
        self._note("stalled", f"{self.source.name}: the reader hangs and is replaced")
        with self._cond:
            self._counts.reconnects += 1
        self._reader = _Reader(self)
        self._reader.start()

    # What follows runs on the reader's thread.

    def _read_all(self, reader: _Reader) -> None:
        try:
            self._read_until_stopped(reader)
        except AlexnetEdgeError as error:
            self._finish(reader, error)
        except Exception as error:
            self._finish(
                reader,
                SourceLostError(
                    f"{self.source.name}: reading failed ({type(error).__name__}: {error})",
                    hint="this is a bug; please report it",
                ),
            )
        else:
            self._finish(reader, None)

    def _read_until_stopped(self, reader: _Reader) -> None:
        source, attempt = self.source, 0
        retry = self._options.retry and source.reopens
        while not self._is_over(reader):
            try:
                before = self._counts.captured
                self._read_once(reader)
                if not retry:
                    return
                lost = SourceLostError(f"{source.name}: ended", hint="")
            except SourceLostError as error:
                lost = error
            if self._is_over(reader):
                return
            self._connected = False
            stalled = isinstance(lost, SourceStalledError)
            self._note("stalled" if stalled else "lost", lost.message)
            if not retry:
                raise lost
            attempt = 1 if self._counts.captured > before else attempt + 1
            delay_s = self._backoff_s(attempt)
            self._note("retrying", f"{source.name}: opening again in {delay_s:.1f} s")
            self._wait(reader, delay_s)
            with self._cond:
                self._counts.reconnects += 1

    def _read_once(self, reader: _Reader) -> None:
        self._progress_s = time.monotonic()
        stream = self.source.open()
        reader.stream = stream
        try:
            if self._is_over(reader):
                return
            self._connected = True
            self._progress_s = time.monotonic()
            self._note("connected", f"{self.source.name}: connected")
            while not self._is_over(reader):
                try:
                    picture = stream.read()
                    if picture is None:
                        return
                    if not self.source.live:
                        picture = picture.converted()
                except CorruptFrameError as error:
                    self._note_corrupt(error)
                    self._require_progress()
                    continue
                self._deliver(reader, picture)
        finally:
            reader.stream = None
            stream.close()

    def _deliver(self, reader: _Reader, picture: Picture) -> None:
        with self._cond:
            if not self.source.live:
                while len(self._queue) >= self._depth and not self._is_over(reader):
                    self._progress_s = time.monotonic()
                    self._cond.wait(0.1)
            if self._is_over(reader):
                return
            if len(self._queue) >= self._depth:
                self._queue.popleft()
                self._counts.dropped += 1
            self._queue.append((self._counts.captured, picture))
            self._counts.captured += 1
            self._progress_s = self._frame_s = time.monotonic()
            self._cond.notify_all()

    def _require_progress(self) -> None:
        """Give up a connection that delivers nothing but damaged frames."""
        silent_s = time.monotonic() - self._progress_s
        if self.source.reopens and silent_s > self._options.read_timeout_s:
            raise SourceLostError(
                f"{self.source.name}: delivers damaged frames only", hint="is the link good?"
            )

    def _finish(self, reader: _Reader, failure: AlexnetEdgeError | None) -> None:
        if reader.abandoned.is_set():
            return
        if failure is None and not self._stop.is_set():
            self._note("ended", f"{self.source.name}: ended")
        with self._cond:
            self._connected = False
            self._failure = failure
            self._done = True
            self._cond.notify_all()

    def _is_over(self, reader: _Reader) -> bool:
        return self._stop.is_set() or reader.abandoned.is_set()

    def _wait(self, reader: _Reader, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._is_over(reader) and (left_s := end_s - time.monotonic()) > 0:
            self._progress_s = time.monotonic()
            self._stop.wait(min(left_s, 0.2))

    def _backoff_s(self, attempt: int) -> float:
        """Return twice the last wait, up to the cap, less up to a half: many must not come at once.

        The halving jitter is that of "equal jitter" (AWS Architecture Blog, Exponential Backoff
        and Jitter, 2015).
        """
        full_s = min(self._options.max_backoff_s, _FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 20))
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _note(self, kind: EventKind, message: str) -> None:
        with self._cond:
            self._events.append(Event(kind, message, time.monotonic()))

    def _note_corrupt(self, error: CorruptFrameError) -> None:
        now = time.monotonic()
        with self._cond:
            self._counts.corrupt += 1
            total = self._counts.corrupt
        # A stream of nothing but damage must not drown its readers in events.
        if now - self._corrupt_event_s >= _CORRUPT_EVENT_EVERY_S:
            self._corrupt_event_s = now
            self._note("corrupt", f"{error.message} ({total} damaged so far)")

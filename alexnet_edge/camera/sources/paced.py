"""Files that play again from their start, or at their own pace, as a camera would."""

from __future__ import annotations

import dataclasses
import time

from alexnet_edge.camera.sources.base import Picture, Source, SourceLostError, Stream

_AHEAD_MOST_S = 0.1
"""How long the next frame is left undecoded at most; the video's pace may change."""


class LoopedSource:
    """A file that starts again when it ends."""

    def __init__(self, source: Source) -> None:
        self.name, self.live, self.reopens = source.name, source.live, source.reopens
        self.fps = source.fps
        self._source = source

    def open(self) -> Stream:
        """Open the file."""
        return _LoopedStream(self._source)

    def describe(self) -> list[str]:
        """Return what is opened."""
        return [*self._source.describe(), "starts again at its end"]


class _LoopedStream:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream = source.open()
        self._begun = True

    def read(self) -> Picture | None:
        picture = self._stream.read()
        if picture is None and self._begun:
            raise SourceLostError(
                f"{self._source.name}: holds no frame to start again with", hint="is it a video?"
            )
        if picture is None:
            self._stream.close()
            self._stream = self._source.open()
            self._begun = True
            return self.read()
        self._begun = False
        return picture

    def interrupt(self) -> None:
        self._stream.interrupt()

    def close(self) -> None:
        self._stream.close()


class PacedSource:
    """A file played at its own pace, as a live source: the newest frame counts.

    Args:
        source: a video, played by its own times, or a folder, by its frames a second.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.live, self.reopens = source.name, True, False
        self.fps = source.fps
        self._source = source

    def open(self) -> Stream:
        """Open the file."""
        return _PacedStream(self._source.open(), self.fps)

    def describe(self) -> list[str]:
        """Return what is opened."""
        pace = "its own pace" if self.fps is None else f"{self.fps:g} frames a second"
        return [*self._source.describe(), f"played at {pace}"]


class _PacedStream:
    def __init__(self, stream: Stream, fps: float | None) -> None:
        self._stream = stream
        self._fps = fps
        self._count = 0
        self._start_s: float | None = None
        self._last_timestamp_s = 0.0
        self._interval_s = 0.0
        self._next_s: float | None = None
        self._interrupted = False

    def read(self) -> Picture | None:
        # Decoding begins when the frame is due, as when a camera sends it: done ahead, it would
        # take the cores from the frame before.
        self._sleep_until(self._next_s)
        picture = self._stream.read()
        if picture is None:
            return None
        due_s = self._due(picture)
        self._sleep_until(due_s)
        self._next_s = due_s + min(self._interval_s, _AHEAD_MOST_S)
        # The frame counts as captured now: a camera would not have had it before.
        now = time.monotonic()
        return dataclasses.replace(
            picture, captured_s=now - picture.decode_ms / 1e3, wall_time=time.time()
        )

    def _sleep_until(self, due_s: float | None) -> None:
        while due_s is not None and not self._interrupted:
            wait_s = due_s - time.monotonic()
            if wait_s <= 0:
                return
            time.sleep(min(wait_s, 0.1))

    def _due(self, picture: Picture) -> float:
        now = time.monotonic()
        if self._fps is not None or picture.timestamp_s is None:
            timestamp_s = self._count / (self._fps or 30)
        else:
            timestamp_s = picture.timestamp_s
        self._count += 1
        if self._start_s is None or timestamp_s < self._last_timestamp_s:  # it started again
            self._start_s = now - timestamp_s
        else:
            self._interval_s = timestamp_s - self._last_timestamp_s
        self._last_timestamp_s = timestamp_s
        return self._start_s + timestamp_s

    def interrupt(self) -> None:
        self._interrupted = True
        self._stream.interrupt()

    def close(self) -> None:
        self._stream.close()

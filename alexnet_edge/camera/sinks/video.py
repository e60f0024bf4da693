"""The frames with their answers drawn on them, as a video that plays at the speed of the source.

H.264 where the FFmpeg that PyAV brings along has x264, else MPEG-4; `VideoRecorder.codec` says
which. Drawing and encoding run on a thread beside the loop.

What a file is worth when things go wrong:

- The process is killed, or the disk is full: MP4 is written in fragments of two seconds, Matroska
  in clusters, so what was written until then plays. A file without one picture in it is removed.
- The source changes its size: the file is finished and the next one begun, `out-2.mp4` after
  `out.mp4`; scaling to the first size would distort.
- A file of that name exists: it is kept, and the next free number taken. A service that starts
  again must not erase its recordings.
"""

from __future__ import annotations

import errno
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from alexnet_edge.camera.frames import Answer, Event, Frame
from alexnet_edge.camera.sinks.caption import draw_caption
from alexnet_edge.camera.sinks.segment import FORMATS, Segments, choose_codec
from alexnet_edge.errors import InputError, MissingDependencyError

QUEUED_FRAMES = 8
"""Frames that wait for the encoder at most."""

PATIENCE_S = 3.0
"""How long the loop waits for a disk that takes nothing before the recording is given up."""


class VideoRecorder:
    """Writes every answered frame, annotated.

    A frame's place in time is the source's own timestamp, or else when it was captured; the files
    of a folder, which may be read at any speed, follow each other at ``fps`` at most. Where time
    runs backwards (a stream was opened again, a file begins anew) the recording goes on from where
    it was.

    Where the encoder cannot keep up, the loop waits for it, and frames are dropped at the source,
    where they are counted. A disk that takes nothing for `PATIENCE_S` ends the recording.

    Args:
        path: the file: .mp4, .m4v, .mov or .mkv.
        fps: nominal rate.

    Raises:
        InputError: another suffix, a missing folder, or a rate that is none.
        MissingDependencyError: PyAV is not installed.
    """

    name = "recording"

    def __init__(self, path: Path, fps: float) -> None:
        _check(path, fps)
        self.codec = choose_codec()
        self._segments = Segments(path, fps, self.codec)
        self._timeline = Timeline(fps)
        self._captured_s: deque[float] = deque(maxlen=31)
        self._queue: queue.Queue[Answer | None] = queue.Queue(QUEUED_FRAMES)
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files so far, in order."""
        return tuple(self._segments.paths)

    def write(self, answer: Answer) -> None:
        """Hand a frame to the encoder.

        Raises:
            OSError: an earlier frame could not be written, or the disk takes none.
        """
        self._raise_failure()
        try:
            self._queue.put(answer, timeout=PATIENCE_S)
        except queue.Full:
            text = f"nothing could be written for {PATIENCE_S:.0f} s"
            raise OSError(errno.ETIMEDOUT, text, self._segments.current) from None

    def note(self, event: Event) -> None:
        """Do nothing: a video has no place for events."""

    def close(self) -> None:
        """Write what is queued and finish the file.

        Raises:
            OSError: it could not be finished, and `write` did not say so before.
        """
        try:
            self._queue.put(None, timeout=PATIENCE_S)
        except queue.Full:
            return  # the disk hangs, as `write` has said; the thread ends with the process
        self._thread.join()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        """Encode until `close`; after a failure only take what comes."""
        failed = False
        while (answer := self._queue.get()) is not None:
            if not failed:
                failed = not self._succeeds(self._encode, answer)
        if not failed:
            self._succeeds(self._segments.finish)

    def _encode(self, answer: Answer) -> None:
        self._captured_s.append(answer.frame.captured_s)
        image = draw_caption(answer, self._fps())
        self._segments.add(image, self._timeline.place(answer.frame))

    def _fps(self) -> float:
        """Return the rate over the last 30 answers."""
        elapsed_s = self._captured_s[-1] - self._captured_s[0]
        return (len(self._captured_s) - 1) / elapsed_s if elapsed_s > 0 else 0.0

    def _succeeds(self, step: Callable[..., None], *arguments: Answer) -> bool:
        import av

        path = self._segments.current
        try:
            step(*arguments)
        except (OSError, av.FFmpegError) as error:
            path = self._segments.current or path
            self._segments.abandon()
            number = getattr(error, "errno", None) or errno.EIO
            self._failure = OSError(number, getattr(error, "strerror", None) or str(error), path)
            return False
        return True


class Timeline:
    """Places frames on one time axis that starts at 0 and never goes back.

    Args:
        fps: the rate of what has no time of its own, and after a step back.
    """

    def __init__(self, fps: float) -> None:
        self._step_s = 1 / fps
        self._offset_s: float | None = None
        self._last_s = -self._step_s
        self._captured_s = math.inf

    def place(self, frame: Frame) -> float:
        """Return when a frame is shown, in seconds."""
        following_s = self._last_s + self._step_s
        if frame.timestamp_s is None and frame.name is not None:  # a file of a folder
            self._last_s = max(following_s, self._last_s + frame.captured_s - self._captured_s)
            self._captured_s = frame.captured_s
            return self._last_s
        own_s = frame.captured_s if frame.timestamp_s is None else frame.timestamp_s
        if self._offset_s is None or own_s + self._offset_s <= self._last_s:
            self._offset_s = following_s - own_s
        self._last_s = own_s + self._offset_s
        return self._last_s


def _check(path: Path, fps: float) -> None:
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        raise MissingDependencyError("av", needed_for="a recording", extra="camera") from None
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(f"{path}: not a video that can be written", hint=f"end in one of: {known}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"{fps} frames a second is no rate", hint="give one above 0")

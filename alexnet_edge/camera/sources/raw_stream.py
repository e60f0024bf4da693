"""Raw frames of a known size: standard input, a file, a named pipe, or a child process.

A Jetson's CSI camera is such a child: `gst-launch-1.0` with NVIDIA's source writes RGB to a pipe.
JetPack brings both, and no OpenCV with GStreamer has to be built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from alexnet_edge.camera.sources.av_stream import import_av
from alexnet_edge.camera.sources.base import CorruptFrameError, Picture, SourceLostError
from alexnet_edge.camera.sources.uri import SourceName
from alexnet_edge.errors import InputError
from alexnet_edge.preprocess import UInt8Array

_BYTES_PER_PIXEL = {"rgb24": 3.0, "bgr24": 3.0, "rgba": 4.0, "bgra": 4.0, "gray": 1.0,
                    "nv12": 1.5, "yuv420p": 1.5, "yuyv422": 2.0}  # fmt: skip
_POLL_MS = 100
_PIPE_BYTES = 1 << 20
_TAIL_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """Size and layout of raw frames, without padding between rows."""

    width: int
    height: int
    layout: str = "rgb24"

    @property
    def size_bytes(self) -> int:
        """Bytes of one frame."""
        return int(self.width * self.height * _BYTES_PER_PIXEL[self.layout])

    def to_rgb(self, data: UInt8Array) -> UInt8Array:
        """Return (H, W, 3) RGB of one frame's bytes."""
        height, width = self.height, self.width
        if self.layout == "rgb24":
            return data.reshape(height, width, 3)
        if self.layout == "gray":
            return np.repeat(data.reshape(height, width, 1), 3, axis=2)
        if self.layout == "bgr24":
            return np.ascontiguousarray(data.reshape(height, width, 3)[:, :, ::-1])
        if self.layout == "rgba":
            return np.ascontiguousarray(data.reshape(height, width, 4)[:, :, :3])
        if self.layout == "bgra":
            return np.ascontiguousarray(data.reshape(height, width, 4)[:, :, 2::-1])
        shape = (height, width, 2) if self.layout == "yuyv422" else (height * 3 // 2, width)
        av = import_av(f"raw frames of format {self.layout}")
        frame = av.VideoFrame.from_ndarray(data.reshape(shape), self.layout)
        pixels: UInt8Array = frame.to_ndarray(format="rgb24")
        return pixels


class RawStream:
    """Reads frames from a file descriptor, which it owns.

    Args:
        descriptor: what the frames come from.
        form: their size and layout.
        shown: the source's name, for errors.
        child: the process that writes them, where it is ours.
    """

    def __init__(
        self, descriptor: int, form: RawFormat, shown: str, child: Child | None = None
    ) -> None:
        self._descriptor = descriptor
        self._form = form
        self._shown = shown
        self._child = child
        self._interrupted = False
        self._ended = False
        with contextlib.suppress(OSError, AttributeError):  # no pipe, above a limit, no Linux
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def read(self) -> Picture | None:
        """Return the next frame, or None at the end.

        Raises:
            CorruptFrameError: the end came in the middle of a frame.
            SourceLostError: interrupted, reading failed, or our child process ended.
        """
        if self._ended:
            self._require_end()
            return None
        data = np.empty(self._form.size_bytes, np.uint8)
        view, filled, captured = memoryview(data.data), 0, (0.0, 0.0)
        while filled < len(data):
            count = self._read_into(view[filled:])
            if filled == 0:
                captured = (time.monotonic(), time.time())
            if count == 0:
                self._ended = True
                if filled == 0:
                    self._require_end()
                    return None
                raise CorruptFrameError(
                    f"{self._shown}: ends {len(data) - filled} bytes short of a whole frame",
                    hint="are width, height and format those of the frames?",
                )
            filled += count
        spent_ms = (time.monotonic() - captured[0]) * 1e3
        return Picture(lambda: self._form.to_rgb(data), *captured, decode_ms=spent_ms)

    def interrupt(self) -> None:
        """Make a read in progress fail within a tenth of a second."""
        self._interrupted = True

    def close(self) -> None:
        """Close the descriptor, and end what writes to it."""
        os.close(self._descriptor)
        if self._child is not None:
            self._child.end()

    def _read_into(self, rest: memoryview) -> int:
        while not self._poll.poll(_POLL_MS):
            if self._interrupted:
                raise SourceLostError(f"{self._shown}: delivers nothing", hint="is it running?")
            if self._child is not None:
                self._child.listen()
        try:
            return os.readv(self._descriptor, [rest])
        except OSError as error:
            raise SourceLostError(
                f"{self._shown}: {error.strerror}", hint="is what writes the frames running?"
            ) from error

    def _require_end(self) -> None:
        """Refuse the end of frames of a child process: a camera has none."""
        if self._child is not None:
            raise SourceLostError(
                f"{self._shown}: {self._child.last_words()}", hint="does the camera work elsewhere?"
            )


class RawSource:
    """Raw frames of standard input, a file or a named pipe.

    Standard input and files deliver every frame, unless the name says `live=1`.
    """

    def __init__(self, name: SourceName) -> None:
        self.name = name.shown
        self.live = name.flag("live")
        self.fps: float | None = None
        self._path = name.location
        # A named pipe can be opened again when its writer went; standard input cannot.
        self.reopens = self._path != "-" and self.live
        self._form = format_of(name)

    def open(self) -> RawStream:
        """Open it.

        Raises:
            SourceLostError: there is no such file, or it cannot be read.
        """
        try:
            if self._path == "-":
                descriptor = os.dup(sys.stdin.fileno())
            else:
                # A named pipe without a writer must not block the opening.
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    os.set_blocking(descriptor, True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceLostError(
                f"{self.name}: cannot be read ({reason})", hint="name a file or a pipe, or -"
            ) from error
        return RawStream(descriptor, self._form, self.name)

    def describe(self) -> list[str]:
        """Return what is read."""
        form = self._form
        where = "standard input" if self._path == "-" else self._path
        return [
            f"{where}: {form.layout} {form.width}×{form.height}, {form.size_bytes:,} bytes each"
        ]


class ProcessSource:
    """A child process that writes raw frames to a pipe.

    Args:
        name: for people.
        command: program and arguments; `{fd}` stands for the number of the pipe. Standard output
            will not do: NVIDIA's source writes messages there.
        form: what it writes.
        fps: how many of them a second.
    """

    def __init__(
        self, name: str, command: Sequence[str], form: RawFormat, fps: float | None = None
    ) -> None:
        self.name = name
        self.fps = fps
        self.live = self.reopens = True
        self._command = tuple(command)
        self._form = form

    def open(self) -> RawStream:
        """Start the process.

        Raises:
            SourceLostError: the program is not there.
        """
        reading, writing = os.pipe()
        try:
            child = Child(self._arguments(writing), writing)
        except OSError as error:
            os.close(reading)
            raise SourceLostError(
                f"{self.name}: {self._command[0]} cannot be started ({error.strerror})",
                hint="it comes with JetPack; elsewhere: apt install gstreamer1.0-tools",
            ) from error
        finally:
            os.close(writing)
        return RawStream(reading, self._form, self.name, child)

    def describe(self) -> list[str]:
        """Return the command, as it can be pasted into a shell."""
        return [shlex.join(self._arguments(1))]

    def _arguments(self, descriptor: int) -> list[str]:
        return [part.replace("{fd}", str(descriptor)) for part in self._command]


class Child:
    """A running child process, whose last words are kept."""

    def __init__(self, command: Sequence[str], descriptor: int) -> None:
        # A session of its own: Ctrl-C is for us, and we end the child when we are done.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=(descriptor,), start_new_session=True, bufsize=0,
        )  # fmt: skip
        self._tail = b""
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)

    def listen(self) -> None:
        """Take what it said, so that it never waits for us to read it."""
        output = self._process.stdout
        while output is not None and (said := output.read(_TAIL_BYTES)):
            self._tail = (self._tail + said)[-_TAIL_BYTES:]

    def last_words(self) -> str:
        """Return how it ended, and the last line that it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.listen()
        lines = self._tail.decode(errors="replace").strip().splitlines()
        problems = [line for line in lines if "ERROR" in line] or lines[-1:]
        code = self._process.returncode
        ending = "writes no more frames" if code is None else f"ended with exit code {code}"
        return f"{ending} ({problems[0].strip()})" if problems else ending

    def end(self) -> None:
        """End it: politely, then for certain."""
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def format_of(name: SourceName) -> RawFormat:
    """Return size and layout as a source's name gives them.

    Raises:
        InputError: an odd size, where four pixels share their colours.
    """
    form = RawFormat(
        name.number("width", 1280), name.number("height", 720), name.options.get("format", "rgb24")
    )
    halves = form.layout in {"nv12", "yuv420p", "yuyv422"}
    if halves and (form.width % 2 or (form.height % 2 and form.layout != "yuyv422")):
        raise InputError(
            f"source '{name.shown}': {form.layout} needs an even width and height",
            hint="give the size that the frames have",
        )
    return form


def csi_source(name: SourceName) -> ProcessSource:
    """Return a Jetson's CSI camera.

    The camera's queue keeps one frame and lets the older one go, so a busy engine gets a fresh one.
    """
    form = RawFormat(name.number("width", 1280), name.number("height", 720))
    fps, flip = name.number("fps", 30), name.number("flip", 0)
    pipeline = (
        f"nvarguscamerasrc sensor-id={name.location} ! "
        f"video/x-raw(memory:NVMM),width=(int){form.width},height=(int){form.height},"
        f"framerate=(fraction){fps}/1,format=(string)NV12 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw,format=(string)BGRx ! "
        "videoconvert ! video/x-raw,format=(string)RGB ! "
        "queue max-size-buffers=1 leaky=downstream ! fdsink fd={fd} sync=false"
    )
    return ProcessSource(name.shown, ["gst-launch-1.0", "--quiet", *pipeline.split(" ")], form, fps)

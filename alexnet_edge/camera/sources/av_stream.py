"""Videos, RTSP, HTTP MJPEG and V4L2, through PyAV (FFmpeg's libraries).

FFmpeg's own buffers are kept small for live sources, a read that hangs is interrupted, and a packet
that cannot be decoded costs one frame.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.camera.sources.base import (
    CorruptFrameError,
    Picture,
    SourceLostError,
    SourceStalledError,
    Timeouts,
)
from alexnet_edge.camera.sources.uri import SourceName
from alexnet_edge.errors import MissingDependencyError
from alexnet_edge.preprocess import UInt8Array

if TYPE_CHECKING:
    import av

_LIVE_OPTIONS = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "max_delay": "100000",  # µs that packets are held back for putting in order
    "analyzeduration": "2000000",
}
_DAMAGED_PACKETS_MOST = 64
"""In a row, in the container itself: it is broken off then."""
_WAITING_MOST = 256
"""Packets whose arrival is remembered until the frame comes out; decoders hold far fewer."""


def import_av(needed_for: str) -> Any:
    """Import PyAV.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError("av", needed_for=needed_for, extra="camera") from None
    return av


def av_options(name: SourceName) -> tuple[str | None, dict[str, str]]:
    """Return the format to open a source as (None: FFmpeg finds out) and FFmpeg's options."""
    if name.kind == "video":
        return None, {}
    options = dict(_LIVE_OPTIONS)
    if name.kind == "rtsp":
        transport = name.options.get("transport", "tcp")
        return None, options | {"rtsp_transport": transport, "reorder_queue_size": "0"}
    if name.kind == "http":
        return None, options
    if "width" in name.options and "height" in name.options:
        options["video_size"] = f"{name.options['width']}x{name.options['height']}"
    for key, option in (("fps", "framerate"), ("format", "input_format")):
        if key in name.options:
            options[option] = name.options[key]
    return "v4l2", options


class AvSource:
    """A source that FFmpeg opens.

    Args:
        name: of kind `video`, `rtsp`, `http` or `v4l2`.
        timeouts: how long opening and reading may take.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self, name: SourceName, timeouts: Timeouts) -> None:
        import_av("videos and cameras")
        self.name = name.shown
        self.live = name.kind != "video"
        self.reopens = self.live
        self.fps = float(name.number("fps", 0)) or None
        self._name = name
        self._timeouts = timeouts

    def open(self) -> AvStream:
        """Open the container.

        Raises:
            SourceLostError: it is not there or no video.
        """
        form, options = av_options(self._name)
        return AvStream(self._name, form, options, self._timeouts, live=self.live)

    def describe(self) -> list[str]:
        """Return FFmpeg's options."""
        form, options = av_options(self._name)
        lines = [f"FFmpeg opens {self.name}" + (f" as {form}" if form else "")]
        if options:
            lines.append("options: " + " ".join(f"{key}={value}" for key, value in options.items()))
        return lines


class AvStream:
    """An open container's first video stream."""

    def __init__(
        self,
        name: SourceName,
        form: str | None,
        options: Mapping[str, str],
        timeouts: Timeouts,
        *,
        live: bool,
    ) -> None:
        self._av = import_av("videos and cameras")
        self._shown = name.shown
        self._live = live
        self._arrivals: collections.OrderedDict[int, tuple[float, float]]
        self._arrivals = collections.OrderedDict()
        self._ready: collections.deque[Picture] = collections.deque()
        self._damaged = 0
        try:
            self._container = self._av.open(
                name.location, format=form, options=dict(options),
                timeout=(timeouts.open_s, timeouts.read_s),
            )  # fmt: skip
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._lost(error, "cannot be opened") from error
        try:
            self._video = self._container.streams.video[0]
        except IndexError:
            self._container.close()
            raise SourceLostError(
                f"{name.shown}: holds no video", hint="is it the right address or file?"
            ) from None
        self._prepare_decoder(in_slices=live or name.flag("live"))
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._packets = self._demux()

    def read(self) -> Picture | None:
        """Return the next frame, or None at the end.

        Raises:
            CorruptFrameError: a packet cannot be decoded.
            SourceStalledError: nothing came within the read timeout.
            SourceLostError: the stream broke off.
        """
        while not self._ready:
            packet = self._next_packet()
            if packet is None:
                return None
            self._decode(packet)
        return self._ready.popleft()

    def interrupt(self) -> None:
        """FFmpeg interrupts itself after the read timeout."""

    def close(self) -> None:
        """Close decoder and container."""
        self._packets.close()
        self._ready.clear()
        self._container.close()

    def _prepare_decoder(self, *, in_slices: bool) -> None:
        decoder = self._video.codec_context
        # Threads that each take a frame hold that many frames back; slices do not.
        decoder.thread_type = "SLICE" if in_slices else "AUTO"
        if decoder.name == "mjpeg":
            # A cut-off JPEG would else come out grey from where it ends.
            decoder.options = {"err_detect": "explode"}

    def _demux(self) -> Generator[Any, None, None]:
        packets: Generator[Any, None, None] = self._container.demux(self._video)
        return packets

    def _next_packet(self) -> Any:
        while True:
            try:
                packet = next(self._packets, None)
            except (self._av.error.ExitError, TimeoutError) as error:
                raise SourceStalledError(
                    f"{self._shown}: delivers nothing", hint="is the camera frozen?"
                ) from error
            except (self._av.FFmpegError, OSError, ValueError) as error:
                self._damaged += 1
                self._packets = self._demux()
                damaged_data = isinstance(error, self._av.error.InvalidDataError)
                if damaged_data and self._damaged < _DAMAGED_PACKETS_MOST:
                    raise CorruptFrameError(
                        f"{self._shown}: {_reason(error)}", hint="the file or stream is damaged"
                    ) from error
                raise self._lost(error, "broke off") from error
            self._damaged = 0
            return packet

    def _decode(self, packet: Any) -> None:
        arrived = (time.monotonic(), time.time())
        if packet.pts is not None:
            self._arrivals[packet.pts] = arrived
            while len(self._arrivals) > _WAITING_MOST:
                self._arrivals.popitem(last=False)
        try:
            frames = packet.decode()
        except self._av.error.EOFError:  # already flushed
            return
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise CorruptFrameError(
                f"{self._shown}: {_reason(error)}", hint="the file or stream is damaged"
            ) from error
        spent_ms = (time.monotonic() - arrived[0]) * 1e3 / max(1, len(frames))
        whole = [frame for frame in frames if not frame.is_corrupt]
        self._ready.extend(self._picture(frame, arrived, spent_ms) for frame in whole)
        if len(whole) < len(frames):
            raise CorruptFrameError(
                f"{self._shown}: a frame is damaged",
                hint="packets were lost or the file is damaged",
            )

    def _picture(
        self, frame: av.VideoFrame, arrived: tuple[float, float], spent_ms: float
    ) -> Picture:
        if frame.pts is not None:
            arrived = self._arrivals.pop(frame.pts, arrived)
        return Picture(
            convert=lambda: self._to_rgb(frame),
            captured_s=arrived[0],
            wall_time=arrived[1],
            decode_ms=spent_ms,
            timestamp_s=None if frame.pts is None else float(frame.time),
        )

    def _to_rgb(self, frame: av.VideoFrame) -> UInt8Array:
        try:
            # One converter for the stream: a frame's own would be set up anew for every frame.
            pixels = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise CorruptFrameError(
                f"{self._shown}: {_reason(error)}", hint="the file or stream is damaged"
            ) from error
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # PyAV 13 and later tell
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def _lost(self, error: BaseException, what: str) -> SourceLostError:
        if isinstance(error, (self._av.error.ExitError, TimeoutError)):
            return SourceStalledError(
                f"{self._shown}: does not answer", hint="is the camera on, and the address right?"
            )
        return SourceLostError(
            f"{self._shown}: {what} ({_reason(error)})",
            hint="is the camera on, and the address right?" if self._live else "is it a video?",
        )


def _reason(error: BaseException) -> str:
    """Return FFmpeg's words alone: its errors name the address too, with the password."""
    return str(getattr(error, "strerror", None) or type(error).__name__)

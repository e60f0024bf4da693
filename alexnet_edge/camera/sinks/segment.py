"""Video files of one size each, one after the other."""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffix to FFmpeg's name of the container."""

_TIME_BASE = Fraction(1, 60_000)  # MPEG-4 has 16 bits for it
_KEY_FRAME_EVERY_S = 2.0
_ENCODER_THREADS = 2  # the other cores are the loop's
_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "23", "tune": "zerolatency"},
    "mpeg4": {"flags": "+qscale", "global_quality": str(4 * 118)},  # FFmpeg counts in 1/118
}
_HYBRID_SINCE = (61, 7)  # libavformat of FFmpeg 7.1: closing turns the fragments into a plain MP4


def choose_codec() -> str:
    """Return `libx264` where this FFmpeg has it, else `mpeg4`, which every FFmpeg has."""
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


class Segments:
    """Writes frames into ``path``, and into a further file whenever the size changes.

    Args:
        path: the first file, unless it exists.
        fps: nominal rate.
        codec: `libx264` or `mpeg4`.
    """

    def __init__(self, path: Path, fps: float, codec: str) -> None:
        self.paths: list[Path] = []
        self._path = path
        self._fps = fps
        self._codec = codec
        self._segment: _Segment | None = None

    @property
    def current(self) -> str:
        """The file that is being written, or will be."""
        return str(self.paths[-1] if self.paths else self._path)

    def add(self, image: Image.Image, at_s: float) -> None:
        """Append a frame that is shown ``at_s`` seconds after the first of all.

        Raises:
            OSError, av.FFmpegError: it cannot be written.
        """
        if self._segment is not None and self._segment.size != image.size:
            self.finish()
        if self._segment is None:
            self.paths.append(_claim(self._path))
            self._segment = _Segment(self.paths[-1], image.size, self._fps, self._codec)
        self._segment.add(image, at_s)

    def finish(self) -> None:
        """Finish the file, so that it can be played and sought.

        Raises:
            OSError, av.FFmpegError: its end cannot be written.
        """
        if self._segment is not None:
            self._segment.finish()
            self._segment = None

    def abandon(self) -> None:
        """Close the file as it is; remove it where it holds no picture."""
        if self._segment is not None:
            self._segment.abandon()
            self._segment = None
        if not self.paths:
            return
        if FORMATS[self.paths[-1].suffix.lower()] != "matroska":
            _cut_off_broken_box(self.paths[-1])
        if not _holds_a_picture(self.paths[-1]):
            self.paths.pop().unlink(missing_ok=True)


class _Segment:
    """One file that is being written."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, codec: str) -> None:
        import av

        self.size = size
        self._start_s: float | None = None
        self._next_key_s = 0.0
        kind = FORMATS[path.suffix.lower()]
        self._container = av.open(str(path), "w", format=kind, options=_container_options(kind))
        self._stream = _add_stream(self._container, codec, Fraction(fps).limit_denominator(1001))
        # Planes of 4:2:0 have half the size: an odd last row or column is left out.
        self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        self._stream.codec_context.gop_size = 600  # the rest is done by time, below
        self._stream.codec_context.thread_count = _ENCODER_THREADS

    def add(self, image: Image.Image, at_s: float) -> None:
        import av
        from av.video.frame import PictureType

        if self._start_s is None:
            self._start_s = self._next_key_s = at_s
        even = image.crop((0, 0, self._stream.width, self._stream.height))
        frame = av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
        frame.pts = round((at_s - self._start_s) / _TIME_BASE)
        frame.time_base = _TIME_BASE
        if at_s >= self._next_key_s:
            frame.pict_type = PictureType.I
            self._next_key_s = at_s + _KEY_FRAME_EVERY_S
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        import av

        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()


def _add_stream(container: Any, codec: str, rate: Fraction) -> Any:
    return container.add_stream(codec, rate=rate, options=_OPTIONS[codec])


def _container_options(kind: str) -> dict[str, str]:
    """Return what makes a file playable up to its last two seconds, whatever happens to it."""
    import av

    flush = {"flush_packets": "1"}  # else 256 KB wait in the process
    if kind == "matroska":
        return {**flush, "cluster_time_limit": str(round(_KEY_FRAME_EVERY_S * 1000))}
    hybrid = av.library_versions["libavformat"][:2] >= _HYBRID_SINCE
    fragments = "hybrid_fragmented" if hybrid else "empty_moov+default_base_moof"
    return {**flush, "movflags": f"frag_keyframe+{fragments}"}


def _claim(path: Path) -> Path:
    """Create and return ``path``, or where it exists the first free of `NAME-2`, and so on."""
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            candidate.touch(exist_ok=False)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")


def _cut_off_broken_box(path: Path) -> None:
    """Cut a file off where a full disk ended it within the description of a fragment.

    FFmpeg refuses it otherwise, with all fragments before. Pictures that are cut short do no harm.
    The file is a row of boxes, each beginning with its size and kind (ISO/IEC 14496-12, 4.2).
    """
    size, at = path.stat().st_size, 0
    with path.open("r+b") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length < 8 or at + length > size:
                break
            at += length
        if at < size and kind != b"mdat":
            file.truncate(at)


def _holds_a_picture(path: Path) -> bool:
    import av

    try:
        with av.open(str(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (OSError, av.FFmpegError):
        return False

"""What every source gives: a stream of pictures, and three ways in which that can fail.

A `Source` is a description that can be opened, again and again; a `Stream` is one opening of it.
Only the thread that opened a stream reads and closes it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

from alexnet_edge.errors import ImageError, UnavailableError
from alexnet_edge.preprocess import UInt8Array


class SourceLostError(UnavailableError):
    """A source that cannot be opened, or broke off; opening it again may help."""


class SourceStalledError(SourceLostError):
    """A source that is open and delivers nothing."""


class CorruptFrameError(ImageError):
    """One frame that cannot be decoded; the stream goes on."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a source may take.

    Attributes:
        open_s: until it is open.
        read_s: from frame to frame.
    """

    open_s: float = 10.0
    read_s: float = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A decoded frame, not yet converted to RGB: frames that are dropped never are.

    Attributes:
        convert: returns (H, W, 3) uint8 RGB; raises `CorruptFrameError`.
        captured_s: `time.monotonic()` when software first had the data.
        wall_time: `time.time()` then.
        decode_ms: time spent on decoding.
        timestamp_s: the source's own time; None where it has none.
        name: the file, where the source is a folder.
    """

    convert: Callable[[], UInt8Array]
    captured_s: float
    wall_time: float
    decode_ms: float = 0.0
    timestamp_s: float | None = None
    name: str | None = None

    def converted(self) -> Picture:
        """Return the picture with its conversion done.

        Raises:
            CorruptFrameError: it cannot be converted.
        """
        started = time.monotonic()
        pixels = self.convert()
        spent_ms = (time.monotonic() - started) * 1e3
        return dataclasses.replace(
            self, convert=lambda: pixels, decode_ms=self.decode_ms + spent_ms
        )


class Stream(Protocol):
    """One opening of a source."""

    def read(self) -> Picture | None:
        """Return the next picture, or None at the end.

        Raises:
            CorruptFrameError: this one cannot be decoded; the next may.
            SourceLostError: the stream broke off.
        """

    def interrupt(self) -> None:
        """Make a `read` in progress return soon, where that is possible. Called by any thread."""

    def close(self) -> None:
        """Release what the stream holds."""


class Source(Protocol):
    """What delivers frames.

    Attributes:
        name: as the user wrote it, without a password.
        live: the newest frame counts, and a loss is mended; else every frame is delivered.
        reopens: it can be opened again after a loss.
        fps: frames a second as the name asks for; None where it is the source's own affair.
    """

    name: str
    live: bool
    reopens: bool
    fps: float | None

    def open(self) -> Stream:
        """Open it.

        Raises:
            SourceLostError: it is not there, at the moment.
        """

    def describe(self) -> list[str]:
        """Return what opening it will do, a line each, for `--dry-run`."""

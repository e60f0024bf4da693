"""Frames that say which they are, and videos and streams made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
BITS = 12


def numbered(index: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A frame whose upper half shows its number as black and white bars, whatever the codec."""
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    pixels = np.full((height, width, 3), 96, np.uint8)
    step = width // BITS
    for bit, value in enumerate(bits):
        pixels[: height // 2, bit * step : (bit + 1) * step] = 235 if value else 20
    return pixels


def number_of(pixels: np.ndarray) -> int:
    """Read a frame's number back."""
    height, width = pixels.shape[:2]
    step = width // BITS
    middle = pixels[height // 4, :, 1]
    return sum(int(middle[bit * step + step // 2] > 128) << bit for bit in range(BITS))


def write_video(path: Path, frames, codec: str = "mpeg4", rate: int = 30, **options) -> Path:
    """Encode RGB frames; ``pix_fmt`` and the encoder's options by name."""
    import av

    pix_fmt = options.pop("pix_fmt", "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = pix_fmt
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclasses.dataclass
class MjpegServer:
    """A camera that serves MJPEG over HTTP, in a process of its own."""

    process: subprocess.Popen
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def mjpeg_server(*arguments: object, port: int = 0):
    """Start the server; see `mjpeg_server.py` for its arguments."""
    command = [sys.executable, str(HERE / "mjpeg_server.py"), str(port), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        bound = int(process.stdout.readline())
        yield MjpegServer(process, bound)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until(condition, timeout_s: float = 20.0, what: str = "") -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"did not happen in {timeout_s} s: {what}"
        time.sleep(0.02)

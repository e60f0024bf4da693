"""A frame as the JPEG that browsers are sent."""

from __future__ import annotations

import io

from PIL import Image

from alexnet_edge.camera.frames import Frame

WIDTH_PX = 640
"""Wider frames are scaled down to it: what a phone shows, at a quarter of the bytes."""

QUALITY = 80


def encode_picture(frame: Frame) -> bytes:
    """Return the frame as JPEG, at most `WIDTH_PX` wide."""
    image = Image.fromarray(frame.pixels)
    if image.width > WIDTH_PX:
        height = max(1, round(image.height * WIDTH_PX / image.width))
        image = image.resize((WIDTH_PX, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()

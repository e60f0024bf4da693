"""What is drawn onto a recorded frame: the answer, its age and the rate."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from alexnet_edge.camera.sinks.record import escape_controls

if TYPE_CHECKING:
    from alexnet_edge.camera.frames import Answer

_BAND = (0, 0, 0, 150)
_SURE, _UNSURE, _DETAIL = (255, 255, 255), (255, 205, 90), (210, 210, 210)
_SMALLEST_PX = 9


def draw_caption(answer: Answer, fps: float) -> Image.Image:
    """Return the frame as an RGB image with two lines in a dark band at its foot.

    Args:
        answer: whose frame it is.
        fps: answers a second.
    """
    image = Image.fromarray(answer.frame.pixels)
    best = answer.top[0] if answer.top else None
    label = "no answer" if best is None else f"{escape_controls(best.name)}  {best.probability:.1%}"
    if not answer.accepted:
        label = f"? {label}"
    detail = f"age {answer.age_ms:.0f} ms   {fps:.1f} fps   dropped {answer.dropped}"

    size = max(_SMALLEST_PX, round(image.height / 18))
    margin = max(3, size // 3)
    room = image.width - 2 * margin
    lines = (
        (label, _fit(label, size, room), _SURE if answer.accepted else _UNSURE),
        (detail, _fit(detail, round(size * 0.7), room), _DETAIL),
    )
    heights = [round(_font(px).getbbox("Åg")[3]) + margin // 2 for _, px, _ in lines]
    top = image.height - sum(heights) - margin
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((0, top, image.width, image.height), fill=_BAND)
    at = top + margin // 2
    for (text, px, colour), height in zip(lines, heights, strict=True):
        draw.text((margin, at), text, font=_font(px), fill=colour)
        at += height
    return image


def _fit(text: str, size_px: int, room_px: int) -> int:
    """Return the largest font size up to ``size_px`` at which ``text`` is not cut off."""
    size = max(_SMALLEST_PX, size_px)
    while size > _SMALLEST_PX and _font(size).getlength(text) > room_px:
        size -= 1
    return size


@functools.lru_cache(maxsize=64)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)

"""Sources by name: what a user writes, checked before anything is opened.

    csi://0?width=1280&height=720&fps=30&flip=0       a Jetson's CSI camera
    v4l2:///dev/video0?width=&height=&fps=&format=    a USB camera; plain 0 and /dev/video0 as well
    rtsp://user:password@host/path#transport=udp      a network camera; rtsps:// as well
    http://host/stream                                MJPEG over HTTP; https:// as well
    clip.mp4, file:///clip.mp4?loop=1&live=1          a video
    photos/, file:///photos?loop=1&live=1&fps=10      a folder of images, or of class folders
    -?width=640&height=480&format=nv12&live=1         raw frames on standard input
    raw:///tmp/pipe?width=640&height=480              raw frames of a file (loop=1) or named pipe

The query of RTSP and HTTP addresses belongs to the camera and is passed on as it is.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from alexnet_edge.errors import InputError

RAW_FORMATS = ("rgb24", "bgr24", "rgba", "bgra", "gray", "nv12", "yuv420p", "yuyv422")

_RANGES = {"width": (2, 16384), "height": (2, 16384), "fps": (1, 1000), "flip": (0, 7),
           "live": (0, 1), "loop": (0, 1)}  # fmt: skip
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "raw": {"format": RAW_FORMATS},
    "rtsp": {"transport": ("tcp", "udp")},
}
_KEYS: dict[str, tuple[str, ...]] = {
    "csi": ("width", "height", "fps", "flip"),
    "v4l2": ("width", "height", "fps", "format"),
    "rtsp": ("transport",),
    "http": (),
    "video": ("loop", "live"),
    "folder": ("loop", "live", "fps"),
    "raw": ("width", "height", "format", "live", "loop"),
}
_EXAMPLES = {
    "csi": "csi://0?width=1280&height=720&fps=30",
    "v4l2": "v4l2:///dev/video0?width=1280&height=720&fps=30",
    "rtsp": "rtsp://192.0.2.1/stream#transport=tcp",
    "http": "http://192.0.2.1/stream.mjpg",
    "video": "file:///clip.mp4?loop=1",
    "folder": "file:///photos?loop=1",
    "raw": "-?width=640&height=480&format=rgb24",
}
_SCHEMES = {"csi": "csi", "v4l2": "v4l2", "rtsp": "rtsp", "rtsps": "rtsp", "http": "http",
            "https": "http", "file": "file", "raw": "raw"}  # fmt: skip
_HINT = "one of csi://, v4l2://, rtsp://, http://, a video, a folder of images, or -"


@dataclasses.dataclass(frozen=True)
class SourceName:
    """A source's name, taken apart.

    Attributes:
        kind: `csi`, `v4l2`, `rtsp`, `http`, `video`, `folder` or `raw`.
        location: sensor number, device, address, path; `-` for standard input.
        shown: for people: without a password.
        options: what the query says, checked.
    """

    kind: str
    location: str
    shown: str
    options: Mapping[str, str]

    def number(self, key: str, default: int) -> int:
        """Return an option that is a whole number."""
        return int(self.options.get(key, default))

    def flag(self, key: str) -> bool:
        """Return an option that is 0 or 1; 0 where it is left out."""
        return self.options.get(key) == "1"


def parse_source(text: str) -> SourceName:
    """Take a source's name apart.

    Raises:
        InputError: it is no source, the file is not there, or an option is unknown or out of range.
    """
    scheme, separator, _ = text.partition("://")
    if not separator or Path(text).exists():
        return _short(text)
    kind = _SCHEMES.get(scheme.lower())
    if kind is None:
        raise InputError(f"source '{text}': {scheme}:// is unknown", hint=_HINT)
    try:
        parts = urllib.parse.urlsplit(text)
        if kind in {"rtsp", "http"}:
            return _on_network(kind, parts, text)
    except ValueError as error:
        raise InputError(f"source '{text}': {error}", hint=_EXAMPLES[kind]) from error
    location = urllib.parse.unquote(parts.netloc + parts.path)
    if kind == "file":
        return _checked(*_on_disk(location), text, parts.query)
    return _checked(kind, location or ("-" if kind == "raw" else ""), text, parts.query)


def _short(text: str) -> SourceName:
    """Return the source of a name without a scheme."""
    if _is_number(text):
        return _checked("v4l2", f"/dev/video{text}", text, "")
    if text == "-" or text.startswith("-?"):
        return _checked("raw", "-", text, text[2:])
    if text.startswith("/dev/video"):
        return _checked("v4l2", text, text, "")
    return _checked(*_on_disk(text), text, "")


def _on_network(kind: str, parts: urllib.parse.SplitResult, text: str) -> SourceName:
    if not parts.hostname:
        raise InputError(f"source '{text}': names no host", hint=_EXAMPLES[kind])
    _ = parts.port  # raises where it is no number
    address = parts._replace(fragment="")
    _, _, host = parts.netloc.rpartition("@")
    shown = parts._replace(
        netloc=f"***@{host}" if parts.username or parts.password else host, fragment=""
    )
    return _checked(kind, address.geturl(), shown.geturl(), parts.fragment)


def _on_disk(text: str) -> tuple[str, str]:
    from alexnet_edge.dataset import IMAGE_SUFFIXES

    path = Path(text).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
        return "folder", str(path)
    if not path.exists():
        raise InputError(f"source {text}: no such file or folder", hint=_HINT)
    return "video", str(path)


def _checked(kind: str, location: str, shown: str, query: str) -> SourceName:
    options = {}
    example = f"e.g. {_EXAMPLES[kind]}"
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in _KEYS[kind]:
            known = ", ".join(_KEYS[kind]) or "no options"
            raise InputError(f"source '{shown}': '{key}' is unknown", hint=f"it takes {known}")
        if value:
            _check_value(kind, key, value, shown)
            options[key] = value
    if kind == "csi" and not (_is_number(location) and int(location) < 16):
        raise InputError(f"source '{shown}': names no sensor", hint=example)
    if kind == "v4l2" and not location.startswith("/"):
        raise InputError(f"source '{shown}': names no device", hint=example)
    if kind == "raw" and not {"width", "height"} <= options.keys():
        raise InputError(f"source '{shown}': raw frames need width and height", hint=example)
    if location == "-" and options.get("loop") == "1":
        raise InputError(f"source '{shown}': cannot start again", hint="give a file: raw:///path?…")
    if kind == "folder" and options.get("live") == "1" and "fps" not in options:
        raise InputError(
            f"source '{shown}': a folder has no frame rate", hint="give fps as well: live=1&fps=10"
        )
    return SourceName(kind, location, shown, options)


def _check_value(kind: str, key: str, value: str, shown: str) -> None:
    if key in _RANGES:
        low, high = _RANGES[key]
        if not (_is_number(value) and low <= int(value) <= high):
            raise InputError(f"source '{shown}': {key} is '{value}'", hint=f"give {low} to {high}")
    choices = _CHOICES.get(kind, {}).get(key)
    if choices is not None and value not in choices:
        raise InputError(
            f"source '{shown}': {key} is '{value}'", hint=f"one of {', '.join(choices)}"
        )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6

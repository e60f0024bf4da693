"""Image lists: which images, byte for byte, a calibration ran on.

A list is text with one line for each image, in order: its SHA-256, two spaces, its name in the
folder. That is the format of `sha256sum`, so `cd photos && sha256sum -c list.txt` checks it, and
`sha256sum *.jpg > list.txt` makes one. A line that begins with a backslash has backslashes and line
breaks in its name escaped. Lines that begin with `#` are remarks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from alexnet_edge.artifacts import write_bytes
from alexnet_edge.dataset import ImageSet, map_ahead
from alexnet_edge.errors import DatasetError, StaleArtifactError
from alexnet_edge.machine import usable_cores

_ENCODING = ("utf-8", "surrogateescape")  # names of files may be any bytes
_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}
_ESCAPED = {escape: char for char, escape in _ESCAPES.items()}
_HINT = "a line is: SHA-256, two spaces, name (as sha256sum writes it)"


def read_image_list(path: Path) -> dict[str, str]:
    """Read a list.

    Returns:
        Image name to SHA-256, in the list's order.

    Raises:
        DatasetError: it is missing, empty, or a line is malformed or repeats a name.
    """
    try:
        # Not `splitlines`: a name may hold what only Unicode calls a line break.
        lines = path.read_bytes().decode(*_ENCODING).split("\n")
    except OSError as error:
        raise DatasetError(f"{path}: {error}", hint=_HINT) from error
    digests: dict[str, str] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise DatasetError(f"{path}:{number}: '{line[:80]}' is no entry", hint=_HINT)
        name = _unescape(match[3]) if match[1] else match[3]
        if name in digests:
            raise DatasetError(f"{path}:{number}: '{name}' is listed twice", hint=_HINT)
        digests[name] = match[2].lower()
    if not digests:
        raise DatasetError(f"{path}: lists no image", hint=_HINT)
    return digests


def write_image_list(path: Path, files: list[str]) -> None:
    """Write the `files` of a table's images as a list, atomically."""
    write_bytes(path, "".join(f"{_escape(line)}\n" for line in files).encode(*_ENCODING))


def _escape(line: str) -> str:
    """Return an entry as sha256sum writes it: a backslash first if its name needed any."""
    escaped = re.sub(r"[\\\n\r]", lambda match: _ESCAPES[match[0]], line)
    return line if escaped == line else f"\\{escaped}"


def _unescape(name: str) -> str:
    return re.sub(r"\\[\\nr]", lambda match: _ESCAPED[match[0]], name)


def pick_images(images: ImageSet, digests: Mapping[str, str], *, hint: str) -> ImageSet:
    """Return the images of these names, in this order, whose contents are as they were.

    Raises:
        DatasetError: one is not there.
        StaleArtifactError: the contents of one or more differ; the first three are named.
    """
    by_name = {item.name: item for item in images.items}
    missing = [name for name in digests if name not in by_name]
    if missing:
        raise DatasetError(
            f"{images.name}: {len(missing)} of {len(digests)} images are not there, "
            f"'{missing[0]}' first",
            hint=hint,
        )
    items = tuple(by_name[name] for name in digests)
    found = map_ahead(lambda item: item.sha256, items, workers=usable_cores(), window=64)
    changed: dict[str, tuple[object, object]] = {
        item.name: (digests[item.name], digest)
        for item, digest in zip(items, found, strict=True)
        if digest != digests[item.name]
    }
    if changed:
        raise StaleArtifactError(
            f"{images.name}: {len(changed)} of {len(items)} images are others now",
            dict(list(changed.items())[:3]),
            hint=hint,
        )
    return dataclasses.replace(images, items=items)

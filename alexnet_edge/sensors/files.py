"""Reading Linux's one-value files."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NUMBER = re.compile(r"(\d+)")


def read_text(path: Path) -> str:
    """Return a small file's text without the newline at its end.

    Without Python's buffering: a power-gated thermal zone answers EAGAIN, which the buffered
    reader takes for a non-blocking file and turns into a TypeError or an empty string.

    Raises:
        OSError: there is no such file, or the device behind it does not answer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16).decode("utf-8", errors="replace").strip("\0\n ")
    finally:
        os.close(descriptor)


def read_int(path: Path) -> int:
    """Return the integer that a file holds.

    Raises:
        OSError: as `read_text`.
        ValueError: it holds something else.
    """
    return int(read_text(path))


def try_text(path: Path) -> str | None:
    """Return a file's text, or None where it cannot be read."""
    try:
        return read_text(path)
    except OSError:
        return None


def try_int(path: Path) -> int | None:
    """Return a file's integer, or None where it cannot be read or holds something else."""
    try:
        return read_int(path)
    except (OSError, ValueError):
        return None


def find_paths(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a glob pattern, `zone10` after `zone2`; nothing where it is forbidden."""
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda path: [_key(part) for part in _NUMBER.split(str(path))])


def _key(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)

"""Weights in huge pages: reading all of them for one image walks through 15,000 small ones.

Linux gives large pages to whoever asks (`transparent_hugepage/enabled` at `madvise`, the default of
most distributions). ONNX Runtime does not ask, so it is asked for what a session has allocated:
private memory, writable, and in use nearly whole, so that nothing grows by it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_HUGEPAGE, _COLLAPSE = 14, 25
"""MADV_HUGEPAGE and, since Linux 6.1, MADV_COLLAPSE of asm-generic/mman-common.h."""

_PAGE_BYTES = 2 << 20
_LEAST_BYTES = 4 << 20
_LEAST_RESIDENT = 0.9


@dataclasses.dataclass(frozen=True)
class Region:
    """A range of the process's memory.

    Attributes:
        start, end: addresses.
        private: whether it is writable, private, and no file's.
        resident_bytes: how much of it is in use.
    """

    start: int
    end: int
    private: bool
    resident_bytes: int = 0


def use_huge_pages(maps: Path = Path("/proc/self/smaps")) -> int:
    """Ask for huge pages behind the large memory that this process uses now.

    Returns:
        How many bytes have them now; 0 where the system has none to give.
    """
    if sys.platform != "linux":
        return 0
    try:
        regions = list(
            read_regions(maps.read_text(encoding="utf-8", errors="replace").splitlines())
        )
    except OSError:
        return 0
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(
        end - start
        for start, end in map(aligned, filter(is_worth, regions))
        if end > start
        and madvise(start, end - start, _HUGEPAGE) == 0
        and madvise(start, end - start, _COLLAPSE) == 0
    )


def read_regions(lines: Iterable[str]) -> Iterator[Region]:
    """Return the regions of a `/proc/PID/smaps` file (proc_pid_smaps(5))."""
    region: Region | None = None
    for line in lines:
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            if region is not None:
                yield region
            start, _, end = key.partition("-")
            fields = rest.split()
            named = fields[4] if len(fields) > 4 else ""
            private = fields[0].startswith("rw") and fields[0][3] == "p" and named in {"", "[heap]"}
            region = Region(int(start, 16), int(end, 16), private)
        elif key == "Rss:" and region is not None:
            region = dataclasses.replace(region, resident_bytes=int(rest.split()[0]) << 10)
    if region is not None:
        yield region


def is_worth(region: Region) -> bool:
    """Whether a region is large, and in use nearly whole."""
    size = region.end - region.start
    return (
        region.private and size >= _LEAST_BYTES and region.resident_bytes >= _LEAST_RESIDENT * size
    )


def aligned(region: Region) -> tuple[int, int]:
    """Return the part of a region that is whole huge pages: start and end."""
    return -(-region.start // _PAGE_BYTES) * _PAGE_BYTES, region.end // _PAGE_BYTES * _PAGE_BYTES

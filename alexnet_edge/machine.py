"""What this machine is: the facts that a result is worth nothing without."""

from __future__ import annotations

import ctypes
import datetime
import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = (
    "alexnet-edge",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)

_M_ARENA_MAX = -8
"""Of malloc.h."""


def environment() -> dict[str, Any]:
    """Return the machine, its load and the versions in use, as JSON values."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "vnni": has_vnni(),
        "board": board_name(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the version of each package of the chain that is installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def board_name() -> str | None:
    """Return the board's name from the device tree (Jetson, Raspberry Pi), or None on a PC."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return None


def has_vnni() -> bool:
    """Return whether UINT8 × INT8 products can be summed without 16-bit saturation.

    True on x86 with AVX-512 VNNI, AVX-VNNI or AMX-INT8, and on every other architecture (ARM's
    widening products do not saturate). Where it is False, weights must stay within 7 bits.
    """
    if platform.machine() not in {"x86_64", "AMD64", "i686"}:
        return True
    flags = set(_cpuinfo().get("flags", "").split())
    return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})


def total_memory_bytes() -> int:
    """Return the machine's physical memory."""
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def limit_malloc_arenas(count: int) -> bool:
    """Let the threads of this process share so many heaps; return whether the C library can.

    glibc gives every thread a heap of its own, and each keeps the largest that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, count))


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Return the first processor's block of /proc/cpuinfo, or nothing where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}

"""What this machine is: the facts that a result is worth nothing without."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
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


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, as its driver describes it.

    Attributes:
        index: CUDA's number of it.
        name: the product's.
        compute_capability: as `8.7`.
        integrated: whether it shares its memory with the CPU, as on a Jetson.
        memory_bytes: what CUDA can use.
    """

    index: int
    name: str
    compute_capability: str
    integrated: bool
    memory_bytes: int


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
        "gpus": [dataclasses.asdict(gpu) for gpu in nvidia_gpus()],
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
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Return the logical cores this process may use, as Linux numbers them; elsewhere none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_MMAP_THRESHOLD, _KEPT_BYTES = 32 << 20, 128 << 20


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, up to 128 MiB a heap, rather than return it.

    Frames are megabytes, which glibc asks the kernel for each time, and the kernel fills them with
    zeros page by page. (mallopt(3).)

    Returns:
        Whether the C library is glibc, which can.
    """
    if sys.platform != "linux":  # elsewhere there may be no library of that name
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, _KEPT_BYTES))
    return all(libc.mallopt(*setting) for setting in settings)


@contextlib.contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread, and those that it starts meanwhile, to some logical cores.

    Args:
        cores: as `core_numbers` has them; with none, and where the system does not let one choose,
            nothing changes.
    """
    before = core_numbers()
    if not cores or not before:
        yield
        return
    with contextlib.suppress(OSError):  # taken from this process meanwhile
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


def cpu_name() -> str:
    """Return the processor's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def board_name() -> str | None:
    """Return the board's name from the device tree (Jetson, Raspberry Pi), or None on a PC."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return None


def l4t_release(path: Path = Path("/etc/nv_tegra_release")) -> tuple[int, ...] | None:
    """Return the release of Jetson Linux (L4T), as (36, 4, 3), or None elsewhere.

    Args:
        path: the file that states it: `# R36 (release), REVISION: 4.3, GCID: …`.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    if match is None:
        return None
    return (int(match[1]), *(int(part) for part in match[2].split(".")))


def is_x86() -> bool:
    """Return whether the processor is an x86."""
    return platform.machine() in {"x86_64", "AMD64", "i686"}


def has_vnni() -> bool:
    """Return whether UINT8 × INT8 products can be summed without 16-bit saturation.

    True on x86 with AVX-512 VNNI, AVX-VNNI or AMX-INT8, and on every other architecture (ARM's
    widening products do not saturate). Where it is False, weights must stay within 7 bits.
    """
    if not is_x86():
        return True
    flags = set(_cpuinfo().get("flags", "").split())
    return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})


def total_memory_bytes() -> int:
    """Return the machine's physical memory."""
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the NVIDIA driver shows this process; none where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    return read_gpus(driver)


def read_gpus(driver: Any) -> tuple[Gpu, ...]:
    """Return the GPUs that a loaded CUDA driver library lists; none where it does not start."""
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_read_gpu(driver, index) for index in range(count.value))


_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
"""Of CUdevice_attribute in cuda.h: the compute capability's two parts, and shared memory."""


def _read_gpu(driver: Any, index: int) -> Gpu:
    device = ctypes.c_int(0)
    driver.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t(0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        integrated=bool(attribute(_INTEGRATED)),
        memory_bytes=memory.value,
    )


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

"""Emptying the caches of the CPU between queries, as frames at a camera's pace would find them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from pathlib import Path

import numpy as np

from alexnet_edge.closing import Closing
from alexnet_edge.machine import core_numbers, usable_cores
from alexnet_edge.preprocess import AnyArray

_SYSFS = Path("/sys/devices/system/cpu")
_UNKNOWN_BYTES = 256 << 20
"""What is walked through where the machine does not say how large its caches are."""

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclasses.dataclass(frozen=True)
class LastLevelCache:
    """The largest cache of a core.

    Attributes:
        size_bytes: of it.
        cores: how many of the usable cores share it.
    """

    size_bytes: int
    cores: int


def read_last_level_cache(core: int = 0, sysfs: Path = _SYSFS) -> LastLevelCache | None:
    """Return the last-level cache of a core, or None where the kernel does not tell."""
    found: tuple[int, LastLevelCache] | None = None
    usable = _usable_cores()
    for index in sorted((sysfs / f"cpu{core}/cache").glob("index*")):
        try:
            level = int((index / "level").read_text(encoding="ascii"))
            kind, size = (
                (index / name).read_text(encoding="ascii").strip() for name in ("type", "size")
            )
            shared = _read_list((index / "shared_cpu_list").read_text(encoding="ascii"))
            size_bytes = int(size.rstrip("KMG")) * _UNITS.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and (found is None or level > found[0]):
            found = level, LastLevelCache(size_bytes, max(1, len(shared & usable)))
    return found[1] if found else None


class CacheFlusher(Closing):
    """Walks, on every usable core, through more memory than the caches hold.

    Each core has caches of its own below the one that it shares, so each walks for itself: all
    that share a last-level cache walk through twice its size together.

    Attributes:
        cache: what the machine says of its last-level cache; None where it says nothing.
        buffer_bytes: walked through by all cores together.
    """

    def __init__(self, sysfs: Path = _SYSFS) -> None:
        cores = sorted(_usable_cores())
        self.cache = read_last_level_cache(cores[0], sysfs)
        size = 2 * self.cache.size_bytes // self.cache.cores if self.cache else _UNKNOWN_BYTES
        self.buffer_bytes = size * len(cores)
        self._parts = [np.zeros(size // 8, np.int64) for _ in cores]
        self._pools = [
            concurrent.futures.ThreadPoolExecutor(1, initializer=_pin, initargs=(core,))
            for core in cores
        ]

    def __call__(self) -> None:
        """Empty the caches."""
        walks = [
            pool.submit(_walk, part) for pool, part in zip(self._pools, self._parts, strict=True)
        ]
        for walk in walks:
            walk.result()

    def close(self) -> None:
        """End the threads that walk."""
        for pool in self._pools:
            pool.shutdown()


def _walk(part: AnyArray) -> None:
    np.add(part, 1, out=part)


def _pin(core: int) -> None:
    """Keep this thread on a core, where the system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _usable_cores() -> frozenset[int]:
    return frozenset(core_numbers() or range(usable_cores()))


def _read_list(text: str) -> frozenset[int]:
    """Return the numbers of a list as the kernel writes it: `0-3,8`."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)

"""Emptying a GPU's L2 cache."""

from __future__ import annotations

from typing import Any

from alexnet_edge.runtimes.cuda import CudaDevice

_LEAST_BYTES = 1 << 20


class DeviceCacheFlusher:
    """Memory twice as large as the L2 cache, which is written to push everything else out of it.

    Args:
        device: whose cache; it is active.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._driver = device.driver
        index = self._driver.Context.get_device()
        l2_bytes = index.get_attribute(self._driver.device_attribute.L2_CACHE_SIZE)
        self._size_bytes = max(_LEAST_BYTES, 2 * int(l2_bytes))
        self._memory: Any = self._driver.mem_alloc(self._size_bytes)

    def flush(self) -> None:
        """Write all of it, and wait until that is done; the device is active."""
        self._driver.memset_d8(self._memory, 0, self._size_bytes)
        self._driver.Context.synchronize()

    def free(self) -> None:
        """Free the memory; the device is active."""
        self._memory.free()

"""A CUDA device through pycuda: its context, memory, and recorded graphs.

`pycuda.driver` is injected as ``driver``. It has no CUDA graphs; those few calls go to the driver's
own library through `GraphApi`, injected too.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.errors import UnavailableError
from alexnet_edge.preprocess import AnyArray


class CudaDevice:
    """A GPU and its primary context, which other libraries of the process share.

    Attributes:
        name, compute_capability, integrated: as `machine.Gpu` has them.

    Args:
        driver: `pycuda.driver`.
        index: CUDA's number of the GPU.
        path: the engine that it is opened for, for errors.
    """

    def __init__(self, driver: Any, index: int, path: Path) -> None:
        self.driver, self.path = driver, path
        with self.translated():
            driver.init()
            count = driver.Device.count()
            if index >= count:
                raise UnavailableError(
                    f"{path}: there is no GPU {index}, the driver sees {count}",
                    hint=f"use --device cuda:0 to cuda:{count - 1}" if count else "check the GPU",
                )
            device = driver.Device(index)
            self.name: str = device.name()
            self.compute_capability = ".".join(map(str, device.compute_capability()))
            self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this thread use the device; what CUDA and TensorRT raise becomes ours."""
        with self.translated():
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise what CUDA and TensorRT raise as the package's errors.

        Raises:
            UnavailableError: naming the engine and what failed.
        """
        try:
            yield
        except self.driver.MemoryError as error:
            raise UnavailableError(
                f"{self.path}: the GPU has no memory left ({error})",
                hint="use a smaller batch or fewer contexts, or close other programs",
            ) from error
        except (self.driver.Error, RuntimeError) as error:  # TensorRT's bindings raise the latter
            raise UnavailableError(
                f"{self.path}: the GPU failed ({error})",
                hint="check it with: alexnet-edge doctor",
            ) from error

    def close(self) -> None:
        """Give the context back."""
        # pycuda releases it only in the thread that retained it, or where it is the active one;
        # detaching takes it off pycuda's stack as well.
        with self.translated():
            self._context.push()
            self._context.detach()


class Buffer:
    """Host memory and the device's view of it, grown to the largest batch.

    Either pinned host memory with device memory of the same size, or one allocation that is mapped
    into both (`cudaHostAlloc` with `cudaHostAllocMapped`), where copies would be copies within the
    same memory.

    Attributes:
        pointer: the device's address.
    """

    def __init__(self, driver: Any, *, mapped: bool) -> None:
        self._driver, self._mapped = driver, mapped
        self._host: Any = None
        self._device: Any = None
        self._view: AnyArray = np.empty(0, np.uint8)
        self.pointer = 0

    def reserve(self, shape: tuple[int, ...], dtype: str) -> AnyArray:
        """Return the host's view of ``shape``, with memory behind it; it stays until the next."""
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host = self._host
        if host is None or host.nbytes < size_bytes:
            self.free()
            host = self._allocate(size_bytes)
        self._view = host[:size_bytes].view(dtype).reshape(shape)
        return self._view

    def _allocate(self, size_bytes: int) -> AnyArray:
        flags = self._driver.host_alloc_flags.DEVICEMAP if self._mapped else 0
        host: AnyArray = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        self._host = host
        if self._mapped:
            self.pointer = int(self._host.base.get_device_pointer())
        else:
            self._device = self._driver.mem_alloc(size_bytes)
            self.pointer = int(self._device)
        return host

    def upload(self, stream: Any) -> None:
        """Copy the view to the device; nothing to do where the memory is shared."""
        if not self._mapped:
            self._driver.memcpy_htod_async(self._device, self._view, stream)

    def download(self, stream: Any) -> None:
        """Copy the device's memory to the view; nothing to do where the memory is shared."""
        if not self._mapped:
            self._driver.memcpy_dtoh_async(self._view, self._device, stream)

    def free(self) -> None:
        """Free both sides; the device's first."""
        device, host = self._device, self._host
        self._device, self._host, self.pointer = None, None, 0
        self._view = np.empty(0, np.uint8)
        if device is not None:
            device.free()
        if host is not None:
            host.base.free()


_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating meanwhile."""


class GraphApi:
    """CUDA graphs of the driver's library: a stream's work, recorded and launched as one.

    Args:
        library: `libcuda`; loaded by default.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library or ctypes.CDLL("libcuda.so.1")

    def record(self, stream: int, work: Callable[[], None]) -> int:
        """Record what ``work`` puts on a stream, without running it; return the graph's handle.

        Raises:
            UnavailableError: it cannot be recorded.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # The stream must leave capture mode; that the recording is void is known already.
            with contextlib.suppress(UnavailableError):
                self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
                self._call("cuGraphDestroy", graph)
            raise
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            self._call(
                "cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong()
            )
        finally:
            self._call("cuGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Put a recorded graph on a stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy(self, graph: int) -> None:
        """Free a recorded graph."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise UnavailableError(
                f"the NVIDIA driver has no {name}", hint="CUDA graphs need CUDA 11.4 or later"
            )
        code = function(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            name_of_error = (text.value or str(code).encode()).decode()
            raise UnavailableError(f"{name} failed: {name_of_error}", hint="leave CUDA graphs off")

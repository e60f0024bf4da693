"""TensorRT and TensorRT-RTX: loading, binding and execution through one code path.

The vendor's module (`tensorrt` or `tensorrt_rtx`) is injected, so both can be used in one process.
Execution is the v3 interface, which every version from 8.5 on has.
"""

from __future__ import annotations

import ctypes
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import MissingDependencyError, UnavailableError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo, Runtime, RuntimeOptions

if TYPE_CHECKING:
    import tensorrt as trt

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}


def import_vendor(runtime: str) -> ModuleType:
    """Import the module of `tensorrt` or `tensorrt-rtx`.

    Raises:
        MissingDependencyError: it is not installed, or is a package of type stubs.
    """
    missing = MissingDependencyError(
        runtime, needed_for=f"engines of {runtime}", extra=_EXTRAS[runtime]
    )
    try:
        module = importlib.import_module(MODULES[runtime])
    except (ImportError, OSError):
        raise missing from None
    if not hasattr(module, "Builder"):
        raise missing
    return module


def cuda_device_count() -> int:
    """Return how many CUDA devices the driver sees; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def make_logger(vendor: ModuleType) -> tuple[trt.ILogger, list[tuple[int, str]]]:
    """Return a logger that keeps its messages, and the list it keeps them in.

    Each message is (severity, text); 0 is an internal error, 1 an error, 2 a warning, 4 verbose.
    """
    messages: list[tuple[int, str]] = []

    class Recorder(vendor.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            vendor.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.append((int(severity), message))

    return Recorder(), messages


def first_errors(messages: list[tuple[int, str]]) -> str:
    """Return the first errors of a vendor's log as one line."""
    errors = [text.strip() for severity, text in messages if severity <= 1]
    return "; ".join(errors[:3]) or "no error was logged"


class TensorRTRuntime(Runtime):
    """An engine of TensorRT or TensorRT-RTX on the first CUDA device.

    Input and output pass through pinned host buffers and one stream; device memory grows to the
    largest batch seen and is freed in `close`, in the reverse order of its creation.
    """

    name = "tensorrt"

    def __init__(
        self, info: EngineInfo, options: RuntimeOptions, vendor: ModuleType | None = None
    ) -> None:
        super().__init__(info)
        vendor = vendor or import_vendor(info.runtime)
        if cuda_device_count() == 0:
            raise UnavailableError(
                f"{info.path}: {info.runtime} needs an NVIDIA GPU, and the driver sees none",
                hint="run it on the target; on this machine build --runtime onnxruntime",
            )
        self._cuda = _import_pycuda()
        self._cuda.init()
        self._context_handle = self._cuda.Device(0).retain_primary_context()
        self._context_handle.push()
        try:
            self._load(vendor)
        finally:
            self._context_handle.pop()

    def _load(self, vendor: ModuleType) -> None:
        self._logger, messages = make_logger(vendor)
        self._runtime: trt.Runtime = vendor.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(self.info.path.read_bytes())
        if engine is None:
            raise UnavailableError(
                f"{self.info.path}: {self.info.runtime} {vendor.__version__} cannot load it "
                f"({first_errors(messages)})",
                hint="engines belong to one version and GPU; build it again on this machine",
            )
        self._engine: trt.ICudaEngine = engine
        self._context: trt.IExecutionContext = engine.create_execution_context()
        self._stream = self._cuda.Stream()
        self._host: dict[str, AnyArray] = {}
        self._device: dict[str, Any] = {}

    def _execute(self, batch: AnyArray) -> AnyArray:
        source, sink = self.info.input, self.info.output
        self._context_handle.push()
        try:
            self._context.set_input_shape(source.name, batch.shape)
            answers_shape = (len(batch), *(size or 1 for size in sink.shape[1:]))
            host_in = self._buffers(source.name, batch.shape, np.dtype(source.dtype))
            host_out = self._buffers(sink.name, answers_shape, np.dtype(sink.dtype))
            host_in[...] = batch
            self._cuda.memcpy_htod_async(self._device[source.name], host_in, self._stream)
            if not self._context.execute_async_v3(self._stream.handle):
                raise UnavailableError(
                    f"{self.info.path}: execution failed",
                    hint="check the GPU with: alexnet-edge doctor",
                )
            self._cuda.memcpy_dtoh_async(host_out, self._device[sink.name], self._stream)
            self._stream.synchronize()
            return host_out.astype(np.float32)
        finally:
            self._context_handle.pop()

    def _buffers(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
        """Return a pinned view of ``shape``, with device memory of its size bound to ``name``."""
        size = int(np.prod(shape))
        if name not in self._host or self._host[name].size < size:
            self._host[name] = self._cuda.pagelocked_empty(size, dtype)
            self._device[name] = self._cuda.mem_alloc(self._host[name].nbytes)
            self._context.set_tensor_address(name, int(self._device[name]))
        return self._host[name][:size].reshape(shape)

    def _release(self) -> None:
        self._context_handle.push()
        self._stream.synchronize()
        del self._context, self._engine, self._runtime
        self._device.clear()
        self._host.clear()
        del self._stream
        self._context_handle.pop()
        self._context_handle.detach()


def _import_pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError:
        raise MissingDependencyError(
            "pycuda", needed_for="running TensorRT engines", extra="gpu"
        ) from None

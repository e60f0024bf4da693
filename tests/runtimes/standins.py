"""Stand-ins for `pycuda.driver`, a TensorRT module and CUDA graphs, which record calls in order.

They move bytes between two memories, so that a test can see what reached which; an "engine" answers
the mean of each image. Nothing more is claimed of them: what a GPU does is tested on a GPU.
"""

from __future__ import annotations

import functools
import types
import weakref

import numpy as np


class Memory:
    """Bytes at an address, of the host or the device."""

    def __init__(self, gpu, size, label):
        self._gpu, self.label = gpu, label
        self.bytes = np.zeros(size, np.uint8)
        gpu.addresses += 0x1000
        self.pointer = gpu.addresses
        gpu.memory[self.pointer] = self.bytes
        gpu.happened(f"allocate {label} {size}")

    def __int__(self):
        return self.pointer

    @property
    def __array_interface__(self):
        return self.bytes.__array_interface__

    def get_device_pointer(self):
        return self.pointer

    def free(self):
        assert self.pointer in self._gpu.memory, "is freed already"
        del self._gpu.memory[self.pointer]
        self._gpu.happened(f"free {self.label}")


class Gpu:
    """One GPU and all that is said to it.

    Attributes:
        events: what was called, in order; of what may fail, `fail` holds name to exception.
        driver: stands for `pycuda.driver`.
        graphs: stands for `GraphApi`.
    """

    def __init__(self, *, integrated=False, count=1, compute_capability=(8, 6), l2_bytes=0):
        self.events, self.fail, self.memory, self.addresses = [], {}, {}, 0x7000
        self.integrated, self.count, self.l2_bytes = integrated, count, l2_bytes
        self.compute_capability = compute_capability
        self.capturing = None
        self.active = 0
        self.driver, self.graphs = Driver(self), Graphs(self)

    def happened(self, event):
        self.events.append(event)
        if event.split()[0] in self.fail:
            raise self.fail[event.split()[0]]

    def when_freed(self, thing, event):
        weakref.finalize(thing, self.events.append, event)
        return thing

    def put(self, event, work):
        """Work on a stream: done at once, or recorded while a graph is captured."""
        self.happened(event)
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def after(self, event):
        """What happened after the last ``event``."""
        return self.events[len(self.events) - self.events[::-1].index(event) :]


class CudaError(Exception):
    """Stands for `pycuda.driver.Error`."""


class CudaMemoryError(CudaError):
    """Stands for `pycuda.driver.MemoryError`."""


class Driver:
    """Stands for `pycuda.driver`."""

    Error, MemoryError = CudaError, CudaMemoryError
    device_attribute = types.SimpleNamespace(INTEGRATED="INTEGRATED", L2_CACHE_SIZE="L2_CACHE_SIZE")
    host_alloc_flags = types.SimpleNamespace(DEVICEMAP=2)

    def __init__(self, gpu):
        self._gpu = gpu
        self.Device = functools.partial(Device, gpu)
        self.Device.count = lambda: gpu.count
        self.Context = types.SimpleNamespace(
            get_device=lambda: Device(gpu, 0, known=True),
            synchronize=lambda: gpu.happened("synchronize device"),
        )

    def init(self):
        self._gpu.happened("init")

    def Stream(self):
        return Stream(self._gpu)

    def mem_alloc(self, size):
        return Memory(self._gpu, size, "device")

    def pagelocked_empty(self, size, dtype, mem_flags=0):
        assert dtype is np.uint8
        return np.asarray(Memory(self._gpu, size, "mapped" if mem_flags == 2 else "pinned"))

    def memset_d8(self, device, value, size):
        assert self._gpu.active, "no active CUDA context"
        self._gpu.happened(f"set {size}")
        device.bytes[:size] = value

    def memcpy_htod_async(self, device, host, stream):
        def copy():
            device.bytes[: host.nbytes] = host.reshape(-1).view(np.uint8)

        self._gpu.put("upload", copy)

    def memcpy_dtoh_async(self, host, device, stream):
        def copy():
            host.reshape(-1).view(np.uint8)[:] = device.bytes[: host.nbytes]

        self._gpu.put("download", copy)


class Device:
    """Stands for `pycuda.driver.Device`."""

    def __init__(self, gpu, index, *, known=False):
        self._gpu = gpu
        if not known:
            gpu.happened(f"device {index}")

    def name(self):
        return "Stand-in"

    def compute_capability(self):
        return self._gpu.compute_capability

    def get_attribute(self, attribute):
        values = {"INTEGRATED": int(self._gpu.integrated), "L2_CACHE_SIZE": self._gpu.l2_bytes}
        return values.get(attribute)

    def retain_primary_context(self):
        self._gpu.happened("retain cuda context")
        return CudaContext(self._gpu)


class CudaContext:
    """Stands for `pycuda.driver.Context`; memory and streams need one that is active."""

    def __init__(self, gpu):
        self._gpu = gpu

    def push(self):
        self._gpu.active += 1

    def pop(self):
        self._gpu.active -= 1

    def detach(self):
        self._gpu.active -= 1
        self._gpu.happened("release cuda context")


class Stream:
    """Stands for `pycuda.driver.Stream`."""

    def __init__(self, gpu):
        assert gpu.active, "no active CUDA context"
        self._gpu, self.handle = gpu, 0x51
        gpu.happened("create stream")
        gpu.when_freed(self, "free stream")

    def synchronize(self):
        self._gpu.happened("synchronize")


class Graphs:
    """Records what is put on the stream while `record` runs, and does it at each launch."""

    def __init__(self, gpu):
        self._gpu, self._recorded, self._made = gpu, {}, 0

    def record(self, stream, work):
        self._gpu.happened("record graph")
        self._gpu.capturing = []
        try:
            work()
            self._made += 1
            self._recorded[self._made] = self._gpu.capturing
        finally:
            self._gpu.capturing = None
        return self._made

    def launch(self, graph, stream):
        self._gpu.happened("launch graph")
        for work in self._recorded[graph]:
            work()

    def destroy(self, graph):
        self._gpu.happened("free graph")
        del self._recorded[graph]


class Vendor:
    """A TensorRT module whose engines answer the mean of each image in every class.

    Args:
        gpu: where its engines run.
        version: what it calls itself.
        max_batch: of its engines' optimization profile.
        contexts: how many execution contexts can be created.
        native_graphs: whether it has TensorRT-RTX's own CUDA graphs.
    """

    def __init__(self, gpu, version="10.13.0.35", *, max_batch=8, contexts=99, native_graphs=False):
        self.gpu, self.__version__ = gpu, version
        self.max_batch, self.contexts, self.loads = max_batch, contexts, True
        self.on_execute = lambda: True
        self.ILogger = type("ILogger", (), {})
        self.runtime = None
        if native_graphs:
            self.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def Runtime(self, logger):
        self.gpu.happened("create runtime")
        runtime = self.gpu.when_freed(Runtime(self, logger), "free runtime")
        self.runtime = weakref.proxy(runtime)
        return runtime


class Runtime:
    """Stands for `tensorrt.Runtime`."""

    def __init__(self, vendor, logger):
        self._vendor, self._logger = vendor, logger
        self.engine_host_code_allowed = False
        self.DLA_core = -1

    def deserialize_cuda_engine(self, plan):
        self._vendor.gpu.happened("deserialize")
        if not self._vendor.loads:
            self._logger.log(1, "the plan is damaged")
            return None
        return self._vendor.gpu.when_freed(Engine(self._vendor), "free engine")


class Engine:
    """Stands for `tensorrt.ICudaEngine`: `input` and `probabilities`, both FLOAT."""

    names = ("input", "probabilities")
    dtypes = ("FLOAT", "FLOAT")

    def __init__(self, vendor):
        self._vendor = vendor
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(name=self.dtypes[self.names.index(name)])

    def create_runtime_config(self):
        return types.SimpleNamespace(cuda_graph_strategy="disabled")

    def create_execution_context(self, config=None):
        vendor = self._vendor
        assert vendor.gpu.active, "no active CUDA context"
        strategy = f" {config.cuda_graph_strategy}" if config else ""
        vendor.gpu.happened(f"create context{strategy}")
        vendor.contexts -= 1
        if vendor.contexts < 0:
            return None
        return vendor.gpu.when_freed(ExecutionContext(vendor), "free context")


class ExecutionContext:
    """Stands for `tensorrt.IExecutionContext`."""

    classes = 10

    def __init__(self, vendor):
        self._vendor, self._addresses, self._shape = vendor, {}, None

    def set_input_shape(self, name, shape):
        self._vendor.gpu.happened(f"shape {shape[0]}")
        if shape[0] > self._vendor.max_batch:
            return False
        self._shape = shape
        return True

    def get_tensor_shape(self, name):
        return (self._shape[0], self.classes)

    def set_tensor_address(self, name, pointer):
        self._vendor.gpu.happened(f"address {name}")
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream):
        vendor = self._vendor
        assert vendor.gpu.active, "no active CUDA context"
        source, sink = (vendor.gpu.memory[self._addresses[name]] for name in Engine.names)
        shape = self._shape

        def answer():
            size = int(np.prod(shape)) * 4
            images = source[:size].view(np.float32).reshape(shape)
            answers = sink[: shape[0] * self.classes * 4].view(np.float32)
            answers.reshape(shape[0], -1)[:] = images.reshape(shape[0], -1).mean(1)[:, None]

        vendor.gpu.put("execute", answer)
        return vendor.on_execute()


class CudaLibrary:
    """Stands for `libcuda`: a function fails with the code that `fail` has for its name."""

    def __init__(self, *, gpus=(), fail=None):
        self.calls, self.fail, self._gpus = [], fail or {}, gpus

    def __getattr__(self, name):
        if not name.startswith("cu") or name in self.fail.get("missing", ()):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            return self.fail.get(name, 0) or getattr(self, f"_{name}", lambda *_: 0)(*arguments)

        return call

    def _cuGetErrorName(self, code, text):
        text._obj.value = b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        return 0

    def _cuStreamEndCapture(self, stream, graph):
        graph._obj.value = 0xAA
        return 0

    def _cuGraphInstantiateWithFlags(self, executable, graph, flags):
        executable._obj.value = graph.value + 1
        return 0

    def _cuDeviceGetCount(self, count):
        count._obj.value = len(self._gpus)
        return 0

    def _cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def _cuDeviceGetName(self, buffer, size, device):
        buffer.value = self._gpus[device.value]["name"].encode()
        return 0

    def _cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = self._gpus[device.value]["memory"]
        return 0

    def _cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self._gpus[device.value]["attributes"][attribute]
        return 0

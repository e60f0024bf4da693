"""TensorRT and TensorRT-RTX: loading and execution through one code path.

The vendor's module (`tensorrt` or `tensorrt_rtx`) is injected, so both can be used in one process,
and so is the driver (`pycuda.driver`). Execution is the v3 interface, which every version from 8.5
on has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

from alexnet_edge import machine
from alexnet_edge.errors import InputError, MissingDependencyError, UnavailableError
from alexnet_edge.manifest import Manifest
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo, LayerTime, Runtime, RuntimeOptions
from alexnet_edge.runtimes.cuda import CudaDevice, GraphApi
from alexnet_edge.runtimes.fit import HEADER_BYTES, Here, require_fit
from alexnet_edge.runtimes.flush import DeviceCacheFlusher
from alexnet_edge.runtimes.install import install_hint
from alexnet_edge.runtimes.lane import Lane, LanePool, LaneSettings
from alexnet_edge.runtimes.profiling import LayerClock, make_layer_profiler, require_layers

if TYPE_CHECKING:
    import tensorrt as trt

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
_DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8"}
"""NumPy's name of an element type to the vendor's."""


def import_vendor(runtime: str) -> ModuleType:
    """Import the module of `tensorrt` or `tensorrt-rtx`.

    Raises:
        MissingDependencyError: it is not installed, or is a package of type stubs.
    """
    missing = MissingDependencyError(
        runtime, needed_for=f"engines of {runtime}", extra=_EXTRAS[runtime]
    )
    if runtime == "tensorrt":
        missing.hint = install_hint(runtime)
    try:
        module = importlib.import_module(MODULES[runtime])
    except (ImportError, OSError):
        raise missing from None
    if not hasattr(module, "Builder"):
        raise missing
    return module


def cuda_device_count() -> int:
    """Return how many CUDA devices the driver sees; 0 where there is no driver."""
    return len(machine.nvidia_gpus())


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
    """An engine of TensorRT or TensorRT-RTX on a CUDA device.

    As many callers as ``options.contexts`` run at a time; others wait. Images and answers pass
    through pinned host buffers, or through buffers that are mapped into a GPU that shares its
    memory. What was opened is freed in the reverse order: graphs, execution contexts, buffers,
    streams, the engine, the vendor's runtime, the CUDA context.

    Args:
        info: what is known of the engine.
        manifest: what it was built with and for.
        options: device, contexts, graphs, zero copy.
        vendor: `tensorrt` or `tensorrt_rtx`; imported by default.
        driver: `pycuda.driver`; imported by default.
        graphs: records CUDA graphs; the driver's library by default.

    Raises:
        MissingDependencyError: the vendor's package or pycuda is not installed.
        StaleArtifactError: the engine is for another version, GPU or machine.
        UnavailableError: no such GPU, or the vendor cannot load the engine.
    """

    name = "tensorrt"
    on_gpu = True

    def __init__(
        self,
        info: EngineInfo,
        manifest: Manifest,
        options: RuntimeOptions,
        *,
        vendor: ModuleType | None = None,
        driver: Any = None,
        graphs: GraphApi | None = None,
    ) -> None:
        super().__init__(info)
        _, index = options.choose_device(info.runtime, known=("cuda",))
        self._vendor = vendor or import_vendor(info.runtime)
        driver = driver or _import_driver(info)
        self._engine: trt.ICudaEngine  # from `_load` to `_release`, as the vendor's runtime
        self._runtime: trt.Runtime
        self._options = options
        self.contexts = options.contexts
        self._flusher: DeviceCacheFlusher | None = None
        self._device = CudaDevice(driver, index, info.path)
        try:
            self._require_fit(manifest)
            with self._device.active(), contextlib.ExitStack() as stack:
                self._load(manifest, stack)
                self._lanes = self._open_lanes(graphs, stack)
                self._opened = stack.pop_all()
        except BaseException:
            self._device.close()
            raise
        self._pool = LanePool(self._lanes)

    def _require_fit(self, manifest: Manifest) -> None:
        with self.info.path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        here = Here(self._vendor.__version__, self._device.compute_capability)
        require_fit(self.info.path, manifest, header, here)

    def _load(self, manifest: Manifest, stack: contextlib.ExitStack) -> None:
        vendor, path = self._vendor, self.info.path
        logger, messages = make_logger(vendor)
        stack.callback(self._drop, "_runtime")
        self._runtime = vendor.Runtime(logger)
        if manifest.options.get("version_compatible"):
            # Such an engine carries its own runtime, as code; the manifest's hash vouches for it.
            self._runtime.engine_host_code_allowed = True
        if (core := manifest.device.get("dla_core")) is not None:
            self._runtime.DLA_core = core
        stack.callback(self._drop, "_engine")
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise UnavailableError(
                f"{path}: {self.info.runtime} {vendor.__version__} cannot load it "
                f"({first_errors(messages)})",
                hint="engines belong to one version and GPU; build it again on this machine",
            )
        self._require_tensors()

    def _require_tensors(self) -> None:
        """Buffers are made by the manifest; memory of another type would be read as nonsense."""
        count = self._engine.num_io_tensors
        names = [self._engine.get_tensor_name(index) for index in range(count)]
        for spec in (self.info.input, self.info.output):
            dtype = self._engine.get_tensor_dtype(spec.name).name if spec.name in names else None
            if dtype != _DATA_TYPES.get(spec.dtype):
                found = f"it is {dtype}" if dtype else f"it has {', '.join(names)}"
                raise InputError(
                    f"{self.info.path}: its manifest names {spec}, but {found}",
                    hint="build it again with: alexnet-edge build",
                )

    def _open_lanes(self, graphs: GraphApi | None, stack: contextlib.ExitStack) -> tuple[Lane, ...]:
        options, info = self._options, self.info
        if options.contexts > 1 and info.input.batch is None and self._has_exclusive_profiles():
            raise UnavailableError(
                f"{info.path}: {info.runtime} {self._vendor.__version__} gives the optimization "
                "profile of a dynamic batch to one execution context only",
                hint="open it with one context, or export for a fixed batch: --batch N",
            )
        wants_graph = options.cuda_graph != "off"
        # TensorRT-RTX records graphs itself: it compiles kernels for a shape while others run, and
        # only it knows when they are there.
        native = wants_graph and hasattr(self._vendor, "CudaGraphStrategy")
        zero_copy = self._device.integrated if options.zero_copy is None else options.zero_copy
        settings = LaneSettings(
            input=info.input,
            output=info.output,
            zero_copy=zero_copy,
            graphs=(graphs or GraphApi()) if wants_graph and not native else None,
            graph_required=options.cuda_graph == "on",
            native_graphs=native,
        )
        self._lane_settings = settings
        lanes = []
        for _ in range(options.contexts):
            lane = Lane(self._device, settings)
            stack.callback(lane.close)
            lane.open(functools.partial(self._create_context, native_graphs=native))
            lanes.append(lane)
        self._zero_copy = zero_copy
        return tuple(lanes)

    def _create_context(self, *, native_graphs: bool) -> trt.IExecutionContext | None:
        if not native_graphs:
            return self._engine.create_execution_context()
        config: Any = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._vendor.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)

    def _has_exclusive_profiles(self) -> bool:
        """Before TensorRT 10, execution contexts do not share an optimization profile."""
        major = int(re.findall(r"\d+", self._vendor.__version__)[0])
        return self.info.runtime == "tensorrt" and major < 10

    def describe(self) -> dict[str, Any]:
        """Return the device, and how batches reach it and are launched."""
        states = sorted({lane.graph_state for lane in self._lanes})
        return {
            "device": self._device.name,
            "compute_capability": self._device.compute_capability,
            "contexts": self._options.contexts,
            "stream": "one for each context",
            "zero_copy": self._zero_copy,
            "transfers": "none: mapped host memory" if self._zero_copy else "timed: pinned buffers",
            "cuda_graph": "; ".join(states),
            "spin_wait": "left to the driver: CU_CTX_SCHED_AUTO",
            "threads": "one for each caller",
        }

    def profile(self, batch: AnyArray, *, runs: int, warmup: int) -> tuple[LayerTime, ...]:
        """Time every layer with TensorRT's `IProfiler`.

        In an execution context of its own, without a CUDA graph: a profiler cannot look into one.

        Raises:
            UnavailableError: there can be no further execution context.
        """
        self.check(batch)
        clock = LayerClock(runs)
        profiler = make_layer_profiler(self._vendor, clock)

        def create_context() -> trt.IExecutionContext | None:
            context = self._create_context(native_graphs=False)
            if context is not None:
                context.profiler = profiler
            return context

        settings = dataclasses.replace(self._lane_settings, graphs=None, native_graphs=False)
        with self._device.active(), contextlib.ExitStack() as stack:
            lane = Lane(self._device, settings)
            stack.callback(lane.close)
            lane.open(create_context)
            for _ in range(warmup + runs):
                lane.run(batch)
        return require_layers(clock.times(), self.info)

    def flush_device_cache(self) -> None:
        """Empty the GPU's L2 cache, by writing more memory than it holds."""
        with self._device.active():
            if self._flusher is None:
                self._flusher = DeviceCacheFlusher(self._device)
                self._opened.callback(self._flusher.free)
            self._flusher.flush()

    def _execute(self, batch: AnyArray) -> AnyArray:
        with self._pool.acquire() as lane, self._device.active():
            return lane.run(batch)

    def _release(self) -> None:
        self._pool.close()
        try:
            with self._device.active():
                self._opened.close()
        finally:
            self._device.close()

    def _drop(self, name: str) -> None:
        """Let go of what frees itself then, if it is there."""
        vars(self).pop(name, None)


def _import_driver(info: EngineInfo) -> Any:
    """Import `pycuda.driver`, which does not load where there is no driver."""
    if cuda_device_count() == 0:
        raise UnavailableError(
            f"{info.path}: {info.runtime} needs an NVIDIA GPU, and the driver sees none",
            hint="run it on the target; on this machine build --runtime onnxruntime",
        )
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        missing = MissingDependencyError(
            "pycuda", needed_for="running TensorRT engines", extra="gpu"
        )
        missing.hint = install_hint("pycuda")
        raise missing from None
    except ImportError as error:
        raise UnavailableError(
            f"{info.path}: pycuda does not load ({error})",
            hint="compile it for this CUDA: pip install --no-binary :all: --force-reinstall pycuda",
        ) from error

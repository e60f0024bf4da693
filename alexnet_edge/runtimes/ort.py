"""ONNX Runtime: FP32 and INT8 on the CPU, and NVIDIA GPUs where its providers run.

ONNX Runtime falls back to the CPU with a log line when a provider cannot start, and node by node
where it has no kernel; here the provider that was asked for runs the nodes, or opening fails.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import GraphError, MissingDependencyError, UnavailableError
from alexnet_edge.machine import core_numbers, usable_cores
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo, LayerTime, Runtime, RuntimeOptions
from alexnet_edge.runtimes.huge_pages import use_huge_pages
from alexnet_edge.runtimes.install import install_hint
from alexnet_edge.runtimes.ort_gpu import (
    PROVIDERS,
    DeviceBinding,
    enable_profiling,
    preload_libraries,
    profile_nodes,
    provider_settings,
    require_providers,
)
from alexnet_edge.runtimes.profiling import profile_session, require_layers

if TYPE_CHECKING:
    import onnxruntime

_REQUANTIZES = "WeightBiasQuantization"
"""An optimizer that makes a float layer between integer ones an integer one, with one scale for all
its weights: a layer that was spared would not be."""


def import_onnxruntime(needed_for: str) -> Any:
    """Import onnxruntime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("onnxruntime", needed_for=needed_for, extra="cpu") from None
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def session_options(options: RuntimeOptions) -> onnxruntime.SessionOptions:
    """Return session options that let several sessions share the cores, unless asked to spin.

    The thread pool of a session spins for work after a run; beside another session it would take
    that one's cores, and interleaved measurements would read two to three times too slow.

    Where there is a thread for each core, each has its own, the caller's none. ONNX Runtime does so
    by itself unless the number of threads is given. After a pause of some milliseconds Linux may
    otherwise wake them all on one core, and leave them there until the run is nearly over.
    """
    ort = import_onnxruntime("running ONNX graphs")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads_of(options)
    if has_own_cores(settings.intra_op_num_threads):
        # It numbers cores from 1, and wants one for each thread but the caller's.
        own = ";".join(str(core + 1) for core in core_numbers()[1:])
        settings.add_session_config_entry("session.intra_op_thread_affinities", own)
    if not options.spin:
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def threads_of(options: RuntimeOptions) -> int:
    """Return how many threads share an inference: all cores, divided among the callers."""
    return options.threads or max(1, usable_cores() // options.contexts)


def has_own_cores(threads: int) -> bool:
    """Whether so many threads of a session each keep to a core; see `session_options`."""
    return 1 < threads == len(core_numbers())


def create_session(
    model: Path | bytes,
    options: RuntimeOptions,
    settings: onnxruntime.SessionOptions | None = None,
    folder: Path | None = None,
    precision: str = "fp32",
) -> onnxruntime.InferenceSession:
    """Open a session on the providers that ``options.device`` names.

    Args:
        model: a file, or a serialized model.
        options: device and threads.
        settings: as `session_options` gives them, changed.
        folder: where a serialized model's external data is; it is mapped, not read.
        precision: of the model; TensorRT's provider must be told of INT8.

    Raises:
        GraphError: ONNX Runtime refuses the model.
        MissingDependencyError: onnxruntime is not installed.
        UnavailableError: a provider is not there or did not start.
    """
    ort = import_onnxruntime("running ONNX graphs")
    kind, index = options.choose_device("onnxruntime", known=tuple(PROVIDERS))
    wanted = PROVIDERS[kind]
    if not set(wanted) <= set(ort.get_available_providers()):
        raise UnavailableError(
            f"device {options.device}: onnxruntime {ort.__version__} offers "
            f"{', '.join(ort.get_available_providers())}",
            hint=f"use --device cpu, or for cuda: {install_hint('onnxruntime-gpu')}",
        )
    if kind != "cpu":
        preload_libraries(ort)
    name = str(model) if isinstance(model, Path) else "the model"
    settings = settings or session_options(options)
    if folder is not None:
        entry = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(entry, str(folder.resolve()))
    try:
        session = ort.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            settings,
            providers=provider_settings(kind, index, precision),
            disabled_optimizers=[_REQUANTIZES],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime raises classes of its C extension, without a base
        reason = str(error).strip().splitlines()[0]
        if kind != "cpu":
            raise UnavailableError(
                f"{name}: ONNX Runtime cannot open it on device {options.device} ({reason})",
                hint="does it run with --device cpu? else see: alexnet-edge doctor",
            ) from error
        raise GraphError(
            f"{name}: ONNX Runtime refuses it ({reason})",
            hint="build or export it again with this version of onnxruntime",
        ) from error
    session.disable_fallback()
    if missing := [provider for provider in wanted if provider not in session.get_providers()]:
        raise UnavailableError(
            f"device {options.device}: {', '.join(missing)} did not start; "
            f"ONNX Runtime fell back to {', '.join(session.get_providers())}",
            hint="check the driver and CUDA libraries with: alexnet-edge doctor",
        )
    return session


class OnnxRuntime(Runtime):
    """An ONNX graph in an ONNX Runtime session.

    On a GPU the first run, on zeros, is profiled: each node must have run on a provider that was
    asked for. Input and output are bound to the device's memory.
    """

    name = "onnxruntime"

    def __init__(self, info: EngineInfo, options: RuntimeOptions) -> None:
        super().__init__(info)
        kind, index = options.choose_device(self.name, known=tuple(PROVIDERS))
        self._options = options
        self._threads = threads_of(options)
        self._outputs = [info.output.name]
        self.on_gpu = kind != "cpu"
        self.contexts = 1 if self.on_gpu else options.contexts
        self._binding: DeviceBinding | None = None
        self._nodes: dict[str, int] = {}
        self._huge_page_bytes = 0
        if kind == "cpu":
            self._session = create_session(info.path, options)
            self._huge_page_bytes = use_huge_pages() if options.huge_pages else 0
            return
        with tempfile.TemporaryDirectory() as folder:
            settings = session_options(options)
            enable_profiling(settings, Path(folder))
            self._session = create_session(info.path, options, settings, precision=info.precision)
            ran = profile_nodes(self._session, info)
        self._nodes = require_providers(info.path, options.device or kind, ran, PROVIDERS[kind])
        self._binding = DeviceBinding(self._session, info, "cuda", index)

    def describe(self) -> dict[str, Any]:
        """Return provider, threads, transfers; of a GPU, how many nodes each provider runs."""
        settings: dict[str, Any] = {
            "provider": self._session.get_providers()[0],
            "threads": self._threads,
            "own_cores": has_own_cores(self._threads),
            "callers": self.contexts,
            "spin_wait": "between runs too"
            if self._options.spin
            else "while it runs; stopped after each run",
            "transfers": "none: host memory",
            "cuda_graph": "off",
            "huge_page_bytes": self._huge_page_bytes,
        }
        if self._binding is not None:
            settings |= {"nodes": self._nodes, "transfers": "timed: bound to device memory"}
        return settings

    def profile(self, batch: AnyArray, *, runs: int, warmup: int) -> tuple[LayerTime, ...]:
        """Time every node with ONNX Runtime's profiler, in a second session."""
        self.check(batch)
        if self.on_gpu:  # it times the launches, and the kernels run later
            return super().profile(batch, runs=runs, warmup=warmup)
        with tempfile.TemporaryDirectory() as folder:
            settings = session_options(self._options)
            enable_profiling(settings, Path(folder))
            session = create_session(
                self.info.path, self._options, settings, precision=self.info.precision
            )
            times = profile_session(session, self.info, batch, runs=runs, warmup=warmup)
        return require_layers(times, self.info)

    def _execute(self, batch: AnyArray) -> AnyArray:
        if self._binding is not None:
            return self._binding.run(batch)
        answers = self._session.run(self._outputs, {self.info.input.name: batch})[0]
        return np.asarray(answers, np.float32)

    def _release(self) -> None:
        self._binding = None
        del self._session

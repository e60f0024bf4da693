"""ONNX Runtime: FP32 and INT8 on the CPU, and NVIDIA GPUs where its CUDA provider runs.

ONNX Runtime falls back to the CPU with a log line when a provider cannot start; here the provider
that was asked for runs, or opening fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import GraphError, MissingDependencyError, UnavailableError
from alexnet_edge.machine import usable_cores
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo, Runtime, RuntimeOptions

if TYPE_CHECKING:
    import onnxruntime

_REQUANTIZES = "WeightBiasQuantization"
"""An optimizer that makes a float layer between integer ones an integer one, with one scale for all
its weights: a layer that was spared would not be."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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
    """Return session options that let several sessions share the cores.

    The thread pool of a session spins for work after a run; beside another session it would take
    that one's cores, and interleaved measurements would read two to three times too slow.
    """
    ort = import_onnxruntime("running ONNX graphs")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def create_session(
    model: Path | bytes,
    options: RuntimeOptions,
    settings: onnxruntime.SessionOptions | None = None,
    folder: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a session on the provider that ``options.device`` names.

    Args:
        model: a file, or a serialized model.
        options: device and threads.
        settings: as `session_options` gives them, changed.
        folder: where a serialized model's external data is; it is mapped, not read.

    Raises:
        GraphError: ONNX Runtime refuses the model.
        MissingDependencyError: onnxruntime is not installed.
        UnavailableError: the provider is not there or did not start.
    """
    ort = import_onnxruntime("running ONNX graphs")
    provider = PROVIDERS.get(options.device)
    if provider is None or provider not in ort.get_available_providers():
        raise UnavailableError(
            f"device {options.device}: onnxruntime {ort.__version__} offers "
            f"{', '.join(ort.get_available_providers())}",
            hint="use --device cpu, or pip install 'alexnet-edge[gpu]' for cuda",
        )
    name = str(model) if isinstance(model, Path) else "the model"
    settings = settings or session_options(options)
    if folder is not None:
        entry = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(entry, str(folder.resolve()))
    try:
        session = ort.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            settings,
            providers=[provider],
            disabled_optimizers=[_REQUANTIZES],
        )
    except Exception as error:  # onnxruntime raises classes of its C extension, without a base
        reason = str(error).strip().splitlines()[0]
        raise GraphError(
            f"{name}: ONNX Runtime refuses it ({reason})",
            hint="build or export it again with this version of onnxruntime",
        ) from error
    if provider not in session.get_providers():
        raise UnavailableError(
            f"device {options.device}: {provider} did not start; "
            f"ONNX Runtime fell back to {', '.join(session.get_providers())}",
            hint="check the driver and CUDA libraries with: alexnet-edge doctor",
        )
    return session


class OnnxRuntime(Runtime):
    """An ONNX graph in an ONNX Runtime session."""

    name = "onnxruntime"

    def __init__(self, info: EngineInfo, options: RuntimeOptions) -> None:
        super().__init__(info)
        self._session = create_session(info.path, options)
        self._threads = options.threads or usable_cores()
        self._outputs = [info.output.name]

    def describe(self) -> dict[str, Any]:
        """Return provider and threads."""
        return {"provider": self._session.get_providers()[0], "threads": self._threads}

    def _execute(self, batch: AnyArray) -> AnyArray:
        answers = self._session.run(self._outputs, {self.info.input.name: batch})[0]
        return np.asarray(answers, np.float32)

    def _release(self) -> None:
        del self._session

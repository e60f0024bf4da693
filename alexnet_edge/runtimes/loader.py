"""Open whatever can answer: an engine, an ONNX graph, a checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from alexnet_edge.artifacts import require_file
from alexnet_edge.errors import InputError, UnavailableError
from alexnet_edge.graph import read_graph
from alexnet_edge.machine import has_vnni, package_versions
from alexnet_edge.manifest import Manifest, load_manifest, manifest_path
from alexnet_edge.runtimes.base import EngineInfo, Runtime, RuntimeOptions
from alexnet_edge.runtimes.install import install_hint, is_jetson
from alexnet_edge.runtimes.ort import OnnxRuntime
from alexnet_edge.runtimes.ort_gpu import PROVIDERS
from alexnet_edge.runtimes.torch_eager import TorchRuntime
from alexnet_edge.runtimes.trt import (
    MODULES,
    TensorRTRuntime,
    cuda_device_count,
    import_vendor,
)

CHECKPOINT_SUFFIXES = frozenset((".pt", ".pth", ".safetensors"))

_DEFAULT_OPTIONS = RuntimeOptions()


def open_engine(path: Path, options: RuntimeOptions = _DEFAULT_OPTIONS) -> Runtime:
    """Open a file with the runtime that it belongs to.

    Args:
        path: an engine with its manifest, an ONNX graph, or a checkpoint.
        options: how to run it.

    Raises:
        InputError: it is none of these, or an engine without a manifest.
        StaleArtifactError: the engine is not the one that its manifest describes.
        UnavailableError: this machine cannot run it.
    """
    require_file(path, hint="build one with: alexnet-edge build MODEL.onnx")
    if path.suffix in CHECKPOINT_SUFFIXES:
        return TorchRuntime(path, options)
    if manifest_path(path).exists() or path.suffix != ".onnx":
        return _open_built(path, load_manifest(path), options)
    graph = read_graph(path)
    info = EngineInfo(
        path=path,
        runtime=OnnxRuntime.name,
        precision="int8" if graph.quantized else "fp32",
        input=graph.input,
        output=graph.output,
        output_kind=graph.output_kind,
        model_sha256=graph.sha256,
        preprocess=graph.preprocess,
        classes=graph.classes,
    )
    return OnnxRuntime(info, options)


def _open_built(path: Path, manifest: Manifest, options: RuntimeOptions) -> Runtime:
    info = EngineInfo(
        path=path,
        runtime=manifest.runtime,
        precision=manifest.precision,
        input=manifest.input,
        output=manifest.output,
        output_kind=manifest.output_kind,
        model_sha256=manifest.model_sha256,
        preprocess=manifest.preprocess,
        classes=manifest.classes,
    )
    if manifest.runtime == OnnxRuntime.name:
        if options.device in {None, "cpu"}:
            require_exact_sums(path, manifest)
        return OnnxRuntime(info, options)
    if manifest.runtime in MODULES:
        return TensorRTRuntime(info, manifest, options)
    raise InputError(
        f"{path}: its runtime '{manifest.runtime}' is unknown",
        hint="it may come from a later version of alexnet-edge",
    )


def require_exact_sums(path: Path, manifest: Manifest) -> None:
    """Refuse an engine whose integer sums this CPU would saturate.

    Raises:
        UnavailableError: it has 8-bit weights, and the CPU lacks VNNI.
    """
    on_cpu = manifest.runtime == OnnxRuntime.name
    if on_cpu and manifest.options.get("weight_bits") == 8 and not has_vnni():
        raise UnavailableError(
            f"{path}: has 8-bit weights for a CPU with VNNI; on this one its sums would "
            "saturate and the answers would be wrong",
            hint="build it here, where it gets 7-bit weights: alexnet-edge build --int8",
        )


@dataclasses.dataclass(frozen=True)
class Availability:
    """What this machine can do with a runtime.

    Attributes:
        runtime: its name.
        version: None where it is not installed.
        builds, runs: whether engines can be built, and run, here.
        devices: what it runs on.
        reason: why it does not build or run; empty where it does both.
        hint: what to do about that.
    """

    runtime: str
    version: str | None
    builds: bool
    runs: bool
    devices: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""


def availability(runtime: str) -> Availability:
    """Return what this machine can do with `torch`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`."""
    if runtime in MODULES:
        return _tensorrt_availability(runtime)
    versions = package_versions()
    version = versions.get(runtime) or versions.get(f"{runtime}-gpu")
    if version is None:
        extra = "train" if runtime == "torch" else "cpu"
        return Availability(
            runtime, None, builds=False, runs=False, reason="not installed",
            hint=f"pip install 'alexnet-edge[{extra}]'",
        )  # fmt: skip
    return Availability(
        runtime, version, builds=runtime == "onnxruntime", runs=True, devices=_devices(runtime),
        reason="the reference; engines are not built for it" if runtime == "torch" else "",
    )  # fmt: skip


def _devices(runtime: str) -> tuple[str, ...]:
    if runtime == "torch":
        import torch

        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    import onnxruntime

    # What is compiled in, which does not say that it starts; opening an engine does.
    offered = set(onnxruntime.get_available_providers())
    kinds = [kind for kind, wanted in PROVIDERS.items() if set(wanted) <= offered]
    return tuple(kinds) if cuda_device_count() else ("cpu",)


def _tensorrt_availability(runtime: str) -> Availability:
    try:
        vendor = import_vendor(runtime)
    except Exception as error:
        hint = getattr(error, "hint", "")
        if runtime == "tensorrt" and is_jetson():
            hint = install_hint(runtime)
        return Availability(
            runtime, None, builds=False, runs=False, reason="not installed", hint=hint
        )
    gpus = cuda_device_count()
    if gpus and importlib.util.find_spec("pycuda") is None:
        return Availability(
            runtime, vendor.__version__, builds=True, runs=False, reason="pycuda is not installed",
            hint=install_hint("pycuda"),
        )  # fmt: skip
    if gpus:
        return Availability(
            runtime, vendor.__version__, builds=True, runs=True,
            devices=tuple(f"cuda:{index}" for index in range(gpus)),
        )  # fmt: skip
    return Availability(
        runtime, vendor.__version__, builds=runtime == "tensorrt-rtx", runs=False,
        reason="no NVIDIA GPU or driver", hint="run its engines on the target",
    )  # fmt: skip

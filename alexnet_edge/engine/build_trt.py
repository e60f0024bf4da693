"""Engines of TensorRT and TensorRT-RTX, from one code path with the vendor's module injected.

TensorRT-RTX builds ahead of time without a GPU; TensorRT needs the GPU that the engine is for.
What differs between versions is in `trt_features`, and what follows from it in `trt_config`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from alexnet_edge.engine.trt_config import (
    Configured,
    configure,
    is_strongly_typed,
    network_flags,
    planned_flags,
    write_timing_cache,
)
from alexnet_edge.engine.trt_features import Features, detect_features
from alexnet_edge.engine.trt_layers import Kernel, layer_precisions, read_inspector, read_log
from alexnet_edge.engine.trt_parser import parse_graph
from alexnet_edge.engine.vendor import BuiltEngine, EngineJob
from alexnet_edge.errors import BuildError, UnavailableError
from alexnet_edge.machine import Gpu, nvidia_gpus
from alexnet_edge.runtimes.trt import first_errors, import_vendor, make_logger

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRTBuilder:
    """Compiles with one vendor's module; several can be used in one process.

    Attributes:
        features: what the module can do.
    """

    def __init__(
        self,
        runtime: str,
        module: ModuleType | None = None,
        list_gpus: Callable[[], Sequence[Gpu]] = nvidia_gpus,
    ) -> None:
        """Prepare to build.

        Args:
            runtime: `tensorrt` or `tensorrt-rtx`.
            module: the vendor's module; imported by default.
            list_gpus: returns the machine's GPUs; the first is built on.

        Raises:
            MissingDependencyError: it is not installed.
            UnavailableError: TensorRT, and there is no GPU.
        """
        self._vendor = module or import_vendor(runtime)
        self._gpu = next(iter(list_gpus()), None)
        if runtime == "tensorrt" and self._gpu is None:
            raise UnavailableError(
                "tensorrt builds on the GPU that the engine is for, and the driver sees none",
                hint="build on the target, or --runtime tensorrt-rtx, which builds ahead of time",
            )
        self.features: Features = detect_features(runtime, self._vendor)

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of the GPU that is built on, as (8, 7); None where there is none."""
        if self._gpu is None:
            return None
        major, minor = self._gpu.compute_capability.split(".")
        return int(major), int(minor)

    def __call__(self, job: EngineJob, out: Path) -> BuiltEngine:
        """Write the engine.

        Raises:
            BuildError: this version lacks an option, or refuses the graph.
            UnavailableError: this machine lacks the DLA core.
        """
        features = self.features
        features.require(job.tensorrt)
        if job.dla:
            features.require_dla()
        vendor = self._vendor
        logger, messages = make_logger(vendor)
        builder: trt.Builder = vendor.Builder(logger)
        network = builder.create_network(network_flags(vendor, features, job))
        parse_graph(vendor, network, logger, job)
        configured = configure(vendor, features, builder, network, job)
        plan = builder.build_serialized_network(network, configured.config)
        if configured.progress.failure is not None:
            raise configured.progress.failure
        if plan is None:
            raise BuildError(
                f"{job.source}: {features.runtime} {features.version} cannot build it "
                f"({first_errors(messages)})",
                hint="see what it supports with: alexnet-edge doctor",
            )
        out.write_bytes(memoryview(plan))
        write_timing_cache(configured.config, job)
        if features.runtime == "tensorrt-rtx":
            kernels = read_log(messages)
        else:
            kernels = _inspect(vendor, logger, out, job)
        return self._describe(job, features, configured, kernels)

    def _describe(
        self, job: EngineJob, features: Features, configured: Configured, kernels: list[Kernel]
    ) -> BuiltEngine:
        nodes = [node.name or "" for node in job.model.graph]
        device: dict[str, Any] = {"kind": "gpu", "name": "any supported GPU"}
        if self._gpu is not None and features.runtime == "tensorrt":
            device |= {
                "name": self._gpu.name,
                "compute_capability": self._gpu.compute_capability,
                "architecture": platform.machine(),
            }
        if job.dla:
            device |= {"dla_core": job.tensorrt.dla_core or 0, "layers": configured.devices}
        return BuiltEngine(
            runtime_version=features.version,
            layers=layer_precisions(job.layers, kernels, nodes),
            device=device,
            options={
                "typing": "strong" if is_strongly_typed(job, features) else "weak",
                "flags": list(planned_flags(job, features)),
            },
        )


def _inspect(vendor: ModuleType, logger: trt.ILogger, path: Path, job: EngineJob) -> list[Kernel]:
    """Read an engine's kernels with its inspector; this loads it, which takes the GPU."""
    runtime: trt.Runtime = vendor.Runtime(logger)
    if job.tensorrt.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # we have just built it
    if job.dla:
        runtime.DLA_core = job.tensorrt.dla_core or 0
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BuildError(
            f"{job.source}: the engine was built, and cannot be loaded here",
            hint="check the GPU's memory and driver with: alexnet-edge doctor",
        )
    inspector = engine.create_engine_inspector()
    if job.input.batch is None:
        # Formats of a dynamic engine are only known for a shape.
        context = engine.create_execution_context()
        image = [size or 1 for size in job.input.shape[1:]]
        context.set_input_shape(job.input.name, (job.batch.opt, *image))
        inspector.execution_context = context
    text = inspector.get_engine_information(vendor.LayerInformationFormat.JSON)
    return read_inspector(text, job.source)

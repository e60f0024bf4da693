"""The builder's configuration, and how a network is created, for every version."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from alexnet_edge.artifacts import write_bytes
from alexnet_edge.engine.trt_calibrator import make_calibrator
from alexnet_edge.engine.trt_features import Features
from alexnet_edge.engine.trt_progress import BuildProgress, make_monitor
from alexnet_edge.engine.vendor import EngineJob, TensorRTOptions
from alexnet_edge.errors import BuildError, InputError, UnavailableError

if TYPE_CHECKING:
    import tensorrt as trt

_OVERFLOWS = ("LRN", "SOFTMAX")
"""Types of layers that stay FP32 beside FP16: sums of squares and of exponentials overflow."""


class Asked(Protocol):
    """What decides over flags: settings, or a job that was made of them."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""

    @property
    def tensorrt(self) -> TensorRTOptions:
        """What else is asked of the builder."""

    @property
    def dla(self) -> bool:
        """Whether the engine is for a DLA."""

    @property
    def spared(self) -> tuple[str, ...]:
        """Layers that stay in floating point."""

    @property
    def int4(self) -> object:
        """True where there are 4-bit weights."""


def is_strongly_typed(asked: Asked, features: Features) -> bool:
    """Say whether the graph's types are the precision; a DLA's INT8 is one of flags."""
    return features.strongly_typed and not asked.dla


def planned_flags(asked: Asked, features: Features) -> tuple[str, ...]:
    """Return the names of the builder's flags that will be set.

    Strongly typed networks have their precision in the graph. Without, INT8 and INT4 are flags even
    where Q/DQ says so already, and FP16 is one for what the other flags leave.
    """
    flags = []
    if not is_strongly_typed(asked, features):
        # What a DLA cannot run in INT8 it runs in FP16: it has no FP32.
        half = asked.precision == "fp16" or asked.tensorrt.fp16_rest or asked.dla
        constrained = bool(asked.spared) if asked.dla else half
        flags += ["FP16"] * half + ["INT8"] * (asked.precision == "int8")
        flags += ["OBEY_PRECISION_CONSTRAINTS"] * constrained
        flags += ["INT4"] * (bool(asked.int4) and "INT4" in features.flags)
    flags += ["SPARSE_WEIGHTS"] * asked.tensorrt.sparse
    flags += ["VERSION_COMPATIBLE"] * asked.tensorrt.version_compatible
    flags += ["GPU_FALLBACK"] * asked.dla
    return tuple(flags)


def network_flags(vendor: ModuleType, features: Features, asked: Asked) -> int:
    """Return creation flags: explicit batch where it must be said, strong typing where used."""
    known = vendor.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    if is_strongly_typed(asked, features):
        flags |= 1 << int(known.STRONGLY_TYPED)
    return flags


@dataclasses.dataclass
class Configured:
    """A configuration, and what must live as long as it does.

    Attributes:
        config: the vendor's.
        progress: what its monitor tells.
        devices: layer name to `DLA` or `GPU`; empty without a DLA.
    """

    config: trt.IBuilderConfig
    progress: BuildProgress
    devices: dict[str, str]
    kept: list[object]


def configure(
    vendor: ModuleType,
    features: Features,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    job: EngineJob,
) -> Configured:
    """Return the builder's configuration for a job.

    Raises:
        BuildError: the timing cache is of another version or GPU.
        InputError: its file could not be written.
        UnavailableError: this machine has no such DLA core.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = vendor.ProfilingVerbosity.DETAILED
    done = Configured(config, BuildProgress(job.on_progress), {}, [])
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(vendor.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
    flags = planned_flags(job, features)
    for flag in flags:
        config.set_flag(getattr(vendor.BuilderFlag, flag))
    if "OBEY_PRECISION_CONSTRAINTS" in flags:
        _constrain(vendor, network, job)
    if job.tensorrt.optimization_level is not None:
        config.builder_optimization_level = job.tensorrt.optimization_level
    _set_shapes(vendor, builder, config, job)
    _read_timing_cache(config, job)
    if features.progress:
        config.progress_monitor = make_monitor(vendor, done.progress)
        done.kept.append(config.progress_monitor)
    if job.amax is not None:
        config.int8_calibrator = make_calibrator(vendor, job.amax)
        done.kept.append(config.int8_calibrator)
    if job.dla:
        done.devices = _choose_dla(vendor, builder, config, network, job)
    return done


def _constrain(vendor: ModuleType, network: trt.INetworkDefinition, job: EngineJob) -> None:
    """Hold to FP32 what overflows FP16, and to FP16 what is spared from implicit INT8.

    A DLA has no FP32; what it cannot run goes to the GPU by itself.
    """
    overflowing = [getattr(vendor.LayerType, name) for name in _OVERFLOWS if not job.dla]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in overflowing:
            layer.precision = vendor.DataType.FLOAT
        elif layer.name in job.spared:
            layer.precision = vendor.DataType.HALF


def _set_shapes(
    vendor: ModuleType, builder: trt.Builder, config: trt.IBuilderConfig, job: EngineJob
) -> None:
    """Add the optimization profile of a dynamic batch."""
    if job.input.batch is not None:
        return
    profile = builder.create_optimization_profile()
    image = [size or 1 for size in job.input.shape[1:]]
    sizes = (job.batch.min, job.batch.opt, job.batch.max)
    low, best, high = (vendor.Dims([size, *image]) for size in sizes)
    profile.set_shape(job.input.name, low, best, high)
    config.add_optimization_profile(profile)


def _read_timing_cache(config: trt.IBuilderConfig, job: EngineJob) -> None:
    """Load what earlier builds have timed, where a cache is asked for."""
    path = job.tensorrt.timing_cache
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"--timing-cache {path}: cannot be written", hint="name a file in a folder that exists"
        )
    stored = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError(
            f"{path}: is no timing cache of this version and GPU",
            hint=f"name another file with --timing-cache, or: rm {path}",
        )


def write_timing_cache(config: trt.IBuilderConfig, job: EngineJob) -> None:
    """Save what the build has timed, where a cache was asked for."""
    if job.tensorrt.timing_cache is not None:
        write_bytes(job.tensorrt.timing_cache, memoryview(config.get_timing_cache().serialize()))


def _choose_dla(
    vendor: ModuleType,
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    job: EngineJob,
) -> dict[str, str]:
    """Send the network to a DLA core; return what each layer runs on."""
    core = job.tensorrt.dla_core or 0
    if core >= builder.num_DLA_cores:
        raise UnavailableError(
            f"--dla-core {core}: this machine has {builder.num_DLA_cores} DLA cores",
            hint="build on the board that the profile names, or with a profile without DLA",
        )
    config.default_device_type = vendor.DeviceType.DLA
    config.DLA_core = core
    devices = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        devices[layer.name] = "DLA" if config.can_run_on_DLA(layer) else "GPU"
    return devices

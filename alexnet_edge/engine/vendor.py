"""What a vendor's builder is given, and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from alexnet_edge.engine.profile import BatchRange
from alexnet_edge.errors import BuildError
from alexnet_edge.manifest import LayerPrecision
from alexnet_edge.results import TensorSpec

OnProgress = Callable[[str, float, float], None]
"""Called with what is being done, and how much of how much of it is done."""

_NO_USE = {
    ("onnxruntime", "sparse"): "it has no kernels for 2:4 sparsity: pruned weights would only cost "
    "accuracy",
    ("onnxruntime", "fp16_rest"): "its CPU provider has no FP16 kernels",
    ("onnxruntime", "version_compatible"): "its engines are ONNX files, which other versions read",
    ("onnxruntime", "optimization_level"): "it optimizes without searching",
    ("onnxruntime", "timing_cache"): "it times no kernels",
    ("onnxruntime", "dla_core"): "it does not run on a DLA",
    ("tensorrt-rtx", "version_compatible"): "its engines belong to one release, and there is no "
    "lean runtime",
    ("tensorrt-rtx", "timing_cache"): "it times no kernels ahead of time, and a cache would only "
    "make the build look for a GPU",
    ("tensorrt-rtx", "dla_core"): "it does not run on a DLA",
}
"""Why a runtime has no use for an option."""


@dataclasses.dataclass(frozen=True)
class TensorRTOptions:
    """What may be asked of TensorRT's builders.

    Attributes:
        fp16_rest: in an INT8 engine, run in FP16 what is not INT8.
        sparse: prune weights to 2:4 sparsity, and let kernels make use of it.
        version_compatible: an engine that later versions load, the lean runtime too.
        optimization_level: 0 to 5, how long to search for kernels; None for the vendor's default.
        timing_cache: file of measured kernel times, read where it exists and written afterwards.
        dla_core: which DLA core; None for core 0 of a target that has a DLA.
    """

    fp16_rest: bool = False
    sparse: bool = False
    version_compatible: bool = False
    optimization_level: int | None = None
    timing_cache: Path | None = None
    dla_core: int | None = None

    def __post_init__(self) -> None:
        level = self.optimization_level
        if level is not None and not 0 <= level <= 5:
            raise BuildError(f"--optimization-level is {level}", hint="give 0 to 5")

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON values."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }

    def require_use(self, runtime: str) -> None:
        """Refuse an option that a runtime has no use for.

        Raises:
            BuildError: naming the option and why.
        """
        for name in self.given:
            if (runtime, name) in _NO_USE:
                raise BuildError(
                    f"{option_name(name)} is not for {runtime}: {_NO_USE[runtime, name]}",
                    hint=f"leave {option_name(name)} out",
                )


def option_name(field: str) -> str:
    """Return a field of `TensorRTOptions` as the command line names it."""
    return "--" + field.replace("_", "-")


@dataclasses.dataclass(frozen=True)
class EngineJob:
    """A graph that is ready to be compiled.

    Attributes:
        model: with Q/DQ or FP16 already in it, where the vendor takes precision from the graph.
        source: the FP32 graph's file, for errors.
        precision: `fp32`, `fp16` or `int8`.
        layers: names of the weighted layers.
        input: the graph's input.
        batch: sizes for a dynamic batch axis.
        workspace_mib: scratch memory; None for the vendor's default.
        tensorrt: for TensorRT's builders.
        dla: compile for a DLA, with the GPU for what that cannot run.
        amax: tensor name to range, for INT8 by calibration cache instead of Q/DQ.
        spared: layers that stay in floating point where there is no Q/DQ to say so.
        int4: layers whose weights are 4-bit.
        zero_skipping: layers that shall read no weights of zeros, where the vendor can do that, to
            their inputs that are seldom 0.
        on_progress: told how far the vendor is, where it says so.
    """

    model: ir.Model
    source: Path
    precision: str
    layers: tuple[str, ...]
    input: TensorSpec
    batch: BatchRange
    workspace_mib: int | None = None
    tensorrt: TensorRTOptions = dataclasses.field(default_factory=TensorRTOptions)
    dla: bool = False
    amax: Mapping[str, float] | None = None
    spared: tuple[str, ...] = ()
    int4: tuple[str, ...] = ()
    zero_skipping: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    on_progress: OnProgress = lambda *_: None


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """What was compiled.

    Attributes:
        runtime_version: of the vendor's library.
        layers: what every weighted layer runs in, read from the engine.
        device: what it was built for.
        options: what the vendor was told, for the manifest: typing, builder flags.
    """

    runtime_version: str
    layers: tuple[LayerPrecision, ...]
    device: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Vendor(Protocol):
    """Compiles a job into a file."""

    def __call__(self, job: EngineJob, out: Path) -> BuiltEngine:
        """Write the engine to ``out``.

        Raises:
            BuildError: the vendor refuses the graph.
        """

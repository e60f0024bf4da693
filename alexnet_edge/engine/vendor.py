"""What a vendor's builder is given, and what it gives back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from alexnet_edge.engine.profile import BatchRange
from alexnet_edge.manifest import LayerPrecision
from alexnet_edge.results import TensorSpec


@dataclasses.dataclass(frozen=True)
class EngineJob:
    """A graph that is ready to be compiled.

    Attributes:
        model: with Q/DQ or FP16 already in it.
        source: the FP32 graph's file, for errors.
        precision: `fp32`, `fp16` or `int8`.
        layers: names of the weighted layers.
        input: the graph's input.
        batch: sizes for a dynamic batch axis.
        workspace_mib: scratch memory; None for the vendor's default.
    """

    model: ir.Model
    source: Path
    precision: str
    layers: tuple[str, ...]
    input: TensorSpec
    batch: BatchRange
    workspace_mib: int | None = None


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """What was compiled.

    Attributes:
        runtime_version: of the vendor's library.
        layers: what every weighted layer runs in, read from the engine.
        device: what it was built for.
    """

    runtime_version: str
    layers: tuple[LayerPrecision, ...]
    device: dict[str, Any]


class Vendor(Protocol):
    """Compiles a job into a file."""

    def __call__(self, job: EngineJob, out: Path) -> BuiltEngine:
        """Write the engine to ``out``.

        Raises:
            BuildError: the vendor refuses the graph.
        """

"""What to build: precision, target, and what is asked of the builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.engine.profile import TARGET_RUNTIMES, BatchRange, Profile
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.errors import BuildError
from alexnet_edge.machine import has_vnni
from alexnet_edge.quantize.choose import AUTO
from alexnet_edge.quantize.scales import TENSORRT, Dialect

RUNTIMES = TARGET_RUNTIMES

_SUFFIXES = {"onnxruntime": "onnx", "tensorrt": "engine", "tensorrt-rtx": "rtx.engine"}


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        runtime: `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        method: which of the table's ranges to use; `auto` to choose by evidence.
        spared: layers that stay in floating point.
        judgement: why just these, for the manifest.
        batch: sizes for a dynamic batch axis, of TensorRT's runtimes.
        profile: the target board, if named.
        weight_bits: 7 or 8 for the CPU; None to choose by what this CPU has.
        allow_fallback: accept layers that did not become INT8; the manifest lists them.
        any_versions: accept a table that other versions measured.
        tensorrt: what only TensorRT's builders can do.
    """

    precision: str = "fp32"
    runtime: str = "onnxruntime"
    method: str = AUTO
    spared: tuple[str, ...] = ()
    judgement: Mapping[str, Any] | None = None
    batch: BatchRange = BatchRange()
    profile: Profile | None = None
    weight_bits: int | None = None
    allow_fallback: bool = False
    any_versions: bool = False
    tensorrt: TensorRTOptions = dataclasses.field(default_factory=TensorRTOptions)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise BuildError(
                f"runtime '{self.runtime}' is unknown", hint=f"one of {', '.join(RUNTIMES)}"
            )
        if self.spared and self.precision != "int8":
            raise BuildError(
                f"layers are spared from INT8, {self.precision} is built",
                hint="build --int8, or leave --spare out",
            )
        self._require_profile()
        if self.runtime == "onnxruntime" and self.precision == "fp16":
            raise BuildError(
                "onnxruntime has no FP16 kernels on the CPU",
                hint="build --fp32 or --int8, or --runtime tensorrt-rtx --fp16",
            )
        self.tensorrt.require_use(self.runtime)
        if self.tensorrt.fp16_rest and self.precision != "int8":
            raise BuildError(
                f"--fp16-rest is for what INT8 leaves, {self.precision} is built",
                hint="build --int8 --fp16-rest, or --fp16",
            )
        if self.tensorrt.sparse and self.precision == "fp32":
            raise BuildError(
                "--sparse is not for FP32: sparse kernels compute in FP16 and INT8",
                hint="build --fp16 --sparse or --int8 --sparse",
            )

    def _require_profile(self) -> None:
        core = self.tensorrt.dla_core
        board = self.profile
        if core is not None and (board is None or board.dla is None):
            named = "no profile is named" if board is None else f"profile {board.name} has no DLA"
            raise BuildError(
                f"--dla-core {core}: {named}", hint="name a --profile whose engines are for a DLA"
            )
        if board is None:
            return
        board.require_precision(self.precision)
        if board.runtime != self.runtime:
            raise BuildError(
                f"profile {board.name} is for {board.runtime}, not {self.runtime}",
                hint="leave --runtime out, or name another --profile",
            )
        if core is not None and board.dla is not None and not 0 <= core < board.dla.cores:
            raise BuildError(
                f"--dla-core {core}: {board.name} has {board.dla.cores}",
                hint=f"give 0 to {board.dla.cores - 1}",
            )

    @property
    def dialect(self) -> Dialect:
        """How the target wants its Q/DQ."""
        if self.runtime != "onnxruntime":
            return TENSORRT
        return Dialect("cpu", self.weight_bits or (8 if has_vnni() else 7))

    @property
    def dla(self) -> bool:
        """Whether the engine is for a DLA."""
        return self.profile is not None and self.profile.dla is not None

    @property
    def implicit(self) -> bool:
        """Whether INT8 comes from a calibration cache: a DLA takes no Q/DQ."""
        return self.dla and self.precision == "int8"


def default_out(model: Path, settings: BuildSettings) -> Path:
    """Return the engine's file beside the model: `alexnet.int8.onnx`, `alexnet.int8.rtx.engine`."""
    kinds = [settings.precision]
    kinds += ["fp16"] * settings.tensorrt.fp16_rest + ["sparse"] * settings.tensorrt.sparse
    kinds += ["dla"] * settings.dla
    return model.with_name(f"{model.stem}.{'-'.join(kinds)}.{_SUFFIXES[settings.runtime]}")

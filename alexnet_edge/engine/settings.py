"""What to build: precision, target, and what is asked of the builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.engine.profile import TARGET_RUNTIMES, BatchRange, Profile
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.engine.versions import parse_version
from alexnet_edge.errors import BuildError
from alexnet_edge.machine import has_vnni, is_x86, package_versions
from alexnet_edge.quantize.choose import AUTO
from alexnet_edge.quantize.int4 import INT2_ONNXRUNTIME, Int4Settings
from alexnet_edge.quantize.int8_blocks import BLOCK, ONNXRUNTIME
from alexnet_edge.quantize.scales import TENSORRT, Dialect

RUNTIMES = TARGET_RUNTIMES

LATENCY, THROUGHPUT = "latency", "throughput"
OPTIMIZE = (LATENCY, THROUGHPUT)

_SUFFIXES = {"onnxruntime": "onnx", "tensorrt": "engine", "tensorrt-rtx": "rtx.engine"}


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        precision: `fp32`, `fp16` or `int8`; of all layers but those that ``int4`` is for.
        runtime: `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        method: which of the table's ranges to use; `auto` to choose by evidence.
        int4: how fully connected layers become 4-bit; None where they do not.
        spared: layers that stay in floating point.
        judgement: why just these, for the manifest.
        batch: sizes for a dynamic batch axis, of TensorRT's runtimes.
        profile: the target board, if named.
        weight_bits: 7 or 8 for the CPU; None to choose by what this CPU has.
        optimize: `latency` of one image, or `throughput` of batches; on the CPU they differ in how
            fully connected layers are INT8.
        allow_fallback: accept layers that did not become INT8; the manifest lists them.
        any_versions: accept a table that other versions measured.
        tensorrt: what only TensorRT's builders can do.
    """

    precision: str = "fp32"
    runtime: str = "onnxruntime"
    method: str = AUTO
    int4: Int4Settings | None = None
    spared: tuple[str, ...] = ()
    judgement: Mapping[str, Any] | None = None
    batch: BatchRange = BatchRange()
    profile: Profile | None = None
    weight_bits: int | None = None
    optimize: str = LATENCY
    allow_fallback: bool = False
    any_versions: bool = False
    tensorrt: TensorRTOptions = dataclasses.field(default_factory=TensorRTOptions)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise BuildError(
                f"runtime '{self.runtime}' is unknown", hint=f"one of {', '.join(RUNTIMES)}"
            )
        if self.spared and self.precision != "int8" and self.int4 is None:
            raise BuildError(
                f"layers are spared from INT8, {self.precision} is built",
                hint="build --int8, or leave --spare out",
            )
        if self.optimize not in OPTIMIZE:
            raise BuildError(
                f"--optimize '{self.optimize}' is unknown", hint=f"one of {', '.join(OPTIMIZE)}"
            )
        self._require_profile()
        self._require_int4()
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

    def _require_int4(self) -> None:
        if self.int4 is None:
            return
        board = self.profile
        if board is not None and board.dla is not None:
            raise BuildError(
                f"--int4-fc is not for {board.name}: a DLA computes in INT8 and FP16",
                hint="leave --int4-fc out, or name a profile without DLA",
            )
        versions = board.tensorrt if board is not None and self.runtime == "tensorrt" else None
        if versions is not None and versions.high is not None and versions.high <= (10,):
            raise BuildError(
                f"--int4-fc is not for {board.name if board else ''}: TensorRT has 4-bit weights "
                f"from 10 on, the board has {versions}",
                hint="leave --int4-fc out",
            )
        if self.int4.two_bit:
            self._require_int2()
        if self.tensorrt.sparse:
            raise BuildError(
                "--int4-fc and --sparse exclude each other: no kernel has weights that are both",
                hint="leave one out",
            )

    def _require_int2(self) -> None:
        if self.runtime != "onnxruntime":
            raise BuildError(
                f"--int2 is not for {self.runtime}: it has weights of 4 bits at least",
                hint="leave --int2 out",
            )
        installed = _installed_onnxruntime()
        if parse_version(installed)[:2] < INT2_ONNXRUNTIME:
            wanted = ".".join(map(str, INT2_ONNXRUNTIME))
            raise BuildError(
                f"--int2 needs onnxruntime {wanted}, {installed} is installed",
                hint=f"pip install 'onnxruntime>={wanted}', or leave --int2 out",
            )

    @property
    def dialect(self) -> Dialect:
        """How the target wants its Q/DQ."""
        if self.runtime != "onnxruntime":
            return TENSORRT
        bits = self.weight_bits or (8 if has_vnni() else 7)
        blocks = self.optimize == LATENCY and bits == 8 and _has_blocks()
        return Dialect("cpu", bits, BLOCK if blocks else None)

    @property
    def dla(self) -> bool:
        """Whether the engine is for a DLA."""
        return self.profile is not None and self.profile.dla is not None

    @property
    def implicit(self) -> bool:
        """Whether INT8 comes from a calibration cache: a DLA takes no Q/DQ."""
        return self.dla and self.precision == "int8"


def _has_blocks() -> bool:
    """Whether ONNX Runtime here has a fast kernel for 8-bit weights in blocks."""
    return is_x86() and parse_version(_installed_onnxruntime())[:2] >= ONNXRUNTIME


def _installed_onnxruntime() -> str:
    return package_versions().get("onnxruntime", "0")


def default_out(model: Path, settings: BuildSettings) -> Path:
    """Return the engine's file beside the model.

    As `alexnet.int8.onnx`, `alexnet.int8-int4fc.onnx`, `alexnet.int8.rtx.engine`; with layers of 2
    bits it is `alexnet.int8-int2fc.onnx`.
    """
    kinds = [settings.precision] if settings.int4 is None or settings.precision != "fp32" else []
    kinds += ["fp16"] * settings.tensorrt.fp16_rest + ["sparse"] * settings.tensorrt.sparse
    if settings.int4 is not None:
        kinds.append("int2fc" if settings.int4.two_bit else "int4fc")
    kinds += ["dla"] * settings.dla
    return model.with_name(f"{model.stem}.{'-'.join(kinds)}.{_SUFFIXES[settings.runtime]}")

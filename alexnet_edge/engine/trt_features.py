"""What a vendor's module can do: TensorRT 8.5 to 11 and TensorRT-RTX differ in that.

Found by looking for the attributes; only where a feature is there but not usable is the version
compared, as numbers.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

from alexnet_edge.engine.vendor import TensorRTOptions, option_name
from alexnet_edge.engine.versions import parse_version
from alexnet_edge.errors import BuildError

STRONG_TYPING_SINCE = (10, 12)
"""Networks could be strongly typed from 10.0 on; before this their Q/DQ fusions had gaps."""

_SINCE = {
    "sparse": "8.0",
    "version_compatible": "8.6",
    "optimization_level": "8.6",
    "timing_cache": "8.0",
}


@dataclasses.dataclass(frozen=True)
class Features:
    """A vendor's module, described.

    Attributes:
        runtime: `tensorrt` or `tensorrt-rtx`.
        version: as text.
        strongly_typed: whether the types in the graph are the precision; else builder flags are.
        flags: names of the builder's flags.
        optimization_level, progress, timing_cache: whether the builder has them.
        calibrator: whether INT8 can come from a calibration cache: what DLA needs.
        int4: whether weights can be 4-bit.
    """

    runtime: str
    version: str
    strongly_typed: bool
    flags: frozenset[str]
    optimization_level: bool
    progress: bool
    timing_cache: bool
    calibrator: bool
    int4: bool

    def require(self, options: TensorRTOptions) -> None:
        """Refuse an option that this version lacks.

        Raises:
            BuildError: naming the option, and the first version that has it.
        """
        has = {
            "sparse": "SPARSE_WEIGHTS" in self.flags,
            "version_compatible": "VERSION_COMPATIBLE" in self.flags,
            "optimization_level": self.optimization_level,
            "timing_cache": self.timing_cache,
        }
        for name in options.given:
            if not has.get(name, True):
                raise BuildError(
                    f"{option_name(name)} is not in {self.runtime} {self.version}",
                    hint=f"leave it out, or build with TensorRT {_SINCE[name]} or later",
                )

    def require_dla(self) -> None:
        """Refuse to build for a DLA.

        Raises:
            BuildError: there are no calibrators; DLA takes no Q/DQ.
        """
        if not self.calibrator:
            raise BuildError(
                f"{self.runtime} {self.version} has no calibrators, without which a DLA gets no "
                "INT8",
                hint="build with TensorRT 8.6 to 10.7 (JetPack 6 has 10.3), or for the GPU with a "
                "profile without DLA",
            )

    def require_int4(self) -> None:
        """Refuse 4-bit weights.

        Raises:
            BuildError: this version has no such type.
        """
        if not self.int4:
            raise BuildError(
                f"--int4-fc: {self.runtime} {self.version} has no 4-bit weights",
                hint="build with TensorRT 10 or later, or with tensorrt-rtx; or leave it out",
            )


def detect_features(runtime: str, vendor: ModuleType) -> Features:
    """Return what the module of ``runtime`` can do."""
    flags = frozenset(name for name in dir(vendor.BuilderFlag) if name.isupper())
    return Features(
        runtime=runtime,
        version=vendor.__version__,
        strongly_typed=_is_strongly_typed(runtime, vendor),
        flags=flags,
        optimization_level=hasattr(vendor.IBuilderConfig, "builder_optimization_level"),
        progress=hasattr(vendor, "IProgressMonitor"),
        timing_cache=hasattr(vendor.IBuilderConfig, "create_timing_cache"),
        calibrator=hasattr(vendor, "IInt8EntropyCalibrator2"),
        int4=hasattr(vendor.DataType, "INT4"),
    )


def _is_strongly_typed(runtime: str, vendor: ModuleType) -> bool:
    if not hasattr(vendor.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return False
    without_flags = not hasattr(vendor.BuilderFlag, "INT8")
    recent = parse_version(vendor.__version__) >= STRONG_TYPING_SINCE
    return runtime == "tensorrt-rtx" or without_flags or recent

"""Target boards: what an engine for them may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from alexnet_edge.errors import BuildError, TableError
from alexnet_edge.recipes import read_named

PRECISIONS = ("fp32", "fp16", "int8")


@dataclasses.dataclass(frozen=True)
class BatchRange:
    """Batch sizes that a dynamic engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise TableError(
                f"batch range is {self.min}, {self.opt}, {self.max}",
                hint="give 1 ≤ min ≤ opt ≤ max",
            )


@dataclasses.dataclass(frozen=True)
class Profile:
    """A target.

    Attributes:
        name: of its file.
        description: one line.
        runtime: what engines run on there.
        precisions: what it has kernels for.
        unsupported: precision to the reason why not.
        batch: of dynamic engines.
        workspace_mib: scratch memory that a build may plan with; None for the vendor's default.
        compute_capability: of its GPU, as `8.7`; None for a CPU.
        jetpack, tensorrt: version ranges that it is run with, for the reader.
        memory_bandwidth_gbs: of its memory, in GB/s: the floor of batch-1 latency.
    """

    name: str
    description: str = ""
    runtime: str = "onnxruntime"
    precisions: tuple[str, ...] = PRECISIONS
    unsupported: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch: BatchRange = BatchRange()
    workspace_mib: int | None = None
    compute_capability: str | None = None
    jetpack: str | None = None
    tensorrt: str | None = None
    memory_bandwidth_gbs: float | None = None

    def require_precision(self, precision: str) -> None:
        """Refuse a precision that the target has no use for.

        Raises:
            BuildError: with the reason and what to build instead.
        """
        if precision not in self.precisions:
            reason = self.unsupported.get(precision, "the profile does not list it")
            raise BuildError(
                f"profile {self.name} takes no {precision}: {reason}",
                hint=f"build with --{self.precisions[-1]}",
            )


_KINDS: Mapping[str, tuple[type, ...]] = {
    "description": (str,),
    "runtime": (str,),
    "precisions": (list,),
    "unsupported": (dict,),
    "batch": (dict,),
    "workspace_mib": (int,),
    "compute_capability": (str,),
    "jetpack": (str,),
    "tensorrt": (str,),
    "memory_bandwidth_gbs": (int, float),
}
"""A profile's keys, and what TOML gives for each."""


def load_profile(name: str) -> Profile:
    """Read a profile by name, or from a TOML file.

    Raises:
        TableError: it is unknown, or a value is of the wrong type or out of range.
    """
    raw = read_named("profile", name, keys=list(_KINDS))
    for key, value in raw.items():
        if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
            raise _malformed(name, f"{key} is {value!r}")
    precisions = raw.get("precisions", list(PRECISIONS))
    if not precisions or any(precision not in PRECISIONS for precision in precisions):
        raise _malformed(name, f"precisions are {precisions}, known are {', '.join(PRECISIONS)}")
    if raw.get("workspace_mib", 1) < 1:
        raise _malformed(name, f"workspace_mib is {raw['workspace_mib']}")
    batch = raw.get("batch", {})
    keys = [field.name for field in dataclasses.fields(BatchRange)]
    for key, value in batch.items():
        if key not in keys or type(value) is not int:
            raise _malformed(name, f"batch.{key} is {value!r}, {', '.join(keys)} take integers")
    try:
        sizes = BatchRange(**batch)
    except TableError as error:
        raise TableError(f"profile '{name}': {error.message}", hint=error.hint) from error
    return Profile(name=name, **{**raw, "precisions": tuple(precisions), "batch": sizes})


def _malformed(name: str, problem: str) -> TableError:
    return TableError(f"profile '{name}': {problem}", hint="correct the file")

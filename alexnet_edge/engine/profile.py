"""Target boards: what an engine for them may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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


def load_profile(name: str) -> Profile:
    """Read a profile by name, or from a TOML file.

    Raises:
        TableError: it is unknown, or a value is of the wrong type.
    """
    keys = [field.name for field in dataclasses.fields(Profile) if field.name != "name"]
    raw = read_named("profile", name, keys=keys)
    try:
        values: dict[str, Any] = {**raw, "precisions": tuple(raw.get("precisions", PRECISIONS))}
        values["batch"] = BatchRange(**raw.get("batch", {}))
        for key, kind in (("runtime", str), ("workspace_mib", int), ("unsupported", dict)):
            if key in raw and not isinstance(raw[key], kind):
                raise TypeError(f"{key} is {raw[key]!r}")
        unknown = set(values["precisions"]) - set(PRECISIONS)
        if unknown or not values["precisions"]:
            raise TypeError(f"precisions are {values['precisions']}")
        return Profile(name=name, **values)
    except TypeError as error:
        raise TableError(f"profile '{name}': {error}", hint="correct the file") from error

"""Target boards: what an engine for them may be.

profile = load_profile("orin-nano")
profile.require_precision("int8")
profile.require_machine(read_target_facts(tensorrt=tensorrt.__version__))
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

from alexnet_edge.engine.target import TargetFacts
from alexnet_edge.engine.versions import (
    Version,
    VersionRange,
    format_version,
    parse_range,
    parse_version,
)
from alexnet_edge.errors import BuildError, TableError
from alexnet_edge.recipes import read_named

PRECISIONS = ("fp32", "fp16", "int8")
TARGET_RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt-rtx")

UNCAPPED = "uncapped"
"""How a profile writes that a power mode has no budget: TOML knows no null."""


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
class Dla:
    """Deep Learning Accelerators of a board.

    Attributes:
        cores: how many; each runs one engine at a time.
    """

    cores: int


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
        compute_capability: of each GPU that it stands for, as (8, 7); none for a CPU.
        jetpack: which JetPacks the board is used with; None where there is none.
        tensorrt: which versions of its runtime's library; a graph must suit the oldest.
        memory_bandwidth_gbs: of its memory, in GB/s: the floor of batch-1 latency.
        power_modes: name, as `nvpmodel -q` gives it, to its budget in watts; None for no cap.
        dla: its accelerators, where engines are for those; else None.
    """

    name: str
    description: str = ""
    runtime: str = "onnxruntime"
    precisions: tuple[str, ...] = PRECISIONS
    unsupported: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch: BatchRange = BatchRange()
    workspace_mib: int | None = None
    compute_capability: tuple[Version, ...] = ()
    jetpack: VersionRange | None = None
    tensorrt: VersionRange | None = None
    memory_bandwidth_gbs: float | None = None
    power_modes: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    dla: Dla | None = None

    def require_precision(self, precision: str) -> None:
        """Refuse a precision that the target has no use for.

        Raises:
            BuildError: with the reason and what to build instead.
        """
        if precision not in self.precisions:
            raise BuildError(
                f"profile {self.name} takes no {precision}: {self.reason_against(precision)}",
                hint=f"build with --{self.precisions[-1]}",
            )

    def reason_against(self, precision: str) -> str:
        """Return why the target has no use for a precision."""
        return self.unsupported.get(precision, "the profile does not list it")

    def require_machine(self, facts: TargetFacts) -> None:
        """Refuse to build for the target on a machine that is another.

        TensorRT builds for the GPU at hand. TensorRT-RTX builds ahead of time, for GPUs elsewhere,
        so there only the library's version counts. What the machine does not tell is not held
        against it.

        Raises:
            BuildError: with the fields that differ.
        """
        differences = []
        if self.runtime != "tensorrt-rtx":
            found = facts.compute_capability
            if (
                found is not None
                and self.compute_capability
                and found not in self.compute_capability
            ):
                wanted = " or ".join(map(_format_capability, self.compute_capability))
                differences.append(_differ("compute_capability", wanted, _format_capability(found)))
            differences += _outside("jetpack", self.jetpack, facts.jetpack)
        differences += _outside("tensorrt", self.tensorrt, facts.tensorrt)
        if differences:
            raise BuildError(
                f"profile {self.name} does not describe this machine ({'; '.join(differences)})",
                hint="build on the board itself, or name the --profile of this machine",
            )


def load_profile(name: str) -> Profile:
    """Read a profile by name, or from a TOML file.

    Raises:
        TableError: it is unknown, or a value is of the wrong type or out of range.
    """
    fields = {}
    for key, value in read_named("profile", name, keys=list(_PARSERS)).items():
        try:
            fields[key] = _PARSERS[key](value)
        except (TypeError, ValueError) as error:
            raise TableError(
                f"profile '{name}': {key} is {value!r}, {error}",
                hint="correct the file; engines/README.md explains its keys",
            ) from error
        except TableError as error:
            raise TableError(f"profile '{name}': {error.message}", hint=error.hint) from error
    profile = Profile(name=name, **fields)
    both = set(profile.precisions) & set(profile.unsupported)
    if both:
        raise TableError(
            f"profile '{name}': {min(both)} is in precisions and in unsupported",
            hint="list it in one of them",
        )
    return profile


def _differ(field: str, expected: object, found: str) -> str:
    return f"{field}: expected {expected}, found {found}"


def _outside(field: str, wanted: VersionRange | None, found: Version | None) -> list[str]:
    if wanted is None or found is None or found in wanted:
        return []
    return [_differ(field, wanted, format_version(found))]


def _format_capability(version: Version) -> str:
    return format_version(version if len(version) > 1 else (*version, 0))


def _require(value: Any, kind: type | types.UnionType, expected: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{expected} expected")
    return value


def _parse_text(value: Any) -> str:
    return str(_require(value, str, "a text is"))


def _parse_runtime(value: Any) -> str:
    if value not in TARGET_RUNTIMES:
        raise ValueError(f"one of {', '.join(TARGET_RUNTIMES)} is expected")
    return _parse_text(value)


def _parse_precisions(value: Any) -> tuple[str, ...]:
    listed = _require(value, list, "a list is")
    if not listed or any(item not in PRECISIONS for item in listed):
        raise ValueError(f"a list of {', '.join(PRECISIONS)} is expected")
    return tuple(listed)


def _parse_unsupported(value: Any) -> dict[str, str]:
    reasons = _require(value, dict, "reasons are")
    if any(key not in PRECISIONS for key in reasons):
        raise ValueError(f"reasons by {', '.join(PRECISIONS)} are expected")
    return {key: _parse_text(reason) for key, reason in reasons.items()}


def _parse_batch(value: Any) -> BatchRange:
    keys = [field.name for field in dataclasses.fields(BatchRange)]
    return BatchRange(**_parse_integers(value, keys))


def _parse_dla(value: Any) -> Dla:
    integers = _parse_integers(value, ["cores"])
    return Dla(_parse_count(integers.get("cores")))


def _parse_integers(value: Any, keys: list[str]) -> dict[str, int]:
    expected = f"integers by {', '.join(keys)} are"
    integers: dict[str, int] = _require(value, dict, expected)
    if any(key not in keys or type(item) is not int for key, item in integers.items()):
        raise ValueError(f"{expected} expected")
    return integers


def _parse_count(value: Any) -> int:
    expected = "a whole number from 1 on is"
    if _require(value, int, expected) < 1:
        raise ValueError(f"{expected} expected")
    return int(value)


def _parse_positive(value: Any) -> float:
    if not 0 < _require(value, int | float, "a number is") < math.inf:
        raise ValueError("a number above 0 is expected")
    return float(value)


def _parse_capabilities(value: Any) -> tuple[Version, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(parse_version(_parse_text(item)) for item in listed)


def _parse_range(value: Any) -> VersionRange:
    return parse_range(_parse_text(value))


def _parse_power_modes(value: Any) -> dict[str, float | None]:
    modes = _require(value, dict, "watts by name are")
    return {
        name: None if watts == UNCAPPED else _parse_positive(watts) for name, watts in modes.items()
    }


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "description": _parse_text,
    "runtime": _parse_runtime,
    "precisions": _parse_precisions,
    "unsupported": _parse_unsupported,
    "batch": _parse_batch,
    "workspace_mib": _parse_count,
    "compute_capability": _parse_capabilities,
    "jetpack": _parse_range,
    "tensorrt": _parse_range,
    "memory_bandwidth_gbs": _parse_positive,
    "power_modes": _parse_power_modes,
    "dla": _parse_dla,
}
"""A profile's keys, and what reads the value of each; its error says what was expected."""

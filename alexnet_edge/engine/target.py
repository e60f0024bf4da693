"""What the machine is that an engine is built on, to be held against a profile."""

from __future__ import annotations

import dataclasses

from alexnet_edge import machine
from alexnet_edge.engine.versions import Version, parse_version, to_version

_JETPACKS: dict[Version, Version] = {
    (32, 6, 1): (4, 6),
    (32, 7, 1): (4, 6, 1),
    (32, 7, 2): (4, 6, 2),
    (32, 7, 3): (4, 6, 3),
    (32, 7, 4): (4, 6, 4),
    (32, 7, 5): (4, 6, 5),
    (32, 7, 6): (4, 6, 6),
    (35, 1): (5, 0, 2),
    (35, 2, 1): (5, 1),
    (35, 3, 1): (5, 1, 1),
    (35, 4, 1): (5, 1, 2),
    (35, 5): (5, 1, 3),
    (35, 6): (5, 1, 4),
    (35, 6, 1): (5, 1, 5),
    (35, 6, 4): (5, 1, 6),
    (36, 3): (6,),
    (36, 4): (6, 1),
    (36, 4, 3): (6, 2),
    (36, 4, 4): (6, 2, 1),
    (36, 5): (6, 2, 2),
    (38, 2): (7,),
    (38, 4): (7, 1),
    (39, 2): (7, 2),
}
"""L4T release to the JetPack it belongs to (NVIDIA's JetPack archive; jetson_stats' table)."""


@dataclasses.dataclass(frozen=True)
class TargetFacts:
    """A machine, as far as it can be asked; None stands for what it cannot.

    Attributes:
        compute_capability: of its GPU, as (8, 7).
        jetpack: its JetPack, as (6, 2, 1).
        tensorrt: the version of the library that builds.
    """

    compute_capability: Version | None = None
    jetpack: Version | None = None
    tensorrt: Version | None = None


def read_target_facts(
    *, compute_capability: tuple[int, int] | None = None, tensorrt: str | None = None
) -> TargetFacts:
    """Return what this machine is.

    Args:
        compute_capability: of the GPU that is built on; None where there is none.
        tensorrt: the vendor's `__version__`; None where none is installed.
    """
    return TargetFacts(
        compute_capability=None if compute_capability is None else to_version(compute_capability),
        jetpack=jetpack_of(machine.l4t_release()),
        tensorrt=None if tensorrt is None else parse_version(tensorrt),
    )


def jetpack_of(l4t: tuple[int, ...] | None) -> Version | None:
    """Return the JetPack of an L4T release.

    A revision that is not known belongs to the latest known before it, as far as one can tell; of
    a release line that is not known, nothing is.
    """
    if l4t is None:
        return None
    release = to_version(l4t)
    known = [entry for entry in _JETPACKS if entry[0] == release[0] and entry <= release]
    return _JETPACKS[max(known)] if known else None

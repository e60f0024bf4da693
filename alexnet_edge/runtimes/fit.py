"""Does a TensorRT engine fit this machine? Facts against facts, with no GPU needed to ask.

TensorRT's engines belong to one version and one compute capability, and the loader's own message
comes late and says neither what it found nor what to do.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.errors import StaleArtifactError
from alexnet_edge.manifest import Manifest

HEADER_BYTES = 28
"""As much of an engine's file as `require_fit` reads."""

_RTX_MAGIC = b"vtrt"
_LATER = {8: (8, 9, 10), 9: (9, 10), 10: (10, 11)}
"""Major version of a version-compatible engine to those that load it."""


@dataclasses.dataclass(frozen=True)
class Here:
    """What there is to run on.

    Attributes:
        runtime_version: of the vendor's library.
        compute_capability: of the GPU, as `8.7`.
        architecture: of the CPU; plans hold code for it.
    """

    runtime_version: str
    compute_capability: str
    architecture: str = platform.machine()


def require_fit(path: Path, manifest: Manifest, header: bytes, here: Here) -> None:
    """Refuse an engine of another version, GPU or machine.

    Args:
        path: the engine.
        manifest: as it was built; what it does not record is not compared.
        header: the first bytes of the engine's file.
        here: what it shall run on.

    Raises:
        StaleArtifactError: naming each difference, with the command that builds it here.
    """
    differences = {}
    built_with = _built_with(manifest, header)
    if not _loads(built_with, here.runtime_version, manifest):
        differences["runtime_version"] = (built_with, here.runtime_version)
    for key in ("compute_capability", "architecture"):
        recorded = manifest.device.get(key)
        allowed = recorded if isinstance(recorded, list) else [recorded]
        if recorded is not None and getattr(here, key) not in allowed:
            differences[key] = (", ".join(map(str, allowed)), getattr(here, key))
    if differences:
        raise StaleArtifactError(
            f"{path}: was built for another version or machine",
            differences,
            hint=f"build it again for this one: {rebuild_command(manifest)}",
        )


def rebuild_command(manifest: Manifest) -> str:
    """Return the command that builds an engine like this one."""
    profile = manifest.options.get("profile")
    target = f"--profile {profile}" if profile else f"--runtime {manifest.runtime}"
    return f"alexnet-edge build MODEL.onnx --{manifest.precision} {target}"


def _built_with(manifest: Manifest, header: bytes) -> str:
    """The version in an RTX engine's header; else what the manifest says."""
    if header.startswith(_RTX_MAGIC) and len(header) >= HEADER_BYTES:
        return ".".join(str(byte) for byte in header[24:28])
    return manifest.runtime_version


def _loads(built: str, here: str, manifest: Manifest) -> bool:
    if manifest.runtime == "tensorrt-rtx":
        return _numbers(built, 4) == _numbers(here, 4)
    built_numbers, here_numbers = _numbers(built, 3), _numbers(here, 3)
    if _is_version_compatible(manifest.options):
        later = _LATER.get(built_numbers[0], (built_numbers[0],))
        return built_numbers <= here_numbers and here_numbers[0] in later
    return built_numbers == here_numbers


def _is_version_compatible(options: Mapping[str, Any]) -> bool:
    return bool(options.get("version_compatible"))


def _numbers(version: str, count: int) -> tuple[int, ...]:
    """The first numbers of a version, padded with zeros: 10.13 is later than 10.3."""
    found = [int(number) for number in re.findall(r"\d+", version)[:count]]
    return tuple(found + [0] * (count - len(found)))

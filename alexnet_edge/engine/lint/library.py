"""What the oldest library of a profile reads: a graph must suit every one of the range."""

from __future__ import annotations

from alexnet_edge.engine.profile import Profile
from alexnet_edge.engine.versions import Version, format_version

_LARGEST_OPSETS: tuple[tuple[Version, int], ...] = (
    ((8,), 13), ((8, 5), 17), ((9,), 19), ((10,), 21), ((10, 15), 24),
)  # fmt: skip
"""From that release on, as onnx-tensorrt's docs/operators.md says (8.0, 8.2, 8.5, 8.6, 9.2, 10.15),
and its changelog of 10.0, whose INT4 is of opset 21; releases between are not known to read less
than the one before."""


def largest_opset(profile: Profile) -> int | None:
    """Return the latest operator set that the oldest library reads; None where none is known.

    TensorRT-RTX states none; 1.7 parses and builds every opset from 13 to 26.
    """
    if profile.runtime == "tensorrt-rtx" or profile.tensorrt is None:
        return None
    known = [largest for version, largest in _LARGEST_OPSETS if version <= profile.tensorrt.low]
    return known[-1] if known else None


def is_from(profile: Profile, version: Version) -> bool:
    """Return whether every library of the profile is of that version of TensorRT or later."""
    if profile.runtime == "tensorrt-rtx":
        return True  # its versions count anew; all are later than TensorRT 10
    return profile.tensorrt is not None and profile.tensorrt.low >= version


def oldest(profile: Profile) -> str:
    """Return the oldest library's name and version, for messages."""
    name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[profile.runtime]
    return name if profile.tensorrt is None else f"{name} {format_version(profile.tensorrt.low)}"

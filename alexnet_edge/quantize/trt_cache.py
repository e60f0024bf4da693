"""TensorRT's calibration cache: the textual ranges of implicit INT8, up to TensorRT 10.

    TRT-8502-EntropyCalibration2
    input: 3ca94045
    features.0.out: 3d2f1c3a

The first line names the version that wrote it and the calibrator; the builder ignores a cache
whose line differs from its own. Each further line is a tensor's ONNX name and its scale, which is
amax / 127, as the eight hexadecimal digits of a float32. Such a file says nothing of the model, the
images or the preprocessing that it came from: here it is written from a table that does.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from alexnet_edge.artifacts import write_bytes
from alexnet_edge.errors import TableError

ALGORITHMS = ("EntropyCalibration2", "MinMaxCalibration")
"""Calibrators whose caches are known; DLA takes the first only."""

_HEADER = re.compile(r"TRT-([789][0-9]{3}|10[0-9]{4})-(\w+)")
_ENTRY = re.compile(r"(.+): ([0-9a-fA-F]{8})")
_LARGEST_SCALE = 2.0**64
_LARGEST_FILE = 16 << 20
_HINT = "write one with: alexnet-edge calibrate MODEL.onnx --images DIR --cache FILE"


@dataclasses.dataclass(frozen=True)
class CalibrationCache:
    """A cache.

    Attributes:
        version: of TensorRT, as (major, minor, patch).
        algorithm: one of `ALGORITHMS`.
        amax: tensor name to the largest magnitude that is represented.
    """

    version: tuple[int, int, int]
    algorithm: str
    amax: Mapping[str, float]

    def to_text(self) -> str:
        """Return the file's text.

        Raises:
            TableError: a name or a range cannot be written.
        """
        lines = [f"TRT-{encode_version(self.version)}-{self.algorithm}"]
        for name, amax in self.amax.items():
            if not _is_name(name):
                raise TableError(f"tensor {name!r} cannot be named in a cache", hint=_HINT)
            scale = amax / 127
            if not 0 <= scale <= _LARGEST_SCALE:
                raise TableError(f"tensor '{name}': its range is {amax}", hint=_HINT)
            lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        write_bytes(path, self.to_text().encode())


def encode_version(version: tuple[int, int, int]) -> int:
    """Return the number of a cache's first line: 8.5.2 is 8502, 10.3.0 is 100300.

    Raises:
        TableError: there is no such TensorRT with a cache.
    """
    major, minor, patch = version
    if not (7 <= major <= 10 and 0 <= minor < 100 and 0 <= patch < 100):
        raise TableError(
            f"TensorRT {major}.{minor}.{patch} has no calibration cache",
            hint="give a version from 7 to 10, as 10.3.0; TensorRT 11 takes Q/DQ only",
        )
    if major >= 10:
        return major * 10000 + minor * 100 + patch
    if minor > 9:
        raise TableError(f"there is no TensorRT {major}.{minor}.{patch}", hint="give it as 8.5.2")
    return major * 1000 + minor * 100 + patch


def decode_version(number: int) -> tuple[int, int, int]:
    """Return (major, minor, patch) of the number of a cache's first line."""
    if number >= 100000:
        return number // 10000, number // 100 % 100, number % 100
    return number // 1000, number // 100 % 10, number % 100


def parse_version(text: str) -> tuple[int, int, int]:
    """Return (major, minor, patch) of `10.3.0`, `10.3` or `8`.

    Raises:
        TableError: it is no version.
    """
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.(\d{1,2}))?(?:\.\d+)?", text)
    if match is None:
        raise TableError(f"'{text}' is no TensorRT version", hint="give it as 10.3.0")
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def load_cache(path: Path) -> CalibrationCache:
    """Read a cache.

    Raises:
        TableError: it is missing or malformed; the line is named.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise TableError(f"{path}: is too large for a cache", hint=_HINT)
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: is not a calibration cache ({error})", hint=_HINT) from error
    return read_cache(text, source=str(path))


def read_cache(text: str, *, source: str) -> CalibrationCache:
    """Read a cache's text.

    Raises:
        TableError: a line is malformed, a scale is not finite, negative or huge, or a tensor comes
            twice; ``source`` and the line are named.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    header = _HEADER.fullmatch(lines[0])
    if header is None or header[2] not in ALGORITHMS:
        raise TableError(
            f"{source}:1: '{lines[0][:80]}' is not the first line of a calibration cache",
            hint=f"as TRT-100300-{ALGORITHMS[0]}, of TensorRT 7 to 10; "
            f"calibrators are {', '.join(ALGORITHMS)}",
        )
    amax: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        match = _ENTRY.fullmatch(line)
        if match is None or not _is_name(match[1]):
            raise _malformed(source, number, f"'{line[:80]}' is not 'TENSOR: 8 hex digits'")
        name, digits = match.groups()
        scale = struct.unpack(">f", bytes.fromhex(digits))[0]
        if math.isnan(scale) or not 0 <= scale <= _LARGEST_SCALE:
            raise _malformed(source, number, f"the scale of '{name}' is {scale}")
        if name in amax:
            raise _malformed(source, number, f"'{name}' comes twice")
        amax[name] = scale * 127
    if not amax:
        raise _malformed(source, len(lines), "there is no tensor")
    return CalibrationCache(decode_version(int(header[1])), header[2], amax)


def _is_name(name: str) -> bool:
    """Say whether a line can hold the name: nothing would end the line, or be trimmed."""
    return name == name.strip() and len(name.splitlines()) == 1


def _malformed(source: str, number: int, problem: str) -> TableError:
    return TableError(f"{source}:{number}: {problem}", hint=_HINT)

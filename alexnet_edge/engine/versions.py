"""Versions and their ranges, compared as numbers: 10.3 is later than 8.5."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

Version = tuple[int, ...]
"""Without trailing zeros, so that 8.5 and 8.5.0 are equal."""

_NUMBERS = r"\d+(?:\.\d+)*"
_RANGE = re.compile(rf">=\s*({_NUMBERS})\s*(?:,\s*<\s*({_NUMBERS}))?")


@dataclasses.dataclass(frozen=True)
class VersionRange:
    """Versions from ``low`` up to ``high``, which is not among them.

    Attributes:
        low: the oldest.
        high: the first that is too new; None where none is.
    """

    low: Version
    high: Version | None = None

    def __contains__(self, version: Version) -> bool:
        return self.low <= version and (self.high is None or version < self.high)

    def __str__(self) -> str:
        high = "" if self.high is None else f",<{format_version(self.high)}"
        return f">={format_version(self.low)}{high}"


def parse_version(text: str) -> Version:
    """Return the numbers that a version begins with: `10.13.0.35.post1` is (10, 13, 0, 35).

    Raises:
        ValueError: it begins with none.
    """
    match = re.match(_NUMBERS, text.strip())
    if match is None:
        raise ValueError(f"'{text}' is no version")
    return to_version(int(part) for part in match[0].split("."))


def to_version(parts: Iterable[int]) -> Version:
    """Return numbers as a version that compares with others."""
    numbers = list(parts)
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def format_version(version: Version) -> str:
    """Return (8, 5, 2) as `8.5.2`."""
    return ".".join(map(str, version))


def parse_range(text: str) -> VersionRange:
    """Return `>=8.5.2,<11` as a range; the upper end may be left out.

    Raises:
        ValueError: it is written in another way, or is empty.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a range like >=8.5.2,<11 is expected")
    low, high = parse_version(match[1]), match[2] and parse_version(match[2])
    if high and high <= low:
        raise ValueError("no version lies in it")
    return VersionRange(low, high or None)

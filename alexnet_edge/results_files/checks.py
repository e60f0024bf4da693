"""Checks that tables of shapes are made of: what a JSON value must be, and where it is not.

Each takes a value and where it stands, and raises `MalformedError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

LARGEST = 1e30
"""No figure of a result is larger, and none that must be above 0 is smaller than its inverse;
ratios of such figures, and the exponentials of their logarithms, stay finite."""

Shape = Any
"""A check, a one-element list of the elements' shape, or a mapping of keys to shapes; a key that
ends in ? may be missing or null."""

Check = Callable[[Any, str], None]


class MalformedError(Exception):
    """A value that is not what stands there: its message names the field."""


def check(value: Any, shape: Shape, where: str) -> None:
    """Check a value against a shape.

    Raises:
        MalformedError: it is something else.
    """
    if isinstance(shape, dict):
        named(value, where)
        for key, inner in shape.items():
            name = key.rstrip("?")
            at = f"{where}.{name}" if where else name
            if value.get(name) is None:
                require(key.endswith("?"), at, "is missing")
            else:
                check(value[name], inner, at)
    elif isinstance(shape, list):
        require(isinstance(value, list), where, "a list is expected")
        for index, item in enumerate(value):
            check(item, shape[0], f"{where}[{index}]")
    else:
        shape(value, where)


def require(condition: bool, where: str, problem: str) -> None:
    """Raise where a condition does not hold; names from data stay on the message's one line."""
    if not condition:
        raise MalformedError(f"{' '.join(where.split()) or 'the file'}: {problem}")


def number(value: Any, where: str) -> None:
    """Check for a finite number of at most `LARGEST`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(is_number and not math.isnan(_magnitude(value)), where, "a number is expected")
    require(abs(value) <= LARGEST, where, f"a number of at most {LARGEST:g} is expected")


def _magnitude(value: float) -> float:
    return abs(value) if isinstance(value, float) else 0.0


def positive(value: Any, where: str) -> None:
    """Check for a number above 0."""
    number(value, where)
    require(value >= 1 / LARGEST, where, "a number above 0 is expected")


def amount(value: Any, where: str) -> None:
    """Check for a number of 0 or more."""
    number(value, where)
    require(value >= 0, where, "0 or more is expected")


def count(value: Any, where: str) -> None:
    """Check for a whole number of 0 or more."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= 0, where, "a whole number of 0 or more is expected")
    require(value < 2**53, where, "a whole number below 2^53 is expected")


def some(value: Any, where: str) -> None:
    """Check for a whole number above 0."""
    count(value, where)
    require(value > 0, where, "a whole number above 0 is expected")


def share(value: Any, where: str) -> None:
    """Check for a share."""
    number(value, where)
    require(0 <= value <= 1, where, "a share from 0 to 1 is expected")


def text(value: Any, where: str) -> None:
    """Check for a text."""
    require(isinstance(value, str), where, "a text is expected")


def anything(value: Any, where: str) -> None:
    """Take any value."""


def flag(value: Any, where: str) -> None:
    """Check for true or false."""
    require(isinstance(value, bool), where, "true or false is expected")


def named(value: Any, where: str) -> None:
    """Check for an object."""
    require(isinstance(value, dict), where, "an object is expected")


def interval(value: Any, where: str) -> None:
    """Check for the ends of an interval."""
    require(isinstance(value, list) and len(value) == 2, where, "[low, high] is expected")
    for bound in value:
        number(bound, where)
    require(value[0] <= value[1], where, "the low end is above the high one")


def one_of(*words: str) -> Check:
    """Return a check for one of these words."""

    def check_word(value: Any, where: str) -> None:
        require(value in words, where, f"one of {', '.join(words)} is expected")

    return check_word


def each(shape: Shape) -> Check:
    """Return a check of every value of an object whose keys are names."""

    def check_each(value: Any, where: str) -> None:
        named(value, where)
        for name, item in value.items():
            check(item, shape, f"{where}.{name}")

    return check_each


def as_long(*names: str, more: int = 0, also: tuple[str, ...] = ()) -> Check:
    """Return a check that the lists of amounts are equally long, the first by ``more`` longer.

    Args:
        names: keys of lists that are all there, or all missing.
        more: by how much the first is longer.
        also: keys of lists of amounts that may be of any length.
    """

    def check_lists(value: Any, where: str) -> None:
        named(value, where)
        check(value, {f"{name}?": [amount] for name in (*names, *also)}, where)
        lengths = [len(value.get(name) or []) for name in names]
        if any(lengths):
            lengths[0] -= more
            require(len(set(lengths)) == 1, where, f"{', '.join(names)} do not go together")

    return check_lists

"""Names from files, made fit for a terminal."""

from __future__ import annotations

import unicodedata

_ESCAPED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of control characters, halves of surrogate pairs and line separators."""

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that make a terminal show text in another order than it is written."""


def printable(text: object) -> str:
    r"""Return text on one line, with what steers a terminal escaped as in Python: `\x1b`.

    A file may be named so that it clears the screen, or looks like another line of the output.
    """
    return "".join(_escape(character) for character in str(text))


def _escape(character: str) -> str:
    if character in _DIRECTIONS or unicodedata.category(character) in _ESCAPED:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character

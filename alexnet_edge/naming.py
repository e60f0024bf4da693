"""Short names for files, of which several may be called the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the shortest end of each path that none of the others has.

    Args:
        paths: as any system writes them; one that is repeated counts once.

    Returns:
        A name for each path: the file's, or as much of its folders as tells it apart.
    """
    parts = {path: PurePosixPath(path.replace("\\", "/")).parts or (path,) for path in paths}
    ends: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for whole in set(parts.values()):
        for length in range(1, len(whole) + 1):
            ends.setdefault(whole[-length:], set()).add(whole)
    return {path: _shortest(whole, ends) for path, whole in parts.items()}


def _shortest(whole: tuple[str, ...], ends: dict[tuple[str, ...], set[tuple[str, ...]]]) -> str:
    for length in range(1, len(whole) + 1):
        if len(ends[whole[-length:]]) == 1:
            return "/".join(whole[-length:]).replace("//", "/")
    return "/".join(whole).replace("//", "/")

"""Images that a run left out because they could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_edge.report.page import Block, Cell, Text, name

MOST_NAMED = 5


def tell_skipped(what: str, images: Sequence[tuple[str, str]]) -> list[Block]:
    """Return a paragraph with their number and the first few; nothing where there are none.

    Args:
        what: what was not done with them; the paragraph begins with it.
        images: name and reason of each; the reason may be empty.
    """
    if not images:
        return []
    noun = "image" if len(images) == 1 else "images"
    parts: list[str | Cell] = [f"{what}: {len(images):,} {noun} that could not be read: "]
    for at, (image, reason) in enumerate(images[:MOST_NAMED]):
        parts += [", " if at else "", name(image)]
        if reason:
            parts += [" (", name(reason), ")"]
    more = len(images) - MOST_NAMED
    parts.append(f", and {more:,} more." if more > 0 else ".")
    return [Text(tuple(parts))]

"""What a report says, before it is HTML or Markdown.

Text is plain text throughout: names from data are escaped where they are written out, once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeAlias

GOOD, BAD, DOUBT = "good", "bad", "doubt"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure or a name.

    Attributes:
        text: as it is shown.
        value: as the result has it, for programs; None for mere text.
        source: where it is in the results, as `R1#/engines/0/latency_ms/p50`.
        flag: `good`, `bad`, `doubt` or empty: how it is marked, never by colour alone.
        is_name: whether it is a name from the data: a file, a class, an engine.
        href: an anchor within the page.
    """

    text: str
    value: float | str | None = None
    source: str = ""
    flag: str = ""
    is_name: bool = False
    href: str = ""


NOTHING = Cell("–")
_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace what UTF-8 or HTML cannot hold, and what turns the text around it.

    A name may have half a surrogate pair, or a NUL; an override of the direction of writing would
    show another name than it is, beyond its own end.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _NOT_SHOWN.sub("\ufffd", text)


Sentence = Sequence[str | Cell]


def name(text: object) -> Cell:
    """Return a name from the data."""
    return Cell(str(text), is_name=True)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its head.

    Attributes:
        caption: what it shows.
        columns: their heads.
        rows: as many cells each.
        note: what to know when reading it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    kind: str = "table"

    @property
    def is_text(self) -> tuple[bool, ...]:
        """Which columns hold words rather than figures: these begin at the left."""
        columns = range(len(self.columns))
        return tuple(all(_is_text(row[at]) for row in self.rows) for at in columns)


def _is_text(cell: Cell) -> bool:
    if cell.is_name or cell is NOTHING:
        return True
    return cell.value is None and not cell.text[:1].isdigit() and cell.text[:1] not in "+−∞"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        svg: inline, of our own drawing: the one thing that is not escaped.
        label: what it shows, for those who do not see it.
        caption: below it.
    """

    svg: str
    label: str
    caption: str
    kind: str = "figure"


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the data.

    Attributes:
        source: a data URI; None where the image could not be had.
        name: the image's.
        facts: what is said of it.
    """

    source: str | None
    name: str
    facts: tuple[Cell | str, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    caption: str
    pictures: tuple[Picture, ...]
    note: str = ""
    kind: str = "gallery"


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    sentence: tuple[str | Cell, ...]
    kind: str = "text"


Block: TypeAlias = "Table | Figure | Gallery | Text"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its id.
        title: its heading.
        blocks: in order; neighbouring figures stand side by side.
    """

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One of the figures that matter most."""

    label: str
    figure: Cell
    detail: str


@dataclasses.dataclass(frozen=True)
class Caution:
    """Why figures must not be relied on.

    Attributes:
        about: the file, or a row of it.
        reasons: as the run itself gives them.
    """

    about: Cell
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        answers: what was found, a sentence each.
        tiles: the figures that matter most.
        cautions: why figures must not be relied on.
        sections: the rest.
        missing: what the results do not hold, and what would add it.
        repeated: names of files whose bytes had been given already; these count once.
    """

    title: str
    answers: tuple[tuple[str | Cell, ...], ...]
    tiles: tuple[Tile, ...]
    cautions: tuple[Caution, ...]
    sections: tuple[Section, ...]
    missing: tuple[str, ...]
    repeated: tuple[str, ...] = ()

"""The page as Markdown, for a pull request: the answer, the tables, no plots."""

from __future__ import annotations

import re

from alexnet_edge.report.page import Cell, Gallery, Page, Table, Text, printable

MOST_ROWS = 20
_JOINERS = "\u200c\u200d"
"""Between letters of Persian words, and between the parts of an emoji."""
_SIGNS = {"good": "✅ ", "bad": "❌ ", "doubt": "⚠️ "}


def render_markdown(page: Page) -> str:
    """Return GitHub's Markdown.

    Names from data become code spans: no HTML, link, mention or table is made of them.
    """
    lines = [f"# {_text(page.title)}", ""]
    for caution in page.cautions:
        reasons = "; ".join(_text(reason) for reason in caution.reasons[:5])
        more = f"; and {len(caution.reasons) - 5} more" if len(caution.reasons) > 5 else ""
        lines += [f"> ❌ **Not a valid measurement**: {_cell(caution.about)}: {reasons}{more}", ""]
    for answer in page.answers:
        lines += [
            f"**{_sentence(answer)}**" if answer is page.answers[0] else _sentence(answer),
            "",
        ]
    for section in page.sections:
        written = [line for block in section.blocks for line in _block(block)]
        if written:
            lines += [f"## {_text(section.title)}", "", *written]
    if page.missing:
        lines += ["## Not in these results", ""]
        lines += [*(f"- {_text(item)}" for item in page.missing), ""]
    text = "\n".join(lines).rstrip() + "\n"
    return printable(text)


def _block(block: object) -> list[str]:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Text):
        return [_sentence(block.sentence), ""]
    if isinstance(block, Gallery):
        return _gallery(block)
    return []


def _table(table: Table) -> list[str]:
    shown = table.rows[:MOST_ROWS]
    lines = [f"**{_text(table.caption)}**", ""]
    lines.append(_row([_text(column) for column in table.columns]))
    lines.append(_row(["---" if is_text else "---:" for is_text in table.is_text]))
    lines += [_row([_cell(cell, in_table=True) for cell in row]) for row in shown]
    if len(shown) < len(table.rows):
        lines += ["", f"The first {len(shown)} of {len(table.rows)} rows."]
    if table.note:
        lines += ["", _text(table.note)]
    return [*lines, ""]


def _gallery(gallery: Gallery) -> list[str]:
    lines = [f"**{_text(gallery.caption)}**", ""]
    lines += [
        f"- {_code(picture.name)}: {_sentence(picture.facts)}"
        for picture in gallery.pictures[:MOST_ROWS]
    ]
    if len(gallery.pictures) > MOST_ROWS:
        lines.append(f"- and {len(gallery.pictures) - MOST_ROWS} more")
    return [*lines, ""]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sentence(parts: tuple[str | Cell, ...]) -> str:
    return "".join(_text(part) if isinstance(part, str) else _cell(part) for part in parts)


def _cell(cell: Cell, *, in_table: bool = False) -> str:
    text = _code(cell.text, in_table=in_table) if cell.is_name else _text(cell.text)
    return f"{_SIGNS.get(cell.flag, '')}{text}"


def _text(text: str) -> str:
    """Escape what Markdown or HTML would act upon; an @ would notify a person of that name."""
    text = re.sub(r"\s+", " ", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]{}#|~!])", r"\\\1", text)
    return text.replace("@", "@\u2060")


def _code(text: str, *, in_table: bool = False) -> str:
    """Return a code span that ends where the name does; a table's cells end at a bare |."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() or c in _JOINERS else "\ufffd" for c in text) or " "
    if in_table:
        text = text.replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"

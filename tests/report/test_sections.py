"""What single sections say: history, provenance, images that were left out, names."""

from __future__ import annotations

import re

import pytest

from alexnet_edge.report.markdown import render_markdown
from alexnet_edge.report.page import Page, Section, Table, Text, name, printable
from alexnet_edge.report.sections.history import make_history
from alexnet_edge.results_files import HistoryEntry
from tests.results_files import samples


def entry(date, p50, *, valid=True):
    row = {"label": "int8", "engine": "a.onnx", "batch": 1, "valid": valid,
           "figures": {"p50_ms": p50}}  # fmt: skip
    return HistoryEntry(date, "bench.json", f"{p50}", "bench", {"cpu": "x"}, (row,))


def parts(entries):
    blocks = make_history(entries).blocks
    return blocks[0], blocks[-1]


def test_a_history_is_ordered_by_date():
    figure, table = parts([
        entry("2026-03-03T10:00:00+00:00", 30.0),
        entry("2026-03-01T10:00:00Z", 10.0),
        entry("2026-03-03T11:00:00+02:00", 20.0),
    ])  # fmt: skip
    assert [row[3].value for row in table.rows] == [10.0, 20.0, 30.0]
    assert table.caption == "Runs, the oldest first"
    assert "10.0 at first, 30.0 at last" in figure.label
    assert "cross" not in figure.caption


def test_a_history_without_all_dates_stays_as_it_was_added():
    _, table = parts([entry("2026-03-03", 30.0), entry("yesterday", 10.0)])
    assert [row[3].value for row in table.rows] == [30.0, 10.0]
    assert table.caption == "Runs, as they were added: not all have a date"


def test_runs_that_are_not_valid_are_marked_in_the_plot():
    dates = [f"2026-03-0{day}" for day in (1, 2, 3)]
    plain, _ = parts([entry(date, 10.0) for date in dates])
    marked, _ = parts([entry(date, 10.0, valid=date != dates[1]) for date in dates])
    assert "A cross marks what is not valid." in marked.caption
    assert "not valid: run 2" in marked.label
    assert len(marked.svg) > len(plain.svg)


def test_provenance_says_what_parity_compared(page):
    first = samples.parity(engine_sha256="1" * 64, reference_sha256="2" * 64, model_sha256="3" * 64)
    html, markdown = page(first, samples.parity(engine_path="other.onnx", images_name="<test>"))
    table = markdown[markdown.index("**What parity compared**") :]
    assert "| R1: alexnet.int8.onnx | R2: other.onnx |" in table
    for row in (
        "| Engine | `out/alexnet.int8.onnx` | `other.onnx` |",
        f"| Engine sha256 | `{'1' * 64}` | – |",
        f"| Made from the model with sha256 | `{'3' * 64}` | – |",
        f"| Reference sha256 | `{'2' * 64}` | – |",
        "| Images | `val` | `<test>` |",
        f"| Images sha256 | `{'b' * 64}` | `{'b' * 64}` |",
    ):
        assert row in table
    assert "&lt;test&gt;" in html


def test_images_that_could_not_be_read_are_counted_and_named(page):
    skipped = [{"name": f"3/<{at}>.png", "reason": "cut short"} for at in range(7)]
    row = samples.full_row() | {"input_skipped": ["bad.png"]}
    html, markdown = page(samples.bench(row), samples.parity(skipped=skipped))
    assert "Not compared: 7 images that could not be read: " in html
    assert "<bdi>3/&lt;0&gt;.png</bdi> (<bdi>cut short</bdi>)" in html
    assert "`3/<4>.png` (`cut short`), and 2 more." in markdown
    assert "3/<5>.png" not in markdown
    for text in (html, markdown):
        assert "Not fed to the engines: 1 image that could not be read: " in text
    assert "that could not be read" not in page(samples.bench(samples.full_row()))[1]


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_what_turns_the_direction_of_writing_is_replaced(page, code):
    value = samples.parity(images_name=f"/no/such/{chr(code)}folder")
    value["per_class"][3]["class"] = f"cat{chr(code)}gnp.exe"
    for text in page(value):
        assert chr(code) not in text
        assert "cat\ufffdgnp.exe" in text
    assert printable(f"a{chr(code)}b") == "a\ufffdb"


def shown(cell, *, in_table):
    block = Table("x", ("y",), ((cell,),)) if in_table else Text((cell,))
    made = render_markdown(Page("t", (("answer",),), (), (), (Section("s", "S", (block,)),), ()))
    return re.search(r"`.*`", made)[0]


@pytest.mark.parametrize(
    "text",
    ["\U0001f468\u200d\U0001f33e.png", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.png"],
)
def test_joiners_within_names_are_kept(page, text):
    assert shown(name(text), in_table=True) == f"`{text}`"
    html, markdown = page(samples.bench(samples.full_row(text)))
    assert text in html
    assert f"`{text}`" in markdown


def test_a_bar_in_a_name_is_escaped_in_tables_only():
    assert shown(name("a|b"), in_table=True) == r"`a\|b`"
    assert shown(name("a|b"), in_table=False) == "`a|b`"

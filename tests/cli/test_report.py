"""`alexnet-edge report` as a user runs it, on results that the commands themselves wrote."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys

import pytest

from tests.cli.conftest import COMMAND
from tests.results_files import samples


@pytest.fixture
def results(tmp_path):
    samples.write(tmp_path / "bench.json", samples.bench(
        samples.full_row("alexnet.fp32.onnx", "fp32", p50=30), samples.full_row(p50=10)
    ))  # fmt: skip
    samples.write(tmp_path / "parity.json", samples.parity())
    return tmp_path


def test_the_answer_is_printed_and_both_pages_are_written(results, run):
    done = run("report", "bench.json", "parity.json", "--markdown", "report.md", "--title", "Run 7")
    assert done.code == 0, done.err
    assert "INT8 (alexnet.int8.onnx) is 3.0" in done.out
    assert "accuracy verdict inconclusive: drop +0.50 pp (−0.50 to +1.75) on 400 images" in done.out
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "<title>Run 7</title>" in page
    assert "INT8 (`alexnet.int8.onnx`) is 3.0" in (results / "report.md").read_text(
        encoding="utf-8"
    )


def test_a_run_that_is_not_valid_is_said_on_standard_error(results, run):
    row = samples.full_row() | {"valid": False, "invalid_because": ["throttled"]}
    samples.write(results / "bench.json", samples.bench(row, valid=False))
    done = run("report", "bench.json")
    assert done.code == 0
    assert "not a valid measurement: bench.json" in done.err


def test_a_result_that_is_given_twice_counts_once_and_that_is_said(results, run):
    done = run("report", "bench.json", "./bench.json", "parity.json")
    assert done.code == 0
    assert done.err.strip() == "given more than once, counted once: bench.json"
    assert "R3" not in (results / "report.html").read_text(encoding="utf-8")


def test_a_name_cannot_steer_the_terminal(results, run):
    row = samples.full_row("\x1b[2Jalexnet\u202e.onnx")
    samples.write(results / "bench.json", samples.bench(row))
    done = run("report", "bench.json")
    assert done.code == 0
    assert "\ufffd[2Jalexnet\ufffd.onnx takes" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["odd.json"], "odd.json: is no result"),
        (["missing.json"], "missing.json: no such file"),
        (["damaged.json"], "damaged.json: is no bench result: engines[0].slices.p50_ms: a list"),
        (["bench.json", "--history", "nan.jsonl"], "nan.jsonl: line 1 is no run (rows[0].figures"),
        (["bench.json", "--history", "missing.jsonl"], "missing.jsonl: no such file"),
        (["parity.json", "--images", "nowhere"], "nowhere: no such folder"),
        (["bench.json", "--out", "bench.json"], "would be written over a result"),
        (["bench.json", "--out", "x.html", "--markdown", "x.html"], "over the other page"),
        (["bench.json", "--out", "no/such/page.html"], "no/such: no such folder"),
    ],
)
def test_errors_are_one_line_with_a_hint_and_leave_nothing(results, run, arguments, message):
    samples.write(results / "odd.json", {"weather": "fine"})
    samples.write(results / "damaged.json", samples.bench(
        samples.minimal_row() | {"slices": {"p50_ms": 5}}
    ))  # fmt: skip
    samples.write(results / "nan.jsonl", {
        "date": "2026-03-01", "source": "x", "sha256": "x", "kind": "bench", "machine": {},
        "rows": [{"label": "x", "figures": {"p50_ms": float("nan")}}],
    })  # fmt: skip
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    done = run("report", *arguments)
    assert done.code == 1
    first, second = done.err.strip().splitlines()
    assert message in first
    assert second.startswith("hint: ")
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before


def test_on_a_full_disk_the_old_pages_stay(results, run):
    assert run("report", "bench.json", "--markdown", "report.md").code == 0
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    arguments = ["report", "bench.json", "parity.json", "--markdown", "report.md"]
    for room_bytes in (0, 1000):
        done = run(*arguments, room_bytes=room_bytes)
        assert done.code == 1
        assert done.err.splitlines() == [
            "error: report.html: File too large",
            "hint: check the path, its rights and the disk",
        ]
        assert not done.out, "an answer is for who has the page"
        assert {path.name: path.read_bytes() for path in results.iterdir()} == before


def test_one_page_is_not_written_without_the_other(results, run, make_disk):
    """On a disk that the page fits on, to its last block, and its Markdown not."""
    arguments = ["report", "bench.json", "parity.json", "--out"]
    assert run(*arguments, "report.html").code == 0
    pages = -(-(results / "report.html").stat().st_size // mmap.PAGESIZE)
    disk = make_disk(pages * mmap.PAGESIZE)
    done = run(*arguments, disk / "report.html", "--markdown", disk / "report.md")
    assert done.code == 1
    assert done.err.startswith(f"error: {disk / 'report.md'}: No space left on device\n")
    assert list(disk.iterdir()) == []
    assert run(*arguments, disk / "report.html").code == 0


def test_the_same_results_give_the_same_bytes(results):
    pages = []
    for seed in ("1", "2"):
        subprocess.run(
            [*COMMAND, "report", "bench.json", "parity.json", "--out", f"{seed}.html",
             "--markdown", f"{seed}.md"],
            cwd=results, env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
        pages.append([(results / f"{seed}.{kind}").read_bytes() for kind in ("html", "md")])
    assert pages[0] == pages[1]


@pytest.mark.parametrize("command", ["report", "compare"])
def test_help_loads_no_plotting(command):
    probe = (
        "import sys\nfrom alexnet_edge.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "assert not {'matplotlib', 'jinja2', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


def test_a_page_of_what_the_commands_write(folder, run):
    """The chain: engines, bench, parity and compare, all real, into one page."""
    assert run("build", "--fp32").code == 0
    assert run("build", "--int8", "--method", "minmax").code == 0
    engines = ("alexnet.fp32.onnx", "alexnet.int8.onnx")
    for name in ("before", "after"):
        done = run("bench", *engines, "--duration", 0.3, "--min-samples", 20, "--no-floor",
                   "--json", f"{name}.json")  # fmt: skip
        assert done.code == 0, done.err
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--max-images", 60, "--json", "parity.json")  # fmt: skip
    assert done.code in {0, 3}, done.err
    done = run("compare", "before.json", "after.json", "--force", "--json", "compare.json")
    assert done.code == 0, done.err
    done = run("report", "after.json", "parity.json", "compare.json", "alexnet.table.json",
               "alexnet.int8.onnx.json", "--markdown", "report.md")  # fmt: skip
    assert done.code == 0, done.err
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    parity = parity.get("parity", [parity])[0]
    joined = [line for line in done.out.splitlines() if "than FP32" in line]
    assert len(joined) == 1
    assert f"accuracy verdict {parity['verdict']}" in joined[0]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for anchor in ("speed", "accuracy", "changes", "provenance"):
        assert f'<h2 id="{anchor}">' in page
    assert len(page) < 1_000_000

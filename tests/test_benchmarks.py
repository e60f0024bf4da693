"""What the README says was measured is what the results beside the benchmarks say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ["signs", "calibration", "peers", "below_int8", "camera"]


def load_script(name, monkeypatch):
    """Import a benchmark as Python does when it is run."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module(name)


def section(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]


def results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_readmes_table_is_rendered_from_the_results(name, monkeypatch):
    script = load_script(name, monkeypatch)
    assert section(name) == script.render(results(name)).rstrip()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_verdicts_beside_the_results_are_those_of_the_figures(name, monkeypatch):
    script = load_script(name, monkeypatch)
    found = results(name)
    expected = [
        {"target": target, "seen": seen, "reached": reached}
        for target, seen, reached in script.judge(found)
    ]
    assert found["targets"] == expected


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/results").iterdir()), ids=lambda p: p.name
)
def test_results_say_machine_versions_and_date_and_no_path(path):
    text = path.read_text(encoding="utf-8")
    environment = json.loads(text)["environment"]
    assert {"date", "cpu", "cores", "python", "packages"} <= environment.keys()
    assert "/root" not in text
    assert "/work" not in text
    assert "/home" not in text


def test_a_section_is_replaced_and_the_rest_stays(tmp_path, monkeypatch):
    measuring = load_script("measuring", monkeypatch)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    measuring.replace_section(page, "x", "new\n")
    assert page.read_text() == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="no section y"):
        measuring.replace_section(page, "y", "new")


def test_a_process_is_measured_from_outside(tmp_path, monkeypatch):
    measuring = load_script("measuring", monkeypatch)
    program = "b = bytearray(200 << 20); import time; time.sleep(0.2)"
    found = measuring.run_process([sys.executable, "-c", program], folder=tmp_path)
    assert found.seconds >= 0.2
    assert found.peak_rss_bytes >= 200 << 20
    with pytest.raises(SystemExit, match="no such luck"):
        measuring.run_process(
            [sys.executable, "-c", "raise SystemExit('no such luck')"], folder=tmp_path
        )

"""Pages to look at, and a real browser to look with."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from alexnet_edge.compare import compare_files, describe_run
from alexnet_edge.report import ReportSettings, make_page, render_html, render_markdown
from alexnet_edge.results import to_json
from alexnet_edge.results_files import append_history
from tests.results_files import samples

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = (
    "<script>document.title='taken'</script>",
    '<img src=x onerror="document.title=`taken`">',
    "\"><svg onload=document.title='taken'>",
    "a|b`c`*d*_e_[f](http://example.invalid) @everyone $x^2$",
    "\u202eback\u0000wards\ud800",
)


@pytest.fixture
def page(tmp_path):
    """Make a page of JSON values; return its HTML and Markdown."""

    def make(*values, **settings):
        paths = [
            samples.write(tmp_path / f"result{at}.json", value) for at, value in enumerate(values)
        ]
        made = make_page(paths, ReportSettings(**settings))
        return render_html(made), render_markdown(made)

    return make


@dataclasses.dataclass(frozen=True)
class Everything:
    """One result of every kind and a history, and the page of them all."""

    values: dict[str, Any]
    paths: list[Path]
    history: Path
    html: str
    markdown: str


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """Make files, and a page of them."""
    tmp_path = tmp_path_factory.mktemp("everything")
    rows = [
        samples.full_row(f"alexnet.{precision}.onnx", precision, batch, p50 * batch, seed=batch)
        for batch in (1, 2, 8)
        for precision, p50 in (("fp32", 30.0), ("int8", 10.0))
    ]
    values = {
        "bench.json": samples.bench(*rows, sensors={"temperature_c": {"cpu": 61.5}}),
        "parity.json": samples.parity(),
        "camera.json": samples.camera(),
        "pareto.json": samples.pareto(),
    }
    for name, value in values.items():
        samples.write(tmp_path / name, value)
    slower = samples.bench(samples.full_row(p50=12.0, seed=9))
    samples.write(tmp_path / "slower.json", slower)
    compared = to_json(compare_files(tmp_path / "bench.json", tmp_path / "slower.json"))
    compared["first"] = compared["second"] = {}
    values["compare.json"] = compared
    samples.write(tmp_path / "compare.json", compared)
    history = tmp_path / "history.jsonl"
    for name in ("bench.json", "slower.json", "parity.json"):
        append_history(history, describe_run(tmp_path / name))
    paths = [tmp_path / name for name in values]
    made = make_page(paths, ReportSettings(history=history))
    return Everything(values, paths, history, render_html(made), render_markdown(made))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A page of results all of whose names are attacks: its HTML and Markdown."""
    rows = [
        samples.full_row(name, precision)
        for name, precision in zip(HOSTILE, ("fp32", "int8", "int8", "fp16", "int8"), strict=True)
    ]
    for row, name in zip(rows, HOSTILE, strict=True):
        row["layers"][0]["name"] = row["layers"][0]["op"] = name
        row["settings"] = {name: name}
        row["valid"], row["invalid_because"] = False, [name]
    value = samples.parity(engine_path=HOSTILE[1], verdict="fail", layers_note=HOSTILE[2])
    classes = [
        dict(value["per_class"][3], **{"class": name, "drop_pp": 1.0 + at})
        for at, name in enumerate(HOSTILE)
    ]
    flipped = [
        {"image": name, "label": name, "reference": name, "engine": name, "kind": name}
        for name in HOSTILE
    ]
    value |= {"per_class": classes, "flipped": flipped, "worst": flipped,
              "layers": [{"name": name, "sqnr_db": 40.0} for name in HOSTILE]}  # fmt: skip
    environment = samples.MACHINE | {"cpu": HOSTILE[0], "gpus": [{"name": HOSTILE[1]}]}
    values = [
        samples.bench(*rows, environment=environment, scenario={"name": HOSTILE[2]}),
        value,
        samples.camera(source=HOSTILE[0], stages_ms={HOSTILE[1]: {"p50": 1.0}}),
    ]
    folder = tmp_path_factory.mktemp("hostile")
    paths = [samples.write(folder / f"{at}.json", value) for at, value in enumerate(values)]
    made = make_page(paths, ReportSettings(title=HOSTILE[0]))
    return render_html(made), render_markdown(made)


@pytest.fixture(scope="session")
def browser():
    """Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"] if root else []
        )
        yield opened
        opened.close()

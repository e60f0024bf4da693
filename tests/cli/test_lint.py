"""`alexnet-edge lint` as a user runs it: lines, JSON, exit codes, no vendor's library."""

from __future__ import annotations

import json
import subprocess
import sys

import onnx
import pytest

from alexnet_edge.quantize.scales import CPU
from tests.engine.graphs import quantize

LINT_AND_LIST_MODULES = """
import sys
from alexnet_edge.cli import main
try:
    main(["lint", sys.argv[1], "--target", "orin-nano"])
except SystemExit as done:
    print(done.code, *sys.modules, file=sys.stderr)
"""


@pytest.fixture
def wrong(folder):
    """`folder` with `alexnet.cpu.onnx`, which is quantized for the CPU."""
    model = quantize(folder / "alexnet.onnx", folder / "alexnet.table.json", CPU)
    onnx.save(model, folder / "alexnet.cpu.onnx")
    return folder


def test_right_graph_is_one_line_and_0(run, folder):
    done = run("lint", "--target", "orin-nano")
    assert (done.code, done.err) == (0, "")
    assert done.out == "alexnet.onnx: nothing to mend for orin-nano\n"


def test_wrong_graph_is_a_line_for_each_finding_and_3(run, wrong):
    done = run("lint", "alexnet.cpu.onnx", "--target", "orin-nano", "--json", "found.json")
    assert done.code == 3, done.err
    report = json.loads((wrong / "found.json").read_text())
    assert report.keys() == {"model", "target", "findings", "errors", "warnings"}
    assert (report["model"], report["target"]) == ("alexnet.cpu.onnx", "orin-nano")
    *lines, last = done.out.splitlines()
    assert len(lines) == len(report["findings"]) == report["errors"] + report["warnings"]
    for line, item in zip(lines, report["findings"], strict=True):
        assert line.startswith(f"{item['node']}: {item['rule']} ({item['severity']}): ")
        assert line.endswith(item["mend"])
    assert last.startswith(f"alexnet.cpu.onnx: {report['errors']} errors, ")
    assert last.endswith(" for orin-nano")


def test_warnings_alone_are_0(run, folder):
    model = quantize(
        folder / "alexnet.onnx",
        folder / "alexnet.table.json",
        CPU,
        spared=frozenset(["features.0"]),
    )
    onnx.save(model, folder / "alexnet.onnx")
    done = run("lint", "--target", "cpu")
    assert done.code == 0, done.err
    first, last = done.out.splitlines()
    assert first.startswith("features.0: float-layer (warning): ")
    assert last == "alexnet.onnx: 0 errors, 1 warning for cpu"


def test_json_to_standard_output_is_the_only_thing_on_it(run, wrong):
    done = run("lint", "alexnet.cpu.onnx", "--target", "rtx-desktop", "--json", "-")
    assert done.code == 3
    assert json.loads(done.out)["errors"] > 0
    assert "zero-point-value" in done.err


def test_target_may_be_a_file(run, folder):
    (folder / "mine.toml").write_text('runtime = "tensorrt"\ntensorrt = ">=8.2,<8.3"\n')
    done = run("lint", "alexnet.onnx", "--target", "mine.toml")
    assert done.code == 3
    assert "export with --opset 13" in done.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--target", "toaster"], "profile 'toaster' is unknown", "orin-nano"),
        (["nowhere.onnx", "--target", "cpu"], "nowhere.onnx: no such file", "alexnet-edge export"),
    ],
)
def test_errors_are_one_line_with_a_hint(run, folder, arguments, message, hint):
    done = run("lint", *arguments)
    assert done.code == 1
    first, second = done.err.splitlines()
    assert message in first
    assert hint in second


def test_target_must_be_named(run, folder):
    assert run("lint", "alexnet.onnx").code == 2


def test_help_shows_an_example(run):
    done = run("lint", "--help")
    assert done.code == 0
    assert "Example: alexnet-edge lint" in " ".join(done.out.split())


def test_no_runtime_is_loaded(folder):
    command = [sys.executable, "-c", LINT_AND_LIST_MODULES, str(folder / "alexnet.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    code, *modules = done.stderr.split()
    assert code == "0"
    assert not {"tensorrt", "tensorrt_rtx", "onnxruntime", "torch"} & set(modules)

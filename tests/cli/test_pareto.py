"""`pareto`, and builds that choose from it."""

from __future__ import annotations

import json
import re
import shutil

import pytest


@pytest.fixture
def folder(tiny_onnx, tiny_table, tmp_path):
    shutil.copy(tiny_onnx, tmp_path / "alexnet.onnx")
    shutil.copy(tiny_table, tmp_path / "alexnet.table.json")
    return tmp_path


def test_every_way_to_build_is_a_row(run, folder):
    done = run(
        "pareto", "--images", "digits:val", "--max-images", "20", "--duration", "0.05",
        "--json", "pareto.json", cwd=folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((folder / "pareto.json").read_text())
    assert found["kind"] == "pareto"
    assert {"fp32", "int8", "int8 + int4-fc/128"} <= {row["name"] for row in found["points"]}
    assert all(row["name"] in done.out for row in found["points"])
    assert any(row["on_front"] for row in found["points"])


def test_the_smallest_within_the_bound_is_built(run, folder):
    done = run(
        "build", "--smallest", "--max-drop", "30", "--images", "digits:val", "--out", "small.onnx",
        cwd=folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    # Of 2 bits where this onnxruntime has the kernel, else of 4.
    assert re.search(r"chosen by size: int8 \+ int(2-fc/2 of 3|4-fc/128)", done.out)
    manifest = json.loads((folder / "small.onnx.json").read_text())
    assert {layer["precision"] for layer in manifest["layers"]} <= {"int8", "int4", "int2"}
    assert manifest["options"]["judgement"]["chosen_by"] == "size"


@pytest.mark.parametrize(
    "options",
    [["--smallest"], ["--fastest", "--max-drop", "1"],
     ["--smallest", "--int8", "--max-drop", "1", "--images", "digits:val"],
     ["--smallest", "--fastest", "--max-drop", "1", "--images", "digits:val"]],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(run, folder, options):
    done = run("build", *options, cwd=folder)
    assert done.code == 2
    assert not (folder / "alexnet.int8.onnx").exists()
    assert "Traceback" not in done.err


def test_images_are_needed(run, folder):
    done = run("pareto", cwd=folder)
    assert done.code == 1
    assert "--images" in done.err

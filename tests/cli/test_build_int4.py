"""`alexnet-edge build --int4-fc`: its options, where its images come from, what it prints."""

from __future__ import annotations

import json

import pytest

from tests.needs import needs_int2, needs_rtx

FCS = [f"classifier.{n}" for n in (1, 4, 6)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_int8_with_4_bit_layers_is_chosen_by_evidence(run, folder):
    done = run("build", "--int8", "--int4-fc", "--method", "minmax", "--json", "a.json")
    assert done.code == 0, done.err
    assert "4-bit rounding, 16 held-out images" in done.out
    assert "4-bit: blocks of 128, rounding gptq to 48 images" in done.out
    assert "alexnet.int8-int4fc.onnx: " in done.out
    assert "int8 + 4-bit linear layers" in done.out
    manifest = json.loads((folder / "a.json").read_text())
    found = {layer["name"]: layer["precision"] for layer in manifest["layers"]}
    assert [name for name, kind in found.items() if kind == "int4"] == FCS
    assert manifest["precision"] == "int8"
    assert manifest["options"]["int4_rounding"] == "gptq"
    # Engines of both kinds are judged alike.
    judged = run(
        "parity", "alexnet.int8-int4fc.onnx", "--reference", "alexnet.onnx",
        "--images", "digits:val", "--margin", "5", "--json", "p.json",
    )  # fmt: skip
    assert judged.code in {0, 3}, judged.err
    assert json.loads((folder / "p.json").read_text())["agreement"] > 0.95


def test_4_bit_alone_takes_the_table_s_images_or_a_folder_s(run, folder, digits_folders):
    by_table = run("build", "--int4-fc", "--int4-rounding", "gptq")
    assert by_table.code == 0, by_table.err
    assert "rounding gptq to 48 images" in by_table.out
    assert "fp32 + 4-bit linear layers" in by_table.out
    by_folder = run("build", "--int4-fc", "--images", digits_folders / "val", "--out", "b.onnx")
    assert by_folder.code == 0, by_folder.err
    assert "to 75 images" in by_folder.out
    assert "25 held-out images" in by_folder.out
    assert (folder / "alexnet.int4fc.onnx").exists()


def test_without_images_the_rounding_is_named(run, folder):
    (folder / "alexnet.table.json").unlink()
    before = names(folder)
    refused = run("build", "--int4-fc")
    assert refused.code == 1
    assert "needs images" in refused.err
    assert "--int4-rounding nearest" in refused.err
    assert names(folder) == before
    done = run("build", "--int4-fc", "--int4-rounding", "nearest", "--int4-block", "32")
    assert done.code == 0, done.err
    assert "4-bit: blocks of 32, rounding nearest\n" in done.out


@needs_rtx
def test_tensorrt_rtx_with_fp16(run, folder):
    done = run(
        "build", "--fp16", "--int4-fc", "--int4-rounding", "nearest", "--runtime", "tensorrt-rtx",
        "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = {layer["name"]: layer["precision"] for layer in json.loads(done.out)["layers"]}
    assert {name: found[name] for name in FCS} == dict.fromkeys(FCS, "int4")
    assert (folder / "alexnet.fp16-int4fc.rtx.engine").exists()


def test_a_dry_run_says_which_layers_would_be_4_bit(run, folder):
    before = names(folder)
    done = run("build", "--int8", "--int4-fc", "--dry-run", "--json", "-")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    found = {layer["name"]: layer["precision"] for layer in plan["layers"]}
    assert [name for name, kind in found.items() if kind == "int4"] == FCS
    assert "4-bit blocks of 128" in plan["quantization"]
    assert names(folder) == before


@needs_int2
def test_a_layer_that_is_named_gets_2_bits(run, folder):
    done = run(
        "build", "--int8", "--int4-fc", "--int2", "classifier.1", "--int4-rounding", "mse",
        "--method", "minmax", "--json", "a.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "rounding mse; 2 bits: classifier.1" in done.out
    manifest = json.loads((folder / "a.json").read_text())
    found = {layer["name"]: layer["precision"] for layer in manifest["layers"]}
    assert [found[name] for name in FCS] == ["int2", "int4", "int4"]
    assert (folder / "alexnet.int8-int2fc.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--int4-block", "32"], 2, "are for --int4-fc"),
        (["--int4-rounding", "mse"], 2, "are for --int4-fc"),
        (["--int8", "--int2", "classifier.1"], 2, "are for --int4-fc"),
        (["--int4-fc", "--int4-block", "48"], 1, "--int4-block is 48"),
        (["--int4-fc", "--int4-rounding", "best"], 1, "'best' is unknown"),
        (["--int8", "--int4-fc", "--max-drop", "1", "--images", "x"], 2, "--max-drop chooses"),
        (["--int8", "--int4-fc", "--profile", "orin-nx-dla"], 1, "a DLA computes in INT8 and FP16"),
        (["--int4-fc", "--spare", "features.0"], 1, "no layer 'features.0' to spare"),
    ],
)
def test_refused_options_are_named_with_the_reason(run, folder, arguments, code, message):
    before = names(folder)
    done = run("build", *arguments)
    assert done.code == code, done.err
    assert message in " ".join(done.err.split())
    assert names(folder) == before

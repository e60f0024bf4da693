"""`alexnet-edge build`: its options, what it prints, and what a dry run leaves alone."""

from __future__ import annotations

import json
import mmap

import pytest

from alexnet_edge.runtimes.loader import availability
from alexnet_edge.runtimes.trt import cuda_device_count

RTX = availability("tensorrt-rtx")
needs_rtx = pytest.mark.skipif(not RTX.builds, reason=f"tensorrt-rtx: {RTX.reason}")

LAYERS = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_rtx
def test_int8_with_fp16_for_the_rest(run, folder):
    done = run(
        "build", "--int8", "--fp16-rest", "--runtime", "tensorrt-rtx", "--method", "minmax",
        "--spare", "features.3", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    found = {layer["name"]: layer["precision"] for layer in manifest["layers"]}
    assert found.pop("features.3") == "fp16"
    assert set(found.values()) == {"int8"}
    assert manifest["options"]["fp16_rest"] is True
    assert (folder / "alexnet.int8-fp16.rtx.engine").exists()


@needs_rtx
def test_pruning_is_never_silent(run, folder, digits_folders):
    arguments = ["build", "--fp16", "--sparse", "--runtime", "tensorrt-rtx"]
    unmeasured = run(*arguments, "--out", "a.engine")
    assert unmeasured.code == 0, unmeasured.err
    assert "relative weight error" in unmeasured.out
    assert "3 input channels are no multiple of 4" in unmeasured.out
    assert "what pruning costs was not measured: give --images DIR" in unmeasured.out
    done = run(*arguments, "--images", digits_folders / "val", "--json", "a.json")
    assert done.code == 0, done.err
    assert "pruned, simulated on 100 images: agrees with FP32 on " in done.out
    options = json.loads((folder / "a.json").read_text())["options"]
    assert [layer["name"] for layer in options["pruned"]] == LAYERS
    assert options["pruning_loss"]["images"] == 100
    assert 0 <= options["pruning_loss"]["agreement"] <= 1
    assert options["pruning_loss"]["logit_sqnr_db"] > 0
    assert options["flags"] == ["SPARSE_WEIGHTS"]


@needs_rtx
def test_pruning_is_measured_with_the_quantization_that_comes_with_it(run, folder, digits_folders):
    done = run(
        "build", "--int8", "--sparse", "--runtime", "tensorrt-rtx", "--method", "minmax",
        "--table", "alexnet.table.json", "--images", digits_folders / "val",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "pruned and quantized, simulated on 100 images" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8", "--sparse"], "--sparse is not for onnxruntime"),
        (["--int8", "--fp16-rest"], "--fp16-rest is not for onnxruntime"),
        (["--fp16", "--fp16-rest", "--runtime", "tensorrt-rtx"], "what INT8 leaves, fp16 is built"),
        (["--runtime", "tensorrt-rtx", "--sparse"], "--sparse is not for FP32"),
        (["--runtime", "tensorrt-rtx", "--timing-cache", "x"], "would only make the build look"),
        (["--runtime", "tensorrt-rtx", "--version-compatible"], "no lean runtime"),
        (["--runtime", "tensorrt", "--dla-core", "0"], "--dla-core 0: no profile is named"),
    ],
)
def test_refused_options_are_named_with_the_reason(run, folder, arguments, message):
    before = names(folder)
    for extra in ([], ["--dry-run"]):
        done = run("build", *arguments, *extra)
        assert done.code == 1
        first, second = done.err.strip().splitlines()
        assert message in first
        assert second.startswith("hint: ")
    assert names(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimization-level", "6"],
        ["--dla-core", "-1"],
        ["--fp16", "--images", "x", "--runtime", "tensorrt-rtx"],
        ["--fp16", "--sparse", "--table", "x", "--runtime", "tensorrt-rtx"],
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    assert run("build", *arguments).code == 2


@needs_rtx
def test_dry_run_tells_the_plan_and_builds_nothing(run, folder):
    before = names(folder)
    done = run(
        "build", "--int8", "--fp16-rest", "--spare", "classifier.6", "--profile", "rtx-desktop",
        "--batch", "1,4,32", "--dry-run", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert names(folder) == before
    plan = json.loads(done.out)
    asked = {layer["name"]: layer["precision"] for layer in plan["layers"]}
    assert list(asked) == LAYERS
    assert asked.pop("classifier.6") == "fp16"
    assert set(asked.values()) == {"int8"}
    assert plan["quantization"] == "Q/DQ, dialect tensorrt, 8-bit weights"
    assert plan["ranges"] == "table alexnet.table.json, method auto"
    assert (plan["typing"], plan["flags"]) == ("strong", [])
    assert plan["batch"] == "1 to 32, tuned for 4"
    assert plan["profile"] == "rtx-desktop"
    assert plan["options"] == {"fp16_rest": True}
    engine = "alexnet.int8-fp16.rtx.engine"
    assert plan["files"] == [engine, f"{engine}.json"]
    for line in ("ranges: table alexnet.table.json", "would write: ", "nothing was built"):
        assert line in done.err


def test_dry_run_measures_nothing(run, folder, digits_folders):
    (folder / "alexnet.table.json").unlink()
    before = names(folder)
    done = run("build", "--int8", "--images", digits_folders / "val", "--dry-run")
    assert done.code == 0, done.err
    assert "into alexnet.int8.onnx.table.json" in done.out
    assert names(folder) == before
    without = run("build", "--int8", "--dry-run")
    assert without.code == 1
    assert "there is no calibration table" in without.err


def test_dry_run_refuses_what_the_build_would(run, folder):
    table = json.loads((folder / "alexnet.table.json").read_text())
    table["model_sha256"] = "0" * 64
    (folder / "alexnet.table.json").write_text(json.dumps(table))
    stale = run("build", "--int8", "--dry-run")
    assert stale.code == 1
    assert "model_sha256" in stale.err
    assert run("build", "--fp16", "--dry-run").code == 1
    spared = run("build", "--int8", "--spare", "conv1", "--images", ".", "--dry-run")
    assert "has no layer 'conv1' to spare" in spared.err
    itself = run("build", "--out", "alexnet.onnx", "--dry-run")
    assert "is the model itself" in itself.err


def test_dry_run_for_a_library_that_is_not_here_says_so(run, folder):
    if cuda_device_count():
        pytest.skip("this machine has a GPU")
    done = run("build", "--fp16", "--runtime", "tensorrt", "--dry-run", "--json", "-")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["not_here"]
    assert (plan["typing"], plan["flags"]) == (None, None)
    assert "not on this machine: " in done.err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("room_bytes", [0, 1000, 100_000])
def test_on_a_full_disk_the_old_engine_and_its_manifest_stay(run, folder, room_bytes):
    first = run("build", "--fp32", "--out", "e.onnx")
    assert first.code == 0, first.err
    before = contents(folder)
    done = run("build", "--int8", "--method", "minmax", "--out", "e.onnx", room_bytes=room_bytes)
    assert done.code == 1
    assert done.err.splitlines() == [
        "error: e.onnx, e.onnx.json: File too large",
        "hint: check the path, its rights and the disk",
    ]
    assert contents(folder) == before


def test_there_is_no_engine_without_its_manifest(run, folder, make_disk):
    """On a disk that the engine fits on, to its last page, and its manifest not."""
    arguments = ["build", "--int8", "--method", "minmax", "--out"]
    built = run(*arguments, "e.onnx")
    assert built.code == 0, built.err
    pages = -(-(folder / "e.onnx").stat().st_size // mmap.PAGESIZE)
    short = make_disk((pages - 1) * mmap.PAGESIZE)
    done = run(*arguments, short / "e.onnx")
    assert done.code == 1
    assert f"{short / 'e.onnx'}, " in done.err
    assert "No space left on device" in done.err
    assert names(short) == []
    exact = make_disk(pages * mmap.PAGESIZE)
    done = run(*arguments, exact / "e.onnx")
    assert done.code == 1
    assert done.err.startswith(f"error: {exact / 'e.onnx.json'}: No space left on device\n")
    assert names(exact) == []
    enough = make_disk((pages + 1) * mmap.PAGESIZE)
    done = run(*arguments, enough / "e.onnx")
    assert done.code == 0, done.err
    assert names(enough) == ["e.onnx", "e.onnx.json"]


def test_an_engine_is_not_begun_where_its_manifest_cannot_be(run, folder):
    (folder / "e.onnx.json").mkdir()
    done = run("build", "--out", "e.onnx")
    assert done.code == 1
    assert "e.onnx.json: is a folder" in done.err
    assert not (folder / "e.onnx").exists()

"""The chain as a user runs it: checkpoint, graph, table, engines, figures, verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.recipes import list_named
from tests.foreign import write_foreign

FOREIGN_OPTIONS = (
    "--resize", "256", "--crop", "227", "--color", "BGR", "--mean", "0.41,0.46,0.48",
    "--std", "0.0039,0.0039,0.0039",
)  # fmt: skip


def keys(value: dict, *names: str) -> bool:
    return set(names) <= set(value)


def test_plain_commands_work_in_one_folder(run, folder, digits_folders):
    (folder / "alexnet.onnx").unlink()
    (folder / "alexnet.table.json").unlink()
    exported = run("export")
    assert exported.code == 0, exported.err
    assert "Warning" not in exported.err
    calibrated = run("calibrate", "--images", digits_folders / "train", "--max-images", "64")
    assert calibrated.code == 0, calibrated.err
    assert run("build").code == 0
    built = run("build", "--int8", "--json", "-")
    assert built.code == 0, built.err
    manifest = json.loads(built.out)
    assert keys(
        manifest, "engine_sha256", "model_sha256", "table_sha256", "preprocess", "classes",
        "runtime", "runtime_version", "precision", "layers", "device",
    )  # fmt: skip
    assert [layer["precision"] for layer in manifest["layers"]] == ["int8"] * 8
    assert manifest["model_sha256"] == sha256_file(folder / "alexnet.onnx")
    assert manifest["table_sha256"] == sha256_file(folder / "alexnet.table.json")
    assert manifest["engine_sha256"] == sha256_file(folder / "alexnet.int8.onnx")
    benched = run("bench", "--duration", "0.1", "--warmup", "0", "--json", "-")
    assert benched.code == 0, benched.err
    result = json.loads(benched.out)
    assert {row["precision"] for row in result["engines"]} == {"fp32", "int8"}
    assert result["environment"]
    for row in result["engines"]:
        assert keys(
            row, "engine", "runtime", "batch", "latency_ms", "throughput_ips", "samples",
            "size_bytes",
        )  # fmt: skip
        assert keys(row["latency_ms"], "mean", "p50", "p90", "p99", "ci95_p50")
        low, high = row["latency_ms"]["ci95_p50"]
        assert low <= row["latency_ms"]["p50"] <= high
        assert row["size_bytes"] == (folder / row["engine"]).stat().st_size


def test_table_has_the_documented_keys(run, folder, digits_folders):
    done = run("calibrate", "--images", digits_folders / "train", "--recipe", "quick")
    assert done.code == 0, done.err
    table = json.loads((folder / "alexnet.table.json").read_text())
    assert keys(
        table, "version", "model_sha256", "images", "preprocess_sha256", "tensors", "tool"
    )  # fmt: skip
    assert table["images"]["count"] == 32
    assert len(table["images"]["sha256"]) == 64
    assert table["model_sha256"] == sha256_file(folder / "alexnet.onnx")
    for methods in table["tensors"].values():
        assert methods["minmax"]["amax"] >= methods["percentile-99.9"]["amax"] > 0


def test_parity_passes_for_a_good_engine(run, folder, digits_folders):
    assert run("build", "--int8").code == 0
    done = run(
        "parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images", "digits:val",
        "--margin", "5", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert keys(
        result, "images", "labelled", "reference", "engine", "agreement", "sqnr_db", "max_abs",
        "drop_pp", "drop_ci95_pp", "flips", "mcnemar_p", "margin_pp", "verdict",
    )  # fmt: skip
    assert result["verdict"] == "pass"
    assert result["images"] == result["labelled"] == 359
    assert result["agreement"] > 0.97


def test_parity_accepts_the_checkpoint_as_reference(run, folder, digits_folders):
    done = run(
        "parity", "alexnet.onnx", "--reference", "alexnet.pt", "--images", digits_folders / "val",
        "--margin", "10", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["agreement"] == 1


def test_parity_of_a_broken_engine_fails_with_3(run, folder):
    model = onnx.load(folder / "alexnet.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "classifier.6.weight")
    broken = -onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(broken, weight.name))
    onnx.save(model, folder / "broken.onnx")
    done = run(
        "parity", "broken.onnx", "--reference", "alexnet.onnx", "--images", "digits:val",
        "--json", "result.json",
    )  # fmt: skip
    assert done.code == 3
    result = json.loads((folder / "result.json").read_text())
    assert result["verdict"] == "fail"
    assert result["drop_pp"] > 0


def test_parity_of_too_few_images_is_inconclusive(run, folder):
    done = run(
        "parity", "alexnet.onnx", "--reference", "alexnet.pt", "--images", "digits:val",
        "--max-images", "10",
    )  # fmt: skip
    assert done.code == 3
    assert "inconclusive" in done.out
    assert "more images" in done.out


def test_int8_without_table_or_images_says_what_to_run(run, folder):
    (folder / "alexnet.table.json").unlink()
    done = run("build", "--int8")
    assert done.code == 1
    assert "no calibration table" in done.err
    assert "alexnet-edge calibrate alexnet.onnx --images DIR" in done.err
    assert not (folder / "alexnet.int8.onnx").exists()


def test_int8_from_images_keeps_the_table_it_measured(run, folder, digits_folders):
    (folder / "alexnet.table.json").unlink()
    done = run("build", "--int8", "--images", digits_folders / "train", "--recipe", "quick")
    assert done.code == 0, done.err
    manifest = json.loads((folder / "alexnet.int8.onnx.json").read_text())
    kept = folder / "alexnet.int8.onnx.table.json"
    assert manifest["table_sha256"] == sha256_file(kept)


def test_a_table_of_other_weights_is_refused_by_field(run, folder):
    model = onnx.load(folder / "alexnet.onnx")
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(model.graph.initializer[0]) * 1.5,
            model.graph.initializer[0].name,
        )
    )
    onnx.save(model, folder / "alexnet.onnx")
    done = run("build", "--int8")
    assert done.code == 1
    assert "model_sha256" in done.err
    assert "weights_sha256" in done.err
    assert "structure_sha256" not in done.err
    assert "alexnet-edge calibrate" in done.err
    assert not (folder / "alexnet.int8.onnx").exists()


def test_a_table_of_other_preprocessing_is_refused_by_field(run, folder):
    assert run("export", "--resize", "256").code == 0
    done = run("build", "--int8", "--table", "alexnet.table.json")
    assert done.code == 1
    assert "preprocess_sha256" in done.err
    assert "preprocess.resize" in done.err


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"version": 1}'])
def test_a_malformed_table_is_named(run, folder, content):
    (folder / "alexnet.table.json").write_text(content)
    done = run("build", "--int8")
    assert done.code == 1
    assert "alexnet.table.json" in done.err


def test_a_stale_engine_is_refused(run, folder):
    assert run("build").code == 0
    with (folder / "alexnet.fp32.onnx").open("ab") as file:
        file.write(b"x")
    for command in (["bench"], ["inspect", "alexnet.fp32.onnx"]):
        done = run(*command)
        assert done.code == 1
        assert "engine_sha256" in done.err
        assert "alexnet-edge build" in done.err


def test_a_checkpoint_of_another_network_names_the_first_mismatch(run, tmp_path):
    import torch

    weights = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    torch.save(weights, tmp_path / "vgg.pt")
    done = run("export", "vgg.pt")
    assert done.code == 1
    assert "features.0.weight is (64, 3, 3, 3), expected (" in done.err


def test_bad_images_are_named_counted_and_beyond_a_share_an_error(run, folder, digits_folders):
    photos = folder / "photos"
    shutil.copytree(digits_folders / "val", photos)
    victim = sorted((photos / "3").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:40])
    (photos / "4" / "notes.txt").write_text("not a picture")
    refused = run("calibrate", "--images", "photos", "--recipe", "full")
    assert refused.code == 1
    assert victim.name in refused.err or "notes.txt" in refused.err
    assert "more than 1.0%" in refused.err
    taken = run("calibrate", "--images", "photos", "--recipe", "full", "--max-bad", "0.1")
    assert taken.code == 0, taken.err
    assert "2 skipped" in taken.out
    assert victim.name in taken.out
    assert "notes.txt: not an image" in taken.out
    table = json.loads((folder / "alexnet.table.json").read_text())
    assert len(table["images"]["skipped"]) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda folder: folder.mkdir(), "holds no images"),
        (lambda folder: folder.write_text("x"), "is a file"),
    ],
)
def test_a_folder_without_images_is_an_error(run, folder, build, message):
    build(folder / "photos")
    done = run("calibrate", "--images", "photos")
    assert done.code == 1
    assert message in done.err


def test_uint8_input_goes_through_the_chain(run, folder, digits_folders):
    assert run("export", "--input", "uint8", "--out", "frames.onnx").code == 0
    images = digits_folders / "val"
    assert run("build", "frames.onnx", "--int8", "--images", images, "--recipe", "quick").code == 0
    done = run(
        "parity", "frames.int8.onnx", "--reference", "alexnet.onnx", "--images", images,
        "--margin", "10", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["agreement"] > 0.95


def test_a_foreign_model_goes_through_the_chain(run, tmp_path, digits_folders):
    write_foreign(tmp_path / "zoo.onnx")
    images = digits_folders / "val"
    refused = run("calibrate", "zoo.onnx", "--images", images)
    assert refused.code == 1
    assert "does not say how images are prepared" in refused.err
    assert "--resize" in refused.err
    part = run("calibrate", "zoo.onnx", "--images", images, "--resize", "256")
    assert part.code == 1
    assert "--crop, --mean, --std must be given too" in part.err
    taken = run("calibrate", "zoo.onnx", "--images", images, "--max-images", "40", *FOREIGN_OPTIONS)
    assert taken.code == 0, taken.err
    (tmp_path / "classes.txt").write_text("\n".join("0123456789"))
    built = run("build", "zoo.onnx", "--int8", "--classes", "classes.txt", "--json", "-")
    assert built.code == 0, built.err
    manifest = json.loads(built.out)
    assert manifest["preprocess"]["color"] == "BGR"
    assert manifest["classes"] == list("0123456789")
    assert [layer["precision"] for layer in manifest["layers"]] == ["int8"] * 8
    assert run("bench", "zoo.int8.onnx", "--duration", "0.1").code == 0
    judged = run(
        "parity", "zoo.int8.onnx", "--reference", "zoo.onnx", "--images", images, "--margin", "30",
        "--json", "-",
    )  # fmt: skip
    result = json.loads(judged.out)
    assert result["images"] == result["labelled"] == 100
    assert result["logit_sqnr_db"] > 15


def test_class_folders_without_class_names_are_refused(run, tmp_path, digits_folders):
    write_foreign(tmp_path / "zoo.onnx")
    assert run("build", "zoo.onnx", *FOREIGN_OPTIONS).code == 0
    done = run(
        "parity", "zoo.fp32.onnx", "--reference", "zoo.onnx", "--images", digits_folders / "val"
    )
    assert done.code == 1
    assert "--classes FILE" in done.err


def test_unlabelled_photos_are_judged_by_agreement(run, folder):
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        pixels = rng.integers(0, 256, (300, 240, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.jpg")
    done = run(
        "parity", "alexnet.onnx", "--reference", "alexnet.pt", "--images", "photos",
        "--margin", "12", "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["labelled"] == 0
    assert result["reference"] is None
    assert result["drop_pp"] is None
    assert result["basis"] == "agreement"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_without_a_gpu(run, folder, precision):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    done = run("build", f"--{precision}", "--runtime", "tensorrt-rtx", "--json", "-")
    assert done.code == 0, done.err
    layers = json.loads(done.out)["layers"]
    assert [layer["precision"] for layer in layers] == [precision] * 8
    assert (folder / f"alexnet.{precision}.rtx.engine").read_bytes()[:4] == b"vtrt"


def test_bench_leaves_out_what_does_not_run_here_and_says_so(run, folder):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from alexnet_edge.runtimes.trt import cuda_device_count

    if cuda_device_count():
        pytest.skip("this machine has a GPU: the engine does run here")
    assert run("build", "--runtime", "tensorrt-rtx").code == 0
    alone = run("bench")
    assert alone.code == 1
    assert "no engine that runs here" in alone.err
    named = run("bench", "alexnet.fp32.rtx.engine")
    assert named.code == 1
    assert "needs an NVIDIA GPU" in named.err
    assert run("build").code == 0
    both = run("bench", "--duration", "0.1")
    assert both.code == 0
    assert "left out alexnet.fp32.rtx.engine" in both.out


def test_tensorrt_and_cuda_are_refused_where_they_are_missing(run, folder):
    from alexnet_edge.runtimes.trt import cuda_device_count

    if cuda_device_count():
        pytest.skip("this machine has a GPU")
    built = run("build", "--runtime", "tensorrt")
    assert built.code == 1
    assert "tensorrt" in built.err
    cuda = run("bench", "alexnet.onnx", "--device", "cuda")
    assert cuda.code == 1
    assert "device cuda" in cuda.err


def test_inspect_says_what_a_file_came_from(run, folder):
    assert run("build", "--int8").code == 0
    found = {}
    for name in ("alexnet.pt", "alexnet.onnx", "alexnet.table.json", "alexnet.int8.onnx"):
        done = run("inspect", name, "--json", "-")
        assert done.code == 0, done.err
        found[name] = json.loads(done.out)
    assert [entry["kind"] for entry in found.values()] == ["checkpoint", "onnx", "table", "engine"]
    graph = found["alexnet.onnx"]
    assert graph["made_from"]["checkpoint_sha256"] == found["alexnet.pt"]["sha256"]
    engine = found["alexnet.int8.onnx"]
    assert engine["made_from"]["model_sha256"] == graph["sha256"]
    assert engine["made_from"]["table_sha256"] == found["alexnet.table.json"]["sha256"]
    assert engine["runs_here"] is True


def test_summary_prints_the_published_network(run):
    done = run("summary", "--json", "-")
    result = json.loads(done.out)
    assert result["parameters"] == 62_378_344
    assert [layer["output"] for layer in result["layers"]][:3] == [
        [96, 55, 55], [96, 55, 55], [96, 27, 27],
    ]  # fmt: skip
    assert "62,378,344 parameters" in done.err


def test_demo_reuses_what_is_still_valid(run, tmp_path):
    first = run("demo", "--width", "0.125", "--json", "first.json")
    assert first.code == 0, first.err
    assert "still valid" not in first.out
    for precision in ("FP32", "INT8"):
        assert precision in first.out
    (tmp_path / "demo/alexnet.int8.onnx").write_bytes(b"cut short")
    mended = run("demo", "--width", "0.125")
    assert mended.code == 0, mended.err
    assert mended.out.count("is still valid") == 4
    result = json.loads((tmp_path / "first.json").read_text())
    assert result["parity"]["images"] == 359
    assert len(result["bench"]["engines"]) == 2


@pytest.mark.parametrize("kind", ["recipe", "profile"])
def test_every_shipped_file_is_listed_where_it_is_explained(kind):
    readme = {"recipe": "calibration/README.md", "profile": "engines/README.md"}[kind]
    text = (Path(__file__).parents[2] / readme).read_text()
    assert [name for name in list_named(kind) if f"`{name}`" not in text] == []


def test_a_decompression_bomb_is_refused_by_name(run, folder, digits_folders):
    photos = folder / "photos"
    shutil.copytree(digits_folders / "val", photos)
    Image.new("1", (20_000, 6_000)).save(photos / "0" / "bomb.png")
    done = run("calibrate", "--images", "photos", "--recipe", "full", "--max-bad", "0")
    assert done.code == 1
    assert "bomb.png: 20000×6000 pixels are more than 100 megapixels" in done.err
    assert (folder / "alexnet.table.json").exists(), "the table from before is kept"


def test_training_resumes_and_refuses_other_settings_by_name(run, tmp_path, digits_folders):
    settings = ["--data", digits_folders, "--width", "0.05", "--batch-size", "50", "--epochs", "2"]
    assert "no run to resume" in run("train", *settings, "--resume").err
    first = run("train", *settings, "--json", "-")
    assert first.code == 0, first.err
    assert json.loads(first.out)["images"] == 200
    done = run("train", *settings, "--resume", "--lr", "0.02")
    assert done.code == 1
    assert "learning_rate: expected 0.01, found 0.02" in done.err
    again = run("train", *settings, "--resume")
    assert again.code == 0, again.err


def test_one_bad_photo_does_not_stop_a_training(run, tmp_path, digits_folders):
    shutil.copytree(digits_folders, tmp_path / "digits")
    (tmp_path / "digits/train/3/bad.jpg").write_bytes(b"no picture")
    settings = ["--data", "digits/", "--width", "0.05", "--epochs", "1"]
    done = run("train", *settings)
    assert done.code == 0, done.err
    assert "bad.jpg: not an image" in done.out
    assert run("train", *settings, "--max-bad", "0").code == 1


def test_the_example_runs(run, folder, digits_folders):
    import subprocess
    import sys

    assert run("build", "--int8").code == 0
    example = Path(__file__).parents[2] / "examples/classify_folder.py"
    command = [sys.executable, example, "alexnet.int8.onnx", digits_folders / "val/7"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert sum(": 7 " in line for line in lines) >= 7

"""Calibration from the command line: lists, rankings, caches, spared layers, sensitivity."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import pytest

from alexnet_edge.quantize.scales import Dialect
from alexnet_edge.quantize.trt_cache import load_cache
from tests.cli.conftest import COMMAND
from tests.foreign import WEIGHTED, write_foreign

LAYERS = (
    "features.0", "features.3", "features.6", "features.8", "features.10",
    "classifier.1", "classifier.4", "classifier.6",
)  # fmt: skip


def manifest_of(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def edit_table(folder, change):
    path = folder / "alexnet.table.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def photos(tmp_path, digits_folders):
    return shutil.copytree(digits_folders / "val", tmp_path / "photos")


def test_an_image_list_reproduces_a_calibration(run, folder, photos):
    written = run("calibrate", "--images", photos, "--max-images", "20", "--out", "a.json",
                  "--save-image-list", "list.txt")  # fmt: skip
    assert written.code == 0, written.err
    assert len((folder / "list.txt").read_text().splitlines()) == 20
    again = run("calibrate", "--images", photos, "--image-list", "list.txt", "--out", "b.json")
    assert again.code == 0, again.err
    first, second = (json.loads((folder / name).read_text()) for name in ("a.json", "b.json"))
    assert first == second
    changed = photos / (folder / "list.txt").read_text().splitlines()[3].partition("  ")[2]
    shutil.copy(next(p for p in changed.parent.iterdir() if p != changed), changed)
    refused = run("calibrate", "--images", photos, "--image-list", "list.txt", "--out", "c.json")
    assert refused.code == 1
    assert changed.name in refused.err
    assert not (folder / "c.json").exists()


def test_build_ranks_the_methods_and_the_manifest_says_what_was_kept(run, folder):
    done = run("build", "--int8", "--json", "engine.json")
    assert done.code == 0, done.err
    options = json.loads((folder / "engine.json").read_text())["options"]
    tried = [trial["candidate"] for trial in options["ranking"]]
    assert {"minmax", "entropy", "mse", "percentile-99.99", "weights mse", "bias correction"} <= {
        *tried
    }
    assert all(candidate in done.out for candidate in tried)
    kept = [trial["candidate"] for trial in options["ranking"] if trial["kept"]]
    assert options["bias_correction"] == ("bias correction" in kept)
    assert options["weight_ranges"] == ("mse" if "weights mse" in kept else "minmax")
    assert options["judged_on"] == 16
    named = run("build", "--int8", "--method", "entropy", "--json", "-")
    assert manifest_of(named)["options"]["method"] == "entropy"


def test_ranking_while_calibrating_serves_where_the_images_are_not(run, folder, photos):
    ranked = run("calibrate", "--images", photos, "--max-images", "24", "--rank")
    assert ranked.code == 0, ranked.err
    shutil.rmtree(photos)
    built = manifest_of(run("build", "--int8", "--json", "-"))
    choices = json.loads((folder / "alexnet.table.json").read_text())["choices"]
    options = built["options"]
    here = Dialect("cpu", options["weight_bits"], options["fc_block"]).key
    assert choices.keys() == {here, "tensorrt"}
    assert built["options"]["methods"] == choices[here]["methods"]


def test_choosing_without_the_images_says_what_to_do(run, folder, photos):
    assert run("calibrate", "--images", photos, "--max-images", "24").code == 0
    moved = photos.rename(folder / "moved")
    refused = run("build", "--int8")
    assert refused.code == 1
    assert "are not where they were" in refused.err
    assert "--rank" in refused.err
    table = folder / "alexnet.table.json"
    found = run("build", "--int8", "--table", table, "--images", moved, "--json", "-")
    assert len(manifest_of(found)["options"]["ranking"]) >= 8


def test_a_table_of_other_versions_is_refused_or_accepted_on_record(run, folder):
    edit_table(folder, lambda value: value["tool"].update(pillow="0.9.9"))
    refused = run("build", "--int8")
    assert refused.code == 1
    assert "tool.pillow" in refused.err
    assert "--any-versions" in refused.err
    accepted = run("build", "--int8", "--any-versions", "--method", "minmax", "--json", "-")
    assert manifest_of(accepted)["options"]["measured_by"]["pillow"] == "0.9.9"


def test_an_edited_image_list_in_a_table_is_refused(run, folder):
    edit_table(folder, lambda value: value["images"].update(count=3))
    refused = run("build", "--int8")
    assert refused.code == 1
    assert "images.count: expected 64, found 3" in refused.err


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_a_cache_names_every_tensor_as_the_parser_sees_it(run, tmp_path, digits_folders, version):
    write_foreign(tmp_path / "alexnet.onnx")
    done = run(
        "calibrate", "--images", digits_folders / "val", "--max-images", "8", "--resize", "256",
        "--crop", "227", "--color", "BGR", "--mean", "0.41,0.46,0.48", "--std",
        "0.0039,0.0039,0.0039", "--cache", "int8.cache", "--cache-version", version,
    )  # fmt: skip
    assert done.code == 0, done.err
    cache = load_cache(tmp_path / "int8.cache")
    assert ".".join(map(str, cache.version)) == version
    # Dropout's results fc6_3 and fc7_3 too, which the network in normal form lacks.
    assert {"data_0", "conv1_1", "conv1_2", "norm1_1", "pool5_2", "fc6_3", "prob_1"} <= set(
        cache.amax
    )
    assert cache.amax["fc6_3"] == cache.amax["fc6_2"]


def test_a_cache_serves_tensorrt_rtx_and_is_refused_for_the_cpu(run, folder, photos):
    pytest.importorskip("tensorrt_rtx")
    assert run("calibrate", "--images", photos, "--max-images", "8", "--cache", "c").code == 0
    built = manifest_of(
        run("build", "--int8", "--cache", "c", "--runtime", "tensorrt-rtx", "--json", "-")
    )
    assert [layer["precision"] for layer in built["layers"]] == ["int8"] * WEIGHTED
    assert built["options"]["method"] == "cache"
    refused = run("build", "--int8", "--cache", "c")
    assert refused.code == 1
    assert "symmetric" in refused.err
    (folder / "c").write_text((folder / "c").read_text() + "input: 7fc00000\n")
    malformed = run("build", "--int8", "--cache", "c", "--runtime", "tensorrt-rtx")
    assert malformed.code == 1
    line = len((folder / "c").read_text().splitlines())
    assert f"c:{line}: " in malformed.err


def test_max_drop_spares_the_layer_that_is_broken_and_says_so(run, folder, photos):
    def break_input(value):
        for by_method in (value["tensors"], value["tensors_without_held_out"]):
            for ranged in by_method["input"].values():
                ranged.update({key: 300 * number for key, number in ranged.items()})

    edit_table(folder, break_input)
    done = run("build", "--int8", "--method", "minmax", "--max-drop", "3", "--images", photos,
               "--json", "m.json")  # fmt: skip
    assert done.code == 0, done.err
    assert "spared: features.0;" in done.out
    manifest = json.loads((folder / "m.json").read_text())
    assert manifest["options"]["spared"] == ["features.0"]
    assert manifest["options"]["judgement"]["simulated"]["drop_pp"] <= 3
    precisions = [layer["precision"] for layer in manifest["layers"]]
    assert precisions == ["fp32", *["int8"] * 7]


def test_nothing_is_spared_where_nothing_need_be(run, folder, photos):
    done = run("build", "--int8", "--max-drop", "50", "--images", photos, "--json", "m.json")
    assert done.code == 0, done.err
    assert json.loads((folder / "m.json").read_text())["options"]["spared"] == []
    refused = run("build", "--int8", "--max-drop", "0.5")
    assert refused.code == 2
    assert "--images" in refused.err


def test_layers_are_spared_by_name(run, folder):
    spare = ("--spare", "features.3", "--spare", "classifier.6")
    built = manifest_of(run("build", "--int8", "--method", "minmax", *spare, "--json", "-"))
    kept = {layer["name"] for layer in built["layers"] if layer["precision"] == "fp32"}
    assert kept == {"features.3", "classifier.6"}
    unknown = run("build", "--int8", "--method", "minmax", "--spare", "features.1")
    assert unknown.code == 1
    assert "it has features.0" in unknown.err


def test_sensitivity_gives_each_layer_and_a_pareto_table(run, folder, photos):
    done = run("sensitivity", "--images", photos, "--duration", "0.05", "--json", "s.json")
    assert done.code == 0, done.err
    result = json.loads((folder / "s.json").read_text())
    assert [row["layer"] for row in result["layers"]] == list(LAYERS)
    for row in result["layers"]:
        assert {"logit_sqnr_db", "kl", "top1", "drop_pp"} <= row["only"].keys()
        assert row["cost"]["latency_ms"]["p50"] > 0
        assert row["layer"] in done.out
    assert any(point["optimal"] for point in result["pareto"])
    assert result["images"] == result["labelled"] == 100
    refused = run("sensitivity")
    assert refused.code == 1
    assert "--images DIR" in refused.err


def test_sensitivity_measures_a_table_where_there_is_none(run, folder, photos):
    (folder / "alexnet.table.json").unlink()
    done = run("sensitivity", "--images", photos, "--duration", "0", "--json", "-",
               "--method", "minmax")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["latency"] == "not measured, as asked"
    assert (folder / "alexnet.table.json").exists()


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_an_interrupted_calibration_leaves_no_table(folder, digits_folders, sent, code):
    many = folder / "many"
    many.mkdir()
    photo = next((digits_folders / "val" / "3").iterdir())
    for index in range(6000):
        (many / f"{index:04d}.png").symlink_to(photo)
    process = subprocess.Popen(
        [*COMMAND, "calibrate", "--images", "many", "--recipe", "full", "--out", "t.json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(3)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "no half-written file was left behind" in err
    assert "Traceback" not in err
    assert not [path for path in folder.iterdir() if "t.json" in path.name or ".t." in path.name]

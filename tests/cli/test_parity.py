"""`parity` as a user runs it: several engines, interruptions, traces."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import onnx
import onnx.numpy_helper
import pytest

from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.quantize.table import load_table
from tests.cli.conftest import COMMAND


@pytest.fixture(scope="module")
def engines(tiny_onnx, tiny_table, tmp_path_factory):
    """A folder with `alexnet.int8.onnx` and `alexnet.fp32.onnx`."""
    out = tmp_path_factory.mktemp("engines")
    table = load_table(tiny_table)
    for precision in ("int8", "fp32"):
        settings = BuildSettings(precision, method="minmax")
        build_engine(tiny_onnx, out / f"alexnet.{precision}.onnx", settings, table=table)
    return out


@pytest.fixture
def built(folder, engines):
    """`folder` with the engines in it."""
    shutil.copytree(engines, folder, dirs_exist_ok=True)
    return folder


def negate_last_layer(source, out):
    model = onnx.load(source)
    weight = next(t for t in model.graph.initializer if t.name == "classifier.6.weight")
    broken = -onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(broken, weight.name))
    onnx.save(model, out)


def test_several_engines_are_judged_in_one_pass(run, built):
    negate_last_layer(built / "alexnet.onnx", built / "broken.onnx")
    done = run(
        "parity", "alexnet.int8.onnx", "alexnet.fp32.onnx", "broken.onnx", "--reference",
        "alexnet.onnx", "--images", "digits:val", "--margin", "5", "--json", "result.json",
    )  # fmt: skip
    assert done.code == 3, "one of them fails"
    result = json.loads((built / "result.json").read_text())
    assert result["kind"] == "parity"
    assert [entry["engine_path"] for entry in result["parity"]] == [
        "alexnet.int8.onnx", "alexnet.fp32.onnx", "broken.onnx",
    ]  # fmt: skip
    assert [entry["verdict"] for entry in result["parity"]] == ["pass", "pass", "fail"]
    assert len({entry["reference"]["top1"] for entry in result["parity"]}) == 1
    assert done.out.count("verdict: ") == 3
    passing = run(
        "parity", "alexnet.int8.onnx", "alexnet.fp32.onnx", "--reference", "alexnet.onnx",
        "--images", "digits:val", "--margin", "20", "--max-images", "60",
    )  # fmt: skip
    assert passing.code == 0, passing.err


def test_changed_answers_are_printed_by_name_and_limited(run, built):
    negate_last_layer(built / "alexnet.onnx", built / "broken.onnx")
    command = ["parity", "broken.onnx", "--reference", "alexnet.onnx", "--images", "digits:val",
               "--json", "result.json"]  # fmt: skip
    done = run(*command, "--flips", "3")
    assert done.code == 3
    assert done.out.count("broken: digits/") == 3
    result = json.loads((built / "result.json").read_text())
    assert len(result["flipped"]) == result["flipped_total"] > 200
    assert f"… and {result['flipped_total'] - 3} changed answers more" in done.out
    silent = run(*command, "--flips", "0", "--max-images", "20")
    assert "broken: " not in silent.out
    assert run(*command, "--flips", "-1").code == 2


def test_trace_and_layers_are_printed_and_in_the_json(run, built):
    done = run(
        "parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images", "digits:val",
        "--margin", "5", "--max-images", "100", "--diverge", "--layers", "--checkpoint",
        "alexnet.pt", "--trace-images", "4", "--json", "result.json",
    )  # fmt: skip
    assert done.code in (0, 3), done.err
    assert "no stage differs by more than its tolerance" in done.out
    assert "classifier.6" in done.out
    result = json.loads((built / "result.json").read_text())
    assert [set(layer) for layer in result["layers"]] == [{"name", "sqnr_db"}] * 8
    assert result["divergence"]["first"] is None
    for stage in result["divergence"]["stages"]:
        assert set(stage) >= {
            "name", "compared_with", "max_abs", "sqnr_db", "tolerance", "within", "reason",
        }  # fmt: skip
    within = [stage["within"] for stage in result["divergence"]["stages"]]
    assert within == [True, True, True, None, True, True, True], "the table was found beside"


def test_trace_names_the_layer_of_a_damaged_engine(run, built):
    engine = built / "alexnet.int8.onnx"
    model = onnx.load(engine)
    weight = next(t for t in model.graph.initializer if t.name == "features.8.weight.int8")
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), weight.name))
    onnx.save(model, engine)
    refused = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
                  "digits:val", "--diverge")  # fmt: skip
    assert refused.code == 1, "the manifest does not vouch for it"
    (built / "alexnet.int8.onnx.json").unlink()
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--max-images", "60", "--diverge")  # fmt: skip
    assert done.code == 3
    assert "answers part at: engine, from layer features.8 on" in done.out
    assert "has no manifest" in done.out


def test_trace_comes_before_the_refusal_of_another_preprocessing(run, built, tmp_path):
    exported = run("export", "--resize", "256", "--out", "other.onnx")
    assert exported.code == 0, exported.err
    assert run("build", "other.onnx").code == 0
    done = run("parity", "other.fp32.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--diverge")  # fmt: skip
    assert done.code == 1
    assert "answers part at: preprocessing (preprocess.resize: 227 and 256)" in done.out
    assert "prepare images differently" in done.err


def test_table_and_checkpoint_are_for_traces(run, built):
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--table", "alexnet.table.json")  # fmt: skip
    assert done.code == 2
    assert "--diverge" in done.err


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interrupted_run_goes_on_where_it_was(run, built, digits_folders):
    # The same 100 images many times over: enough for an interruption to come in the middle.
    many = built / "many"
    for copy in range(16):
        for digit in range(10):
            (many / str(digit)).mkdir(parents=True, exist_ok=True)
            for file in (digits_folders / "val" / str(digit)).iterdir():
                (many / str(digit) / f"{copy}-{file.name}").symlink_to(file)
    command = ["parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images", "many",
               "--margin", "5", "--json", "result.json"]  # fmt: skip
    state = built / "run.state"
    with subprocess.Popen(
        [*COMMAND, *command, "--resume", "run.state"], cwd=built, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_until(state.exists, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from run.state" in err
    assert not (built / "result.json").exists()
    refused = run(*command, "--resume", "run.state", "--batch-size", "4")
    assert refused.code == 1
    assert "batch_size: expected 8, found 4" in refused.err
    assert state.exists()
    done = run(*command, "--resume", "run.state")
    assert done.code == 0, done.err
    assert not state.exists(), "done: nothing to go on from"
    resumed = json.loads((built / "result.json").read_text())
    assert run(*command).code == 0
    whole = json.loads((built / "result.json").read_text())
    for result in (resumed, whole):
        del result["seconds"], result["environment"]
    assert resumed == whole
    assert whole["images"] == 1600


def test_a_file_that_is_no_state_is_kept(run, built):
    shutil.copy(built / "alexnet.table.json", built / "mine.json")
    before = (built / "mine.json").read_bytes()
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--resume", "mine.json")  # fmt: skip
    assert done.code == 1
    assert "is not the state of a comparison" in done.err
    assert (built / "mine.json").read_bytes() == before


def test_too_few_images_are_told_how_many_it_takes(run, built):
    done = run("parity", "alexnet.fp32.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--json", "result.json")  # fmt: skip
    assert done.code == 3
    result = json.loads((built / "result.json").read_text())
    assert (result["verdict"], result["images_needed"]) == ("inconclusive", 765)
    assert "765 images" in done.out
    assert done.err == "", "nothing to warn of"
    assert result["warnings"] == []


def test_one_image_shows_nothing_and_says_so(run, built):
    done = run("parity", "alexnet.fp32.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--max-images", "1", "--json", "-")  # fmt: skip
    assert done.code == 3
    assert json.loads(done.out)["minimum_detectable_drop_pp"] is None
    assert "(so few as here show no drop, however large)" in done.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--json", "a.file", "--resume", "./a.file"], "--json and --resume name the same file"),
        (["--json", "alexnet.int8.onnx"], "alexnet.int8.onnx: is an input"),
        (["--resume", "link.onnx"], "link.onnx: is an input"),
        (["--json", "alexnet.int8.onnx.json"], "alexnet.int8.onnx.json: is an input"),
        (["--json", "names.txt", "--classes", "names.txt"], "names.txt: is an input"),
        (["--json", "photos/3/0.png"], "photos/3/0.png: is an input"),
    ],
)
def test_what_is_read_is_never_written(run, built, val_photos, options, told):
    (built / "link.onnx").symlink_to("alexnet.onnx")
    (built / "names.txt").write_text("\n".join("0123456789"))
    before = {path: path.read_bytes() for path in built.rglob("*") if path.is_file()}
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images", "photos",
               *options)  # fmt: skip
    assert done.code in (1, 2)
    assert told in " ".join(done.err.split())
    assert {path: path.read_bytes() for path in built.rglob("*") if path.is_file()} == before


@pytest.fixture
def val_photos(built, digits_folders):
    """`photos` in `built`: one digit of each class, in class folders."""
    for digit in range(10):
        (built / "photos" / str(digit)).mkdir(parents=True)
        first = min((digits_folders / "val" / str(digit)).iterdir())
        shutil.copy(first, built / "photos" / str(digit) / "0.png")
    return built / "photos"


def test_a_file_compared_with_itself_is_warned_of(run, built):
    shutil.copy(built / "alexnet.onnx", built / "copy.onnx")
    done = run(
        "parity", "alexnet.onnx", "copy.onnx", "--reference", "alexnet.onnx",
        "--images", "digits:val", "--max-images", "20", "--json", "result.json",
    )  # fmt: skip
    results = json.loads((built / "result.json").read_text())["parity"]
    for engine, result in zip(("alexnet.onnx", "copy.onnx"), results, strict=True):
        (warning,) = result["warnings"]
        assert warning.startswith(f"{engine}: is the reference alexnet.onnx itself")
        assert f"warning: {warning}" in done.err
        assert result["agreement"] == 1


def test_a_quantized_reference_and_another_model_are_warned_of(run, built):
    negate_last_layer(built / "alexnet.onnx", built / "other.onnx")
    done = run(
        "parity", "alexnet.fp32.onnx", "other.onnx", "--reference", "alexnet.int8.onnx",
        "--images", "digits:val", "--max-images", "20", "--json", "result.json",
    )  # fmt: skip
    assert done.code == 3
    assert done.err.count("warning: alexnet.int8.onnx: the reference is INT8, not FP32") == 2
    own, other = json.loads((built / "result.json").read_text())["parity"]
    assert len(own["warnings"]) == 1
    assert "the reference is INT8" in own["warnings"][0]
    assert len(other["warnings"]) == 2
    assert "other.onnx: was made from another graph of the same checkpoint" in done.err


def test_without_labels_the_interval_that_decides_is_shown(run, built, val_photos):
    (built / "flat").mkdir()
    for file in val_photos.glob("*/*.png"):
        shutil.copy(file, built / "flat" / f"{file.parent.name}.png")
    negate_last_layer(built / "alexnet.onnx", built / "broken.onnx")
    done = run("parity", "broken.onnx", "--reference", "alexnet.onnx", "--images", "flat",
               "--json", "result.json")  # fmt: skip
    result = json.loads((built / "result.json").read_text())
    low, high = result["verdict_ci95_pp"]
    changed = 100 * (1 - result["agreement"])
    assert result["basis"] == "agreement"
    assert 0 <= low < changed <= high
    expected = f"{changed:.2f} % of the answers changed, 95 % interval {low:.2f} to {high:.2f}"
    assert expected in done.out


def test_names_cannot_steer_the_terminal(run, built, val_photos):
    forged = "a\x1b]0;mine\x07\u202e\nverdict: pass at a margin.png"
    (built / "flat").mkdir()
    for index in range(60):
        file = val_photos / str(index % 10) / "0.png"
        shutil.copy(file, built / "flat" / f"{index}{forged}")
    (built / "flat" / f"zz{forged}").write_bytes(b"no image")
    negate_last_layer(built / "alexnet.onnx", built / "broken.onnx")
    done = run("parity", "broken.onnx", "--reference", "alexnet.onnx", "--images", "flat",
               "--max-bad", "0.1", "--flips", "1")  # fmt: skip
    assert done.code == 3, done.err
    assert not {"\x1b", "\x07", "\u202e"} & set(done.out + done.err)
    assert [line for line in done.out.splitlines() if line.startswith("verdict")] == [
        "verdict: fail at a margin of 0.5 pp of agreement, for want of labels"
    ]
    assert done.out.count(r"a\x1b]0;mine\x07\u202e\nverdict") == 2, "one flip, one skipped"


def test_a_state_that_cannot_be_written_is_told_at_once(run, built):
    done = run("parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx", "--images",
               "digits:val", "--resume", "/proc/st")  # fmt: skip
    assert done.code == 1
    assert "/proc/st: cannot be written" in done.err
    assert "agreement" not in done.out

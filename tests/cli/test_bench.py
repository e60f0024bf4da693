"""`alexnet-edge bench` as a user runs it."""

from __future__ import annotations

import json

import pytest

from alexnet_edge.engine.build import build_engine
from alexnet_edge.engine.settings import BuildSettings

QUICK = ("--duration", "0.05", "--warmup", "0", "--min-samples", "5")


@pytest.fixture
def bench(run, folder):
    """Run `bench` on the graph in the folder, quickly; return its result."""

    def run_bench(*arguments):
        done = run("bench", "alexnet.onnx", *QUICK, *arguments, "--json", "-")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run_bench


def test_a_table_for_people_and_nothing_but_json_for_programs(run, folder):
    shown = run("bench", "alexnet.onnx", *QUICK)
    assert shown.code == 0, shown.err
    for word in ("alexnet.onnx", "p50 ms", "95 % interval", "floor ms", "valid", "single-stream"):
        assert word in shown.out
    assert run("bench", "alexnet.onnx", *QUICK, "--no-floor", "--json", "x.json").code == 0
    row = json.loads((folder / "x.json").read_text())["engines"][0]
    assert row["floor"] is None
    assert row["floor_reason"]


def test_the_defaults_measure_the_floor(bench):
    floor = bench()["engines"][0]["floor"]
    assert set(floor) == {
        "bytes", "macs", "bandwidth_gb_s", "compute_gmac_s", "floor_ms", "efficiency", "source",
    }  # fmt: skip
    assert floor["efficiency"] > 0


def test_an_invalid_run_is_marked_with_its_reason_and_exits_with_0(run, folder):
    """Far more arrivals than any CPU answers: overload, on every machine."""
    done = run(
        "bench", "alexnet.onnx", "--duration", "0.2", "--warmup", "0", "--no-floor",
        "--scenario", "server", "--rate", "90000", "--json", "x.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "INVALID" in done.out
    assert "warning: INVALID, these figures cannot be relied on:" in done.out
    assert "overload: 90000 queries a second" in done.out
    assert "queue p50 ms" in done.out
    result = json.loads((folder / "x.json").read_text())
    assert not result["valid"]
    assert result["engines"][0]["unserved"] > 0


def test_batch_sizes_in_a_row_are_a_sweep(bench):
    result = bench("--batch", "1,3", "--no-floor")
    assert [row["batch"] for row in result["engines"]] == [1, 3]
    assert result["scenario"]["sweep"] == [1, 3]


def test_a_single_batch_size_is_none(bench):
    result = bench("--batch", "3", "--no-floor")
    assert [row["batch"] for row in result["engines"]] == [3]
    assert result["scenario"]["sweep"] == []


def test_the_floor_shown_is_that_of_a_query(run, folder):
    """Eight images in batches of three are three inferences."""
    done = run("bench", "alexnet.onnx", *QUICK, "--scenario", "multi-stream", "--streams", "8",
               "--batch", "3", "--json", "result.json")  # fmt: skip
    (row,) = json.loads((folder / "result.json").read_text())["engines"]
    query_ms = row["floor"]["efficiency"] * row["latency_ms"]["p50"]
    assert query_ms > 1.5 * row["floor"]["floor_ms"]
    shown = f"{query_ms:.2f}" if query_ms >= 1 else f"{query_ms:.3f}"
    assert shown in done.out.split()


def test_the_threads_of_an_inference_are_said(run, folder):
    done = run("bench", "alexnet.onnx", *QUICK, "--no-floor", "--threads", "1")
    assert "; 1 thread, single-stream" in done.out


def test_streams_are_the_images_of_a_query(bench):
    row = bench("--scenario", "multi-stream", "--streams", "3", "--no-floor")["engines"][0]
    assert (row["images_per_query"], row["batch"]) == (3, 3)


def test_a_profile_shows_the_slowest_layers(run, folder):
    done = run("bench", "alexnet.onnx", *QUICK, "--no-floor", "--profile", "--json", "x.json")
    assert "slowest layers" in done.out
    layers = json.loads((folder / "x.json").read_text())["engines"][0]["layers"]
    assert {"name", "op", "mean_us", "share"} == set(layers[0])


def test_flushed_and_offline_say_so(bench):
    assert bench("--cache", "flushed", "--no-floor")["engines"][0]["cache"] == "flushed"
    offline = bench("--scenario", "offline", "--no-floor")
    assert offline["scenario"]["metric"] == "throughput_ips"


def test_images_are_fed_in_place_of_random_values(run, folder):
    done = run(
        "bench", "alexnet.onnx", *QUICK, "--no-floor", "--images", "digits:val", "--json", "x.json"
    )
    assert "32 images of digits:val" in done.out
    row = json.loads((folder / "x.json").read_text())["engines"][0]
    assert (row["input"], row["input_images"], len(row["input_sha256"])) == ("images", 32, 64)
    assert "synthetic input" in run("bench", "alexnet.onnx", *QUICK, "--no-floor").out


def test_an_engine_that_skips_zeros_is_named_where_no_images_are(run, folder):
    assert run("build", "--int8", "--method", "minmax").code == 0
    manifest = folder / "alexnet.int8.onnx.json"
    options = json.loads(manifest.read_text())
    options["options"]["zero_skipping"] = ["classifier.1"]
    manifest.write_text(json.dumps(options))
    shown = run("bench", "alexnet.int8.onnx", *QUICK, "--no-floor")
    assert "alexnet.int8.onnx skips zeros" in shown.out
    assert "--images DIR" in shown.out


def test_runtime_options_reach_the_engine(run, folder):
    done = run("bench", "alexnet.onnx", *QUICK, "--threads", "1", "--no-floor", "--json", "-")
    assert json.loads(done.out)["engines"][0]["settings"]["threads"] == 1
    refused = run("bench", "alexnet.onnx", "--cuda-graph", "maybe")
    assert refused.code == 1
    assert "cuda_graph 'maybe' is unknown" in refused.err


@pytest.mark.parametrize("batch", ["0", "1,0", "1,1", "two", "1,", ""])
def test_what_is_no_batch_size_is_wrong_usage(run, batch):
    done = run("bench", "--batch", batch)
    assert done.code == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--scenario", "burst"], "scenario 'burst' is unknown", "single-stream"),
        (["--scenario", "server"], "server needs a rate", "--rate"),
        (["--rate", "5"], "single-stream has no rate", "--scenario server"),
        (["--streams", "5"], "--streams is not for single-stream", "multi-stream"),
        (["--images", "nowhere"], "nowhere: no such folder", ""),
        (["--cache", "hot"], "cache 'hot' is unknown", "flushed"),
        (["--profile-target", "toaster"], "profile 'toaster' is unknown", "orin-nano"),
        (["--profile-target", "cpu"], "names no memory bandwidth", "memory_bandwidth_gbs"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_a_hint(run, folder, arguments, message, hint):
    done = run("bench", "alexnet.onnx", *arguments)
    assert done.code == 1
    assert message in done.err
    assert hint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("alexnet.fp32.onnx", "is an input, which --json would replace"),
        ("alexnet.fp32.onnx.json", "is no result, which --json would replace"),
        ("alexnet.table.json", "is no result, which --json would replace"),
        ("alexnet.pt", "is no result, which --json would replace"),
        ("nowhere/x.json", "nowhere: no such folder"),
        (".", "is a folder"),
    ],
)
def test_json_replaces_nothing_but_results_and_is_refused_before_it_measures(
    run, folder, tiny_onnx, target, message
):
    build_engine(tiny_onnx, folder / "alexnet.fp32.onnx", BuildSettings("fp32"))
    path = folder / target
    before = path.read_bytes() if path.is_file() else None
    done = run("bench", "alexnet.fp32.onnx", "--duration", "500", "--json", target, cwd=folder)
    assert done.code == 1
    assert message in done.err
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize(
    "command", ["build --fp32", "calibrate --images digits:val --max-images 8"]
)
def test_a_result_that_is_a_manifest_or_a_table_too_is_replaced(run, folder, command):
    for _ in range(2):
        done = run(*command.split(), "--json", "result.json", cwd=folder)
        assert done.code == 0, done.err


def test_json_replaces_an_older_result_and_goes_through_links(run, folder, tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(real)
    for _ in range(2):
        done = run("summary", "--json", link, cwd=folder)
        assert done.code == 0, done.err
    assert link.is_symlink()
    assert json.loads(real.read_text())["layers"]

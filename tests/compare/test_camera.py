"""Two runs of the camera: real ones of a video, and what becomes of their figures."""

from __future__ import annotations

import copy
import json

import pytest

from alexnet_edge.camera.loop import CameraLoop, LoopOptions
from alexnet_edge.camera.report import describe_run as describe_camera
from alexnet_edge.camera.sources import make_source
from alexnet_edge.classifier import Classifier
from alexnet_edge.compare import Bounds, describe_run
from alexnet_edge.errors import InputError
from alexnet_edge.results_files import append_history, read_history
from alexnet_edge.runtimes.base import RuntimeOptions
from tests.camera.scenes import numbered, write_video
from tests.results_files import samples

AGES = ("age p50", "age p90", "age p99", "age mean")
JUDGED = {"fps", *AGES}


@pytest.fixture(scope="module")
def real(tmp_path_factory, tiny_onnx):
    """A run of two seconds, as `camera --json` writes it, on a machine that does not waver."""
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(clip, map(numbered, range(60)), "mpeg4")
    options = LoopOptions(duration_s=2)
    with Classifier(tiny_onnx, RuntimeOptions(threads=1)) as classifier:
        source = make_source(f"file://{clip}?loop=1&live=1")
        result = CameraLoop(classifier, source, options).run()
        value = json.loads(json.dumps(describe_camera(classifier, options, result)))
    for name, sampling in value["sampling"].items():
        times = value["frame_age_ms"] if name == "age" else value["stages_ms"][name]
        sampling |= {"basis": "turns", "slices": steady_turns(times["mean"])}
        for figure in ("p50", "p90"):
            sampling[f"ci95_{figure}"] = [0.9 * times[figure], 1.1 * times[figure]]
    return value


def steady_turns(mean_ms):
    """Eight turns that differ by 3 %."""
    wave = [1 + 0.03 * (-1) ** at for at in range(8)]
    return {"seconds": [0.5 * factor for factor in wave], "samples": [15] * 8,
            "mean_ms": [mean_ms * factor for factor in wave]}  # fmt: skip


@pytest.fixture
def run(real):
    """The run, or one that differs by what is given."""

    def changed(*, slower=1.0, fewer=1.0, **changes):
        value = copy.deepcopy(real)
        age = value["sampling"]["age"]
        value["fps"] /= fewer
        value["frame_age_ms"] = {at: slower * ms for at, ms in value["frame_age_ms"].items()}
        age["slices"] = steady_turns(value["frame_age_ms"]["mean"])
        age["slices"]["seconds"] = [fewer * seconds for seconds in age["slices"]["seconds"]]
        for key in ("ci95_p50", "ci95_p90"):
            age[key] = [slower * end for end in age[key]]
        for key, change in changes.items():
            value[key] = {**value[key], **change} if isinstance(change, dict) else change
        return value

    return changed


def changes_of(result):
    (pair,) = result.pairs
    return {change.figure: change for change in pair.changes}


def test_a_run_and_itself_are_no_change_in_any_figure(compare, run):
    result = compare(run(), run(), Bounds(regression=0))
    found = changes_of(result)
    stages = {f"{stage} {at}" for stage in ("capture", "preprocess", "inference", "output")
              for at in ("p50", "p99")}  # fmt: skip
    assert found.keys() == {*JUDGED, *stages, "dropped", "CPU", "memory"}
    assert all(change.change == 0 for change in found.values())
    assert result.compared == "camera"
    assert result.verdict == "pass"
    assert not result.differences
    for figure in ("fps", "age p50", "age mean", "inference p50"):
        assert found[figure].basis == "turns"
        assert found[figure].low < 0 < found[figure].high
        assert found[figure].verdict == "no change seen"
    assert found["dropped"].basis == "turns"
    assert found["dropped"].unit == "pp"


def test_the_values_are_the_files_own(compare, run):
    first, second = run(), run(slower=1.5, frames={"dropped": 30, "captured": 300})
    found = changes_of(compare(first, second))
    assert found["age p50"].first == first["frame_age_ms"]["p50"]
    assert found["age p90"].second == second["frame_age_ms"]["p90"]
    assert found["inference p99"].first == first["stages_ms"]["inference"]["p99"]
    assert found["memory"].first == pytest.approx(first["rss_bytes"] / 1e6)
    assert found["CPU"].first == first["cpu_percent"]
    assert found["dropped"].second == 10


def test_what_has_no_error_is_not_judged(compare, run):
    found = changes_of(compare(run(), run(cpu_percent=99.0, rss_bytes=10**9)))
    for figure in ("CPU", "memory"):
        assert found[figure].low is None
        assert found[figure].verdict == "not judged: no interval"
    assert found["age p99"].low is None  # 60 frames are too few
    strict = compare(run(), run(cpu_percent=99.0), Bounds(regression=5, strict=True))
    assert strict.verdict == "pass"  # the bound is for frames and their age


@pytest.mark.parametrize(
    ("options", "failing"),
    [
        ({"slower": 1.5}, {"age p50", "age p90", "age mean"}),
        ({"fewer": 1.3}, {"fps"}),
        ({"slower": 0.7}, set()),
        ({"fewer": 0.7}, set()),
    ],
)
def test_the_bound_is_for_frames_a_second_and_age(compare, run, options, failing):
    result = compare(run(), run(**options), Bounds(regression=5))
    found = changes_of(result)
    assert {figure for figure, change in found.items() if change.fails} == failing
    assert result.verdict == ("fail" if failing else "pass")
    assert {figure for figure, change in found.items() if change.bound is not None} == JUDGED
    if "fewer" in options:
        assert found["fps"].verdict == ("slower" if failing else "faster")


def test_strict_judges_what_has_no_interval_too(compare, run):
    second = run()
    second["frame_age_ms"]["p99"] *= 1.2
    assert compare(run(), second, Bounds(regression=5)).verdict == "pass"
    strict = compare(run(), second, Bounds(regression=5, strict=True))
    assert changes_of(strict)["age p99"].fails


def test_drops_have_an_interval_from_their_counts_and_from_turns(compare, run):
    runs = [run(frames={"captured": 1000, "dropped": count, "answered": 1000 - count})
            for count in (10, 60)]  # fmt: skip
    found = changes_of(compare(*runs))["dropped"]
    assert found.change == pytest.approx(5)
    assert found.basis == "turns"
    for value in runs:
        del value["sampling"]
    counted = changes_of(compare(*runs))["dropped"]
    assert (counted.basis, counted.verdict) == ("frames", "more")
    assert 3 < counted.low < 5 < counted.high < 7
    assert found.low < counted.low
    assert counted.high < found.high


def test_files_of_older_versions_are_shown_and_not_judged(compare):
    slower = samples.camera(fps=10.0, frame_age_ms={"p50": 80.0, "p90": 90.0, "p99": 99.0})
    result = compare(samples.camera(), slower, Bounds(regression=5))
    found = changes_of(result)
    assert found["fps"].change == pytest.approx(100 * (10 / 22.4 - 1))
    assert "age mean" not in found
    assert found["capture p50"].change == 0
    assert all(found[figure].low is None for figure in ("fps", "age p50", "age p90"))
    assert result.verdict == "pass"


# Unlike settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"source_settings": {"frame_size": [640, 480]}}, "source frame size: 160×120, 640×480"),
        ({"source_settings": {"kind": "folder"}}, "source kind: video, folder"),
        ({"source_settings": {"location": "b.mp4"}}, "source location: clip.mp4, b.mp4"),
        ({"source_settings": {"options": {"loop": "1"}}}, "source live: 1, not asked for"),
        ({"runtime": "tensorrt"}, "runtime: onnxruntime, tensorrt"),
        ({"model_sha256": "c" * 64}, "model_sha256"),
        ({"settings": {"throughput": True}}, "settings throughput: False, True"),
        ({"settings": {"threads": 7}}, "settings threads: 1, 7"),
        ({"settings": {"preprocess": {"resize": 256}}}, "settings preprocess.resize: 227, 256"),
        ({"environment": {"cpu": "Other"}}, "machine cpu"),
        ({"environment": {"gpus": [{"name": "Orin"}]}}, "machine gpus"),
    ],
)
def test_unlike_settings_are_refused_by_name_unless_forced(compare, run, changes, named):
    with pytest.raises(InputError, match="unlike settings") as caught:
        compare(run(), run(**changes))
    assert named in caught.value.message
    assert "--force" in caught.value.hint
    forced = compare(run(), run(**changes), force=True)
    assert forced.forced
    assert any(difference.refuses for difference in forced.differences)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"duration_s": 60.0, "max_frames": 5, "top_k": 1, "smooth": 0.5}},
        {"settings": {"huge_page_bytes": 1_000_000_007}},
        {"environment": {"packages": {"onnxruntime": "1.0"}, "python": "3.99.0"}},
        {"engine": "other.onnx", "engine_sha256": "d" * 64, "precision": "int8"},
        {"reconnects": 2},
    ],
)
def test_what_may_be_compared_is_listed_and_refuses_nothing(compare, run, changes):
    first = run(settings={"huge_page_bytes": 5})
    if "huge_page_bytes" not in changes.get("settings", {}):
        changes = {**changes, "settings": {"huge_page_bytes": 5, **changes.get("settings", {})}}
    result = compare(first, run(**changes))
    assert result.differences
    assert not result.forced
    assert not any(difference.refuses for difference in result.differences)


def test_options_that_ask_for_nothing_are_none(compare, run):
    both = [run(source_settings={"options": options}) for options in ({}, {"loop": "0"})]
    assert not compare(*both).differences


@pytest.mark.parametrize(("kind", "refused"), [("rtsp", True), ("video", False)])
def test_a_camera_at_another_rate_is_another_source(compare, run, kind, refused):
    """The reader of a file waits for the engine; what a camera delivers is its own affair."""
    source = {"kind": kind, "location": "rtsp://192.0.2.1/stream", "options": {}}
    runs = [run(source_settings=source, seconds=10.0, frames={"captured": captured})
            for captured in (300, 150)]  # fmt: skip
    if refused:
        with pytest.raises(InputError, match="source frames/s: 30, 15"):
            compare(*runs)
    else:
        assert not compare(*runs).differences
    near = run(source_settings=source, seconds=10.0, frames={"captured": 290})
    assert not compare(runs[0], near).differences


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ended": "stalled"}, "delivered no more frames"),
        ({"failed_outputs": {"JSON lines": "JSON lines: disk full"}}, "disk full"),
        ({"frames": {"answered": 0}}, "no frame was answered"),
    ],
)
def test_a_run_that_is_not_valid_is_refused_unless_forced(compare, run, changes, reason):
    with pytest.raises(InputError, match=reason):
        compare(run(), run(**changes))
    forced = compare(run(), run(**changes), force=True)
    assert reason in forced.invalid[0]
    assert "b.json" in forced.invalid[0]


# History -----------------------------------------------------------------------------------------


def test_a_run_for_the_history_has_frames_a_second_and_ages(tmp_path, run):
    path = samples.write(tmp_path / "camera.json", run())
    history = tmp_path / "history.jsonl"
    assert append_history(history, describe_run(path))
    (entry,) = read_history(history)
    assert entry.kind == "camera"
    row = entry.rows[0]
    assert row["figures"]["fps"] == run()["fps"]
    assert row["figures"]["age_p50_ms"] == run()["frame_age_ms"]["p50"]
    assert row["ci95"]["fps"][0] < row["figures"]["fps"] < row["ci95"]["fps"][1]
    assert row["label"].endswith("fp32, clip.mp4")

"""A run as JSON: what ran, what delivered the frames, and how sure the figures are."""

from __future__ import annotations

import json

import pytest

from alexnet_edge.camera.loop import LoopOptions
from alexnet_edge.camera.report import describe_run
from alexnet_edge.results_files import camera_rows, read_results
from tests.camera.scenes import numbered, write_video

STAGES = {"age", "capture", "preprocess", "inference", "output"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, map(numbered, range(60)), "libx264", preset="ultrafast")


@pytest.fixture
def describe(run_loop, classifier):
    """Run a source and describe the run."""

    def describe_source(source, **options):
        result, _ = run_loop(str(source), **options)
        return describe_run(classifier, LoopOptions(**options), result)

    return describe_source


def test_a_run_of_some_seconds_has_turns_and_intervals(describe, clip, tmp_path):
    run = describe(f"file://{clip}?loop=1&live=1", duration_s=4.5)
    assert run["source_settings"] == {
        "kind": "video", "location": "clip.mp4", "options": {"loop": "1", "live": "1"},
        "frame_size": [160, 120],
    }  # fmt: skip
    assert run["sampling"].keys() == STAGES
    for name, sampling in run["sampling"].items():
        assert sampling["samples"] == run["frames"]["answered"]
        assert sampling["basis"] == "turns"
        turns = sampling["slices"]
        assert len(turns["seconds"]) == len(turns["samples"]) == len(turns["mean_ms"]) >= 6
        times = run["frame_age_ms"] if name == "age" else run["stages_ms"][name]
        ends = sampling["ci95_p50"]  # none where turns differ greatly
        assert ends is None or ends[0] <= times["p50"] <= ends[1]
        assert sampling["ci95_p99"] is None  # 135 frames are too few
    assert sum(run["sampling"]["age"]["slices"]["seconds"]) <= run["seconds"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run), encoding="utf-8")
    assert path.stat().st_size < 20_000
    row = camera_rows(read_results(path))[0]
    assert (row.source, row.invalid_because) == ("clip.mp4", ())
    assert row.label.endswith("onnxruntime fp32, clip.mp4")


def test_a_short_run_rests_on_its_frames_alone(describe, clip):
    run = describe(clip)
    assert {sampling["basis"] for sampling in run["sampling"].values()} == {"samples"}
    low, high = run["sampling"]["age"]["ci95_p50"]
    assert low <= run["frame_age_ms"]["p50"] <= high
    assert run["sampling"]["age"]["ci95_p90"] is not None


def test_images_of_a_folder_have_no_one_size(describe, digits_folders):
    run = describe(digits_folders / "val" / "3", max_frames=3)
    assert run["source_settings"]["kind"] == "folder"
    assert run["source_settings"]["location"] == "3"
    assert run["source_settings"]["frame_size"] is None


def test_a_file_that_is_gone_at_the_end_leaves_the_figures(run_loop, classifier, clip, tmp_path):
    """As a temporary file may be."""
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())

    class Remover:
        name = "remover"

        def write(self, answer):
            copy.unlink(missing_ok=True)

        def note(self, event):
            pass

        def close(self):
            pass

    result, _ = run_loop(str(copy), sinks=[Remover()])
    run = describe_run(classifier, LoopOptions(), result)
    assert run["source_settings"] is None
    assert run["frames"]["answered"] == 60

"""`alexnet-edge compare` as a user runs it."""

from __future__ import annotations

import json

import pytest

from tests.camera.scenes import numbered, write_video
from tests.results_files import samples


@pytest.fixture
def runs(tmp_path):
    """`a.json`, `b.json` (30 % slower) and `c.json` (another batch size)."""
    samples.write(tmp_path / "a.json", samples.bench(samples.full_row(p50=10, seed=1)))
    samples.write(tmp_path / "b.json", samples.bench(samples.full_row(p50=13, seed=2)))
    samples.write(tmp_path / "c.json", samples.bench(samples.full_row(batch=2)))
    return tmp_path


def test_every_figure_with_its_interval_and_verdict(runs, run):
    done = run("compare", "a.json", "b.json")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for figure in ("p50", "p90", "p99", "mean", "throughput"):
        assert "slower" in lines[figure], done.out
        assert " to " in lines[figure]
    assert "exact" in lines["size"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-regression", "5%"], 3),
        (["--max-regression", "5"], 3),
        (["--max-regression", "0.05"], 3),
        (["--max-regression", "60%"], 0),
        (["--max-regression", "0.6"], 0),
        (["--max-regression", "5%", "--strict"], 3),
        (["--max-regression", "soon"], 2),
        (["--max-regression", "-5%"], 2),
        (["--strict"], 1),
        ([], 0),
    ],
)
def test_the_exit_code_follows_the_bound(runs, run, options, code):
    done = run("compare", "a.json", "b.json", *options)
    assert done.code == code, done.out + done.err
    if code == 3:
        assert "beyond the bound" in done.out
        assert "verdict: fail" in done.out


def test_unlike_settings_are_one_line_and_a_hint(runs, run):
    done = run("compare", "a.json", "c.json")
    assert done.code == 1
    first, second = done.err.strip().splitlines()
    assert "batch of alexnet.int8.onnx, onnxruntime int8, batch 1: 1, 2" in first
    assert "--force" in second
    forced = run("compare", "a.json", "c.json", "--force")
    assert forced.code == 0
    assert "unlike settings: batch" in forced.out


def test_json_alone_on_standard_output(runs, run):
    done = run("compare", "a.json", "b.json", "--json", "-", "--max-regression", "5%")
    assert done.code == 3
    result = json.loads(done.out)
    assert (result["kind"], result["verdict"]) == ("compare", "fail")
    change = result["pairs"][0]["changes"][0]
    assert change["low"] < change["change"] < change["high"]


def test_history_grows_by_one_line_a_run_and_report_plots_it(runs, run):
    for name in ("a.json", "b.json", "b.json"):
        done = run("compare", "a.json", name, "--history", "history.jsonl")
        assert done.code == 0
    assert "was in it already" in done.out
    lines = (runs / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a.json", "b.json"]
    done = run("report", "b.json", "--history", "history.jsonl")
    assert done.code == 0, done.err
    assert 'id="history"' in (runs / "report.html").read_text(encoding="utf-8")


def test_a_refused_comparison_adds_nothing_to_the_history(runs, run):
    assert run("compare", "a.json", "c.json", "--history", "history.jsonl").code == 1
    assert not (runs / "history.jsonl").exists()


def test_two_runs_of_the_camera(folder, run):
    """Both measured by the command itself; then one whose frames come later."""
    write_video(folder / "clip.mp4", map(numbered, range(45)), "mpeg4")
    source = f"file://{folder}/clip.mp4?loop=1&live=1"
    for name in ("before", "after"):
        done = run("camera", "alexnet.onnx", "--source", source, "--bench", "--duration", 4.5,
                   "--threads", 1, "--json", f"{name}.json")  # fmt: skip
        assert done.code == 0, done.err
    done = run("compare", "before.json", "after.json", "--max-regression", "900%",
               "--history", "history.jsonl", "--json", "compare.json")  # fmt: skip
    assert done.code == 0, done.out + done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert any(words[:1] == ["fps"] and "to" in words for words in lines), done.out
    assert any(words[:2] == ["age", "p50"] for words in lines), done.out
    assert any(words[:1] == ["memory"] and "interval" in words for words in lines), done.out
    (unjudged,) = (line for line in done.out.splitlines() if line.startswith("without an"))
    assert "age p99" in unjudged  # of 135 frames
    assert "CPU" not in unjudged  # no bound is for it
    value = json.loads((folder / "after.json").read_text(encoding="utf-8"))
    value["frame_age_ms"] = {name: 50 * age for name, age in value["frame_age_ms"].items()}
    samples.write(folder / "later.json", value)
    done = run("compare", "before.json", "later.json", "--max-regression", "5%", "--strict")
    assert done.code == 3
    assert "beyond the bound" in done.out
    done = run("compare", "before.json", "later.json", "--history", "history.jsonl")
    assert done.code == 0
    done = run("report", "after.json", "compare.json", "--history", "history.jsonl",
               "--markdown", "report.md")  # fmt: skip
    assert done.code == 0, done.err
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "Age p50 ms" in page
    assert "median age of an answer" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_bench_and_a_camera_are_not_compared(runs, run):
    samples.write(runs / "camera.json", samples.camera())
    done = run("compare", "a.json", "camera.json", "--force")
    assert done.code == 1
    first, second = done.err.strip().splitlines()
    assert "a.json (bench) and camera.json (camera): are of different kinds" in first
    assert second == "hint: give two of one kind"

"""`alexnet-edge camera` as it is run: processes, signals, exit codes, files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.camera.scenes import mjpeg_server, numbered, wait_until, write_video
from tests.cli.conftest import COMMAND

FIGURES = {"mean", "p50", "p90", "p99"}


@pytest.fixture
def clip(tmp_path):
    return write_video(
        tmp_path / "clip.mp4", map(numbered, range(60)), "libx264", preset="ultrafast"
    )


@pytest.fixture
def start(tmp_path):
    """Start the command in the background; what is left at the end is killed."""
    processes = []

    def start_command(*arguments, **options):
        process = subprocess.Popen(
            [*COMMAND, "camera", *map(str, arguments)], cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start_command
    for process in processes:
        process.kill()
        process.communicate()


def is_stuck(pipe):
    """Whether there is something in a pipe, and nothing is added to it."""
    waiting = []
    for _ in range(2):
        waiting += struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
        time.sleep(0.5)
    return 0 < waiting[0] == waiting[1]


def wait_for_lines(path, count=1):
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, 60)


def test_a_video_is_answered_and_summed_up(run, folder, clip):
    done = run(
        "camera", "alexnet.onnx", "--source", clip, "--quiet", "--json", "run.json",
        "--jsonl", "answers.jsonl", "--record", "out.mp4", "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "ended: 60 of 60 frames answered, 0 dropped, 0 corrupt" in done.err
    result = json.loads((folder / "run.json").read_text())
    assert result["kind"] == "camera"
    assert result["frames"] == {"captured": 60, "answered": 60, "dropped": 0, "corrupt": 0}
    assert result["frame_age_ms"].keys() == FIGURES
    assert result["stages_ms"].keys() == {"capture", "preprocess", "inference", "output"}
    assert all(times.keys() == FIGURES for times in result["stages_ms"].values())
    assert result["fps"] == pytest.approx(60 / result["seconds"], rel=0.01)
    assert result["runtime"] == "onnxruntime"
    assert result["precision"] == "fp32"
    assert len(result["engine_sha256"]) == len(result["model_sha256"]) == 64
    assert result["settings"]["threads"] == 1
    assert result["reconnects"] == 0
    assert result["rss_bytes"] > 0
    assert result["environment"]["cores"] >= 1
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert sum(line["type"] == "answer" for line in answers) == 60
    assert (folder / "out.mp4").stat().st_size > 0


def test_json_alone_is_on_standard_output(run, folder, clip):
    done = run("camera", "alexnet.onnx", "--source", clip, "--json", "-", "--max-frames", 5)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["frames"]["answered"] == 5
    assert result["ended"] == "limit"


def test_answers_can_be_piped(run, folder, clip):
    done = run(
        "camera", "alexnet.onnx", "--source", clip, "--jsonl", "-", "--quiet", "--max-frames", 4
    )
    assert done.code == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["type"] for line in lines].count("answer") == 4


def test_it_ends_when_nobody_reads_the_answers(folder, start, clip):
    process = start("alexnet.onnx", "--source", f"file://{clip}?loop=1", "--quiet", "--jsonl", "-")
    assert json.loads(process.stdout.readline())["type"] == "event"
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "sink-failed: JSON lines: Broken pipe" in err


def test_bench_prints_a_table(run, folder, clip):
    done = run("camera", "alexnet.onnx", "--source", clip, "--bench")
    assert done.code == 0
    for row in ("capture", "preprocess", "inference", "output", "age"):
        assert row in done.out


def test_a_dry_run_opens_nothing(run, folder):
    done = run("camera", "alexnet.onnx", "--source", "csi://0?width=640&flip=2", "--dry-run")
    assert done.code == 0
    assert "gst-launch-1.0" in done.out
    assert "flip-method=2" in done.out
    assert "newest frame" in done.out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_frame_and_flushes_the_outputs(folder, start, clip, sent, code):
    answers, video = folder / "answers.jsonl", folder / "out.mp4"
    process = start(
        "alexnet.onnx", "--source", f"file://{clip}?loop=1&live=1", "--quiet", "--jsonl", answers,
        "--record", video, "--json", "run.json",
    )  # fmt: skip
    wait_for_lines(answers, 5)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "stopped: " in err
    assert "Traceback" not in err
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    result = json.loads((folder / "run.json").read_text())
    assert sum(line["type"] == "answer" for line in lines) == result["frames"]["answered"]
    import av

    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0


def test_no_frame_for_the_stall_timeout_exits_with_4(run, folder):
    os.mkfifo(folder / "pipe")
    done = run(
        "camera", "alexnet.onnx", "--source", f"raw://{folder}/pipe?width=8&height=8",
        "--stall-timeout", 1, "--quiet", "--json", "run.json",
    )  # fmt: skip
    assert done.code == 4
    assert "giving up" in done.err
    assert json.loads((folder / "run.json").read_text())["ended"] == "stalled"


def test_a_camera_that_is_not_there_is_tried_again_until_the_watchdog(run, folder):
    arguments = ["camera", "alexnet.onnx", "--source", "http://127.0.0.1:9/", "--quiet"]
    done = run(*arguments, "--stall-timeout", 2)
    assert done.code == 4
    assert "lost: http://127.0.0.1:9/: cannot be opened (Connection refused)" in done.err
    assert "retrying: " in done.err
    done = run(*arguments, "--no-retry")
    assert done.code == 1
    assert "error: http://127.0.0.1:9/: cannot be opened" in done.err
    assert "hint: " in done.err


def test_a_full_disk_stops_the_recording_and_not_the_loop(run, folder, clip):
    done = run(
        "camera", "alexnet.onnx", "--source", clip, "--quiet", "--jsonl", "/dev/full",
        "--json", "run.json",
    )  # fmt: skip
    assert done.code == 0
    assert "sink-failed: " in done.err
    assert "No space left on device" in done.err
    result = json.loads((folder / "run.json").read_text())
    assert result["frames"]["answered"] == 60
    assert list(result["failed_outputs"]) == ["JSON lines"]


def test_it_can_be_served_and_the_server_of_the_camera_be_restarted(folder, start):
    """The whole of it, in processes of their own: a camera that dies, and a browser's view."""
    import urllib.request

    answers = folder / "answers.jsonl"
    with mjpeg_server() as server:
        port = server.port
        process = start(
            "alexnet.onnx", "--source", server.url, "--quiet", "--jsonl", answers,
            "--serve", "127.0.0.1:0", "--max-backoff", 0.3, "--read-timeout", 2,
        )  # fmt: skip
        wait_for_lines(answers, 5)
        line = process.stderr.readline()
        assert line.startswith("serving http://127.0.0.1:")
        page = urllib.request.urlopen(line.split()[1], timeout=10).read()
        assert b"<html" in page.lower()
        server.kill()
        wait_until(lambda: '"retrying"' in answers.read_text())
    before = answers.read_text().count('"answer"')
    with mjpeg_server(port=port):
        wait_until(lambda: answers.read_text().count('"answer"') > before + 5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_a_second_interrupt_does_not_wait(folder, start, clip):
    """The loop is held up by a reader that does not read; the first Ctrl-C waits for it."""
    process = start("alexnet.onnx", "--source", f"file://{clip}?loop=1", "--quiet", "--jsonl", "-")
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    wait_until(lambda: is_stuck(process.stdout), 60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "nowhere.mp4"], 1, "nowhere.mp4: no such file"),
        (["--source", "csi://zero"], 1, "names no sensor"),
        (["--source", "0", "--smooth", "2.5"], 1, "smoothing is 2.5"),
        (["--source", "0", "--serve", "here"], 2, "is not HOST:PORT"),
        (["--source", "0", "--jsonl", "-", "--json", "-"], 2, "cannot both be standard output"),
        (["--source", "0", "--record", "x.gif"], 1, "x.gif"),
        (["--source", "0", "--jsonl", "no/such/x"], 1, "no/such"),
        ([], 2, "--source"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(run, folder, arguments, code, message):
    done = run("camera", "alexnet.onnx", *arguments)
    assert done.code == code
    assert message in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err

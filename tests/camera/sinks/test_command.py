"""The outputs of the command, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess

import pytest

from tests.camera.scenes import numbered, write_video
from tests.cli.conftest import COMMAND

pytest.importorskip("av", reason="PyAV is not installed; it comes with the extra camera")


def read(path):
    from tests.camera.sinks import test_video

    return test_video.read(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten seconds of numbered frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, map(numbered, range(100)), rate=10)


def run(tmp_path, *arguments, limit_bytes=None):
    def limit():
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [*COMMAND, "camera", *map(str, arguments)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
    )  # fmt: skip


def test_a_full_disk_stops_the_recording_and_not_the_loop(tmp_path, tiny_onnx, clip):
    done = run(
        tmp_path, tiny_onnx, "--source", clip, "--record", "out.mp4", "--jsonl", "-", "--quiet",
        "--threads", 1, limit_bytes=15_000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [line for line in lines if line["type"] == "answer"]
    assert [line["frame"] for line in answers] == list(range(100))
    (failed,) = [line for line in lines if line.get("kind") == "sink-failed"]
    assert "recording" in failed["message"] and "too large" in failed["message"]
    assert lines.index(failed) < lines.index(answers[-1]), "it is said while the loop goes on"
    assert 20 <= len(read(tmp_path / "out.mp4")) < 100


def test_a_recording_lasts_as_long_as_its_source(tmp_path, tiny_onnx, clip):
    """The loop reads a file as fast as it can; the recording plays at the file's speed."""
    done = run(
        tmp_path, tiny_onnx, "--source", clip, "--record", "out.mp4", "--jsonl", "out.jsonl",
        "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(("connected", "running"))
    frames = read(tmp_path / "out.mp4")
    assert len(frames) == 100
    assert frames[-1][0] == pytest.approx(9.9, abs=0.05)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["timestamp_s"] for line in lines if line["type"] == "answer"] == pytest.approx(
        [at for at, _ in frames], abs=0.002
    )


def test_it_is_served(tmp_path, tiny_onnx, digits_folders):
    """As the guide says it: started, asked for its health, stopped by SIGTERM."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    import http.client
    import re
    import signal

    source = f"file://{digits_folders / 'val'}?loop=1&live=1&fps=20"
    command = [*COMMAND, "camera", tiny_onnx, "--source", source, "--serve", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*map(str, command), "--threads", "1"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stderr.readline())[1])
    for line in process.stdout:  # the log of a service: its first answer
        if line.startswith("running"):
            break
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/healthz")
    reply = connection.getresponse()
    assert reply.status == 200
    assert json.loads(reply.read())["state"] == "running"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "stopped" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("address", "text"),
    [("0.0.0.0:0", "no token"), ("127.0.0.1:99999", "HOST:PORT"), ("192.0.2.1:80", "no token")],
)
def test_what_cannot_be_served_is_one_line(tmp_path, tiny_onnx, clip, address, text):
    done = run(tmp_path, tiny_onnx, "--source", clip, "--serve", address)
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr

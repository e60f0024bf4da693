"""JSON lines: one object a line, at once, and whole whatever happens."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_edge.camera.frames import Event
from alexnet_edge.camera.sinks import JsonLines
from alexnet_edge.errors import InputError
from tests.camera.answers import HOSTILE, make_answer


def read(path):
    text = path.read_text(encoding="ascii")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_there_at_once(tmp_path):
    path = tmp_path / "out.jsonl"
    lines = JsonLines(path)
    for index in range(3):
        lines.write(make_answer(index, top=((HOSTILE, 0.5),), name="caf\udce9.png"))
        assert len(read(path)) == index + 1
    lines.note(Event("lost", "camera: gone", time.monotonic() - 60))
    lines.close()
    answers, event = read(path)[:3], read(path)[3]
    assert [line["frame"] for line in answers] == [0, 1, 2]
    assert {line["type"] for line in answers} == {"answer"}
    assert answers[0]["top"][0]["name"] == HOSTILE
    assert answers[0]["name"] == "caf\udce9.png"
    assert set(answers[0]) >= {"time", "age_ms", "stages_ms", "dropped", "accepted"}
    assert (event["type"], event["kind"], event["message"]) == ("event", "lost", "camera: gone")


def test_an_existing_file_is_continued(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"frame": 1}\n{"fra')  # a machine that lost power
    lines = JsonLines(path)
    lines.write(make_answer(5))
    lines.close()
    first, torn, last = path.read_text().splitlines()
    assert (json.loads(first), torn) == ({"frame": 1}, '{"fra')
    assert json.loads(last)["frame"] == 5


@pytest.mark.parametrize("missing", ["no/such/out.jsonl", "."])
def test_what_cannot_be_written_is_an_error(tmp_path, missing):
    with pytest.raises(InputError) as caught:
        JsonLines(tmp_path / missing)
    assert caught.value.hint


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """In a process of its own: the limit is the process's."""
    script = """
import resource, sys
from pathlib import Path
from alexnet_edge.camera.sinks import JsonLines
from tests.camera.answers import make_answer

lines = JsonLines(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for index in range(10):
        lines.write(make_answer(index))
except OSError as error:
    print(error.errno, index)
lines.close()
"""
    path = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    number, index = map(int, done.stdout.split())
    assert number == errno.EFBIG
    assert [line["frame"] for line in read(path)] == list(range(index))
    assert 0 < index < 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_device_that_is_full_is_an_os_error():
    lines = JsonLines(Path("/dev/full"))
    with pytest.raises(OSError) as caught:
        lines.write(make_answer())
    assert caught.value.errno == errno.ENOSPC
    lines.close()


STDOUT_SCRIPT = """
import sys
from alexnet_edge.camera.sinks import JsonLines
from tests.camera.answers import make_answer

lines = JsonLines("-")
for index in range(int(sys.argv[1])):
    try:
        lines.write(make_answer(index))
    except BrokenPipeError:
        sys.exit(7)
lines.close()
print("still open")
"""


def test_a_dash_is_standard_output():
    done = subprocess.run(
        [sys.executable, "-c", STDOUT_SCRIPT, "3"], capture_output=True, text=True, check=True
    )
    *lines, last = done.stdout.splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2]
    assert last == "still open"
    assert done.stderr == ""


def test_a_reader_that_leaves_is_an_os_error():
    process = subprocess.Popen(
        [sys.executable, "-c", STDOUT_SCRIPT, "1000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert json.loads(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    assert process.wait(30) == 7
    assert process.stderr.read() == b""
    process.stderr.close()

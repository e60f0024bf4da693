"""What a person sees while a command works: on a terminal a bar, in a pipe nothing."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from alexnet_edge.cli import main; main()"]


def run_on_terminal(arguments, folder):
    """Run a command whose standard error is a terminal; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_calibration_says_how_fast_it_is_and_how_long_it_takes(tiny_onnx, digits_folders, tmp_path):
    arguments = ["calibrate", str(tiny_onnx), "--images", str(digits_folders / "train"),
                 "--out", "table.json", "--max-images", "200"]  # fmt: skip
    code, shown = run_on_terminal(arguments, tmp_path)
    assert code == 0
    assert "calibrating" in shown
    assert re.search(r"\d+ images/s · \d+ s left", shown), shown[-500:]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_gets_no_bar(tiny_onnx, digits_folders, tmp_path, stream):
    arguments = ["calibrate", str(tiny_onnx), "--images", str(digits_folders / "val"),
                 "--out", "table.json", "--max-images", "16"]  # fmt: skip
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "images/s" not in getattr(done, stream)
    assert "\x1b" not in getattr(done, stream)

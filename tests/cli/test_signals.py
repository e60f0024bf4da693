"""Ctrl-C and SIGTERM while a command is at work: how it ends, and what a service manager sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

LOADING = {
    "bench": ["bench", "alexnet.onnx"],
    "camera": ["camera", "alexnet.onnx", "--source", "http://127.0.0.1:9/", "--quiet"],
}


@pytest.fixture
def engine(folder):
    """An engine that is never loaded to its end: its manifest is a pipe that nobody writes to."""
    os.mkfifo(folder / "alexnet.onnx.json")
    return folder / "alexnet.onnx"


def start(folder: Path, arguments: list[str], *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *COMMAND, *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_reader(pipe: Path) -> int:
    """Return the pipe's open end, once somebody reads the other."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: nobody reads so far
            time.sleep(0.02)
    pytest.fail("the engine was never opened")


@pytest.mark.parametrize(
    ("command", "sent", "code"),
    [
        ("bench", signal.SIGINT, 130),
        ("bench", signal.SIGTERM, -signal.SIGTERM),
        ("camera", signal.SIGINT, 130),
        ("camera", signal.SIGTERM, 0),
    ],
)
def test_a_signal_while_an_engine_is_loaded(engine, command, sent, code):
    process = start(engine.parent, LOADING[command])
    end = wait_for_reader(engine.with_name("alexnet.onnx.json"))
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    os.close(end)
    assert process.returncode == code, err
    assert "Traceback" not in err
    told = {130: "interrupted: ", -signal.SIGTERM: "terminated: ", 0: ""}[code]
    assert err.startswith(told)
    assert bool(err) == bool(told)


def test_the_first_process_of_a_container_exits_with_143(engine):
    """There, a process that sends itself SIGTERM lives on."""
    namespace = ["unshare", "--pid", "--fork"]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make a process namespace")
    process = start(engine.parent, LOADING["bench"], *namespace)
    end = wait_for_reader(engine.with_name("alexnet.onnx.json"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    os.close(end)
    assert process.returncode == 143, err
    assert "terminated: " in err

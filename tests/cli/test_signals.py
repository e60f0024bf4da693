"""Ctrl-C and SIGTERM while a command is at work: how it ends, and what a service manager sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
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


DROPPING = {
    "a weak reference's callback": """
        class Referred: pass
        referred = Referred()
        reference = weakref.ref(referred, lambda _: be_told())
        del referred
    """,
    "__del__": """
        class Deleted:
            def __del__(self): be_told()
        Deleted()
    """,
    "except of everything": """
        try: be_told()
        except BaseException: pass
    """,
    "a module that looks for another": """
        sys.path.insert(0, ".")
        pathlib.Path("half.py").write_text("import __main__; __main__.be_told(); VALUE = 1")
        try: import half
        except: pass
        from half import VALUE, OTHER
    """,
}
UNTIL_TOLD = """
import os, pathlib, signal, sys, time, weakref
from alexnet_edge import cli

def be_told():
    os.kill(os.getpid(), signal.SIG{sent})
    for _ in range(100): time.sleep(0.001)

def run(*arguments):
    {setting}
{dropping}
    time.sleep(30)
    raise SystemExit(77)

cli.app = lambda args: run()
cli.main([])
"""


@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize(
    ("sent", "setting", "code"),
    [
        ("INT", "pass", 130),
        ("TERM", "pass", -signal.SIGTERM),
        ("TERM", "cli.TERMINATION.exit_cleanly_on_sigterm = True", 0),
    ],
)
def test_what_a_signal_raises_is_raised_again_if_it_is_dropped(
    tmp_path, dropping, sent, setting, code
):
    body = textwrap.indent(textwrap.dedent(DROPPING[dropping]), "    ")
    script = UNTIL_TOLD.format(sent=sent, setting=setting, dropping=body)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=25,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    told = {130: "interrupted: ", -signal.SIGTERM: "terminated: ", 0: ""}[code]
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == bool(told)


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(tmp_path):
    """As `nohup` and a shell's background do."""
    script = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
from alexnet_edge import cli
def run(args):
    for number in (signal.SIGINT, signal.SIGTERM): os.kill(os.getpid(), number)
    raise SystemExit(5)
cli.app = run
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=25, check=False)
    assert done.returncode == 5


def test_what_is_cleaned_up_meanwhile_is_not_disturbed(tmp_path):
    script = """
import os, signal, time
from alexnet_edge import cli
def run(args):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    finally:
        for _ in range(100): time.sleep(0.005)
        print("cleaned up")
cli.app = run
cli.main([])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=25,
        check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stdout == "cleaned up\n"
    assert done.stderr.startswith("interrupted: ")

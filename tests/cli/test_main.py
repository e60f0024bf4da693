"""The command line as a whole: what it loads, what it says, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import COMMAND

COMMANDS = (
    "train", "summary", "export", "calibrate", "sensitivity", "pareto", "lint", "build", "bench",
    "parity", "camera", "compare", "report", "inspect", "doctor", "demo",
)  # fmt: skip
HEAVY = (
    "torch",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "cv2",
    "onnx",
    "numpy",
    "PIL",
    "sklearn",
    "av",
    "aiohttp",
    "matplotlib",
    "jinja2",
    "pynvml",
)


def modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import alexnet_edge",
        *(
            "from alexnet_edge.cli import main\n"
            f"try: main({[*command, '--help']!r})\nexcept SystemExit as done: assert done.code == 0"
            for command in ([], *([name] for name in COMMANDS))
        ),
    ],
)
def test_importing_and_help_load_nothing_heavy(code):
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(run, command):
    done = run(command, "--help")
    assert done.code == 0
    assert f"Example: alexnet-edge {command}" in " ".join(done.out.replace("│", " ").split())


def test_version(run):
    import alexnet_edge

    assert run("--version").out.strip() == f"alexnet-edge {alexnet_edge.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["build", "--nonsense"],
        ["build", "--int8", "--fp16"],
        ["build", "--fp32", "--images", "x"],
        ["build", "--int8", "--cache", "x", "--table", "y"],
        ["build", "--int8", "--max-drop", "1"],
        ["build", "--batch", "1,2"],
        ["export", "--mean", "1,2"],
        ["parity", "x.onnx"],
        ["bench", "--batch", "0"],
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    done = run(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["export"], "alexnet.pt: no such file", "alexnet-edge train"),
        (["export", "."], ".: is a folder", "alexnet-edge train"),
        (["calibrate"], "calibration needs images", "--images DIR"),
        (["calibrate", "--images", "nowhere"], "nowhere: no such folder", "class folders"),
        (["build"], "alexnet.onnx: no such file", "alexnet-edge export"),
        (["bench"], "holds no engine that runs here", "alexnet-edge build"),
        (["bench", "x.engine"], "x.engine: no such file", "alexnet-edge build"),
        (["inspect", "x"], "x: no such file", "give a checkpoint"),
        (["train", "--data", "nowhere"], "nowhere: no such folder", "class folders"),
        (["train", "--arch", "vgg"], "architecture 'vgg' is unknown", "caffe"),
        (["summary", "--width", "9"], "width is 9", "0.01 to 4"),
        (["build", "--profile", "toaster"], "profile 'toaster' is unknown", "orin-nano"),
        (["build", "--runtime", "tflite"], "runtime 'tflite' is unknown", "tensorrt-rtx"),
        (["build", "--profile", "nano", "--int8"], "profile nano takes no int8", "--fp16"),
        (
            ["build", "--profile", "cpu", "--runtime", "tensorrt-rtx"],
            "profile cpu is for onnxruntime, not tensorrt-rtx",
            "leave --runtime out",
        ),
        (["doctor", "--json", "no/such/x.json"], "no/such: no such folder", "mkdir"),
        (["demo", "--width", "9"], "width is 9", "0.01 to 4"),
    ],
)
def test_errors_are_one_line_with_a_hint_and_exit_with_1(run, arguments, message, hint):
    done = run(*arguments)
    assert done.code == 1
    first, second = done.err.strip().splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second


def test_debug_shows_the_traceback(run):
    done = run("--debug", "export", "x.pt")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "x.pt: no such file" in done.err


def test_json_to_standard_output_is_the_only_thing_on_it(run):
    for command in (["summary"], ["doctor"]):
        done = run(*command, "--json", "-")
        assert isinstance(json.loads(done.out), dict)
        assert done.err, "the table goes to standard error then"


@pytest.mark.parametrize(
    ("sent", "code", "after_s"),
    [
        (signal.SIGINT, 130, 0.1),  # the optimizer imports most of torch
        (signal.SIGINT, 130, 0.5),
        (signal.SIGINT, 130, 3),
        (signal.SIGTERM, -signal.SIGTERM, 0.5),
    ],
)
def test_an_interrupted_training_leaves_no_file(tmp_path, sent, code, after_s):
    arguments = ["train", "--data", "digits", "--width", "0.1", "--epochs", "50"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # the images are opened: training begins
    time.sleep(after_s)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "no half-written file was left behind" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob(".*partial*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(run, folder):
    done = run("build", "--out", "/dev/full/engine.onnx")
    assert done.code == 1
    assert done.err.startswith("error: ")
    limited = [
        "bash",
        "-c",
        f"ulimit -f 100; exec {sys.executable} -c '{COMMAND[2]}' export --out big.onnx",
    ]
    full = subprocess.run(
        limited, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert full.returncode == 1
    assert "error: " in full.stderr
    assert "hint: " in full.stderr
    assert not list(folder.glob("*big*"))

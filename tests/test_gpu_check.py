"""What `make gpu-check` decides: what may be tried, what failed, and what is worth keeping.

No GPU is needed here; what the items find on one is theirs to say.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from alexnet_edge.errors import UnavailableError
from alexnet_edge.machine import Gpu, nvidia_gpus
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.torch_eager import TorchRuntime
from tests.test_benchmarks import ROOT, load_script

GPU = Gpu(0, "Stand-in", "8.6", False, 8 << 30)


@pytest.fixture
def script(monkeypatch):
    return load_script("gpu_check", monkeypatch)


@pytest.fixture
def items(monkeypatch):
    return load_script("gpu_items", monkeypatch)


@pytest.fixture
def latency(monkeypatch):
    return load_script("gpu_latency", monkeypatch)


@pytest.fixture
def attempt(script):
    """Attempt an item that does ``run``."""

    def attempt_item(run, needs=(), lacking=None):
        return script.attempt(script.Item("thing", needs, run), lacking or {})

    return attempt_item


def raises(error):
    def run():
        raise error

    return run


@pytest.mark.skipif(bool(nvidia_gpus()), reason="a GPU is here")
def test_without_a_gpu_nothing_ran_nothing_failed_and_nothing_is_written():
    results = ROOT / "benchmarks/results/gpu.json"
    before = results.read_bytes() if results.exists() else None
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) > 8
    assert all(": could not run: no NVIDIA GPU or driver" in line for line in lines)
    assert json.loads(last) == {"ran": 0, "failed": 0, "could_not_run": len(lines)}
    assert (results.read_bytes() if results.exists() else None) == before


def test_an_item_that_lacks_something_is_not_run(attempt):
    outcome = attempt(
        raises(AssertionError("was run")),
        needs=("gpu", "pycuda", "cuda"),
        lacking={"gpu": "", "pycuda": "pycuda is not installed", "cuda": "no provider"},
    )
    assert str(outcome) == "thing: could not run: pycuda is not installed; no provider"


def test_a_reason_is_said_once(attempt):
    lacking = {"tensorrt": "no GPU", "tensorrt-rtx": "no GPU"}
    assert attempt(None, ("tensorrt", "tensorrt-rtx"), lacking).detail == "no GPU"


def test_an_item_that_has_all_it_needs_ran(attempt, items):
    outcome = attempt(lambda: items.Done("320 GB/s", {"bandwidth_gbs": 320}), ("gpu",), {"gpu": ""})
    assert str(outcome) == "thing: ran: 320 GB/s"
    assert outcome.figures == {"bandwidth_gbs": 320}


def test_whatever_an_item_raises_is_its_failure(attempt, items):
    ours = attempt(raises(UnavailableError("engine: the GPU failed", hint="see doctor")))
    assert str(ours) == "thing: failed: engine: the GPU failed (see doctor)"
    assert str(attempt(raises(OSError("libcudart.so")))) == "thing: failed: OSError: libcudart.so"
    kept = attempt(raises(items.ItemError("3 of 9 tests", {"passed": 6})))
    assert str(kept) == "thing: failed: 3 of 9 tests"
    assert kept.figures == {"passed": 6}
    nothing = attempt(raises(items.NothingToTryError("no pycuda")))
    assert str(nothing) == "thing: could not run: no pycuda"


def test_a_reason_of_many_lines_is_one_line(attempt):
    assert str(attempt(raises(ValueError("a\n  b\nc")))) == "thing: failed: ValueError: a b c"


def test_results_are_kept_only_where_something_was_measured(script, attempt, items):
    lacked = attempt(None, ("gpu",), {"gpu": "none"})
    said = attempt(lambda: items.Done("pycuda 2026.1"))
    measured = attempt(lambda: items.Done("", {"bandwidth_gbs": 1.0}))
    assert script.to_results([lacked, said], {}) is None
    kept = script.to_results([lacked, measured], {"cpu": "x"})
    assert kept["environment"] == {"cpu": "x"}
    assert [item["status"] for item in kept["items"]] == ["could not run", "ran"]
    assert json.loads(json.dumps(kept)) == kept


def test_every_need_of_an_item_is_one_that_is_looked_for(script):
    lacking = script.find_lacking([GPU])
    needs = {need for item in script.list_items([GPU], lacking, 1.0) for need in item.needs}
    assert needs <= lacking.keys()
    assert all("gpu" in item.needs for item in script.list_items([GPU], lacking, 1.0))


@pytest.mark.skipif(bool(nvidia_gpus()), reason="a GPU is here")
def test_packages_that_see_no_gpu_are_named_with_what_to_do(script):
    lacking = script.find_lacking([GPU])
    assert "sees no GPU" in lacking["torch-cuda"]
    assert "has no CUDAExecutionProvider: pip install" in lacking["CUDA"]


def test_kept_text_does_not_tell_where_the_tree_is(script, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    text = f"{script.ROOT}/build/gpu-check/x.engine: /home/someone/.cache is full"
    assert script.without_paths(text) == "build/gpu-check/x.engine: ~/.cache is full"
    monkeypatch.setenv("HOME", "/")
    assert script.without_paths("/usr/lib") == "/usr/lib"


def report(*cases):
    """A JUnit report of (name, outcome) of test_contract."""
    rows = "".join(
        f'<testcase classname="tests.runtimes.test_contract" name="{name}">'
        f"{f'<{outcome}/>' if outcome else ''}</testcase>"
        for name, outcome in cases
    )
    return f"<testsuites><testsuite>{rows}</testsuite></testsuites>"


CPU_CASE = ("test_answers_agree_with_pytorch[onnxruntime-int8-engine]", "")
GPU_CASE = ("test_answers_agree_with_pytorch[tensorrt-rtx-int8-engine]", "")
SKIPPED = ("test_the_contract_covers_what_runs_here[tensorrt-fp32-engine]", "skipped")


def test_a_contract_suite_with_engines_on_the_gpu_ran(items):
    said = items.judge_contract(report(CPU_CASE, GPU_CASE, SKIPPED)).detail
    assert said == "2 passed, with 1 kinds of engines on the GPU; 1 skipped"


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([CPU_CASE, SKIPPED], "1 tests passed, none with an engine on the GPU"),
        ([CPU_CASE, (GPU_CASE[0], "skipped")], "none with an engine on the GPU"),
        ([CPU_CASE, (GPU_CASE[0], "failure")], r"1 of 2 tests: .*\[tensorrt-rtx-int8"),
        ([(CPU_CASE[0], "error"), GPU_CASE], r"1 of 2 tests: .*\[onnxruntime"),
        ([], "0 tests passed"),
    ],
)
def test_a_contract_suite_without_them_or_with_a_failure_failed(items, cases, message):
    with pytest.raises(items.ItemError, match=message):
        items.judge_contract(report(*cases))


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", 0.9171), ("fp16", 0.4586), ("int8", 0.2293)]
)
def test_the_floor_reads_every_weight_once(latency, precision, expected):
    # 62,378,344 parameters at 272 GB/s.
    assert latency.floor_ms(62_378_344, precision, 272.0) == pytest.approx(expected, abs=1e-3)


@pytest.fixture
def measure(latency, monkeypatch):
    """Measure candidates for a moment; the bandwidth is that of a GPU with 100 GB/s."""
    monkeypatch.setattr(latency, "bandwidth_gbs", lambda: 100.0)
    quick = dataclasses.replace(latency.BenchSettings(), warmup_s=0, min_samples=5)
    monkeypatch.setattr(
        latency, "BenchSettings", lambda **given: dataclasses.replace(quick, duration_s=0.05)
    )

    def measure_them(*candidates, lacking=None):
        return latency.measure_candidates(candidates, lacking or {}, 0.05)

    return measure_them


@pytest.fixture
def candidate(latency, tiny_onnx):
    def make(name, needs=(), run=lambda: open_engine(tiny_onnx)):
        return latency.Candidate(name, "int8", needs, run)

    return make


def test_candidates_are_measured_together_beside_the_floor(measure, candidate):
    done = measure(candidate("a"), candidate("b"), candidate("c", ("x",)), lacking={"x": "no x"})
    rows = done.figures["engines"]
    assert rows.keys() == {"a", "b"}
    assert all(row["p50_ms"] > 0 and row["samples"] >= 5 for row in rows.values())
    assert rows["a"]["floor_ms"] == pytest.approx(0.6238, abs=1e-3)
    assert done.figures["left_out"] == {"c": "no x"}
    assert "left out c: no x" in done.detail
    assert "(floor 0.624)" in done.detail


def test_a_candidate_that_does_not_open_is_a_failure_that_keeps_the_others(
    measure, candidate, items
):
    broken = candidate("broken", run=raises(UnavailableError("no kernel\nfor this GPU")))
    with pytest.raises(items.ItemError, match="broken: no kernel; measured: a ") as failed:
        measure(broken, candidate("a"))
    assert failed.value.figures["engines"].keys() == {"a"}
    assert failed.value.figures["failed"] == {"broken": "no kernel"}


def test_with_no_candidate_to_try_nothing_failed(measure, candidate, items):
    with pytest.raises(items.NothingToTryError, match=r"^no x$"):
        measure(candidate("a", ("x",)), candidate("b", ("x",)), lacking={"x": "no x"})


def test_candidates_are_every_precision_and_both_kinds_of_pytorch(latency):
    names = {candidate.name for candidate in latency.list_candidates()}
    assert {f"tensorrt-rtx {precision}" for precision in ("fp32", "fp16", "int8")} <= names
    assert {"torch eager fp32", "torch compile fp32", "torch compile fp16"} <= names
    assert {"onnxruntime CUDA fp32", "tensorrt-rtx int8, plain launches"} <= names


class Sleeper:
    """An engine that takes its time, for any number of callers."""

    def __init__(self, info, error=None):
        self.info, self._error = info, error

    def infer(self, batch):
        time.sleep(0.005)
        if self._error:
            raise self._error
        return batch


def test_throughput_counts_the_images_of_all_callers(items, tiny_onnx):
    with open_engine(tiny_onnx) as engine:
        info = engine.info
    alone, three = (
        items.measure_throughput(Sleeper(info), 8, callers, seconds=0.5) for callers in (1, 3)
    )
    assert 0 < alone <= 8 / 0.005
    assert three > 1.5 * alone
    with pytest.raises(items.ItemError, match="2 callers: boom"):
        items.measure_throughput(Sleeper(info, ValueError("boom")), 8, 2, seconds=0.1)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.05)])
def test_the_pytorch_peer_answers_what_pytorch_does(
    monkeypatch, tiny_checkpoint, precision, tolerance
):
    module = load_script("gpu_torch", monkeypatch)
    images = np.random.default_rng(0).standard_normal((2, 3, 227, 227), np.float32)
    with (
        module.TorchVariant(tiny_checkpoint, precision, compiled=False, device="cpu") as peer,
        TorchRuntime(tiny_checkpoint, module.RuntimeOptions()) as reference,
    ):
        logits = peer.infer(images)
        assert peer.info.precision == precision
        expected = reference.infer(images)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=tolerance)

"""What takes the cores away is noticed; what does not is not accused."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

from alexnet_edge.bench import interference
from alexnet_edge.bench.inputs import synthetic_input
from alexnet_edge.bench.interference import CoreWatch, measure_idle_cores
from alexnet_edge.runtimes.loader import open_engine


def test_idle_sessions_of_onnxruntime_do_not_spin(tiny_onnx):
    with open_engine(tiny_onnx) as one, open_engine(tiny_onnx) as other:
        images = synthetic_input(one.info.input, 8, seed=0)
        for _ in range(3):
            one.infer(images)
            other.infer(images)
        assert measure_idle_cores() < 0.05


def test_a_session_that_spins_is_seen(tiny_onnx):
    """The trap itself: ONNX Runtime as it is by default."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 4
    session = ort.InferenceSession(str(tiny_onnx), settings, providers=["CPUExecutionProvider"])
    images = np.zeros((8, 3, 227, 227), np.float32)

    def idle_after_a_run():
        session.run(None, {session.get_inputs()[0].name: images})
        return measure_idle_cores()

    assert max(idle_after_a_run() for _ in range(5)) > 0.02


def test_a_busy_thread_is_seen():
    stop = threading.Event()
    numbers = np.ones(1 << 20)

    def work():
        while not stop.is_set():
            numbers.sum()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert measure_idle_cores() > 0.02
    finally:
        stop.set()
        thread.join()


def burn():
    while True:
        pass


def test_another_process_is_seen():
    watch = CoreWatch()
    process = multiprocessing.get_context("spawn").Process(target=burn)
    process.start()
    try:
        time.sleep(1.5)
        assert watch.other_share() > 0.1 / len(os.sched_getaffinity(0))
    finally:
        process.kill()
        process.join()


def write_stat(path, work):
    """As Linux has it: user nice system idle iowait irq softirq steal guest guest_nice."""
    lines = ["cpu  1 1 1 1 1 1 1 1 1 1"]
    for core in sorted(os.sched_getaffinity(0)):
        lines.append(f"cpu{core} {work} 0 0 900 77 0 0 {work} {work} 0")
    lines.append("cpu4095 99999 0 0 0 0 0 0 0 0 0")
    path.write_text("\n".join([*lines, "intr 1 2 3"]) + "\n")


def test_stolen_time_counts_and_idle_time_guests_and_others_cores_do_not(tmp_path, monkeypatch):
    path = tmp_path / "stat"
    now = 100.0
    monkeypatch.setattr(interference.time, "monotonic", lambda: now)
    monkeypatch.setattr(interference.time, "process_time", lambda: 0.0)
    write_stat(path, 0)
    watch = CoreWatch(path)
    now += 10
    tick = os.sysconf("SC_CLK_TCK")
    write_stat(path, tick)  # a second of user time and one that was stolen, on each core
    assert watch.other_share() == pytest.approx(0.2)


def test_nothing_is_said_of_a_short_run_or_without_the_kernels_counts(tmp_path):
    assert CoreWatch().other_share() is None
    assert CoreWatch(tmp_path / "none").other_share() is None

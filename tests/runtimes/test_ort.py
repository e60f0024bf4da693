"""Sessions of ONNX Runtime: threads and cores."""

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_edge import machine
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.ort import has_own_cores, session_options, threads_of

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="cores of a process: Linux, with two of them",
)


def threads_of_this_process() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def test_a_thread_for_each_core_keeps_to_its_own(tiny_onnx):
    cores = sorted(os.sched_getaffinity(0))
    before = threads_of_this_process()
    with open_engine(tiny_onnx, RuntimeOptions()) as engine:
        engine.infer(np.zeros((1, 3, 227, 227), np.float32))
        new = threads_of_this_process() - before
        pinned = {core for name in new for core in os.sched_getaffinity(int(name))
                  if len(os.sched_getaffinity(int(name))) == 1}  # fmt: skip
        assert engine.describe()["own_cores"] is True
    assert pinned == set(cores[1:])
    assert sorted(os.sched_getaffinity(0)) == cores, "the caller's thread is left alone"


def test_fewer_threads_than_cores_go_where_the_system_puts_them(tiny_onnx):
    before = threads_of_this_process()
    with open_engine(tiny_onnx, RuntimeOptions(threads=1)) as engine:
        engine.infer(np.zeros((1, 3, 227, 227), np.float32))
        new = threads_of_this_process() - before
        assert all(len(os.sched_getaffinity(int(name))) > 1 for name in new)
        assert engine.describe()["own_cores"] is False


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    key = "session.intra_op_thread_affinities"
    monkeypatch.setattr("alexnet_edge.runtimes.ort.core_numbers", lambda: [2, 5, 7])
    assert session_options(RuntimeOptions(threads=3)).get_session_config_entry(key) == "6;8"
    assert not has_own_cores(2)
    monkeypatch.setattr("alexnet_edge.runtimes.ort.core_numbers", list)
    assert not has_own_cores(machine.usable_cores())


def test_several_callers_share_the_cores_and_answer_alike(tiny_onnx):
    cores = len(os.sched_getaffinity(0))
    batches = [np.random.default_rng(i).normal(0, 1, (3, 3, 227, 227)) for i in range(6)]
    batches = [batch.astype(np.float32) for batch in batches]
    with open_engine(tiny_onnx, RuntimeOptions()) as engine:
        alone = [engine.infer(batch) for batch in batches]
        assert engine.contexts == 1
    with (
        open_engine(tiny_onnx, RuntimeOptions(contexts=cores)) as engine,
        concurrent.futures.ThreadPoolExecutor(cores) as pool,
    ):
        assert (engine.contexts, engine.describe()["threads"]) == (cores, 1)
        for found, expected in zip(pool.map(engine.infer, batches), alone, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert threads_of(RuntimeOptions(contexts=4 * cores)) == 1
    assert threads_of(RuntimeOptions(threads=2, contexts=cores)) == 2

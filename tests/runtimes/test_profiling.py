"""Times of layers: ONNX Runtime's profile, PyTorch's hooks, TensorRT's profiler on stand-ins."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_edge.bench import synthetic_input
from alexnet_edge.errors import InputError, UnavailableError
from alexnet_edge.runtimes.base import LayerTime, RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.profiling import LayerClock, read_node_times
from tests.runtimes.standins import Gpu, Vendor
from tests.runtimes.test_trt import images, open_on

__all__ = ["open_on"]


def node(name, dur, op="Conv", cat="Node"):
    return {"cat": cat, "name": f"{name}_kernel_time", "dur": dur, "args": {"op_name": op}}


def test_only_kernel_times_of_the_last_runs_count():
    events = [
        node("a", 900), {"cat": "Node", "name": "a_fence_before", "dur": 7}, node("b", 100, "Relu"),
        {"cat": "Session", "name": "model_run", "dur": 5000, "args": {}},
        node("a", 10), node("b", 2, "Relu"), node("a", 30), node("b", 4, "Relu"),
    ]  # fmt: skip
    found = read_node_times(events, runs=2)
    assert found == (LayerTime("a", "Conv", 20.0), LayerTime("b", "Relu", 3.0))


def test_what_runs_within_a_branch_is_counted_once():
    def at(ts, name, dur, op):
        return {**node(name, dur, op), "ts": ts}

    events = [
        at(0, "few", 4, "And"), at(6, "gather", 30, "Gather"), at(37, "sum", 9, "Add"),
        at(5, "fc", 43, "If"), at(49, "relu", 3, "Relu"),
        at(50, "few", 6, "And"), at(59, "all", 80, "MatMulInteger"), at(57, "fc", 85, "If"),
        at(143, "relu", 5, "Relu"),
    ]  # fmt: skip
    assert read_node_times(events, runs=2) == (
        LayerTime("few", "And", 5.0), LayerTime("fc", "If", 64.0), LayerTime("relu", "Relu", 4.0),
    )  # fmt: skip


def test_a_clock_keeps_the_order_in_which_layers_ran():
    clock = LayerClock(3)
    for name in ("z", "a", "z", "a"):
        clock.add(name, "", 1.0)
    assert [layer.name for layer in clock.times()] == ["z", "a"]


@pytest.mark.parametrize("source", ["tiny_onnx", "tiny_checkpoint"])
def test_every_layer_of_a_network_is_timed(source, request):
    with open_engine(request.getfixturevalue(source)) as engine:
        batch = synthetic_input(engine.info.input, 2, seed=0)
        before = engine.infer(batch)
        layers = engine.profile(batch, runs=3, warmup=1)
        np.testing.assert_array_equal(engine.infer(batch), before)
    convolutions = [layer for layer in layers if "Conv" in layer.op]
    assert len(convolutions) == 5
    assert all(layer.mean_us > 0 for layer in convolutions)


def test_a_batch_that_does_not_fit_is_refused_before_profiling(tiny_onnx):
    with open_engine(tiny_onnx) as engine, pytest.raises(InputError, match="takes input"):
        engine.profile(np.zeros((1, 3, 8, 8), np.float32), runs=1, warmup=0)


def profiling_vendor(gpu):
    """A vendor whose execution contexts tell a profiler of two layers."""
    vendor = Vendor(gpu)
    created = []

    class Profiler:
        def __init__(self):
            created.append(self)

    vendor.IProfiler = Profiler
    original = vendor.on_execute
    times = iter([(90.0, 10.0), (1.0, 3.0), (2.0, 5.0)])

    def on_execute():
        for profiler in created:
            conv, fc = next(times)
            profiler.report_layer_time("conv + relu", conv)
            profiler.report_layer_time("fc", fc)
        return original()

    vendor.on_execute = on_execute
    return vendor, created


def test_tensorrts_profiler_is_asked_in_a_context_of_its_own(open_on):
    gpu = Gpu()
    vendor, created = profiling_vendor(gpu)
    engine = open_on(gpu, RuntimeOptions(cuda_graph="on"), vendor=vendor)
    gpu.events.clear()
    layers = engine.profile(images(1), runs=2, warmup=1)
    assert layers == (LayerTime("conv + relu", "", 1500.0), LayerTime("fc", "", 4000.0))
    assert "record graph" not in gpu.events, "a profiler cannot look into a graph"
    assert gpu.events.count("create context") == 1
    assert "free context" in gpu.events
    created.clear()
    np.testing.assert_array_equal(engine.infer(images(3)), [[3] * 10])


def test_tensorrt_without_a_further_context_says_so(open_on):
    gpu = Gpu()
    vendor, _ = profiling_vendor(gpu)
    vendor.contexts = 1
    engine = open_on(gpu, vendor=vendor)
    with pytest.raises(UnavailableError, match="no execution context"):
        engine.profile(images(1), runs=1, warmup=0)


def test_a_tensorrt_that_tells_nothing_is_unavailable(open_on):
    gpu = Gpu()
    vendor = Vendor(gpu)
    vendor.IProfiler = type("IProfiler", (), {})
    engine = open_on(gpu, vendor=vendor)
    with pytest.raises(UnavailableError, match="told no times"):
        engine.profile(images(1), runs=1, warmup=0)


def test_the_gpus_cache_is_flushed_by_writing_twice_its_size(open_on):
    gpu = Gpu(l2_bytes=3 << 20)
    engine = open_on(gpu)
    gpu.events.clear()
    engine.flush_device_cache()
    engine.flush_device_cache()
    assert gpu.events == [
        f"allocate device {6 << 20}", f"set {6 << 20}", "synchronize device",
        f"set {6 << 20}", "synchronize device",
    ]  # fmt: skip
    engine.close()
    assert gpu.memory == {}

"""The order in which a TensorRT engine is opened, run and freed, on stand-ins (see `standins`).

Real engines go through `test_contract` where there is a GPU.
"""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from alexnet_edge.errors import AlexnetEdgeError, InputError, StaleArtifactError, UnavailableError
from alexnet_edge.manifest import Manifest
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo, RuntimeOptions
from alexnet_edge.runtimes.trt import TensorRTRuntime
from tests.runtimes.standins import Engine, Gpu, Vendor

INPUT = TensorSpec("input", "float32", (None, 3, 4, 4))
OUTPUT = TensorSpec("probabilities", "float32", (None, 10))
PLAIN = RuntimeOptions(cuda_graph="off")
LAUNCH = ["upload", "execute", "download", "synchronize"]


@pytest.fixture
def gpu():
    """A GPU with memory of its own."""
    return Gpu()


@pytest.fixture
def open_on(tmp_path):
    """Open an engine on stand-ins."""
    opened = []

    def open_engine(gpu, how=PLAIN, *, vendor=None, runtime="tensorrt", info=None, **manifest):
        path = tmp_path / "engine"
        path.write_bytes(b"ftrt" + bytes(60))
        vendor = vendor or Vendor(gpu)
        described = EngineInfo(path, runtime, "int8", INPUT, OUTPUT, "probabilities", "0" * 64)
        if info:
            described = dataclasses.replace(described, **info)
        written = {"device": {}, "options": {}, "runtime_version": vendor.__version__, **manifest}
        built = Manifest(
            engine_sha256="", model_sha256="", table_sha256=None, preprocess=None, classes=None,
            runtime=runtime, precision="int8", layers=(), input=INPUT, output=OUTPUT,
            output_kind="probabilities", **written,
        )  # fmt: skip
        engine = TensorRTRuntime(
            described, built, how, vendor=vendor, driver=gpu.driver, graphs=gpu.graphs
        )
        opened.append(engine)
        return engine

    yield open_engine
    for engine in opened:
        engine.close()


def images(*means):
    """A batch whose images have these means."""
    return np.stack([np.full((3, 4, 4), mean, np.float32) for mean in means])


def test_a_batch_is_bound_copied_run_and_fetched_in_this_order(gpu, open_on):
    engine = open_on(gpu)
    gpu.events.clear()
    answers = engine.infer(images(1, 2))
    np.testing.assert_array_equal(answers, [[1] * 10, [2] * 10])
    assert answers.dtype == np.float32
    assert gpu.events == [
        "shape 2",
        "allocate pinned 384", "allocate device 384",
        "allocate pinned 80", "allocate device 80",
        "address input", "address probabilities",
        *LAUNCH,
    ]  # fmt: skip


def test_the_same_shape_again_is_only_run(gpu, open_on):
    engine = open_on(gpu)
    first = engine.infer(images(1))
    gpu.events.clear()
    second = engine.infer(images(2))
    assert gpu.events == LAUNCH
    assert (first == 1).all(), "answers are the caller's, not the buffer's"
    assert (second == 2).all()


def test_a_smaller_batch_keeps_the_memory_and_a_larger_one_gets_more(gpu, open_on):
    engine = open_on(gpu)
    engine.infer(images(1, 2))
    gpu.events.clear()
    assert (engine.infer(images(3)) == 3).all()
    assert not [event for event in gpu.events if event.startswith(("allocate", "free"))]
    gpu.events.clear()
    answers = engine.infer(images(4, 5, 6))
    np.testing.assert_array_equal(answers[:, 0], [4, 5, 6])
    freed = [event for event in gpu.events if event.startswith("free")]
    assert freed == ["free device", "free pinned"] * 2
    assert gpu.events.index("shape 3") < gpu.events.index("free device")


def test_strided_batches_arrive_as_they_read(gpu, open_on):
    assert (open_on(gpu).infer(images(1, 2)[::-1])[:, 0] == [2, 1]).all()


@pytest.mark.parametrize(
    ("integrated", "asked", "mapped"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_memory_is_mapped_on_integrated_gpus_or_as_asked(open_on, integrated, asked, mapped):
    gpu = Gpu(integrated=integrated)
    engine = open_on(gpu, dataclasses.replace(PLAIN, zero_copy=asked))
    answers = engine.infer(images(7))
    assert (answers == 7).all()
    assert ("upload" in gpu.events) is not mapped
    assert ("allocate mapped 192" in gpu.events) is mapped
    assert ("allocate device 192" in gpu.events) is not mapped
    assert engine.describe()["zero_copy"] is mapped


def test_a_shape_that_comes_again_is_recorded_and_then_replayed(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions())
    engine.infer(images(1))
    assert engine.describe()["cuda_graph"] == "not recorded yet"
    gpu.events.clear()
    assert (engine.infer(images(2)) == 2).all()
    assert gpu.events == [
        "record graph", "upload", "execute", "download", "launch graph", "synchronize",
    ]  # fmt: skip
    gpu.events.clear()
    assert (engine.infer(images(3)) == 3).all()
    assert gpu.events == ["launch graph", "synchronize"]
    assert engine.describe()["cuda_graph"] == "recorded"


def test_a_graph_is_freed_before_its_context_changes(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions())
    for _ in range(2):
        engine.infer(images(1))
    gpu.events.clear()
    assert (engine.infer(images(1, 2))[:, 0] == [1, 2]).all()
    assert gpu.events[:2] == ["free graph", "shape 2"]
    assert "record graph" not in gpu.events
    engine.infer(images(3, 4))
    assert gpu.events[-2:] == ["launch graph", "synchronize"]


def test_shapes_that_alternate_are_not_recorded(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions())
    for _ in range(3):
        engine.infer(images(1))
        engine.infer(images(1, 2))
    assert "record graph" not in gpu.events


def test_auto_launches_plainly_where_nothing_can_be_recorded_and_says_so(gpu, open_on):
    gpu.fail["record"] = UnavailableError("cuStreamEndCapture failed: CAPTURE_INVALIDATED")
    engine = open_on(gpu, RuntimeOptions(cuda_graph="auto"))
    answers = [engine.infer(images(mean)) for mean in (1, 2, 3)]
    assert [answer[0, 0] for answer in answers] == [1, 2, 3]
    assert gpu.events.count("record graph") == 1, "it is tried once"
    state = engine.describe()["cuda_graph"]
    assert state.startswith("plain launches: ")
    assert "CAPTURE_INVALIDATED" in state


def test_a_graph_that_was_asked_for_is_recorded_or_an_error(gpu, open_on):
    gpu.fail["record"] = gpu.driver.Error("operation not permitted when stream is capturing")
    engine = open_on(gpu, RuntimeOptions(cuda_graph="on"))
    engine.infer(images(1))
    with pytest.raises(UnavailableError, match="no CUDA graph can be recorded") as refused:
        engine.infer(images(1))
    assert "not permitted" in refused.value.message
    assert "auto" in refused.value.hint


def test_graphs_that_are_off_are_never_recorded(gpu, open_on):
    engine = open_on(gpu, PLAIN)
    for _ in range(3):
        engine.infer(images(1))
    assert "record graph" not in gpu.events
    assert engine.describe()["cuda_graph"] == "off"


@pytest.mark.parametrize(("asked", "native"), [("auto", True), ("on", True), ("off", False)])
def test_a_runtime_with_graphs_of_its_own_is_left_to_record_them(gpu, open_on, asked, native):
    vendor = Vendor(gpu, "1.7.1.116", native_graphs=True)
    options = RuntimeOptions(cuda_graph=asked)
    engine = open_on(gpu, options, vendor=vendor, runtime="tensorrt-rtx")
    for _ in range(3):
        engine.infer(images(1))
    assert ("create context whole" in gpu.events) is native
    assert "record graph" not in gpu.events
    assert engine.describe()["cuda_graph"] == ("left to the runtime" if native else "off")


def test_everything_is_freed_in_the_reverse_order_of_its_creation(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions())
    for _ in range(2):
        engine.infer(images(1))
    gpu.events.clear()
    engine.close()
    assert gpu.events == [
        "synchronize",
        "free graph",
        "free context",
        "free device", "free pinned", "free device", "free pinned",
        "free stream",
        "free engine",
        "free runtime",
        "release cuda context",
    ]  # fmt: skip
    assert not gpu.memory
    assert gpu.active == 0
    engine.close()
    assert gpu.events.count("release cuda context") == 1


def test_a_release_that_fails_half_way_frees_the_rest(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions())
    engine.infer(images(1))
    gpu.fail["synchronize"] = gpu.driver.Error("an illegal memory access was encountered")
    with pytest.raises(UnavailableError, match="illegal memory access"):
        engine.close()
    assert gpu.events[-3:] == ["free engine", "free runtime", "release cuda context"]
    assert not gpu.memory


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"loads": False}, "cannot load it .the plan is damaged."),
        ({"contexts": 0}, "no execution context"),
        ({"contexts": 2}, "no execution context"),
    ],
)
def test_what_was_opened_is_freed_in_order_when_the_rest_fails(gpu, open_on, broken, message):
    vendor = Vendor(gpu)
    for name, value in broken.items():
        setattr(vendor, name, value)
    with pytest.raises(UnavailableError, match=message) as refused:
        open_on(gpu, RuntimeOptions(contexts=3), vendor=vendor)
    assert refused.value.hint
    assert not gpu.memory
    assert gpu.active == 0
    created = [event.removeprefix("create ") for event in gpu.events if "create" in event]
    freed = [event.removeprefix("free ") for event in gpu.events if event.startswith("free")]
    if not vendor.loads:
        assert freed == ["runtime"]
    else:
        # The context that failed was none; its stream was there before it.
        assert freed[-2:] == ["engine", "runtime"]
        assert freed.count("stream") == created.count("stream")
        assert freed.count("context") == created.count("context") - 1
    assert gpu.events[-1] == "release cuda context"


def test_a_stream_that_cannot_be_made_is_an_error_of_ours_and_frees_the_engine(gpu, open_on):
    gpu.driver.Stream = lambda: (_ for _ in ()).throw(gpu.driver.MemoryError("out of memory"))
    with pytest.raises(UnavailableError, match="no memory left") as refused:
        open_on(gpu)
    assert "fewer contexts" in refused.value.hint
    assert gpu.events[-3:] == ["free engine", "free runtime", "release cuda context"]


@pytest.mark.parametrize(
    ("event", "raised", "message"),
    [
        ("upload", "Error", "the GPU failed .boom."),
        ("execute", RuntimeError, "the GPU failed .boom."),
        ("allocate", "MemoryError", "no memory left .boom."),
        ("synchronize", "Error", "the GPU failed .boom."),
    ],
)
def test_errors_of_cuda_and_tensorrt_become_ours(gpu, open_on, event, raised, message):
    engine = open_on(gpu)
    kind = getattr(gpu.driver, raised) if isinstance(raised, str) else raised
    gpu.fail[event] = kind("boom")
    with pytest.raises(UnavailableError, match=message) as refused:
        engine.infer(images(1))
    assert str(engine.info.path) in refused.value.message
    assert refused.value.hint
    assert gpu.active == 0
    gpu.fail.clear()
    assert (engine.infer(images(5)) == 5).all(), "the next batch finds it in order"


def test_a_launch_that_is_refused_is_an_error(gpu, open_on):
    vendor = Vendor(gpu)
    vendor.on_execute = lambda: False
    with pytest.raises(UnavailableError, match="execution failed"):
        open_on(gpu, vendor=vendor).infer(images(1))
    assert "download" not in gpu.events


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 4, 4), np.float64),
        np.zeros((1, 3, 4, 5), np.float32),
        np.zeros((0, 3, 4, 4), np.float32),
    ],
)
def test_a_wrong_batch_is_refused_before_anything_is_said_to_the_gpu(gpu, open_on, batch):
    engine = open_on(gpu)
    gpu.events.clear()
    with pytest.raises(InputError, match="takes input N×3×4×4 float32"):
        engine.infer(batch)
    assert gpu.events == []


def test_a_batch_beyond_the_profile_is_refused_before_it_is_launched(gpu, open_on):
    engine = open_on(gpu, vendor=Vendor(gpu, max_batch=2))
    with pytest.raises(InputError, match="takes no batch of 3") as refused:
        engine.infer(images(1, 2, 3))
    assert "--batch" in refused.value.hint
    assert "execute" not in gpu.events
    assert (engine.infer(images(4, 5))[:, 0] == [4, 5]).all()


def test_each_context_has_its_own_stream_and_memory(gpu, open_on):
    engine = open_on(gpu, RuntimeOptions(contexts=3))
    assert gpu.events.count("create stream") == gpu.events.count("create context") == 3
    assert engine.describe()["contexts"] == 3


def test_as_many_callers_as_contexts_run_at_a_time(gpu, open_on):
    vendor = Vendor(gpu)
    inside, most, lock = 0, 0, threading.Lock()
    meeting = threading.Barrier(2, timeout=20)

    def on_execute():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        meeting.wait()  # passes only if another caller is inside as well
        with lock:
            inside -= 1
        meeting.wait()
        return True

    vendor.on_execute = on_execute
    engine = open_on(gpu, RuntimeOptions(contexts=2, cuda_graph="off"), vendor=vendor)
    answers = {}

    def call(mean):
        answers[mean] = engine.infer(images(mean))

    threads = [threading.Thread(target=call, args=(mean,)) for mean in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most == 2
    assert {mean: answer[0, 0] for mean, answer in answers.items()} == {n: n for n in range(6)}


def test_closing_waits_for_who_runs_and_turns_away_who_waits(gpu, open_on):
    vendor = Vendor(gpu)
    running, go_on = threading.Event(), threading.Event()

    def on_execute():
        running.set()
        assert go_on.wait(20)
        return True

    vendor.on_execute = on_execute
    engine = open_on(gpu, vendor=vendor)
    outcome = {}

    def call(name):
        try:
            outcome[name] = engine.infer(images(1))[0, 0]
        except AlexnetEdgeError as error:
            outcome[name] = error.message

    first = threading.Thread(target=call, args=("first",))
    first.start()
    assert running.wait(20)
    second = threading.Thread(target=call, args=("second",))
    second.start()
    closing = threading.Thread(target=engine.close)
    closing.start()
    second.join(timeout=20)
    assert "closed" in outcome["second"]
    assert "free engine" not in gpu.events
    go_on.set()
    first.join(timeout=20)
    closing.join(timeout=20)
    assert outcome["first"] == 1
    assert gpu.events[-1] == "release cuda context"


@pytest.mark.parametrize(
    ("version", "runtime", "batch", "opens"),
    [
        ("8.6.2", "tensorrt", None, False),
        ("8.6.2", "tensorrt", 4, True),
        ("10.3.0", "tensorrt", None, True),
        ("1.7.1.116", "tensorrt-rtx", None, True),
    ],
)
def test_contexts_share_a_dynamic_batch_only_from_tensorrt_10_on(
    gpu, open_on, version, runtime, batch, opens
):
    options = RuntimeOptions(contexts=2, cuda_graph="off")
    settings = {"vendor": Vendor(gpu, version), "runtime": runtime}
    settings["info"] = {"input": dataclasses.replace(INPUT, shape=(batch, 3, 4, 4))}
    if opens:
        open_on(gpu, options, **settings)
        return
    with pytest.raises(UnavailableError, match="one execution context only") as refused:
        open_on(gpu, options, **settings)
    assert "--batch" in refused.value.hint
    assert gpu.events[-3:] == ["free engine", "free runtime", "release cuda context"]


def test_an_engine_for_another_gpu_is_refused_before_it_is_read(gpu, open_on):
    with pytest.raises(StaleArtifactError, match=r"compute_capability: expected 8\.7, found 8\.6"):
        open_on(gpu, device={"compute_capability": "8.7"})
    assert "deserialize" not in gpu.events
    assert gpu.events[-1] == "release cuda context"


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"input": TensorSpec("images", "float32", (None, 3, 4, 4))}, "it has input, probabilit"),
        ({"input": TensorSpec("input", "uint8", (None, 4, 4, 3))}, "it is FLOAT"),
        ({"output": TensorSpec("probabilities", "float16", (None, 10))}, "it is FLOAT"),
    ],
)
def test_tensors_other_than_the_manifests_are_refused(gpu, open_on, info, message):
    with pytest.raises(InputError, match=message):
        open_on(gpu, info=info)
    assert "create context" not in gpu.events


def test_uint8_frames_are_a_quarter_of_the_memory(gpu, open_on, monkeypatch):
    monkeypatch.setattr(Engine, "dtypes", ("UINT8", "FLOAT"))
    gpu.fail["execute"] = RuntimeError("the stand-in computes floats only")
    engine = open_on(gpu, info={"input": TensorSpec("input", "uint8", (None, 4, 4, 3))})
    with pytest.raises(UnavailableError, match="floats only"):
        engine.infer(np.zeros((2, 4, 4, 3), np.uint8))
    assert "allocate device 96" in gpu.events


@pytest.mark.parametrize(
    ("device", "index"), [(None, 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_the_gpu_that_is_asked_for_is_used(open_on, device, index):
    gpu = Gpu(count=2)
    open_on(gpu, RuntimeOptions(device=device))
    assert f"device {index}" in gpu.events


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cpu", "device cpu: tensorrt runs on cuda"),
        ("tensorrt", "device tensorrt: tensorrt runs on cuda"),
        ("cuda:x", "device cuda:x"),
        ("cuda:", "device cuda:"),
        ("cuda:7", "there is no GPU 7, the driver sees 1"),
    ],
)
def test_a_device_that_there_is_not_is_refused(gpu, open_on, device, message):
    with pytest.raises(UnavailableError, match=message):
        open_on(gpu, RuntimeOptions(device=device))
    assert "retain cuda context" not in gpu.events


@pytest.mark.parametrize(
    ("built", "name", "value"),
    [
        ({"options": {"version_compatible": True}}, "engine_host_code_allowed", True),
        ({}, "engine_host_code_allowed", False),
        ({"device": {"dla_core": 1}}, "DLA_core", 1),
        ({}, "DLA_core", -1),
    ],
)
def test_the_runtime_is_told_what_the_engine_needs(gpu, open_on, built, name, value):
    vendor = Vendor(gpu)
    engine = open_on(gpu, vendor=vendor, **built)
    assert getattr(vendor.runtime, name) == value
    engine.close()


@pytest.mark.parametrize("values", [{"contexts": 0}, {"cuda_graph": "yes"}])
def test_options_out_of_range_are_refused(values):
    with pytest.raises(InputError) as refused:
        RuntimeOptions(**values)
    assert refused.value.hint

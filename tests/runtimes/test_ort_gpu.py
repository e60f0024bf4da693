"""Which nodes ran where, and device memory: on recorded profiles, and on the CPU for real.

Real GPUs go through `test_contract` where there is one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import UnavailableError
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes import ort
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.ort import create_session, session_options
from alexnet_edge.runtimes.ort_gpu import (
    CPU,
    CUDA,
    PROVIDERS,
    TENSORRT,
    DeviceBinding,
    RanNode,
    enable_profiling,
    profile_nodes,
    provider_settings,
    read_profile,
    require_providers,
)

PATH = Path("alexnet.onnx")


def event(name, op, provider, outputs=None, *, index=0):
    """A node's event, as ONNX Runtime writes it."""
    return {
        "cat": "Node", "pid": 1, "tid": 1, "dur": 3, "ts": 9, "ph": "X",
        "name": f"{name}_kernel_time",
        "args": {
            "op_name": op, "provider": provider, "node_index": str(index),
            "input_type_shape": [{"float": [1, 3, 227, 227]}],
            "output_type_shape": outputs or [{"float": [1, 96, 55, 55]}],
        },
    }  # fmt: skip


PROFILE = [
    {"cat": "Session", "name": "model_loading_uri", "ph": "X", "dur": 5, "args": {}},
    {"cat": "Node", "name": "conv1_fence_before", "args": {"op_name": "Conv"}},
    event("conv1", "Conv", CUDA),
    event("shape", "Shape", CPU, [{"int64": [4]}], index=1),
    event("size", "Gather", CPU, [{"int64": []}], index=2),
    event("fc8", "Gemm", CUDA, [{"float": [1, 1000]}], index=3),
    {"cat": "Session", "name": "model_run", "ph": "X", "dur": 50},
]


def test_a_profile_gives_each_node_with_its_provider():
    assert read_profile(PROFILE) == (
        RanNode("conv1", "Conv", CUDA),
        RanNode("shape", "Shape", CPU, shape_work=True),
        RanNode("size", "Gather", CPU, shape_work=True),
        RanNode("fc8", "Gemm", CUDA),
    )


def test_nodes_without_a_name_are_told_apart():
    events = [event("", "Conv", CUDA, index=1), event("", "Gemm", CPU, index=2)]
    assert [node.op for node in read_profile(events)] == ["Conv", "Gemm"]


def test_a_run_on_the_gpu_with_shapes_on_the_cpu_is_accepted():
    assert require_providers(PATH, "cuda", read_profile(PROFILE), (CUDA,)) == {CUDA: 2, CPU: 2}


@pytest.mark.parametrize(
    ("op", "outputs"),
    [
        ("FusedGemm", [{"float": [1, 4096]}]),
        ("QLinearConv", [{"uint8": [1, 96, 55, 55]}]),
        ("Cast", [{"int64": [1, 4]}]),
        ("Gather", [{"int64": [500]}]),
        ("TopK", [{"float": [1, 5]}, {"int64": [5]}]),
    ],
)
def test_data_that_fell_to_the_cpu_is_refused_with_the_node_named(op, outputs):
    nodes = read_profile([*PROFILE, event("fc6", op, CPU, outputs, index=9)])
    with pytest.raises(UnavailableError, match="1 of 5 nodes ran on CPUExecutionPro") as refused:
        require_providers(PATH, "cuda", nodes, (CUDA,))
    assert f"fc6 ({op})" in refused.value.message
    assert "alexnet.onnx: device cuda" in refused.value.message
    assert "shape" not in refused.value.message.partition("nodes")[2]
    assert "--device cpu" in refused.value.hint


def test_many_strays_are_counted_and_five_named():
    nodes = read_profile([event(f"conv{i}", "Conv", CPU, index=i) for i in range(8)])
    with pytest.raises(UnavailableError, match=r"8 of 8 nodes .* and 3 more") as refused:
        require_providers(PATH, "cuda", nodes, (CUDA,))
    assert "conv4" in refused.value.message
    assert "conv5" not in refused.value.message


def test_shapes_alone_are_no_run_on_the_gpu():
    nodes = read_profile([event("shape", "Shape", CPU, [{"int64": [4]}])])
    with pytest.raises(UnavailableError, match="CUDAExecutionProvider ran none of 1 nodes"):
        require_providers(PATH, "cuda", nodes, (CUDA,))


def test_cuda_beside_tensorrt_only_where_it_is_named():
    nodes = read_profile([event("TRTKernel_0", "TRTKernel_0", TENSORRT), *PROFILE])
    with pytest.raises(UnavailableError, match=r"2 of 5 nodes ran on CUDA.*: conv1 \(Conv\)") as no:
        require_providers(PATH, "tensorrt", nodes, PROVIDERS["tensorrt"])
    assert "--device tensorrt,cuda" in no.value.hint
    counts = require_providers(PATH, "tensorrt,cuda", nodes, PROVIDERS["tensorrt,cuda"])
    assert counts == {TENSORRT: 1, CUDA: 2, CPU: 2}


def test_tensorrt_that_left_all_to_cuda_did_not_run():
    nodes = read_profile(PROFILE)
    with pytest.raises(UnavailableError, match="TensorrtExecutionProvider ran none"):
        require_providers(PATH, "tensorrt,cuda", nodes, PROVIDERS["tensorrt,cuda"])


def test_providers_are_given_in_order_with_their_gpu_and_no_cache():
    settings = dict(provider_settings("tensorrt,cuda", 1, "int8"))
    assert list(settings) == [TENSORRT, CUDA]
    assert {options["device_id"] for options in settings.values()} == {"1"}
    assert settings[TENSORRT]["trt_engine_cache_enable"] == "False"
    assert settings[TENSORRT]["trt_int8_enable"] == "True"
    assert settings[CUDA]["use_tf32"] == "0"
    assert dict(provider_settings("tensorrt", 0, "fp32"))[TENSORRT]["trt_int8_enable"] == "False"
    assert provider_settings("cpu", 0, "fp32") == [(CPU, {})]


@pytest.fixture
def opened(tiny_onnx):
    """What is known of `tiny_onnx`, and its path."""
    with open_engine(tiny_onnx) as engine:
        yield engine


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((5, 3, 227, 227), np.float32)


def test_a_real_profile_names_every_node_of_the_session(opened, tmp_path):
    settings = session_options(RuntimeOptions())
    enable_profiling(settings, tmp_path)
    session = create_session(opened.info.path, RuntimeOptions(), settings)
    nodes = profile_nodes(session, opened.info)
    assert {node.provider for node in nodes} == {CPU}
    assert not any(node.shape_work for node in nodes)
    convolutions = [node for node in nodes if "Conv" in node.op]
    assert len(convolutions) == 5
    assert require_providers(opened.info.path, "cpu", nodes, (CPU,)) == {CPU: len(nodes)}
    with pytest.raises(UnavailableError, match=f"{len(nodes)} of {len(nodes)} nodes ran on CPU"):
        require_providers(opened.info.path, "cuda", nodes, (CUDA,))


def test_the_check_catches_a_layer_that_the_provider_left_to_another(opened, tmp_path):
    """The same check on a real profile in which one node ran elsewhere."""
    settings = session_options(RuntimeOptions())
    enable_profiling(settings, tmp_path)
    nodes = profile_nodes(create_session(opened.info.path, RuntimeOptions(), settings), opened.info)
    moved = [n if "Gemm" in n.op else RanNode(n.name, n.op, CUDA) for n in nodes]
    with pytest.raises(UnavailableError, match=r"3 of \d+ nodes ran on CPU.*Gemm"):
        require_providers(opened.info.path, "cuda", moved, (CUDA,))


def test_bound_memory_gives_the_answers_of_a_plain_run(opened, images):
    session = create_session(opened.info.path, RuntimeOptions())
    binding = DeviceBinding(session, opened.info, "cpu", 0)
    for batch in (images[:1], images, images[:1], images[3:5], images[::-1]):
        np.testing.assert_allclose(binding.run(batch), opened.infer(batch), rtol=0, atol=1e-6)


def test_bound_answers_are_the_callers(opened, images):
    binding = DeviceBinding(
        create_session(opened.info.path, RuntimeOptions()), opened.info, "cpu", 0
    )
    first = binding.run(images[:2])
    kept, before = first.copy(), images.copy()
    binding.run(images[2:4])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(images, before)


@pytest.fixture
def cpu_as_cuda(monkeypatch):
    """Let `cuda` mean the CPU's provider and memory: the way is the same, the device is not."""
    monkeypatch.setitem(PROVIDERS, "cuda", (CPU,))
    monkeypatch.setattr(
        ort,
        "DeviceBinding",
        lambda session, info, device, index: DeviceBinding(session, info, "cpu", 0),
    )


def test_a_device_is_profiled_bound_and_described(tiny_onnx, opened, images, cpu_as_cuda):
    with open_engine(tiny_onnx, RuntimeOptions(device="cuda")) as engine:
        np.testing.assert_allclose(engine.infer(images), opened.infer(images), rtol=0, atol=1e-6)
        settings = engine.describe()
    assert settings["nodes"].keys() == {CPU}
    assert settings["nodes"][CPU] >= 8
    assert "bound" in settings["transfers"]


def test_nodes_elsewhere_keep_an_engine_from_opening(tiny_onnx, cpu_as_cuda, monkeypatch):
    def elsewhere(session, info):
        return [RanNode("conv1", "Conv", CPU), RanNode("fc6", "FusedGemm", "OtherProvider")]

    monkeypatch.setattr(ort, "profile_nodes", elsewhere)
    with pytest.raises(UnavailableError, match=r"ran on OtherProvider: fc6 \(FusedGemm\)"):
        open_engine(tiny_onnx, RuntimeOptions(device="cuda"))


def test_a_graph_that_does_not_run_on_the_device_is_an_error_of_ours(opened, tmp_path):
    class Broken:
        def run(self, *_):
            raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nlong trace")

        def end_profiling(self):
            return str(tmp_path / "none.json")

    with pytest.raises(UnavailableError, match=r"does not run .*CUDNN_STATUS_NOT_INIT") as refused:
        profile_nodes(Broken(), opened.info)
    assert "long trace" not in refused.value.message


@pytest.mark.parametrize(
    "device", ["tpu", "cpu:1", "cuda:", "cuda:one", "cuda,tensorrt", "CUDA", "", "tensorrt,cpu"]
)
def test_unknown_devices_are_refused_with_those_that_are_known(tiny_onnx, device):
    with pytest.raises(UnavailableError, match=f"device {device}: onnxruntime runs on cpu, cuda,"):
        open_engine(tiny_onnx, RuntimeOptions(device=device))


def test_what_the_cpu_must_sum_exactly_is_no_matter_on_a_gpu(
    tiny_onnx, tiny_table, tmp_path, monkeypatch
):
    from alexnet_edge.runtimes import loader

    out = tmp_path / "engine.onnx"
    build_engine(tiny_onnx, out, BuildSettings("int8", weight_bits=8), table=load_table(tiny_table))
    monkeypatch.setattr(loader, "has_vnni", lambda: False)
    with pytest.raises(UnavailableError, match="8-bit weights"):
        open_engine(out, RuntimeOptions(device="cpu"))
    if "CUDAExecutionProvider" in ort.import_onnxruntime("tests").get_available_providers():
        pytest.skip("onnxruntime has its CUDA provider here")
    with pytest.raises(UnavailableError, match="device cuda: onnxruntime"):
        open_engine(out, RuntimeOptions(device="cuda"))

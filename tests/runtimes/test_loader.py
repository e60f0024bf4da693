"""Opening files: engines that are not what their manifest says, devices that are not there."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest

from alexnet_edge.doctor import RUNTIMES
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import (
    GraphError,
    InputError,
    MissingDependencyError,
    StaleArtifactError,
    UnavailableError,
)
from alexnet_edge.manifest import manifest_path
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes import loader, trt
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import availability, open_engine
from alexnet_edge.runtimes.trt import cuda_device_count
from tests.needs import RTX, needs_rtx
from tests.runtimes.standins import Gpu, Vendor

HAS_CUDA_PROVIDER = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def engine(tiny_onnx, tmp_path):
    """An FP32 engine with its manifest."""
    out = tmp_path / "engine.onnx"
    build_engine(tiny_onnx, out, BuildSettings())
    return out


def edit_manifest(engine, **changes):
    path = manifest_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_engine_that_was_changed_by_one_byte_is_refused(engine, position):
    data = bytearray(engine.read_bytes())
    data[position] ^= 1
    engine.write_bytes(data)
    with pytest.raises(StaleArtifactError, match="is not the file that") as refused:
        open_engine(engine)
    assert refused.value.differences.keys() == {"engine_sha256"}
    assert "alexnet-edge build" in refused.value.hint


def test_engine_that_was_cut_short_is_refused(engine):
    engine.write_bytes(engine.read_bytes()[:-100])
    with pytest.raises(StaleArtifactError):
        open_engine(engine)


def test_engine_is_refused_without_its_manifest(engine, tmp_path):
    alone = tmp_path / "alone.engine"
    shutil.copy(engine, alone)
    with pytest.raises(InputError, match=r"has no manifest alone\.engine\.json") as refused:
        open_engine(alone)
    assert "alexnet-edge build" in refused.value.hint


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.onnx: no such file"):
        open_engine(tmp_path / "gone.onnx")


def test_onnx_file_that_is_damaged_is_named(tiny_onnx, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(tiny_onnx.read_bytes()[:5000])
    with pytest.raises(GraphError, match=r"cut\.onnx"):
        open_engine(path)


def test_runtime_that_is_unknown_is_named(engine):
    edit_manifest(engine, runtime="openvino")
    with pytest.raises(InputError, match="its runtime 'openvino' is unknown") as refused:
        open_engine(engine)
    assert "later version" in refused.value.hint


@pytest.mark.parametrize("name", ["checkpoint", "onnx", "engine"])
def test_each_kind_of_file_opens_with_its_runtime(tiny_checkpoint, tiny_onnx, engine, name):
    path = {"checkpoint": tiny_checkpoint, "onnx": tiny_onnx, "engine": engine}[name]
    with open_engine(path) as opened:
        assert opened.info.path == path
        assert opened.info.runtime == ("torch" if name == "checkpoint" else "onnxruntime")
        assert opened.info.precision == "fp32"


def test_graph_that_is_quantized_opens_as_int8(tiny_onnx, tiny_table, tmp_path):
    built, bare = tmp_path / "engine.onnx", tmp_path / "bare.onnx"
    build_engine(tiny_onnx, built, BuildSettings("int8"), table=load_table(tiny_table))
    shutil.copy(built, bare)
    with open_engine(bare) as opened:
        assert opened.info.precision == "int8"


@pytest.mark.skipif(HAS_CUDA_PROVIDER, reason="onnxruntime has its CUDA provider here")
def test_cuda_without_its_provider_is_refused_and_not_replaced(engine):
    with pytest.raises(UnavailableError, match=r"device cuda: .*CPUExecutionProvider") as refused:
        open_engine(engine, RuntimeOptions(device="cuda"))
    assert "--device cpu" in refused.value.hint


@pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU is here")
def test_cuda_without_a_gpu_is_refused_by_torch(tiny_checkpoint):
    with pytest.raises(UnavailableError, match="device cuda"):
        open_engine(tiny_checkpoint, RuntimeOptions(device="cuda"))


@pytest.mark.parametrize("kind", ["checkpoint", "engine"])
def test_unknown_device_is_refused(tiny_checkpoint, engine, kind):
    path = tiny_checkpoint if kind == "checkpoint" else engine
    with pytest.raises(UnavailableError, match="device tpu"):
        open_engine(path, RuntimeOptions(device="tpu"))


@pytest.mark.parametrize(("bits", "vnni"), [(8, True), (7, True), (7, False)])
def test_weights_that_the_cpu_sums_exactly_open(
    monkeypatch, tiny_onnx, tiny_table, tmp_path, bits, vnni
):
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", weight_bits=bits)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    monkeypatch.setattr(loader, "has_vnni", lambda: vnni)
    open_engine(out).close()


def test_8_bit_weights_are_refused_where_sums_saturate(
    monkeypatch, tiny_onnx, tiny_table, tmp_path
):
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", weight_bits=8)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    monkeypatch.setattr(loader, "has_vnni", lambda: False)
    with pytest.raises(UnavailableError, match="8-bit weights") as refused:
        open_engine(out)
    assert "7-bit" in refused.value.hint


@needs_rtx
@pytest.mark.skipif(RTX.runs, reason="a GPU is here")
def test_engine_for_a_gpu_is_refused_without_one(tiny_onnx, tmp_path):
    out = tmp_path / "engine"
    build_engine(tiny_onnx, out, BuildSettings(runtime="tensorrt-rtx"))
    with pytest.raises(UnavailableError, match="needs an NVIDIA GPU") as refused:
        open_engine(out)
    assert "onnxruntime" in refused.value.hint


@pytest.mark.skipif(availability("tensorrt").version is not None, reason="tensorrt is installed")
def test_engine_whose_vendor_is_not_installed_names_the_package(engine):
    edit_manifest(engine, runtime="tensorrt")
    with pytest.raises(MissingDependencyError, match="tensorrt is not installed") as refused:
        open_engine(engine)
    assert refused.value.hint == "pip install 'alexnet-edge[gpu]'"


@pytest.fixture
def gpu(monkeypatch):
    """Stand-ins for TensorRT 10.13 and a GPU (see `standins`)."""
    gpu = Gpu()
    monkeypatch.setattr(trt, "import_vendor", lambda runtime: Vendor(gpu, "10.13.0.35"))
    monkeypatch.setattr(trt, "_import_driver", lambda info: gpu.driver)
    return gpu


def test_a_plan_that_was_changed_is_refused_before_a_byte_is_deserialized(engine, gpu):
    edit_manifest(engine, runtime="tensorrt", runtime_version="10.13.0.35")
    with engine.open("ab") as file:
        file.write(b"x")
    with pytest.raises(StaleArtifactError, match="is not the file that"):
        open_engine(engine, RuntimeOptions(cuda_graph="off"))
    assert gpu.events == []


def test_a_plan_of_another_version_is_refused_with_the_command_that_builds_it(engine, gpu):
    edit_manifest(engine, runtime="tensorrt", runtime_version="10.3.0")
    with pytest.raises(StaleArtifactError, match=r"expected 10\.3\.0, found 10\.13") as refused:
        open_engine(engine, RuntimeOptions(cuda_graph="off"))
    assert "alexnet-edge build MODEL.onnx --fp32 --runtime tensorrt" in refused.value.hint
    assert "deserialize" not in gpu.events


def test_a_plan_that_fits_is_opened_run_and_freed(engine, gpu):
    edit_manifest(engine, runtime="tensorrt", runtime_version="10.13.0.35")
    images = np.full((2, 3, 227, 227), 0.5, np.float32)
    with open_engine(engine, RuntimeOptions(cuda_graph="off")) as opened:
        np.testing.assert_allclose(opened.infer(images), 0.5, atol=1e-6)
        assert opened.info.runtime == "tensorrt"
    assert gpu.events[-1] == "release cuda context"
    assert not gpu.memory


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_availability_gives_a_reason_for_what_it_cannot_do(runtime):
    found = availability(runtime)
    assert found.runtime == runtime
    assert bool(found.reason) is not (found.builds and found.runs)
    assert bool(found.hint) or found.runs
    assert bool(found.devices) is found.runs
    assert found.version is not None or not (found.builds or found.runs)


@pytest.mark.parametrize("spin", [False, True])
def test_threads_spin_between_runs_where_asked(tiny_onnx, spin):
    batch = np.zeros((1, 3, 227, 227), np.float32)
    with open_engine(tiny_onnx, RuntimeOptions(threads=2, spin=spin)) as engine:
        assert ("between runs" in engine.describe()["spin_wait"]) == spin
        engine.infer(batch)

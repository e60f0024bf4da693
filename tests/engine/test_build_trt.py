"""TensorRT's builders: TensorRT-RTX for real, and which calls every version of TensorRT gets.

TensorRT itself is not here: stand-ins with a version's attributes record what they are told. They
prove the branching, and nothing of what the library makes of it.
"""

from __future__ import annotations

import dataclasses
import platform
import types

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.engine.build_trt import TensorRTBuilder
from alexnet_edge.engine.profile import BatchRange, Dla, Profile
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.engine.versions import parse_range
from alexnet_edge.errors import (
    BuildError,
    GraphError,
    InputError,
    TableError,
    UnavailableError,
)
from alexnet_edge.export import ExportSettings, build_graph
from alexnet_edge.graph import load_onnx
from alexnet_edge.manifest import load_manifest
from alexnet_edge.model import Architecture, Checkpoint, build_module
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.layers import float_tensors, prepare, weighted_layers
from alexnet_edge.quantize.trt_cache import CalibrationCache, read_cache
from tests.engine.standins import ORIN, PLAN, VERSIONS, StandIn
from tests.needs import needs_rtx

WEAK, STRONG = ("8.5.2.2", "8.6.1.6", "10.3.0.26"), ("10.13.0.35", "11.0.0.1")
PRECISIONS = {
    "fp32": BuildSettings("fp32", "tensorrt"),
    "fp16": BuildSettings("fp16", "tensorrt"),
    "int8": BuildSettings("int8", "tensorrt"),
    "int8-fp16": BuildSettings("int8", "tensorrt", tensorrt=TensorRTOptions(fp16_rest=True)),
}
DLA = Profile("orin-dla", runtime="tensorrt", precisions=("fp16", "int8"), dla=Dla(2))


def write(path, arch="alexnet", *, batch=None, kind="float32"):
    """Write a narrow network with random weights."""
    import torch

    torch.manual_seed(0)
    architecture = Architecture(arch, classes=10, width=0.125)
    checkpoint = Checkpoint(architecture, build_module(architecture).state_dict())
    spec = PreprocessSpec(crop=architecture.input_size, input=kind)
    ir.save(build_graph(checkpoint, spec, ExportSettings(batch=batch)), path)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Narrow networks by architecture, batch and input, each written once."""
    folder = tmp_path_factory.mktemp("graphs")

    def find(arch="alexnet", batch=None, kind="float32"):
        path = folder / f"{arch}-{batch}-{kind}.onnx"
        return path if path.exists() else write(path, arch, batch=batch, kind=kind)

    return find


def ranges_of(path, amax=4.0):
    """A range for every tensor, as a calibration cache has them."""
    names = float_tensors(prepare(load_onnx(path), path))
    return CalibrationCache((10, 3, 0), "EntropyCalibration2", dict.fromkeys(names, amax))


def build(path, out, settings, *, vendor=None, gpus=(ORIN,), **given):
    """Build with a stand-in, or with what the machine has."""
    if settings.precision == "int8":
        given.setdefault("cache", ranges_of(path))
    if vendor is not None:
        given["builder"] = TensorRTBuilder("tensorrt", vendor, lambda: gpus)
    return build_engine(path, out, settings, **given)


def with_options(settings, **options):
    return dataclasses.replace(settings, tensorrt=dataclasses.replace(settings.tensorrt, **options))


def operators(record):
    return {node.op_type for node in record.graph.node}


# TensorRT-RTX, for real


@needs_rtx
@pytest.mark.parametrize("batch", [None, 2], ids=["dynamic", "static"])
@pytest.mark.parametrize("arch", ["alexnet", "torchvision", "caffe"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_runs_all_eight_layers_as_asked(graphs, tmp_path, arch, batch, precision):
    settings = dataclasses.replace(PRECISIONS[precision], runtime="tensorrt-rtx")
    manifest = build(graphs(arch, batch), tmp_path / "engine", settings)
    assert (tmp_path / "engine").read_bytes()[:4] == b"vtrt"
    expected = "int8" if precision.startswith("int8") else precision
    assert [layer.precision for layer in manifest.layers] == [expected] * 8
    assert manifest.options["typing"] == "strong"
    assert manifest.input.batch == batch


@needs_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_takes_raw_frames(graphs, tmp_path, precision):
    settings = dataclasses.replace(PRECISIONS[precision], runtime="tensorrt-rtx")
    manifest = build(graphs(kind="uint8"), tmp_path / "engine", settings)
    expected = "int8" if precision.startswith("int8") else precision
    assert [layer.precision for layer in manifest.layers] == [expected] * 8
    assert manifest.input.dtype == "uint8"


@needs_rtx
def test_rtx_runs_spared_layers_in_fp16_beside_int8(graphs, tmp_path):
    options = TensorRTOptions(fp16_rest=True)
    settings = BuildSettings(
        "int8", "tensorrt-rtx", spared=("features.3", "classifier.6"), tensorrt=options
    )
    manifest = build(graphs(), tmp_path / "engine", settings)
    found = {layer.name: layer.precision for layer in manifest.layers}
    assert {name for name, precision in found.items() if precision == "fp16"} == set(
        settings.spared
    )
    assert list(found.values()).count("int8") == 6
    assert manifest.options["fp16_rest"] is True


@needs_rtx
def test_two_vendors_build_in_one_process(graphs, tmp_path):
    other = StandIn("10.3.0.26")
    first = build(graphs(), tmp_path / "a", PRECISIONS["fp16"], vendor=other)
    real = BuildSettings("fp16", "tensorrt-rtx")
    second = build(graphs(), tmp_path / "b", real)
    third = build(graphs(), tmp_path / "c", PRECISIONS["fp16"], vendor=StandIn("11.0.0.1"))
    assert [m.runtime for m in (first, second, third)] == ["tensorrt", "tensorrt-rtx", "tensorrt"]
    assert [m.options["typing"] for m in (first, second, third)] == ["weak", "strong", "strong"]
    assert [(tmp_path / name).read_bytes()[:4] for name in "abc"] == [b"ftrt", b"vtrt", b"ftrt"]


@needs_rtx
def test_rtx_tells_how_far_it_is(graphs, tmp_path):
    told = []
    settings = BuildSettings(runtime="tensorrt-rtx")
    build(
        graphs(), tmp_path / "engine", settings,
        on_progress=lambda what, done, total: told.append((what, done / total)),
    )  # fmt: skip
    assert told
    assert all(0 <= share <= 1 for _, share in told)
    assert told[-1][1] == 1


@needs_rtx
def test_rtx_stops_where_the_caller_interrupts(graphs, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    settings = BuildSettings(runtime="tensorrt-rtx")
    with pytest.raises(KeyboardInterrupt):
        build(graphs(), tmp_path / "engine", settings, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_rtx_builds_pruned_engines(graphs, tmp_path):
    settings = BuildSettings(
        "int8", "tensorrt-rtx", tensorrt=TensorRTOptions(sparse=True, optimization_level=2)
    )
    manifest = build(graphs(), tmp_path / "engine", settings)
    assert manifest.options["flags"] == ["SPARSE_WEIGHTS"]
    assert manifest.options["optimization_level"] == 2
    assert [layer["name"] for layer in manifest.options["pruned"]] == [
        layer.name for layer in manifest.layers
    ]
    errors = {layer["name"]: layer["relative_error"] for layer in manifest.options["pruned"]}
    assert errors.pop("features.0") == 0
    assert all(0.1 < error < 0.6 for error in errors.values())
    assert manifest.options["pruning_loss"] is None
    assert manifest.options["ranges_before_pruning"] is True


# Every version's calls


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_typing_and_flags_follow_the_version(graphs, tmp_path, version, precision):
    vendor = StandIn(version)
    manifest = build(graphs(), tmp_path / "engine", PRECISIONS[precision], vendor=vendor)
    named = vendor.NetworkDefinitionCreationFlag
    strong = hasattr(named, "STRONGLY_TYPED") and bool(
        vendor.record.network_flags & 1 << named.STRONGLY_TYPED
    )
    assert strong == (version in STRONG)
    if hasattr(named, "EXPLICIT_BATCH"):
        assert vendor.record.network_flags & 1 << named.EXPLICIT_BATCH
    weak = {
        "fp32": [],
        "fp16": ["FP16", "OBEY_PRECISION_CONSTRAINTS"],
        "int8": ["INT8"],
        "int8-fp16": ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"],
    }
    assert vendor.record.flags == ([] if strong else weak[precision])
    assert manifest.options["flags"] == vendor.record.flags
    assert manifest.options["typing"] == ("strong" if strong else "weak")
    expected = "int8" if precision.startswith("int8") else precision
    assert [layer.precision for layer in manifest.layers] == [expected] * 8


@pytest.mark.parametrize(
    ("version", "strong"),
    [("10.9.0", False), ("10.11.0.33", False), ("10.12.0", True), ("10.16.2", True)],
)
def test_versions_are_compared_as_numbers(graphs, tmp_path, version, strong):
    vendor = StandIn("10.3.0.26")
    vendor.__version__ = version
    manifest = build(
        graphs(), tmp_path / "engine", BuildSettings("fp16", "tensorrt"), vendor=vendor
    )
    assert manifest.options["typing"] == ("strong" if strong else "weak")


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_is_in_the_graph_only_where_types_count(graphs, tmp_path, version):
    vendor = StandIn(version)
    build(graphs("caffe"), tmp_path / "engine", PRECISIONS["fp16"], vendor=vendor)
    kinds = {tensor.data_type for tensor in vendor.record.graph.initializer if len(tensor.dims) > 1}
    held = {
        (layer.type.name, layer.precision.name)
        for layer in vendor.record.network.layers
        if layer.precision is not None
    }
    if version in STRONG:
        assert kinds == {onnx.TensorProto.FLOAT16}
        assert held == set()
    else:
        assert kinds == {onnx.TensorProto.FLOAT}
        assert "Cast" not in operators(vendor.record)
        assert held == {("LRN", "FLOAT"), ("SOFTMAX", "FLOAT")}


@pytest.mark.parametrize("version", VERSIONS)
def test_qdq_is_what_old_parsers_read(graphs, tmp_path, version):
    vendor = StandIn(version)
    build(graphs(), tmp_path / "engine", PRECISIONS["int8"], vendor=vendor)
    record = vendor.record
    assert record.opset == 17
    quantizers = [node for node in record.graph.node if node.op_type.endswith("quantizeLinear")]
    quantizers += [node for node in record.graph.node if node.op_type == "QuantizeLinear"]
    assert all(len(node.input) == 3 for node in quantizers)
    kinds = {tensor.data_type for tensor in record.graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_beside_int8_raises_the_opset_only_where_it_is_in_the_graph(graphs, tmp_path, version):
    vendor = StandIn(version)
    build(graphs(), tmp_path / "engine", PRECISIONS["int8-fp16"], vendor=vendor)
    assert vendor.record.opset == (19 if version in STRONG else 17)


@pytest.mark.parametrize("version", VERSIONS)
def test_dynamic_batch_gets_a_profile_and_static_none(graphs, tmp_path, version):
    vendor = StandIn(version)
    settings = BuildSettings(runtime="tensorrt", batch=BatchRange(1, 4, 16))
    manifest = build(graphs(), tmp_path / "dynamic", settings, vendor=vendor)
    image = (3, 227, 227)
    assert vendor.record.shapes == [("input", ((1, *image), (4, *image), (16, *image)))]
    assert vendor.record.profiles == 1
    assert manifest.options["batch"] == {"min": 1, "opt": 4, "max": 16}
    vendor = StandIn(version)
    manifest = build(graphs(batch=2), tmp_path / "static", settings, vendor=vendor)
    assert vendor.record.profiles == 0
    assert "batch" not in manifest.options


def test_workspace_and_machine_come_from_profile_and_gpu(graphs, tmp_path):
    vendor = StandIn("10.3.0.26")
    board = Profile(
        "orin", runtime="tensorrt", workspace_mib=512, compute_capability=((8, 7),),
        tensorrt=parse_range(">=8.5,<11"),
    )  # fmt: skip
    settings = BuildSettings(runtime="tensorrt", profile=board)
    manifest = build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert vendor.record.pools == {"WORKSPACE": 512 << 20}
    assert manifest.device == {
        "kind": "gpu", "name": "Orin", "compute_capability": "8.7",
        "architecture": platform.machine(),
    }  # fmt: skip
    assert manifest.runtime_version == "10.3.0.26"
    assert manifest.options["profile"] == "orin"


@pytest.mark.parametrize(
    ("profile", "version", "field"),
    [
        (Profile("x", runtime="tensorrt", compute_capability=((5, 3),)), "10.3.0.26", "8.7"),
        (Profile("x", runtime="tensorrt", tensorrt=parse_range(">=8,<9")), "10.3.0.26", "tensorrt"),
    ],
)
def test_a_machine_that_is_not_the_profiles_is_refused(graphs, tmp_path, profile, version, field):
    settings = BuildSettings(runtime="tensorrt", profile=profile)
    with pytest.raises(BuildError, match=rf"profile x does not describe this machine.*{field}"):
        build(graphs(), tmp_path / "engine", settings, vendor=StandIn(version))
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_without_a_gpu_is_refused():
    with pytest.raises(UnavailableError, match="driver sees none") as refused:
        TensorRTBuilder("tensorrt", StandIn("10.3.0.26"), tuple)
    assert "tensorrt-rtx" in refused.value.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_a_layer_that_stayed_float_is_an_error_unless_allowed(graphs, tmp_path, version):
    vendor = StandIn(version)
    vendor.falls_back = {"classifier.4"}
    settings = PRECISIONS["int8"]
    with pytest.raises(BuildError, match=r"1 of 8 layers.*classifier\.4 \(.*: fp32\)") as refused:
        build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert "--allow-fallback" in refused.value.hint
    assert list(tmp_path.iterdir()) == []
    allowed = dataclasses.replace(settings, allow_fallback=True)
    manifest = build(graphs(), tmp_path / "engine", allowed, vendor=vendor)
    found = {layer.name: layer.precision for layer in manifest.layers}
    assert found.pop("classifier.4") == "fp32"
    assert set(found.values()) == {"int8"}
    assert manifest.options["allow_fallback"] is True


@pytest.mark.parametrize("version", [v for v in VERSIONS if VERSIONS[v].monitor])
def test_the_monitor_tells_and_stops(graphs, tmp_path, version):
    told = []
    build(
        graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=StandIn(version),
        on_progress=lambda what, done, total: told.append((what, done / total)),
    )  # fmt: skip
    assert ("Timing", 0.125) in told
    assert told[-1] == ("Building Engine", 1)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(
            graphs(), tmp_path / "other", BuildSettings(runtime="tensorrt"),
            vendor=StandIn(version), on_progress=interrupt,
        )  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_versions_without_a_monitor_build_without(graphs, tmp_path):
    vendor = StandIn("8.6.1.6")
    build(graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=vendor)
    assert vendor.record.config.progress_monitor is None


@pytest.mark.parametrize("version", VERSIONS)
def test_timing_cache_is_read_and_written(graphs, tmp_path, version):
    cache = tmp_path / "timing.cache"
    settings = with_options(BuildSettings(runtime="tensorrt"), timing_cache=cache)
    vendor = StandIn(version)
    manifest = build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert vendor.record.timing == [(b"", False)]
    assert cache.read_bytes() == b"measured"
    assert manifest.options["timing_cache"] == str(cache)
    vendor = StandIn(version)
    build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert vendor.record.timing == [(b"measured", False)]


@pytest.mark.parametrize(("stored", "stale"), [(b"damaged", False), (b"of another GPU", True)])
def test_timing_cache_of_another_machine_is_refused_and_kept(graphs, tmp_path, stored, stale):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(stored)
    vendor = StandIn("10.3.0.26")
    vendor.stale_cache = stale
    settings = with_options(BuildSettings(runtime="tensorrt"), timing_cache=cache)
    with pytest.raises(BuildError, match=r"timing\.cache: is no timing cache of this version"):
        build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert cache.read_bytes() == stored
    assert not (tmp_path / "engine").exists()


def test_timing_cache_that_cannot_be_written_is_refused_before_the_build(graphs, tmp_path):
    for cache in (tmp_path, tmp_path / "nowhere" / "timing.cache"):
        vendor = StandIn("10.3.0.26")
        settings = with_options(BuildSettings(runtime="tensorrt"), timing_cache=cache)
        with pytest.raises(InputError, match=r"--timing-cache .*: cannot be written"):
            build(graphs(), tmp_path / "engine", settings, vendor=vendor)
        assert vendor.record.timing == []


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_builder_or_are_refused_by_name(graphs, tmp_path, version):
    vendor = StandIn(version)
    settings = with_options(
        BuildSettings("fp16", "tensorrt"), sparse=True, version_compatible=True,
        optimization_level=5,
    )  # fmt: skip
    if version == "8.5.2.2":
        with pytest.raises(BuildError, match=r"--version-compatible is not in tensorrt 8\.5"):
            build(graphs(), tmp_path / "engine", settings, vendor=vendor)
        only = with_options(BuildSettings(runtime="tensorrt"), optimization_level=5)
        with pytest.raises(BuildError, match="--optimization-level is not in") as refused:
            build(graphs(), tmp_path / "engine", only, vendor=vendor)
        assert "8.6 or later" in refused.value.hint
        return
    manifest = build(graphs(), tmp_path / "engine", settings, vendor=vendor)
    assert {"SPARSE_WEIGHTS", "VERSION_COMPATIBLE"} <= set(vendor.record.flags)
    assert vendor.record.config.builder_optimization_level == 5
    assert vendor.record.runtime.engine_host_code_allowed is True
    assert manifest.options["version_compatible"] is True
    assert manifest.options["optimization_level"] == 5
    assert manifest.options["sparse"] is True


def test_host_code_runs_only_in_engines_that_need_it(graphs, tmp_path):
    vendor = StandIn("10.3.0.26")
    build(graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=vendor)
    assert vendor.record.runtime.engine_host_code_allowed is False


@pytest.mark.parametrize(
    ("runtime", "options", "reason"),
    [
        ("onnxruntime", {"sparse": True}, "--sparse is not for onnxruntime: it has no kernels"),
        ("onnxruntime", {"fp16_rest": True}, "--fp16-rest is not for onnxruntime"),
        ("onnxruntime", {"timing_cache": "x"}, "--timing-cache is not for onnxruntime"),
        ("onnxruntime", {"optimization_level": 0}, "--optimization-level is not for onnxruntime"),
        ("onnxruntime", {"version_compatible": True}, "--version-compatible is not for onnx"),
        ("tensorrt-rtx", {"timing_cache": "x"}, "--timing-cache is not for tensorrt-rtx: .* GPU"),
        ("tensorrt-rtx", {"version_compatible": True}, "--version-compatible .* one release"),
        ("tensorrt", {"optimization_level": 6}, "--optimization-level is 6"),
        ("tensorrt", {"dla_core": 0}, "--dla-core 0: no profile is named"),
    ],
)
def test_options_that_a_runtime_has_no_use_for_are_refused(runtime, options, reason):
    with pytest.raises(BuildError, match=reason) as refused:
        BuildSettings("int8", runtime, tensorrt=TensorRTOptions(**options))
    assert refused.value.hint


def test_fp16_rest_and_sparse_are_refused_where_they_mean_nothing():
    with pytest.raises(BuildError, match="--fp16-rest is for what INT8 leaves, fp16 is built"):
        BuildSettings("fp16", "tensorrt", tensorrt=TensorRTOptions(fp16_rest=True))
    with pytest.raises(BuildError, match="--sparse is not for FP32"):
        BuildSettings("fp32", "tensorrt", tensorrt=TensorRTOptions(sparse=True))


# DLA


@pytest.mark.parametrize(("version", "header"), [("8.6.1.6", "8601"), ("10.3.0.26", "100300")])
def test_dla_gets_its_ranges_from_a_cache_of_the_running_version(graphs, tmp_path, version, header):
    vendor = StandIn(version)
    vendor.dla_cores, vendor.on_gpu = 2, {"classifier.1", "softmax"}
    settings = with_options(BuildSettings("int8", "tensorrt", profile=DLA), dla_core=1)
    path = graphs(batch=1)
    given = CalibrationCache((8, 5, 2), "MinMaxCalibration", ranges_of(path).amax)
    manifest = build(path, tmp_path / "engine", settings, vendor=vendor, cache=given)
    text = vendor.record.served.decode()
    assert text.startswith(f"TRT-{header}-EntropyCalibration2\n")
    served = read_cache(text, source="served").amax
    assert served == pytest.approx(dict.fromkeys(ranges_of(path).amax, 4.0))
    assert not operators(vendor.record) & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    assert vendor.record.flags == ["FP16", "INT8", "GPU_FALLBACK"]
    config = vendor.record.config
    assert (config.default_device_type.name, config.DLA_core) == ("DLA", 1)
    assert vendor.record.runtime.DLA_core == 1
    assert manifest.device["dla_core"] == 1
    devices = manifest.device["layers"]
    assert {name for name, device in devices.items() if device == "GPU"} == vendor.on_gpu
    assert devices["features.0"] == "DLA"
    assert manifest.options["quantization"] == "calibration cache"
    assert manifest.options["without_range"] == []
    assert [layer.precision for layer in manifest.layers] == ["int8"] * 8


def test_dla_ranges_of_layer_inputs_reach_both_ends_of_pooling_and_relu(graphs, tmp_path):
    vendor = StandIn("10.3.0.26")
    vendor.dla_cores = 1
    path = graphs(batch=1)
    layers = weighted_layers(prepare(load_onnx(path), path), path)
    amax = {layer.activation.name: float(place) for place, layer in enumerate(layers, start=1)}
    cache = CalibrationCache((10, 3, 0), "EntropyCalibration2", amax)
    settings = BuildSettings("int8", "tensorrt", profile=DLA)
    manifest = build(path, tmp_path / "engine", settings, vendor=vendor, cache=cache)
    served = read_cache(vendor.record.served.decode(), source="served").amax
    assert served["input"] == pytest.approx(1)
    # features.0 → ReLU → pooling → features.3
    assert [served[f"features.{n}.out"] for n in (0, 1, 2)] == pytest.approx([2, 2, 2])
    # features.6 → ReLU → features.8
    assert [served[f"features.{n}.out"] for n in (6, 7)] == pytest.approx([4, 4])
    assert manifest.options["without_range"] == ["classifier.6.out", "probabilities"]


def test_dla_spares_layers_by_constraint(graphs, tmp_path):
    vendor = StandIn("10.3.0.26")
    vendor.dla_cores = 1
    settings = BuildSettings("int8", "tensorrt", profile=DLA, spared=("features.3",))
    build(graphs(batch=1), tmp_path / "engine", settings, vendor=vendor)
    held = {
        layer.name: layer.precision.name
        for layer in vendor.record.network.layers
        if layer.precision is not None
    }
    assert held == {"features.3": "HALF"}
    assert "OBEY_PRECISION_CONSTRAINTS" in vendor.record.flags


@pytest.mark.parametrize(("spared", "said"), [(("conv1",), "conv1"), (None, "every layer")])
def test_dla_spares_only_layers_that_there_are_and_not_all(graphs, tmp_path, spared, said):
    vendor = StandIn("10.3.0.26")
    vendor.dla_cores = 1
    path = graphs(batch=1)
    names = tuple(layer.name for layer in weighted_layers(prepare(load_onnx(path), path), path))
    settings = BuildSettings("int8", "tensorrt", profile=DLA, spared=spared or names)
    with pytest.raises(GraphError, match=said):
        build(path, tmp_path / "engine", settings, vendor=vendor)


def test_dla_in_fp16_needs_no_ranges(graphs, tmp_path):
    vendor = StandIn("10.3.0.26")
    vendor.dla_cores = 1
    settings = BuildSettings("fp16", "tensorrt", profile=DLA)
    build(graphs(batch=1), tmp_path / "engine", settings, vendor=vendor)
    assert vendor.record.served is None
    assert vendor.record.flags == ["FP16", "GPU_FALLBACK"]


def test_dla_network_is_weakly_typed_even_where_strong_typing_is_used(graphs, tmp_path):
    vendor = StandIn("10.13.0.35")
    vendor.dla_cores = 1
    settings = BuildSettings("int8", "tensorrt", profile=DLA)
    manifest = build(graphs(batch=1), tmp_path / "engine", settings, vendor=vendor)
    assert (
        vendor.record.network_flags & 1 << vendor.NetworkDefinitionCreationFlag.STRONGLY_TYPED == 0
    )
    assert manifest.options["typing"] == "weak"


def test_dla_is_refused_with_its_reason(graphs, tmp_path):
    settings = BuildSettings("int8", "tensorrt", profile=DLA)
    eleven, ten = StandIn("11.0.0.1"), StandIn("10.3.0.26")
    with pytest.raises(BuildError, match=r"tensorrt 11\.0\.0\.1 has no calibrators") as refused:
        build(graphs(batch=1), tmp_path / "engine", settings, vendor=eleven)
    assert "8.6 to 10.7" in refused.value.hint
    with pytest.raises(UnavailableError, match="--dla-core 0: this machine has 0 DLA cores"):
        build(graphs(batch=1), tmp_path / "engine", settings, vendor=ten)
    with pytest.raises(BuildError, match="has a dynamic batch") as refused:
        build(graphs(), tmp_path / "engine", settings, vendor=ten)
    assert "--batch 1" in refused.value.hint
    with pytest.raises(TableError, match="no range for tensor 'input'"):
        few = CalibrationCache((10, 3, 0), "EntropyCalibration2", {"probabilities": 1.0})
        build(graphs(batch=1), tmp_path / "engine", settings, vendor=ten, cache=few)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "core", "said"),
    [(DLA, 2, "orin-dla has 2"), (Profile("x", runtime="tensorrt"), 0, "x has no DLA")],
)
def test_dla_cores_that_a_profile_lacks_are_refused(profile, core, said):
    with pytest.raises(BuildError, match=f"--dla-core {core}: .*{said}"):
        BuildSettings("int8", "tensorrt", profile=profile, tensorrt=TensorRTOptions(dla_core=core))


# The parser's errors


def parser_error(text, code="INVALID_NODE", node=0, *, named=True):
    """An error as the parser of TensorRT 10 gives it, or of 8.6, which does not name the node."""
    fields = {"desc": lambda: text, "code": lambda: types.SimpleNamespace(name=code),
              "node": lambda: node}  # fmt: skip
    if named:
        fields |= {"node_name": lambda: "features.0", "node_operator": lambda: "Conv"}
    return types.SimpleNamespace(**fields)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("text", "code", "problem", "hint"),
    [
        ("No importer registered for op: Det", "UNSUPPORTED_NODE", "operator is not supp", "leave"),
        ("Plugin not found, are the name", "INVALID_NODE", "operator is not supported", "leave"),
        ("opset version 24 is not supported", "INVALID_GRAPH", "opset is newer", "--opset 17"),
        (
            "shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "INVALID_NODE",
            "zero point is not 0",
            "symmetrically",
        ),
        (
            "(scaleAllPositive || allowNegativeScale): Scale coefficients must all be positive",
            "INVALID_NODE",
            "scale is not positive",
            "calibrate again",
        ),
        ("BD: input has type Int32 but must have Int8", "INVALID_NODE", "type is not", "biases"),
        ("Axis must be in the range [0, 4]", "UNSUPPORTED_NODE", "attribute", "attribute"),
        ("reshape changes volume", "INVALID_NODE", "shape does not fit", "shapes"),
        ("anything", "UNSUPPORTED_NODE_DATATYPE", "type is not", "biases"),
        ("anything", "UNSUPPORTED_NODE_DYNAMIC", "known when it runs", "--batch"),
        ("anything", "UNSUPPORTED_NODE_ATTR", "attribute", "attribute"),
        ("anything", "UNSUPPORTED_NODE_SHAPE", "shape does not fit", "shapes"),
        ("anything", "INTERNAL_ERROR", "cannot be imported", "check the node"),
    ],
)
def test_parser_errors_are_translated_with_the_node_named(
    graphs, tmp_path, text, code, problem, hint, named
):
    vendor = StandIn("10.3.0.26")
    vendor.errors = [parser_error(text, code, named=named)]
    with pytest.raises(BuildError, match=problem) as refused:
        build(graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=vendor)
    assert "features.0 (Conv)" in refused.value.message
    assert text in refused.value.message
    assert hint in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_all_of_the_parsers_errors_are_collected(graphs, tmp_path):
    vendor = StandIn("8.6.1.6")
    vendor.errors = [parser_error("bad", node=node, named=False) for node in (0, 1, 0, -1)]
    with pytest.raises(BuildError) as refused:
        build(graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=vendor)
    message = refused.value.message
    assert message.count("features.0 (Conv)") == 1
    assert "features.1 (Relu)" in message
    assert "the graph: " in message


def test_what_the_parser_says_of_itself_is_left_out(graphs, tmp_path):
    vendor = StandIn("10.13.0.35")
    vendor.errors = [
        parser_error(
            "Invalid Node - conv\n"
            "ITensor::getDimensions: Error Code 4: API Usage Error (conv: `input` and `kernel` "
            "must be of same type. In validateTypes at /_src/nodes/convolutionNode.cpp:88)\n"
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35)"
        )
    ]
    with pytest.raises(BuildError) as refused:
        build(graphs(), tmp_path / "engine", BuildSettings(runtime="tensorrt"), vendor=vendor)
    assert refused.value.message.endswith(
        "the parser refuses it (features.0 (Conv): a type is not supported there "
        "[API Usage Error (conv: `input` and `kernel` must be of same type.)])"
    )


@needs_rtx
def test_rtx_names_an_operator_that_it_lacks(graphs, tmp_path):
    model = onnx.load(graphs(batch=1))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Det"
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(BuildError, match=rf"{relu.name} \(Det\): the operator") as refused:
        build_engine(path, tmp_path / "engine", BuildSettings(runtime="tensorrt-rtx"))
    assert refused.value.hint
    assert not (tmp_path / "engine").exists()


def test_manifest_is_that_of_the_file(graphs, tmp_path):
    out = tmp_path / "engine"
    manifest = build(graphs(), out, PRECISIONS["int8"], vendor=StandIn("10.13.0.35"))
    assert out.read_bytes() == PLAN
    assert load_manifest(out) == manifest
    assert manifest.engine_sha256 == sha256_file(out)
    assert np.all([layer.op == "CaskConvolution" for layer in manifest.layers])

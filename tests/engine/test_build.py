"""Building engines: what is built, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
from alexnet_edge.engine.profile import BatchRange, load_profile
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.errors import (
    AlexnetEdgeError,
    BuildError,
    GraphError,
    InputError,
    MissingDependencyError,
    StaleArtifactError,
    TableError,
    UnavailableError,
)
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.machine import has_vnni
from alexnet_edge.manifest import load_manifest
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import settings_of
from alexnet_edge.quantize.layerwise import Layerwise
from alexnet_edge.runtimes.loader import availability, open_engine
from alexnet_edge.runtimes.trt import cuda_device_count
from alexnet_edge.similarity import centred_logits
from tests import foreign
from tests.conftest import DIGITS_SPEC
from tests.engine.conftest import calibrate_digits
from tests.needs import needs_blocks, needs_rtx

ONNXRUNTIME = [pytest.param("onnxruntime", p, id=f"onnxruntime-{p}") for p in ("fp32", "int8")]
TENSORRT_RTX = [
    pytest.param("tensorrt-rtx", p, id=f"tensorrt-rtx-{p}", marks=needs_rtx)
    for p in ("fp32", "fp16", "int8")
]
RUNTIMES = ["onnxruntime", pytest.param("tensorrt-rtx", marks=needs_rtx)]

LAYERS = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]
MANIFEST_KEYS = {
    "engine_sha256", "model_sha256", "table_sha256", "preprocess", "classes", "runtime",
    "runtime_version", "precision", "layers", "device",
}  # fmt: skip

BUILD_THAT_WAITS_AT_RENAMES = """
import sys
from pathlib import Path
from alexnet_edge.engine.build import BuildSettings, build_engine

def wait(event, arguments):
    if event == "os.rename":
        print(Path(arguments[1]).name, flush=True)
        sys.stdin.readline()

sys.addaudithook(wait)
build_engine(Path(sys.argv[1]), Path(sys.argv[2]), BuildSettings("fp32"))
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def broken_onnx(tiny_onnx, tmp_path_factory):
    """A graph that is well formed, and that every runtime refuses: it flattens a ninth axis."""
    model = onnx.load(tiny_onnx)
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    next(a for a in flatten.attribute if a.name == "axis").i = 9
    path = tmp_path_factory.mktemp("broken") / "broken.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("runtime", "precision"), ONNXRUNTIME + TENSORRT_RTX)
def test_every_layer_has_the_precision_asked_for(tiny_onnx, table, tmp_path, runtime, precision):
    out = tmp_path / "engine"
    manifest = build_engine(tiny_onnx, out, BuildSettings(precision, runtime), table=table)
    assert [layer.name for layer in manifest.layers] == LAYERS
    assert [layer.precision for layer in manifest.layers] == [precision] * 8
    assert "unknown" not in {layer.op for layer in manifest.layers}


@pytest.mark.parametrize(("runtime", "precision"), ONNXRUNTIME + TENSORRT_RTX)
def test_manifest_tells_what_the_engine_came_from(
    tiny_onnx, tiny_table, table, tmp_path, runtime, precision
):
    out = tmp_path / "engine"
    built = build_engine(tiny_onnx, out, BuildSettings(precision, runtime), table=table)
    assert names(tmp_path) == ["engine", "engine.json"]
    assert load_manifest(out) == built
    assert built.to_dict().keys() >= MANIFEST_KEYS
    assert built.engine_sha256 == sha256_file(out)
    assert built.model_sha256 == sha256_file(tiny_onnx)
    assert built.table_sha256 == (sha256_file(tiny_table) if precision == "int8" else None)
    assert built.preprocess == DIGITS_SPEC
    assert built.classes == tuple("0123456789")
    assert (built.runtime, built.precision) == (runtime, precision)
    assert built.runtime_version == availability(runtime).version
    assert built.device["name"]
    assert (built.input.shape, built.output.shape) == ((None, 3, 227, 227), (None, 10))
    assert built.output_kind == "probabilities"


@needs_rtx
def test_tensorrt_rtx_builds_without_a_gpu(tiny_onnx, tmp_path):
    out = tmp_path / "engine"
    manifest = build_engine(
        tiny_onnx, out, BuildSettings(runtime="tensorrt-rtx", batch=BatchRange(1, 2, 4))
    )
    assert out.read_bytes()[:4] == b"vtrt"
    assert manifest.device["kind"] == "gpu"
    assert manifest.options["batch"] == {"min": 1, "opt": 2, "max": 4}


@pytest.mark.skipif(cuda_device_count() > 0, reason="a GPU is here")
def test_tensorrt_is_refused_with_a_reason_without_a_gpu(tiny_onnx, tmp_path):
    with pytest.raises((MissingDependencyError, UnavailableError), match="tensorrt") as refused:
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings(runtime="tensorrt"))
    assert refused.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_graph_with_uint8_input_builds_to_int8(uint8_onnx, uint8_table, tmp_path, runtime):
    out = tmp_path / "engine"
    manifest = build_engine(uint8_onnx, out, BuildSettings("int8", runtime), table=uint8_table)
    assert (manifest.input.dtype, manifest.input.shape) == ("uint8", (None, 227, 227, 3))
    assert {layer.precision for layer in manifest.layers} == {"int8"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_graph_of_another_tool_builds_to_int8(foreign_onnx, foreign_table, tmp_path, runtime):
    classes = tuple("abcdefghij")
    manifest = build_engine(
        foreign_onnx, tmp_path / "engine", BuildSettings("int8", runtime),
        table=foreign_table, preprocess=foreign.SPEC, classes=classes,
    )  # fmt: skip
    assert [layer.precision for layer in manifest.layers] == ["int8"] * foreign.WEIGHTED
    assert (manifest.preprocess, manifest.classes) == (foreign.SPEC, classes)
    assert manifest.input.batch == 1


def test_table_tells_the_preprocessing_that_the_graph_does_not(
    foreign_onnx, foreign_table, tmp_path
):
    manifest = build_engine(
        foreign_onnx, tmp_path / "engine", BuildSettings("int8"), table=foreign_table
    )
    assert manifest.preprocess == foreign.SPEC


def test_preprocessing_that_nobody_tells_is_not_invented(foreign_onnx, tmp_path):
    manifest = build_engine(foreign_onnx, tmp_path / "engine", BuildSettings())
    assert (manifest.preprocess, manifest.classes) == (None, None)


def test_graph_without_softmax_builds_to_int8(tiny_checkpoint, tiny_table, tmp_path):
    path = tmp_path / "logits.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(logits=True), path)
    out = tmp_path / "engine"
    manifest = build_engine(path, out, BuildSettings("int8"), table=calibrate_digits(path))
    assert manifest.output_kind == "logits"
    assert [layer.precision for layer in manifest.layers] == ["int8"] * 8


@pytest.mark.parametrize("bits", [7, 8])
def test_weight_bits_are_recorded_and_kept(tiny_onnx, table, tmp_path, bits):
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", weight_bits=bits, optimize="throughput")
    manifest = build_engine(tiny_onnx, out, settings, table=table)
    assert manifest.options["weight_bits"] == bits
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(out).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 8
    assert {int(np.abs(weight.astype(int)).max()) for weight in weights} == {2 ** (bits - 1) - 1}


@needs_blocks
@pytest.mark.parametrize(
    ("optimize", "linear", "block"),
    [("latency", "MatMulNBits", 128), ("throughput", "QGemm", None)],
)
def test_linear_layers_are_laid_out_for_latency_or_throughput(
    tiny_onnx, table, tmp_path, optimize, linear, block
):
    settings = BuildSettings("int8", optimize=optimize)
    manifest = build_engine(tiny_onnx, tmp_path / "engine.onnx", settings, table=table)
    assert [layer.op for layer in manifest.layers] == ["QLinearConv"] * 5 + [linear] * 3
    assert [layer.precision for layer in manifest.layers] == ["int8"] * 8
    assert manifest.options["fc_block"] == block


def test_another_aim_is_refused():
    with pytest.raises(BuildError, match="'size'"):
        BuildSettings("int8", optimize="size")


def test_weight_bits_follow_the_cpu_by_default(tiny_onnx, table, tmp_path):
    manifest = build_engine(tiny_onnx, tmp_path / "engine", BuildSettings("int8"), table=table)
    assert manifest.options["weight_bits"] == (8 if has_vnni() else 7)


def test_options_are_recorded(tiny_onnx, table, tmp_path):
    settings = BuildSettings("int8", method="percentile-99.9", profile=load_profile("cpu"))
    manifest = build_engine(tiny_onnx, tmp_path / "engine", settings, table=table)
    assert manifest.options["method"] == "percentile-99.9"
    assert manifest.options["profile"] == "cpu"
    assert manifest.options["dialect"] == "cpu"
    assert manifest.options["allow_fallback"] is False


def test_same_build_gives_the_same_bytes(tiny_onnx, table, tmp_path):
    first, second = (
        build_engine(tiny_onnx, tmp_path / name, BuildSettings("int8"), table=table)
        for name in ("first", "second")
    )
    assert first.engine_sha256 == second.engine_sha256


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (BuildSettings("int8"), "alexnet.int8.onnx"),
        (BuildSettings("fp16", "tensorrt"), "alexnet.fp16.engine"),
        (BuildSettings("fp32", "tensorrt-rtx"), "alexnet.fp32.rtx.engine"),
        (
            BuildSettings("int8", "tensorrt-rtx", tensorrt=TensorRTOptions(True, True)),
            "alexnet.int8-fp16-sparse.rtx.engine",
        ),
        (
            BuildSettings("int8", "tensorrt", profile=load_profile("orin-nx-dla")),
            "alexnet.int8-dla.engine",
        ),
    ],
)
def test_default_out_names_precision_and_runtime(tmp_path, settings, name):
    assert default_out(tmp_path / "alexnet.onnx", settings) == tmp_path / name


def test_int8_without_a_table_names_the_command_that_makes_one(tiny_onnx, tmp_path):
    with pytest.raises(BuildError, match="no calibration table") as refused:
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings("int8"))
    assert f"alexnet-edge calibrate {tiny_onnx}" in refused.value.hint
    assert names(tmp_path) == []


def test_table_of_another_model_is_refused(tiny_onnx, foreign_table, tmp_path):
    with pytest.raises(StaleArtifactError) as refused:
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings("int8"), table=foreign_table)
    assert {
        "model_sha256",
        "weights_sha256",
        "structure_sha256",
    } <= refused.value.differences.keys()
    assert refused.value.differences["model_sha256"][0] == sha256_file(tiny_onnx)
    assert f"alexnet-edge calibrate {tiny_onnx}" in refused.value.hint


def test_table_of_other_preprocessing_is_refused(tiny_checkpoint, table, tmp_path):
    path = tmp_path / "wider.onnx"
    spec = dataclasses.replace(DIGITS_SPEC, resize=256)
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), path)
    with pytest.raises(StaleArtifactError, match=r"preprocess\.resize") as refused:
        build_engine(path, tmp_path / "engine", BuildSettings("int8"), table=table)
    differences = refused.value.differences
    assert differences.keys() == {"model_sha256", "preprocess_sha256", "preprocess.resize"}
    assert differences["preprocess.resize"] == (256, 227)


def test_unknown_method_is_refused_with_those_there_are(tiny_onnx, table, tmp_path):
    with pytest.raises(TableError, match="method 'best'") as refused:
        build_engine(
            tiny_onnx, tmp_path / "engine", BuildSettings("int8", method="best"), table=table
        )
    assert "minmax" in refused.value.hint


def test_graph_that_is_quantized_already_is_refused(tiny_onnx, table, tmp_path):
    engine = tmp_path / "engine.onnx"
    build_engine(tiny_onnx, engine, BuildSettings("int8"), table=table)
    with pytest.raises(GraphError, match="quantized already"):
        build_engine(engine, tmp_path / "again.onnx", BuildSettings("int8"), table=table)


def test_fp16_is_refused_for_onnxruntime(tiny_onnx, tmp_path):
    with pytest.raises(BuildError, match="no FP16 kernels") as refused:
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings("fp16"))
    assert "--int8" in refused.value.hint
    assert names(tmp_path) == []


def test_the_model_itself_is_never_overwritten(tiny_onnx, tmp_path):
    before = tiny_onnx.read_bytes()
    link = tmp_path / "link.onnx"
    link.symlink_to(tiny_onnx)
    for out in (tiny_onnx, link):
        with pytest.raises(BuildError, match="is the model itself"):
            build_engine(tiny_onnx, out, BuildSettings())
    assert tiny_onnx.read_bytes() == before


def test_unknown_runtime_is_refused():
    with pytest.raises(BuildError, match="runtime 'tflite' is unknown"):
        BuildSettings(runtime="tflite")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ("a", "b")}, "other classes"),
        ({"preprocess": dataclasses.replace(DIGITS_SPEC, resize=300)}, "resize"),
    ],
)
def test_options_that_contradict_the_metadata_are_refused(tiny_onnx, tmp_path, options, said):
    with pytest.raises(GraphError, match=said):
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings(), **options)


def test_as_many_classes_as_outputs_must_be_named(foreign_onnx, tmp_path):
    with pytest.raises(GraphError, match="has 10 outputs, 2 classes are named"):
        build_engine(foreign_onnx, tmp_path / "engine", BuildSettings(), classes=("a", "b"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_failed_build_leaves_nothing(broken_onnx, tmp_path, runtime):
    with pytest.raises(AlexnetEdgeError, match=r"refuses it|cannot build it") as refused:
        build_engine(broken_onnx, tmp_path / "engine", BuildSettings(runtime=runtime))
    assert refused.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_failed_build_keeps_the_older_engine(tiny_onnx, broken_onnx, tmp_path, runtime):
    out, settings = tmp_path / "engine", BuildSettings(runtime=runtime)
    older = build_engine(tiny_onnx, out, settings)
    with pytest.raises(AlexnetEdgeError):
        build_engine(broken_onnx, out, settings)
    assert load_manifest(out) == older
    assert names(tmp_path) == ["engine", "engine.json"]


def test_folder_that_does_not_exist_is_named(tiny_onnx, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        build_engine(tiny_onnx, tmp_path / "nowhere" / "engine", BuildSettings())


@pytest.mark.parametrize("over_an_older_engine", [False, True])
@pytest.mark.parametrize("renamed", ["engine.onnx", "engine.onnx.json"])
def test_killed_build_leaves_nothing_that_passes_for_an_engine(
    tiny_onnx, table, tmp_path, renamed, over_an_older_engine
):
    out = tmp_path / "engine.onnx"
    older = None
    if over_an_older_engine:
        older = build_engine(tiny_onnx, out, BuildSettings("int8"), table=table)
    command = [sys.executable, "-c", BUILD_THAT_WAITS_AT_RENAMES, str(tiny_onnx), str(out)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline().strip() != renamed:
            assert process.poll() is None, "the build ended early"
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    if older is not None and renamed == out.name:
        assert load_manifest(out) == older
    else:
        with pytest.raises(StaleArtifactError if older else InputError):
            load_manifest(out)
    again = build_engine(tiny_onnx, out, BuildSettings("int8"), table=table)
    assert load_manifest(out) == again
    assert names(tmp_path) == ["engine.onnx", "engine.onnx.json"]


def test_int8_engine_answers_as_the_graph_does(tiny_onnx, table, tmp_path, digits_folders):
    out = tmp_path / "engine.onnx"
    build_engine(tiny_onnx, out, BuildSettings("int8", weight_bits=7), table=table)
    files = sorted((digits_folders / "val").glob("*/*.png"))[::5]
    batch = DIGITS_SPEC.to_input([DIGITS_SPEC.decode(path) for path in files])
    with open_engine(out) as engine, open_engine(tiny_onnx) as graph:
        ours, theirs = engine.infer(batch), graph.infer(batch)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.9
    assert np.abs(ours - theirs).max() < 0.2


def test_an_engine_that_answers_nan_is_not_written(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    bias = next(t for t in model.graph.initializer if t.name == "classifier.6.bias")
    broken = np.full(10, np.nan, np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(broken, bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    out = tmp_path / "engine.onnx"
    with pytest.raises(BuildError, match="NaN or infinity"):
        build_engine(tmp_path / "nan.onnx", out, BuildSettings())
    assert not out.exists()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "spared", [("features.0",), ("features.3",), ("features.8", "classifier.4")], ids=" ".join
)
def test_spared_layers_alone_stay_in_float(tiny_onnx, tmp_path, table, runtime, spared):
    settings = BuildSettings("int8", runtime, method="minmax", spared=spared)
    manifest = build_engine(tiny_onnx, tmp_path / "e", settings, table=table)
    expected = {name: "fp32" if name in spared else "int8" for name in LAYERS}
    assert {layer.name: layer.precision for layer in manifest.layers} == expected
    assert manifest.options["spared"] == list(spared)


@pytest.mark.parametrize("name", LAYERS[1:4])
def test_a_spared_layer_is_not_quantized_again_when_the_engine_is_opened(
    tiny_onnx, tmp_path, table, name
):
    # ONNX Runtime would make a float convolution between integer ones an integer one.
    settings = BuildSettings("int8", method="minmax", spared=(name,))
    build_engine(tiny_onnx, tmp_path / "alexnet.onnx", settings, table=table)
    network = Layerwise(tiny_onnx, settings.dialect)
    batch = DIGITS_SPEC.to_input(
        [DIGITS_SPEC.from_rgb(item.source) for item in open_images("digits:val").items[:16]]
    )
    choice = Choice(dict.fromkeys(table.tensors, "minmax"))
    simulated = {
        kept: network.finish(
            0, network.begin(batch), settings_of(network, table, choice, frozenset(kept))
        )
        for kept in ((name,), ())
    }
    with open_engine(tmp_path / "alexnet.onnx") as engine:
        answers = np.log(np.maximum(engine.infer(batch), 1e-30))
    noise = {
        kept: np.square(centred_logits(answers) - centred_logits(logits)).sum()
        for kept, logits in simulated.items()
    }
    assert noise[name,] < noise[()] / 2.5

"""Engines with 4-bit fully connected layers: what runs, what it answers, what is refused."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import onnx
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
from alexnet_edge.engine.build_trt import TensorRTBuilder
from alexnet_edge.engine.plan import plan_build
from alexnet_edge.engine.precision import Given
from alexnet_edge.engine.profile import load_profile
from alexnet_edge.engine.vendor import TensorRTOptions
from alexnet_edge.errors import BuildError, DatasetError, GraphError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.manifest import load_manifest
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.int4 import Int4Settings
from alexnet_edge.quantize.int4_choice import Int4Images
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.similarity import centred_logits
from tests.conftest import DIGITS_SPEC
from tests.engine.standins import ORIN, StandIn
from tests.needs import HAS_INT2, needs_int2, needs_rtx

CONVS = [f"features.{n}" for n in (0, 3, 6, 8, 10)]
FCS = [f"classifier.{n}" for n in (1, 4, 6)]
INT4 = Int4Settings(rounding="nearest")
INT2 = Int4Settings(rounding="nearest", two_bit=("classifier.1",))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def precisions(manifest):
    return {layer.name: layer.precision for layer in manifest.layers}


def digits(count=32):
    reader = ImageReader(open_images("digits:val").sample(count), DIGITS_SPEC, batch_size=count)
    return next(iter(reader)).tensor


def answers(engine, batch):
    with open_engine(engine) as runtime:
        return runtime.infer_any(batch)


def difference(one, other):
    """Return the noise of the logits in decibels below them."""
    reference, found = (centred_logits(found, probabilities=True) for found in (one, other))
    return 10 * np.log10((reference**2).sum() / ((found - reference) ** 2).sum())


@pytest.fixture(scope="module")
def images():
    return Int4Images.of_set(open_images("digits:train").sample(96), DIGITS_SPEC)


@pytest.fixture(scope="module")
def both(tiny_onnx, tiny_table, images, tmp_path_factory):
    """INT8 convolutions and 4-bit fully connected layers, rounded by evidence."""
    from alexnet_edge.quantize.table import load_table

    out = tmp_path_factory.mktemp("both") / "engine.onnx"
    settings = BuildSettings("int8", method="minmax", int4=Int4Settings())
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table), int4_images=images)
    return out


def test_layers_are_what_the_engine_runs(both):
    manifest = load_manifest(both)
    assert manifest.precision == "int8"
    assert precisions(manifest) == {**dict.fromkeys(CONVS, "int8"), **dict.fromkeys(FCS, "int4")}
    ops = {layer.name: layer.op for layer in manifest.layers}
    assert ops == {**dict.fromkeys(CONVS, "QLinearConv"), **dict.fromkeys(FCS, "MatMulNBits")}


def test_no_quantization_is_left_around_the_4_bit_layers(both):
    """The last convolution's integers are pooled, and widened once."""
    nodes = onnx.load(both).graph.node
    counts = collections.Counter(node.op_type for node in nodes)
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    assert counts["QLinearConv"] == 5
    assert counts["Gemm"] == counts["MatMul"] == counts["Transpose"] == 0
    widened = next(node for node in nodes if node.op_type == "DequantizeLinear")
    readers = [node.op_type for node in nodes if widened.output[0] in node.input]
    assert readers == ["Flatten"]


def test_the_kernel_may_compute_in_int8(both):
    for node in onnx.load(both).graph.node:
        if node.op_type == "MatMulNBits":
            values = {item.name: item.i for item in node.attribute}
            assert (values["bits"], values["block_size"], values["accuracy_level"]) == (4, 128, 4)


def test_manifest_says_how_weights_were_rounded(both):
    options = load_manifest(both).options
    assert options["int4_fc"] is True
    assert options["int4_block"] == 128
    assert list(options["int4_layers"]) == FCS
    assert options["int4_layers"]["classifier.1"] == {
        "bits": 4, "block": 128, "rounding": options["int4_rounding"],
    }  # fmt: skip
    ranking = {trial["candidate"]: trial for trial in options["int4_ranking"]}
    assert list(ranking) == ["nearest", "mse", "gptq"]
    assert [name for name, trial in ranking.items() if trial["kept"]] == [options["int4_rounding"]]
    assert options["int4_judged_on"] == 24
    assert options["int4_fitted_on"] == 72


def test_rounding_by_evidence_is_closer_to_the_float_answers(tiny_onnx, images, tmp_path):
    batch = digits()
    build_engine(tiny_onnx, tmp_path / "float", BuildSettings())
    reference = answers(tmp_path / "float", batch)
    found = {}
    for rounding in ("nearest", "gptq"):
        settings = BuildSettings(int4=Int4Settings(32, rounding))
        build_engine(tiny_onnx, tmp_path / rounding, settings, int4_images=images)
        found[rounding] = difference(reference, answers(tmp_path / rounding, batch))
    assert found["nearest"] > 15
    assert found["gptq"] > found["nearest"] + 2


@pytest.mark.parametrize("block", [32, 64, 128])
def test_4_bit_alone_leaves_the_convolutions_in_float(tiny_onnx, tmp_path, block):
    out = tmp_path / "engine"
    settings = BuildSettings(int4=Int4Settings(block, "nearest"))
    manifest = build_engine(tiny_onnx, out, settings)
    assert manifest.precision == "fp32"
    assert precisions(manifest) == {**dict.fromkeys(CONVS, "fp32"), **dict.fromkeys(FCS, "int4")}
    assert manifest.options["int4_block"] == block
    assert manifest.table_sha256 is None


def test_sizes_are_those_of_4_bits(tiny_onnx, table, tmp_path):
    plain = BuildSettings("int8", method="minmax", optimize="throughput")
    build_engine(tiny_onnx, tmp_path / "int8", plain, table=table)
    settings = dataclasses.replace(plain, int4=INT4)
    build_engine(tiny_onnx, tmp_path / "both", settings, table=table)
    weights = 1152 * 512 + 512 * 512 + 512 * 10
    saved = (tmp_path / "int8").stat().st_size - (tmp_path / "both").stat().st_size
    assert saved == pytest.approx(weights * (1 - 0.5 - 4 / 128), rel=0.05)


def test_a_spared_layer_stays_in_float(tiny_onnx, table, tmp_path):
    spared = ("classifier.6", "features.0")
    settings = BuildSettings("int8", method="minmax", int4=INT4, spared=spared)
    found = precisions(build_engine(tiny_onnx, tmp_path / "engine", settings, table=table))
    assert [name for name, kind in found.items() if kind == "fp32"] == [
        "features.0",
        "classifier.6",
    ]
    assert found["classifier.1"] == "int4"


def test_logits_and_uint8_inputs_build(uint8_onnx, uint8_table, tiny_checkpoint, tmp_path):
    logits = tmp_path / "logits.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(logits=True), logits)
    found = build_engine(logits, tmp_path / "engine", BuildSettings(int4=INT4))
    assert found.output_kind == "logits"
    settings = BuildSettings("int8", method="minmax", int4=INT4)
    found = build_engine(uint8_onnx, tmp_path / "uint8", settings, table=uint8_table)
    assert precisions(found)["classifier.6"] == "int4"


def test_a_graph_of_another_tool_builds(foreign_onnx, foreign_table, tmp_path):
    settings = BuildSettings("int8", method="minmax", int4=INT4)
    manifest = build_engine(
        foreign_onnx, tmp_path / "engine", settings, table=foreign_table,
        classes=tuple("abcdefghij"),
    )  # fmt: skip
    assert [layer.precision for layer in manifest.layers].count("int4") == 3


def test_an_engine_is_no_model_to_build_from(both, tmp_path):
    with pytest.raises(GraphError, match="quantized already"):
        build_engine(both, tmp_path / "again", BuildSettings(int4=INT4))


def test_rounding_by_evidence_needs_images(tiny_onnx, tmp_path):
    for rounding in ("auto", "gptq"):
        with pytest.raises(BuildError, match="needs images") as refused:
            settings = BuildSettings(int4=Int4Settings(rounding=rounding))
            build_engine(tiny_onnx, tmp_path / "engine", settings)
        assert "--images" in refused.value.hint
    assert names(tmp_path) == []


def test_images_of_a_table_that_are_gone_are_asked_for(tiny_onnx, table, tmp_path):
    moved = dataclasses.replace(table, images={**table.images, "source": "nowhere"})
    settings = BuildSettings("int8", method="minmax", int4=Int4Settings())
    with pytest.raises(DatasetError, match="4 bits needs the images") as refused:
        build_engine(tiny_onnx, tmp_path / "engine", settings, table=moved)
    assert "--int4-rounding nearest" in refused.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 48}, "--int4-block is 48"),
        ({"rounding": "best"}, "--int4-rounding 'best' is unknown"),
    ],
)
def test_unknown_settings_are_refused(options, message):
    with pytest.raises(BuildError, match=message):
        Int4Settings(**options)


@needs_int2
def test_named_layers_have_2_bits(tiny_onnx, table, images, tmp_path):
    sizes, found, batch = {}, {}, digits(64)
    for two_bit in ((), ("classifier.1", "classifier.4")):
        out = tmp_path / f"{len(two_bit)}.onnx"
        settings = BuildSettings(
            "int8", method="minmax", int4=Int4Settings(rounding="gptq", two_bit=two_bit)
        )
        manifest = build_engine(tiny_onnx, out, settings, table=table, int4_images=images)
        kinds = {name: "int2" if name in two_bit else "int4" for name in FCS}
        assert precisions(manifest) == {**dict.fromkeys(CONVS, "int8"), **kinds}
        bits = {name: layer["bits"] for name, layer in manifest.options["int4_layers"].items()}
        assert bits == {name: 2 if name in two_bit else 4 for name in FCS}
        sizes[len(two_bit)] = out.stat().st_size
        found[len(two_bit)] = answers(out, batch)
    wanted = answers(tiny_onnx, batch).argmax(1)
    assert sizes[2] < sizes[0]
    assert (found[0].argmax(1) == wanted).mean() > 0.9
    assert (found[2].argmax(1) == wanted).mean() > 0.8
    assert not np.array_equal(found[0], found[2])


@needs_int2
def test_2_bits_are_for_layers_that_become_4_bit(tiny_onnx, table, tmp_path):
    for spared, name in (((), "features.0"), (("classifier.6",), "classifier.6")):
        settings = BuildSettings("int8", int4=Int4Settings(two_bit=(name,)), spared=spared)
        with pytest.raises(GraphError, match=f"'{name}' is none of the layers that become 4-bit"):
            build_engine(tiny_onnx, tmp_path / "engine", settings, table=table)
    assert names(tmp_path) == []


def test_2_bits_need_a_runtime_that_has_the_kernel(monkeypatch):
    two = Int4Settings(two_bit=("classifier.1",))
    with pytest.raises(BuildError, match="--int2 is not for tensorrt-rtx"):
        BuildSettings("int8", "tensorrt-rtx", int4=two)
    versions = {"onnxruntime": "1.23.2"}
    monkeypatch.setattr("alexnet_edge.engine.settings.package_versions", lambda: versions)
    with pytest.raises(BuildError, match=r"needs onnxruntime 1\.32, 1\.23\.2 is installed") as seen:
        BuildSettings("int8", int4=two)
    assert "leave --int2 out" in seen.value.hint


def test_all_layers_spared_is_nothing_done(tiny_onnx, tmp_path):
    with pytest.raises(GraphError, match="every fully connected layer is spared"):
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings(int4=INT4, spared=tuple(FCS)))
    with pytest.raises(GraphError, match=r"no layer 'features\.0' to spare"):
        build_engine(tiny_onnx, tmp_path / "engine", BuildSettings(int4=INT4, spared=(CONVS[0],)))
    assert names(tmp_path) == []


def test_a_dla_s_graph_has_no_fully_connected_layer(tiny_checkpoint, tmp_path):
    path = tmp_path / "dla.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(dla=True), path)
    with pytest.raises(GraphError, match="no fully connected layer"):
        build_engine(path, tmp_path / "engine", BuildSettings(int4=INT4))


@pytest.mark.parametrize(
    ("profile", "message"),
    [("orin-nx-dla", "a DLA computes in INT8 and FP16"), ("nano", "from 10 on")],
)
def test_boards_without_4_bit_weights_are_refused(profile, message):
    board = load_profile(profile)
    precision = "fp32" if "fp32" in board.precisions else board.precisions[-1]
    with pytest.raises(BuildError, match=message):
        BuildSettings(precision, board.runtime, int4=INT4, profile=board)


def test_sparse_weights_cannot_be_4_bit_too():
    with pytest.raises(BuildError, match="exclude each other"):
        BuildSettings("fp16", "tensorrt-rtx", int4=INT4, tensorrt=TensorRTOptions(sparse=True))


def test_files_are_named_after_what_is_in_them(tmp_path):
    model = tmp_path / "alexnet.onnx"
    for settings, expected in (
        (BuildSettings("int8", int4=INT4), "alexnet.int8-int4fc.onnx"),
        (BuildSettings(int4=INT4), "alexnet.int4fc.onnx"),
        *([(BuildSettings("int8", int4=INT2), "alexnet.int8-int2fc.onnx")] if HAS_INT2 else []),
        (BuildSettings("fp16", "tensorrt-rtx", int4=INT4), "alexnet.fp16-int4fc.rtx.engine"),
    ):
        assert default_out(model, settings).name == expected


def test_a_plan_says_what_will_be_4_bit(tiny_onnx, table, tmp_path):
    settings = BuildSettings("int8", int4=Int4Settings(64), spared=("classifier.6",))
    plan = plan_build(tiny_onnx, tmp_path / "e", settings, Given(table=table), ranges="table")
    found = {layer.name: layer.precision for layer in plan.layers}
    assert found["classifier.1"] == "int4"
    assert found["classifier.6"] == "fp32"
    assert found["features.0"] == "int8"
    assert "4-bit blocks of 64, rounding auto" in plan.quantization


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "options", "rest"),
    [
        ("fp32", TensorRTOptions(), "fp32"),
        ("fp16", TensorRTOptions(), "fp16"),
        ("int8", TensorRTOptions(), "int8"),
        ("int8", TensorRTOptions(fp16_rest=True), "int8"),
    ],
    ids=["fp32", "fp16", "int8", "int8-fp16"],
)
def test_tensorrt_rtx_builds_4_bit_layers(tiny_onnx, table, tmp_path, precision, options, rest):
    settings = BuildSettings(
        precision, "tensorrt-rtx", method="minmax", int4=INT4, tensorrt=options
    )
    manifest = build_engine(tiny_onnx, tmp_path / "engine", settings, table=table)
    assert precisions(manifest) == {**dict.fromkeys(CONVS, rest), **dict.fromkeys(FCS, "int4")}
    plain = dataclasses.replace(settings, int4=None)
    build_engine(tiny_onnx, tmp_path / "plain", plain, table=table)
    sizes = [(tmp_path / name).stat().st_size for name in ("engine", "plain")]
    weights = 1152 * 512 + 512 * 512 + 512 * 10
    bits = {"fp32": 32, "fp16": 16, "int8": 8}[precision]
    assert sizes[1] - sizes[0] > 0.7 * weights * (bits - 4) / 8


@needs_rtx
@pytest.mark.parametrize("block", [32, 64])
def test_tensorrt_rtx_takes_each_block(tiny_onnx, tmp_path, block):
    settings = BuildSettings("fp16", "tensorrt-rtx", int4=Int4Settings(block, "nearest"))
    manifest = build_engine(tiny_onnx, tmp_path / "engine", settings)
    assert [precisions(manifest)[name] for name in FCS] == ["int4"] * 3


def builder(version):
    module = StandIn(version)
    return TensorRTBuilder("tensorrt", module, lambda: [ORIN]), module


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.1.6"])
def test_tensorrt_8_is_refused_with_the_reason(tiny_onnx, tmp_path, version):
    made, _ = builder(version)
    with pytest.raises(BuildError, match=rf"tensorrt {version} has no 4-bit weights") as refused:
        settings = BuildSettings(runtime="tensorrt", int4=INT4)
        build_engine(tiny_onnx, tmp_path / "engine", settings, builder=made)
    assert "TensorRT 10" in refused.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("version", "flags"), [("10.3.0.26", ["FP16", "INT4"]), ("10.13.0.35", []), ("11.0.0.1", [])]
)
def test_tensorrt_10_and_later_get_int4_in_blocks(tiny_onnx, tmp_path, version, flags):
    made, module = builder(version)
    settings = BuildSettings("fp16", "tensorrt", int4=INT4)
    build_engine(tiny_onnx, tmp_path / "engine", settings, builder=made)
    graph = module.record.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    blocks = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(blocks) == 3
    for node in blocks:
        kinds = [stored[name].data_type for name in node.input]
        assert kinds[0] == kinds[2] == onnx.TensorProto.INT4
        assert {item.name: item.i for item in node.attribute} == {"axis": 1, "block_size": 128}
    assert module.record.opset == 21
    assert [flag for flag in flags if flag not in module.record.flags] == []

"""Lint of graphs for TensorRT, TensorRT-RTX and the CPU: every rule, broken and kept."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import pytest

from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.engine.lint import lint_file, lint_model, rules_for
from alexnet_edge.engine.lint.cpu import CPU_RULES
from alexnet_edge.engine.lint.dla import DLA_RULES
from alexnet_edge.engine.lint.tensorrt import TENSORRT_RULES
from alexnet_edge.engine.profile import Profile, load_profile
from alexnet_edge.engine.versions import parse_range
from alexnet_edge.errors import GraphError
from alexnet_edge.quantize.fp16 import convert_to_fp16
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.scales import CPU, TENSORRT
from alexnet_edge.quantize.table import load_table
from alexnet_edge.recipes import list_named
from tests.engine.graphs import (
    Small,
    node_named,
    quantize,
    set_attribute,
    set_constant,
    set_opset,
)

ORIN, RTX, NANO, THOR, ON_CPU = map(
    load_profile, ("orin-nano", "rtx-desktop", "nano", "thor", "cpu")
)
TENSORRT_PROFILES = [
    name
    for name in list_named("profile")
    if load_profile(name).runtime != "onnxruntime" and load_profile(name).dla is None
]
NEWER = dataclasses.replace(ORIN, name="newer", tensorrt=parse_range(">=10.3,<11"))


@pytest.fixture(scope="module")
def plain(tiny_onnx):
    """`tiny_onnx`, not to be changed."""
    return onnx.load(tiny_onnx)


@pytest.fixture(scope="module")
def symmetric(tiny_onnx, tiny_table):
    """`tiny_onnx` in the `tensorrt` dialect, not to be changed."""
    return quantize(tiny_onnx, tiny_table, TENSORRT)


@pytest.fixture(scope="module")
def asymmetric(tiny_onnx, tiny_table):
    """`tiny_onnx` in the `cpu` dialect, not to be changed."""
    return quantize(tiny_onnx, tiny_table, CPU)


@pytest.fixture
def broken(symmetric):
    """A copy of `symmetric` to break a rule in."""
    return copy.deepcopy(symmetric)


@pytest.fixture
def broken_cpu(asymmetric):
    """A copy of `asymmetric` to break a rule in."""
    return copy.deepcopy(asymmetric)


def found(model: onnx.ModelProto, profile: Profile) -> list[tuple[str, str, str]]:
    return [(item.rule, item.severity, item.node) for item in lint_model(model, profile)]


def rules(model: onnx.ModelProto, profile: Profile) -> set[str]:
    return {rule for rule, _, _ in found(model, profile)}


# ------------------------------------------------------------------ what a build writes is right


@pytest.mark.parametrize("name", TENSORRT_PROFILES)
def test_graphs_of_this_package_are_clean_for_every_tensorrt(name, plain, broken):
    profile = load_profile(name)
    old = profile.tensorrt.low < (8, 5) and profile.runtime == "tensorrt"
    for model in (copy.deepcopy(plain), broken):
        if old:
            set_opset(model, 13)
        takes = "int8" in profile.precisions or model is not broken
        assert rules(model, profile) == (set() if takes else {"precision"})


def test_fp16_graph_is_clean(tiny_onnx, plain):
    model = prepare(plain, tiny_onnx)
    convert_to_fp16(model, tiny_onnx)
    assert found(ir.to_proto(model), ORIN) == []


def test_graph_with_uint8_input_is_clean(uint8_onnx, uint8_table, tmp_path):
    table = tmp_path / "table.json"
    uint8_table.save(table)
    assert found(onnx.load(uint8_onnx), ORIN) == []
    assert found(quantize(uint8_onnx, table, TENSORRT), ORIN) == []


def test_graphs_of_this_package_are_clean_for_the_cpu(plain, asymmetric):
    assert found(plain, ON_CPU) == []
    assert found(asymmetric, ON_CPU) == []


@pytest.mark.parametrize("name", TENSORRT_PROFILES)
def test_graphs_for_the_cpu_are_wrong_for_every_tensorrt(name, asymmetric):
    assert {"bias-quantized", "zero-point-value"} <= rules(asymmetric, load_profile(name))
    assert any(severity == "error" for _, severity, _ in found(asymmetric, load_profile(name)))


def test_graphs_for_tensorrt_are_slow_but_not_wrong_for_the_cpu(symmetric):
    assert {severity for _, severity, _ in found(symmetric, ON_CPU)} == {"warning"}
    assert rules(symmetric, ON_CPU) == {"int8-activation", "bias-float", "result-float"}


def test_float_graph_of_another_tool_is_clean_but_for_its_opset(foreign_onnx):
    model = onnx.load(foreign_onnx)
    assert found(model, ORIN) == [("opset", "warning", "(graph)")]
    assert found(model, ON_CPU) == []


def test_engine_of_onnxruntime_is_refused_for_its_integer_operators(
    tiny_onnx, tiny_table, tmp_path
):
    out = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", method="minmax", weight_bits=8)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    model = onnx.load(out)
    assert "integer-operator" in rules(model, ORIN)
    assert "integer-operator" not in rules(model, ON_CPU)


# ------------------------------------------------------------------ each rule of TensorRT


@pytest.mark.parametrize(
    ("opset", "profile", "severity"),
    [
        (12, ORIN, "error"),
        (18, ORIN, "error"),
        (14, NANO, "error"),
        (22, NEWER, "error"),
    ],
)
def test_opset_that_the_oldest_library_does_not_read(broken, opset, profile, severity):
    set_opset(broken, opset)
    assert ("opset", severity, "(graph)") in found(broken, profile)


@pytest.mark.parametrize(
    ("opset", "profile"), [(17, ORIN), (13, NANO), (21, NEWER), (21, THOR), (26, RTX)]
)
def test_opset_that_is_read(broken, opset, profile):
    set_opset(broken, opset)
    assert "opset" not in rules(broken, profile)


def test_old_opset_of_a_float_graph_is_a_warning(plain):
    model = copy.deepcopy(plain)
    set_opset(model, 12)
    assert found(model, ORIN) == [("opset", "warning", "(graph)")]


def test_opset_is_not_judged_where_the_profile_names_no_tensorrt(broken):
    set_opset(broken, 21)
    assert "opset" not in rules(broken, Profile("mine", runtime="tensorrt"))


@pytest.mark.parametrize("name", ["input.quantize", "input.dequantize"])
@pytest.mark.parametrize("kept", [2, 3])
def test_missing_zero_point(broken, name, kept):
    node = node_named(broken, name)
    del node.input[2:]
    if kept == 3:
        node.input.append("")
    assert found(broken, ORIN) == [("zero-point-missing", "error", name)]


def test_zero_point_other_than_0(broken):
    set_constant(broken, "input.zero_point", np.int8(3))
    (only,) = lint_model(broken, ORIN)
    assert (only.rule, only.severity, only.node) == ("zero-point-value", "error", "input.quantize")
    assert only.message == "zero point is 3"


def test_zero_point_other_than_0_in_one_channel(broken):
    zeros = np.zeros(12, np.int8)
    zeros[5] = -7
    set_constant(broken, "features.0.weight.zero_point", zeros)
    (only,) = lint_model(broken, ORIN)
    assert (only.rule, only.message) == ("zero-point-value", "zero point is -7")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
def test_zero_point_of_a_weight_that_is_not_int8(broken, kind):
    set_constant(broken, "features.3.weight.zero_point", np.zeros(32, kind))
    assert found(broken, ORIN) == [
        ("zero-point-type", "error", "features.3.weight.quantize"),
    ]


def test_zero_point_of_an_activation_that_is_neither_int8_nor_uint8(broken):
    set_constant(broken, "input.zero_point", np.int16(0))
    assert found(broken, ORIN) == [("zero-point-type", "error", "input.quantize")]


@pytest.mark.parametrize(
    ("profile", "value", "rule"),
    [
        (ORIN, 0, "uint8-activation"),
        (RTX, 0, "uint8-clipping"),
        (RTX, 128, "uint8-activation"),
    ],
)
def test_activation_in_uint8(broken, profile, value, rule):
    set_constant(broken, "input.zero_point", np.uint8(value))
    expected = {rule} | ({"zero-point-value"} if value else set())
    assert rules(broken, profile) == expected
    assert (rule, "error", "input.quantize") in found(broken, profile)


@pytest.mark.parametrize(
    ("opset", "profile", "wrong"),
    [(17, ORIN, True), (17, RTX, True), (19, THOR, False), (19, RTX, False)],
)
def test_scale_in_fp16(broken, opset, profile, wrong):
    set_opset(broken, opset)
    set_constant(broken, "input.scale", np.float16(0.1))
    assert ("scale-type" in rules(broken, profile)) is wrong


def test_scale_in_fp64(broken):
    set_constant(broken, "input.scale", np.float64(0.1))
    assert found(broken, THOR) == [("scale-type", "error", "input.quantize")]


@pytest.mark.parametrize("profile", [ORIN, ON_CPU], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("scale", [0.0, -0.5, np.nan, np.inf])
def test_scale_that_is_not_positive_and_finite(broken, profile, scale):
    set_constant(broken, "input.scale", np.float32(scale))
    assert ("scale-value", "error", "input.quantize") in found(broken, profile)


def test_scale_of_one_channel_that_is_0(broken):
    scales = np.ones(12, np.float32)
    scales[3] = 0
    set_constant(broken, "features.0.weight.scale", scales)
    (only,) = lint_model(broken, ORIN)
    assert (only.rule, only.message) == ("scale-value", "1 of 12 scales are 0")


@pytest.mark.parametrize("parameter", ["scale", "zero_point"])
@pytest.mark.parametrize(("source", "wrong"), [("input", True), ("raw", False)])
def test_parameter_that_depends_on_the_input(broken, parameter, source, wrong):
    stored = next(t for t in broken.graph.initializer if t.name == f"input.{parameter}")
    stored.name = "raw"
    for index, (op, read, written) in enumerate(
        [("Abs", source, "abs"), ("ReduceMax", "abs", f"input.{parameter}")]
    ):
        broken.graph.node.insert(index, onnx.helper.make_node(op, [read], [written], written))
    assert found(broken, ORIN) == ([("scale-computed", "error", "input.quantize")] if wrong else [])


def test_parameters_may_be_constant_nodes(broken):
    for parameter in ("scale", "zero_point"):
        stored = next(t for t in broken.graph.initializer if t.name == f"input.{parameter}")
        node = onnx.helper.make_node("Constant", [], [stored.name], f"{parameter}_node")
        node.attribute.append(onnx.helper.make_attribute("value", stored))
        broken.graph.node.insert(0, node)
        broken.graph.initializer.remove(stored)
    assert found(broken, ORIN) == []


@pytest.mark.parametrize("profile", [ORIN, ON_CPU], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("layer", ["features.0", "classifier.6"])
def test_weight_scales_along_the_wrong_axis(broken, profile, layer):
    names = [f"{layer}.weight.quantize", f"{layer}.weight.dequantize"]
    for name in names:
        set_attribute(node_named(broken, name), "axis", 1)
    assert ("weight-axis", "error", names[0]) in found(broken, profile)
    set_attribute(node_named(broken, names[0]), "axis", 0)
    assert ("weight-axis", "error", names[1]) in found(broken, profile)


def test_number_of_weight_scales_that_is_not_that_of_the_channels(broken):
    for name, array in (("scale", np.ones(5, np.float32)), ("zero_point", np.zeros(5, np.int8))):
        set_constant(broken, f"features.0.weight.{name}", array)
    (wrong,) = lint_model(broken, ORIN)
    assert (wrong.rule, wrong.node) == ("weight-axis", "features.0.weight.quantize")
    assert "5 scales along axis 0; features.0 has 12 output channels" in wrong.message


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "transpose", "axis"),
    [
        ("MatMul", (4, 6), {}, False, 1),
        ("Gemm", (4, 6), {}, False, 1),
        ("Gemm", (6, 4), {"transB": 1}, False, 0),
        ("MatMul", (6, 4), {}, True, 0),
    ],
)
def test_axis_of_a_linear_weight(op, shape, attributes, transpose, axis):
    for given in (0, 1):
        small = Small(1, 4)
        stored = small.constant("weight", np.ones(shape, np.float32))
        weight = small.pair(stored, "weight", np.ones(shape[given]), axis=given)
        if transpose:
            weight = small.node("Transpose", "turned", weight, perm=[1, 0])
        small.node(op, "layer", small.pair("input", "input"), weight, **attributes)
        assert ("weight-axis" in rules(small.model("layer"), ORIN)) is (given != axis)


def test_negative_axis_counts_from_the_end():
    small = Small(1, 4)
    stored = small.constant("weight", np.ones((4, 6), np.float32))
    weight = small.pair(stored, "weight", np.ones(6), axis=-1)
    small.node("MatMul", "layer", small.pair("input", "input"), weight)
    assert found(small.model("layer"), ORIN) == []


def test_weight_with_one_scale_has_no_axis(broken):
    set_constant(broken, "features.0.weight.scale", np.float32(0.1))
    set_constant(broken, "features.0.weight.zero_point", np.int8(0))
    assert found(broken, ORIN) == []


@pytest.mark.parametrize("profile", [ORIN, ON_CPU], ids=["tensorrt", "cpu"])
def test_activation_with_a_scale_per_channel(broken, profile):
    set_constant(broken, "input.scale", np.ones(3, np.float32))
    assert ("activation-per-channel", "error", "input.quantize") in found(broken, profile)


def test_quantized_bias(asymmetric):
    biases = [node for rule, _, node in found(asymmetric, ORIN) if rule == "bias-quantized"]
    assert len(biases) == 8
    assert all("bias" in node for node in biases)


@pytest.mark.parametrize(("profile", "wrong"), [(ORIN, 8), (NEWER, 0), (RTX, 0), (THOR, 0)])
def test_weights_stored_as_int8_are_for_newer_parsers(asymmetric, profile, wrong):
    stored = [rule for rule, _, _ in found(asymmetric, profile) if rule == "weight-stored-int8"]
    assert len(stored) == wrong


@pytest.mark.parametrize("profile", [ORIN, RTX], ids=["tensorrt", "rtx"])
def test_spared_layer_stays_float(tiny_onnx, tiny_table, profile):
    model = quantize(tiny_onnx, tiny_table, TENSORRT, spared=frozenset(["classifier.6"]))
    assert found(model, profile) == [("float-layer", "warning", "classifier.6")]


def test_layer_whose_weight_alone_is_not_quantized(broken):
    node_named(broken, "features.3").input[1] = "features.3.weight"
    (only,) = lint_model(broken, ORIN)
    assert (only.rule, only.node) == ("float-layer", "features.3")
    assert "its weight is not quantized" in only.message


def test_quantization_before_a_pooling_is_that_of_the_next_layer():
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "first", 4, 3, 3, 3)
    value = small.pair(small.node("Relu", "relu", value), "relu")
    value = small.node("MaxPool", "pool", value, kernel_shape=[2, 2])
    small.conv(value, "second", 5, 4, 3, 3)
    assert found(small.model("second"), ORIN) == []


def test_quantization_between_a_layer_and_its_relu():
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "first", 4, 3, 3, 3)
    value = small.node("Relu", "relu", small.pair(value, "between"))
    small.conv(small.pair(value, "behind"), "second", 5, 4, 3, 3)
    assert found(small.model("second"), ORIN) == [("relu-split", "warning", "between.q")]


@pytest.mark.parametrize("relu", [False, True])
def test_result_that_is_quantized_for_no_layer(relu):
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "only", 4, 3, 3, 3)
    value = small.node("Relu", "relu", value) if relu else value
    small.node("Softmax", "softmax", small.pair(value, "result"))
    assert found(small.model("softmax"), ORIN) == [("result-quantized", "warning", "result.q")]


@pytest.mark.parametrize("relu", [False, True])
def test_result_that_is_quantized_for_the_next_layer(relu):
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "first", 4, 3, 3, 3)
    value = small.node("Relu", "relu", value) if relu else value
    value = small.node("MaxPool", "pool", small.pair(value, "result"), kernel_shape=[2, 2])
    small.conv(small.pair(value, "pooled"), "second", 5, 4, 3, 3)
    assert found(small.model("second"), ORIN) == []


def test_precision_that_the_profile_does_not_take(broken):
    set_opset(broken, 13)
    (only,) = lint_model(broken, NANO)
    assert (only.rule, only.severity) == ("precision", "error")
    assert NANO.unsupported["int8"] in only.message
    assert "fp32 or fp16" in only.mend


def test_fp16_graph_for_the_cpu(tiny_onnx, plain):
    model = prepare(plain, tiny_onnx)
    convert_to_fp16(model, tiny_onnx)
    (only,) = lint_model(ir.to_proto(model), ON_CPU)
    assert (only.rule, only.severity) == ("precision", "error")
    assert ON_CPU.unsupported["fp16"] in only.message


@pytest.mark.parametrize(
    ("kind", "named"),
    [(onnx.TensorProto.FLOAT8E4M3FN, "fp8"), (onnx.TensorProto.INT4, "int4")],
)
def test_precision_that_no_profile_takes(broken, kind, named):
    set_opset(broken, 21)
    stored = next(t for t in broken.graph.initializer if t.name == "input.zero_point")
    stored.CopyFrom(onnx.TensorProto(name=stored.name, data_type=kind, raw_data=b"\0"))
    wrong = [item for item in lint_model(broken, THOR) if item.rule == "precision"]
    assert [(item.node, item.severity) for item in wrong] == [("input.quantize", "error")]
    assert f"is {named}" in wrong[0].message


@pytest.mark.parametrize("op", ["QLinearConv", "DynamicQuantizeLinear", "MatMulInteger"])
def test_integer_operator(broken, op):
    node_named(broken, "features.0").op_type = op
    assert ("integer-operator", "error", "features.0") in found(broken, ORIN)


def test_uint8_input_is_not_for_parsers_before_8_5(uint8_onnx):
    model = onnx.load(uint8_onnx)
    set_opset(model, 13)
    assert found(model, NANO) == [("uint8-input", "error", "input")]


def test_uint8_input_must_be_cast_first(uint8_onnx):
    model = onnx.load(uint8_onnx)
    cast, layout = (node_named(model, f"preprocess.{name}") for name in ("cast", "layout"))
    cast.input[0], layout.input[0], layout.output[0] = "turned", "input", "turned"
    node_named(model, "preprocess.mul").input[0] = cast.output[0]
    assert ("uint8-input", "error", "preprocess.layout") in found(model, ORIN)
    assert found(onnx.load(uint8_onnx), ORIN) == []


# ------------------------------------------------------------------ each rule of the CPU


def test_old_opset_of_a_quantized_graph_for_the_cpu(broken_cpu, plain):
    set_opset(broken_cpu, 12)
    assert found(broken_cpu, ON_CPU) == [("opset", "error", "(graph)")]
    older = copy.deepcopy(plain)
    set_opset(older, 12)
    assert found(older, ON_CPU) == []


def test_int8_activation_for_the_cpu(broken_cpu):
    set_constant(broken_cpu, "input.zero_point", np.int8(0))
    assert found(broken_cpu, ON_CPU) == [("int8-activation", "warning", "input.quantize")]


@pytest.mark.parametrize("zero_point", [np.zeros(12, np.uint8), np.full(12, 3, np.int8)])
def test_asymmetric_weight_for_the_cpu(broken_cpu, zero_point):
    set_constant(broken_cpu, "features.0.weight.zero_point", zero_point)
    ((rule, severity, node),) = found(broken_cpu, ON_CPU)
    assert (rule, severity) == ("weight-asymmetric", "warning")
    assert "features.0.weight" in node


def test_float_bias_for_the_cpu(broken_cpu):
    node = node_named(broken_cpu, "features.3")
    node.input[2] = "bias"
    bias = onnx.numpy_helper.from_array(np.zeros(32, np.float32), "bias")
    broken_cpu.graph.initializer.append(bias)
    assert found(broken_cpu, ON_CPU) == [("bias-float", "warning", "features.3")]
    del node.input[2]
    assert found(broken_cpu, ON_CPU) == []


def test_float_result_for_the_cpu():
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "only", 4, 3, 3, 3)
    small.node("Relu", "relu", value)
    assert ("result-float", "warning", "only") in found(small.model("relu"), ON_CPU)
    small.pair("relu", "result")
    assert "result-float" not in rules(small.model("result.dq"), ON_CPU)


def test_float_layer_for_the_cpu(tiny_onnx, tiny_table):
    model = quantize(tiny_onnx, tiny_table, CPU, spared=frozenset(["classifier.6"]))
    assert found(model, ON_CPU) == [("float-layer", "warning", "classifier.6")]


# ------------------------------------------------------------------ what holds for all rules


def test_every_rule_names_its_source():
    every = {*TENSORRT_RULES, *CPU_RULES, *DLA_RULES}
    assert [rule.__name__ for rule in every if "Source: " not in rule.__doc__] == []


def test_rules_follow_the_target():
    assert rules_for(ON_CPU) == CPU_RULES
    assert rules_for(ORIN) == rules_for(RTX) == TENSORRT_RULES
    assert rules_for(load_profile("orin-nx-dla")) == (*TENSORRT_RULES, *DLA_RULES)


def test_findings_say_how_to_mend(asymmetric):
    for item in lint_model(asymmetric, ORIN):
        assert item.node
        assert item.message
        assert item.mend
        assert "\n" not in f"{item.node}{item.message}{item.mend}"


def test_nodes_without_a_name_are_told_by_their_output():
    small = Small(1, 3, 8, 8)
    value = small.conv(small.pair("input", "input"), "only", 4, 3, 3, 3)
    small.node("Softmax", "softmax", small.pair(value, "result"))
    model = small.model("softmax")
    node_named(model, "result.q").name = ""
    assert [node for _, _, node in found(model, ORIN)] == ["QuantizeLinear → result.q"]


def test_graph_is_not_changed(symmetric):
    before = symmetric.SerializeToString(deterministic=True)
    lint_model(symmetric, load_profile("orin-nx-dla"))
    lint_model(symmetric, ON_CPU)
    assert symmetric.SerializeToString(deterministic=True) == before


def test_file_is_reported_with_its_counts(asymmetric, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(asymmetric, path)
    report = lint_file(path, ORIN)
    assert (report.model, report.target) == (str(path), "orin-nano")
    assert report.errors + report.warnings == len(report.findings)
    assert report.errors == sum(item.severity == "error" for item in report.findings) > 0


def test_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(GraphError, match=r"model\.onnx"):
        lint_file(path, ORIN)

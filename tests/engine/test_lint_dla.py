"""Lint of graphs for a Jetson's DLA: every limit, passed and kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from alexnet_edge.engine.lint import lint_model
from alexnet_edge.engine.profile import load_profile
from alexnet_edge.engine.versions import parse_range
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.scales import TENSORRT
from tests.conftest import DIGITS_SPEC
from tests.engine.graphs import Small, quantize

DLA = load_profile("orin-nx-dla")
STRONGLY_TYPED = dataclasses.replace(DLA, name="newer", tensorrt=parse_range(">=11.4.1,<12"))


def network(*shape: int | str) -> Small:
    return Small(*(shape or (1, 3, 32, 32)))


def conv(small: Small, value: str, name: str, *shape: int, **attributes: object) -> str:
    """Add a Conv in floating point."""
    return small.node("Conv", name, value, small.weight(f"{name}.weight", *shape), **attributes)


def found(model, profile=DLA):
    return [(item.rule, item.severity, item.node) for item in lint_model(model, profile)]


def test_convolutions_and_what_goes_with_them_are_clean():
    small = network()
    value = small.node("Relu", "relu", conv(small, "input", "first", 8, 3, 3, 3))
    value = small.node("LRN", "lrn", value, size=5)
    value = small.node("MaxPool", "pool", value, kernel_shape=[2, 2])
    small.node("Softmax", "softmax", conv(small, value, "second", 8, 8, 1, 1))
    assert found(small.model("softmax")) == []


def test_limits_are_those_of_the_dla_alone():
    small = network("batch", 3, 99, 99)
    conv(small, "input", "wide", 9000, 3, 33, 33, strides=[9, 9])
    assert found(small.model("wide"), load_profile("orin-nx")) == []


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [
        (("batch", 3, 32, 32), True),
        ((1, 3, "height", 32), True),
        ((4097, 3, 32, 32), True),
        ((4096, 3, 32, 32), False),
    ],
)
def test_batch_is_static_and_at_most_4096(shape, wrong):
    small = network(*shape)
    conv(small, "input", "only", 8, 3, 3, 3)
    assert found(small.model("only")) == ([("dla-batch", "error", "input")] if wrong else [])


@pytest.mark.parametrize(
    ("kernel", "wrong"), [((1, 1), False), ((32, 32), False), ((33, 3), True), ((3, 33), True)]
)
def test_kernel_is_at_most_32(kernel, wrong):
    small = network(1, 3, 64, 64)
    conv(small, "input", "only", 8, 3, *kernel)
    assert found(small.model("only")) == ([("dla-kernel", "error", "only")] if wrong else [])


@pytest.mark.parametrize(("strides", "wrong"), [([8, 8], False), ([9, 1], True), ([1, 9], True)])
def test_stride_is_at_most_8(strides, wrong):
    small = network()
    conv(small, "input", "only", 8, 3, 3, 3, strides=strides)
    assert found(small.model("only")) == ([("dla-stride", "error", "only")] if wrong else [])


@pytest.mark.parametrize(
    ("weight", "group", "wrong"),
    [
        ((8192, 8192, 1, 1), 1, 0),
        ((8193, 3, 1, 1), 1, 1),
        ((16, 9216, 1, 1), 1, 1),
        ((8, 4097, 1, 1), 2, 1),
        ((9000, 9000, 1, 1), 1, 2),
    ],
)
def test_channels_are_at_most_8192_in_and_out(weight, group, wrong):
    small = network()
    conv(small, "input", "only", *weight, group=group)
    assert found(small.model("only")) == [("dla-channels", "error", "only")] * wrong


@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [("Gemm", (4096, 9216), {"transB": 1}), ("Gemm", (9216, 4096), {}), ("MatMul", (9216, 10), {})],
)
def test_first_linear_layer_of_the_full_network_reads_too_many(op, shape, attributes):
    small = network(1, 9216)
    small.node(op, "fc6", "input", small.weight("weight", *shape), **attributes)
    model = small.model("fc6")
    assert found(model) == [("dla-channels", "error", "fc6"), ("dla-linear", "warning", "fc6")]
    assert "reads 9216 channels" in lint_model(model, DLA)[0].message
    assert "--dla" in lint_model(model, DLA)[0].mend


def test_linear_layer_within_the_limit_is_a_warning():
    small = network(1, 256)
    small.node("Gemm", "fc", "input", small.weight("weight", 10, 256), transB=1)
    assert found(small.model("fc")) == [("dla-linear", "warning", "fc")]


@pytest.mark.parametrize(("size", "wrong"), [(3, False), (9, False), (4, True), (11, True)])
def test_window_of_a_response_normalization(size, wrong):
    small = network()
    small.node("LRN", "norm", conv(small, "input", "only", 8, 3, 3, 3), size=size)
    assert found(small.model("norm")) == ([("dla-lrn", "error", "norm")] if wrong else [])


@pytest.mark.parametrize("op", ["Flatten", "Reshape", "Erf"])
def test_operator_amid_the_network_cuts_it(op):
    small = network()
    value = conv(small, "input", "first", 8, 3, 3, 3)
    shape = [small.constant("shape", np.array([1, 8, 30, 30]))] if op == "Reshape" else []
    value = small.node("Relu", "relu", small.node(op, "other", value, *shape))
    conv(small, value, "second", 8, 8, 1, 1)
    assert found(small.model("second")) == [("dla-operator", "error", "other")]


def test_operator_outside_of_the_network_is_a_warning():
    small = network()
    value = conv(small, small.node("Cast", "before", "input", to=1), "only", 8, 3, 3, 3)
    small.node("Flatten", "after", value)
    assert found(small.model("after")) == [
        ("dla-operator", "warning", "before"), ("dla-operator", "warning", "after"),
    ]  # fmt: skip


def test_quantization_is_for_the_calibration_cache(tiny_onnx, tiny_table):
    model = quantize(tiny_onnx, tiny_table, TENSORRT)
    wrong = [item for item in lint_model(model, DLA) if item.rule == "dla-qdq"]
    assert [(item.severity, item.node) for item in wrong] == [("error", "input.quantize")]
    assert "calibration cache" in wrong[0].mend
    assert "dla-qdq" not in {item.rule for item in lint_model(model, STRONGLY_TYPED)}


def test_plain_export_is_refused(tiny_onnx):
    rules = {rule for rule, severity, _ in found(onnx.load(tiny_onnx)) if severity == "error"}
    assert rules == {"dla-batch", "dla-operator"}


@pytest.mark.parametrize("logits", [False, True])
def test_export_for_the_dla_leaves_its_tail_alone_to_the_gpu(tiny_checkpoint, tmp_path, logits):
    path = tmp_path / "dla.onnx"
    settings = ExportSettings(dla=True, logits=logits)
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, settings, path)
    (only,) = found(onnx.load(path))
    assert only[:2] == ("dla-operator", "warning")
